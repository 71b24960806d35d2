"""Who is at the other end of a connection, and whether they may do what they ask for."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from filefly.daemon.failures import Failures
from filefly.errors import BadRequest, Unauthorized
from filefly.security.keys import Key, Keyring
from filefly.security.proofs import Part, check_proof, new_nonce, prove
from filefly.security.signing import signing_key
from filefly.security.tokens import Token, check_token_time, read_token
from filefly.wire.messages import Reply, Request
from filefly.wire.security import Auth, Proof, Prove, SignedIn
from filefly.wire.times import rfc3339


@frozen
class Challenge:
    """The first half of a proof: with which key, and the nonces of both sides."""

    key: Key
    asking_nonce: str
    answering_nonce: str


@define(eq=False)
class Session:
    """Who is at the other end of a connection from `host`: nobody known, until a token or a proof says who.

    `key` vouches for that. Whether it still holds, SecretGuard knows: ask its `token_of` and `is_daemon`.
    """

    host: str
    token: Token | None = None
    is_daemon: bool = False
    key: Key | None = field(default=None, repr=False)
    challenge: Challenge | None = field(default=None, repr=False)
    ticket_expires: float = 0.0
    """When the ticket ends that was shown last and accepted; 0 if none was."""

    @property
    def is_stranger(self) -> bool:
        """Whether nothing has been shown that is worth anything: neither a token nor a proof nor a ticket."""
        return self.token is None and not self.is_daemon and not self.ticket_expires

    def is_now(self, key: Key, token: Token | None) -> None:
        """Note who it is: the holder of a token, or without one a daemon."""
        self.key, self.token, self.is_daemon = key, token, token is None


class Secret(Protocol):
    """What a cluster's daemons have in common."""

    keyring: Keyring
    """The keys that are valid now."""


class Guard(Protocol):
    """Says who may do what on a server."""

    is_open: bool
    """Whether everybody may do everything."""
    takes_tickets: bool
    """Whether tickets are shown to it, also in the first line that somebody sends."""

    def knows(self, session: Session) -> bool:
        """Whether who is there may take what others need; in an open cluster everybody may."""

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        """Note in `session` who it is, and return the reply; raises Unauthorized, Busy."""

    def check(self, request: Request, session: Session) -> None:
        """Raise Unauthorized or Forbidden unless the session may ask for `request`.

        What a request's parts may need, each for itself, its server looks at when it carries it out.
        """


class OpenGuard:
    """The guard of an open cluster: everybody may do everything, and who signs in is welcome."""

    is_open = True
    takes_tickets = False

    def knows(self, session: Session) -> bool:
        """See Guard."""
        return True

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        """Say yes; but prove nothing."""
        return SignedIn("admin") if isinstance(request, Auth) else Proof()

    def check(self, request: Request, session: Session) -> None:
        """Let everything pass."""


def _nobody_is(_token_id: str) -> bool:
    """Say that no token is revoked."""
    return False


class SecretGuard(ABC):
    """The guard of a closed cluster: lets those sign in who have a token, or the secret itself.

    What they may do then, a subclass's `check` says. `now` is Unix time.
    """

    is_open = False
    takes_tickets = False
    storage_id: str | None = None
    """What a data server's guard proves to stand before, too."""

    def __init__(
        self,
        secret: Secret,
        now: Callable[[], float],
        failures: Failures,
        is_revoked: Callable[[str], bool] = _nobody_is,
    ) -> None:
        self._secret = secret
        self._now = now
        self._failures = failures
        self._is_revoked = is_revoked

    @property
    def keyring(self) -> Keyring:
        """The keys that are valid now."""
        return self._secret.keyring

    @abstractmethod
    def check(self, request: Request, session: Session) -> None:
        """See Guard."""

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        """See Guard; who fails often waits for the answer, and is told to stop in the end."""
        try:
            if isinstance(request, Auth):
                return self._signed_in(request.token, session)
            if request.proof is not None:
                return self._proven(request.proof, session)
        except Unauthorized:
            await self._failures.note(session.host)
            raise
        return self._challenge(request, session)

    def knows(self, session: Session) -> bool:
        """See Guard: whether a token, a proof or a ticket was shown that holds now."""
        try:
            known = self.token_of(session) is not None or self.is_daemon(session)
        except Unauthorized:
            known = False
        return known or self._now() < session.ticket_expires

    def token_of(self, session: Session) -> Token | None:
        """Return the token that was shown, if one was; raises Unauthorized if it is not valid any more."""
        if session.token is not None:
            self._check_key(session.key)
            self._check_still_valid(session.token)
        return session.token

    def is_daemon(self, session: Session) -> bool:
        """Whether it is one of the cluster's daemons; raises Unauthorized if the key that proved it is retired."""
        if session.is_daemon:
            self._check_key(session.key)
        return session.is_daemon

    def _check_key(self, key: Key | None) -> None:
        if key not in self.keyring.keys:
            raise Unauthorized("the key that vouched for this connection is retired; sign in again")

    def _check_still_valid(self, token: Token) -> None:
        check_token_time(token.expires, self._now())
        if self._is_revoked(token.id):
            raise Unauthorized("the token was revoked; ask for another one")

    def _signed_in(self, text: str, session: Session) -> SignedIn:
        token = read_token(self.keyring, text, self._now())
        self._check_still_valid(token)
        session.is_now(signing_key(self.keyring, text, "token"), token)
        expires = None if token.expires is None else rfc3339(token.expires)
        return SignedIn(token.role, token.prefix or None, expires)

    def _challenge(self, request: Prove, session: Session) -> Proof:
        if request.key_id is None or request.nonce is None:
            raise BadRequest("prove takes key_id and nonce, and after the answer to that proof")
        key = self.keyring.find(request.key_id)
        if key is None:
            raise Unauthorized("the daemons have different secrets (--secret-file): there is no such key here")
        session.challenge = challenge = Challenge(key, request.nonce, new_nonce())
        proof = prove(key, Part.ANSWERING, challenge.asking_nonce, challenge.answering_nonce, self.storage_id)
        return Proof(challenge.answering_nonce, self.storage_id, proof)

    def _proven(self, proof: str, session: Session) -> Proof:
        challenge, session.challenge = session.challenge, None
        if challenge is None:
            raise Unauthorized("prove begins with key_id and nonce")
        nonces = challenge.asking_nonce, challenge.answering_nonce
        check_proof(challenge.key, Part.ASKING, *nonces, self.storage_id, proof)
        self._check_key(challenge.key)
        session.is_now(challenge.key, None)
        return Proof()
