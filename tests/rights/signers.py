"""Everybody who may be at the other end of a connection, and how they say who they are."""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from filefly.security.keys import Key, Keyring
from filefly.security.proofs import Part, new_nonce, prove
from filefly.security.tickets import Right, Ticket, issue_ticket
from filefly.security.tokens import Role, Token, issue_token
from tests.rights.expected import ROLES, Vouched
from tests.rights.talking import KEY, NOW, OLD, STRANGER, Talk

FITTING, OTHER = "docs/", "other/"
REVOKED = "revoked"
"""The id of a token that the metadata server has revoked."""


@frozen
class Signer:
    """Somebody: what of them is true now, and how they begin a conversation; some began it earlier."""

    name: str
    vouched: Vouched
    sign_in: Callable[[Talk], None]
    role: str | None = None
    prefix: str = ""
    earlier: bool = False


def changed(text: str) -> str:
    """Return a signed text with one bit of its signature changed."""
    place = len(text) - 20
    return text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]


def token(
    role: str = "admin", prefix: str = "", key: Key = KEY, expires: int | None = int(NOW) + 60, token_id: str = "t"
) -> str:
    """Return a token."""
    return issue_token(Keyring([key]), Token(token_id, Role(role), prefix, expires))


def present(text: str, accepted: bool) -> Callable[[Talk], None]:
    """Return how to sign in with a token, which is accepted or not."""

    def sign_in(talk: Talk) -> None:
        reply, _behind = talk.ask(command="auth", token=text)
        assert ("ok" if accepted else "unauthorized") == reply.get("code", "ok"), reply

    return sign_in


def _say_nothing(_talk: Talk) -> None:
    """Let the server guess."""


def _prove(key: Key = KEY, *, half: bool = False, secret: Key | None = None) -> Callable[[Talk], None]:
    def sign_in(talk: Talk) -> None:
        nonce = new_nonce()
        answer, _behind = talk.ask(command="prove", key_id=key.id, nonce=nonce)
        assert prove(key, Part.ANSWERING, nonce, answer["nonce"], answer.get("storage_id")) == answer["proof"]
        if not half:
            proof = prove(secret or key, Part.ASKING, nonce, answer["nonce"], answer.get("storage_id"))
            reply, _behind = talk.ask(command="prove", proof=proof)
            assert ("ok" if secret is None else "unauthorized") == reply.get("code", "ok"), reply

    return sign_in


def _reflect(talk: Talk) -> None:
    """Send the server its own proof back."""
    answer, _behind = talk.ask(command="prove", key_id=KEY.id, nonce=new_nonce())
    assert "unauthorized" == talk.ask(command="prove", proof=answer["proof"])[0]["code"]


def _holders() -> list[Signer]:
    found = []
    for role in ROLES:
        for prefix, words in (("", ""), (FITTING, " under a prefix that fits"), (OTHER, " under another prefix")):
            text = token(role, prefix, token_id=f"{role}-{prefix}")
            found.append(Signer(f"{role}{words}", Vouched.TOKEN, present(text, True), role, prefix))
    return found


def _with_admin(name: str, text: str) -> Signer:
    return Signer(name, Vouched.NOTHING, present(text, False))


_TICKET = Ticket("id of blocks", Right.STORE, "docs/a", 7, 0b11, 20, 8, int(NOW) + 60)

SIGNERS: Sequence[Signer] = [
    Signer("nobody", Vouched.NOTHING, _say_nothing),
    *_holders(),
    _with_admin("expired token", token(expires=int(NOW) - 1)),
    _with_admin("token that expires now", token(expires=int(NOW))),
    _with_admin("token of another secret", token(key=STRANGER)),
    _with_admin("token of a retired key", token(key=OLD)),
    _with_admin("token with one bit changed", changed(token())),
    _with_admin("ticket as a token", issue_ticket(Keyring([KEY]), _TICKET)),
    _with_admin("no token at all", "x"),
    Signer("token expired since", Vouched.LAPSED_TOKEN, present(token(expires=int(NOW) - 50), True), earlier=True),
    Signer("token of a key retired since", Vouched.LAPSED_TOKEN, present(token(key=OLD), True), earlier=True),
    Signer("daemon", Vouched.PROOF, _prove()),
    Signer("daemon with a key retired since", Vouched.LAPSED_PROOF, _prove(OLD), earlier=True),
    Signer("daemon half-way", Vouched.NOTHING, _prove(half=True)),
    Signer("daemon of another secret", Vouched.NOTHING, _prove(secret=STRANGER)),
    Signer("daemon by the server's own proof", Vouched.NOTHING, _reflect),
]
"""All of them but those whose token was revoked: only the metadata server knows of that."""


def signed_in(
    signer: Signer, connect: Callable[[], Talk], earlier: Callable[[], Any], later: Callable[[], Any]
) -> Talk:
    """Return a conversation that somebody has begun."""
    if signer.earlier:
        earlier()
    talk = connect()
    signer.sign_in(talk)
    later()
    return talk
