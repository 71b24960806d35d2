from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from filefly.daemon.failures import Failures
from filefly.daemon.guard import OpenGuard, SecretGuard, Session
from filefly.errors import BadRequest, Busy, Unauthorized
from filefly.security.keys import Key, Keyring
from filefly.security.proofs import Part, check_proof, prove
from filefly.security.tokens import Role, Token, issue_token
from filefly.wire.messages import Reply, Request
from filefly.wire.security import Auth, Proof, Prove, SignedIn
from tests.peer import now
from tests.security.texts import KEY, OLD, STRANGER

NONCE = "ab" * 16
TOKEN = Token("t-1", Role.WRITE, "reports/", 1000)


@define
class KnownSecret:
    """A secret that a test has, and changes."""

    keyring: Keyring = field(factory=lambda: Keyring([KEY, OLD]))


class AnyGuard(SecretGuard):
    """A guard that only looks who it is."""

    def check(self, request: Request, session: Session) -> None:
        """Let everything pass."""


class Door:
    """A guard with a clock and a list of revoked tokens, and one session."""

    def __init__(self, free: int = 5, most: int = 50) -> None:
        self.clock = Clock()
        self.secret = KnownSecret()
        self.revoked: set[str] = set()
        failures = Failures(self.clock, free, most)
        self.guard = AnyGuard(self.secret, self.clock.seconds, failures, self.revoked.__contains__)
        self.session = Session("192.0.2.1")

    def begin(self, request: Auth | Prove, session: Session | None = None) -> Deferred[Reply]:
        return Deferred.fromCoroutine(self.guard.sign_in(request, session or self.session))

    def sign_in(self, request: Auth | Prove) -> Any:
        return now(self.begin(request))

    def challenge(self, key: Key = KEY) -> str:
        """Begin a proof; return the nonce that the guard gives."""
        nonce: str = self.sign_in(Prove(key.id, NONCE)).nonce
        return nonce


@pytest.fixture
def door() -> Door:
    return Door()


def signed(token: Token = TOKEN, key: Key = KEY) -> Auth:
    return Auth(issue_token(Keyring([key]), token))


def test_an_open_guard_takes_everybody() -> None:
    """A client that has a token works with an open cluster, too; nothing is proven there."""
    guard, session = OpenGuard(), Session("192.0.2.1")
    assert SignedIn("admin") == now(Deferred.fromCoroutine(guard.sign_in(Auth("anything"), session)))
    assert Proof() == now(Deferred.fromCoroutine(guard.sign_in(Prove("00000002", NONCE), session)))
    assert guard.is_open


def test_nobody_is_known_at_first(door: Door) -> None:
    """Neither a token nor a proof was shown."""
    assert door.guard.token_of(door.session) is None
    assert not door.guard.is_daemon(door.session)


def test_a_token_says_who_it_is(door: Door) -> None:
    """And the answer says what it allows."""
    assert SignedIn("write", "reports/", "1970-01-01T00:16:40.000Z") == door.sign_in(signed())
    assert TOKEN == door.guard.token_of(door.session)
    assert not door.guard.is_daemon(door.session)


def test_a_token_of_every_valid_key_is_taken(door: Door) -> None:
    """While keys are being changed there are two."""
    assert SignedIn("read") == door.sign_in(signed(Token("t-2", Role.READ), OLD))


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (signed(key=STRANGER), "the token is not valid: it was changed"),
        (signed(key=Key("00000009", b"x" * 32)), "the token is not valid: no key of this cluster has signed it"),
        (signed(Token("t-1", Role.READ, expires=0)), "the token has expired"),
        (Auth("garbage"), "the token is not valid"),
        (Prove(proof="00"), "prove begins with key_id and nonce"),
        (Prove("00000009", NONCE), r"the daemons have different secrets \(--secret-file\)"),
    ],
)
def test_who_shows_the_wrong_thing_stays_who_it_was(door: Door, request_: Auth | Prove, sentence: str) -> None:
    """Nobody, or the holder of the token before."""
    with pytest.raises(Unauthorized, match=f"^{sentence}"):
        door.sign_in(request_)
    assert door.guard.token_of(door.session) is None
    door.sign_in(signed())
    with pytest.raises(Unauthorized):
        door.sign_in(request_)
    assert TOKEN == door.guard.token_of(door.session)


def test_a_token_expires_on_an_open_connection(door: Door) -> None:
    """It is looked at as often as it is asked for."""
    door.sign_in(signed())
    door.clock.advance(999)
    assert TOKEN == door.guard.token_of(door.session)
    door.clock.advance(1)
    with pytest.raises(Unauthorized, match=r"^the token has expired; ask for another one$"):
        door.guard.token_of(door.session)


def test_a_revoked_token_is_void(door: Door) -> None:
    """At once, also where it has signed in already."""
    door.sign_in(signed())
    door.revoked.add("t-1")
    with pytest.raises(Unauthorized, match=r"^the token was revoked; ask for another one$"):
        door.guard.token_of(door.session)
    with pytest.raises(Unauthorized, match=r"^the token was revoked; ask for another one$"):
        door.sign_in(signed())


def test_a_token_goes_with_its_key(door: Door) -> None:
    """Who signed in with a retired one signs in again with another token."""
    door.sign_in(signed(key=OLD))
    door.secret.keyring = Keyring([KEY])
    with pytest.raises(Unauthorized, match=r"^the key that vouched for this connection is retired; sign in again$"):
        door.guard.token_of(door.session)
    door.sign_in(signed())
    assert TOKEN == door.guard.token_of(door.session)


def test_who_is_known_is_known_as_long_as_it_holds(door: Door) -> None:
    """A token until it is revoked or ends, a proof until its key is retired, a ticket until it ends."""
    assert not door.guard.knows(door.session)
    door.sign_in(signed())
    assert door.guard.knows(door.session)
    door.revoked.add(TOKEN.id)
    assert not door.guard.knows(door.session)
    door.session.is_now(OLD, None)
    assert door.guard.knows(door.session)
    door.secret.keyring = Keyring([KEY])
    assert not door.guard.knows(door.session)
    door.session.ticket_expires = 900
    assert door.guard.knows(door.session)
    door.clock.advance(900)
    assert not door.guard.knows(door.session)


def test_an_open_guard_knows_everybody() -> None:
    """Nobody can sign in there."""
    assert OpenGuard().knows(Session("192.0.2.1"))


@pytest.mark.parametrize("key", [KEY, OLD])
def test_both_sides_prove_that_they_have_the_secret(door: Door, key: Key) -> None:
    """The answering one first."""
    answer = door.sign_in(Prove(key.id, NONCE))
    check_proof(key, Part.ANSWERING, NONCE, answer.nonce, None, answer.proof)
    assert not door.guard.is_daemon(door.session)
    assert Proof() == door.sign_in(Prove(proof=prove(key, Part.ASKING, NONCE, answer.nonce, None)))
    assert door.guard.is_daemon(door.session)
    assert door.guard.token_of(door.session) is None


def test_a_wrong_proof_names_the_option(door: Door) -> None:
    """And the challenge is used up: the right proof comes too late."""
    nonce = door.challenge()
    with pytest.raises(Unauthorized, match=r"\(--secret-file\)$"):
        door.sign_in(Prove(proof=prove(STRANGER, Part.ASKING, NONCE, nonce, None)))
    with pytest.raises(Unauthorized, match=r"^prove begins with key_id and nonce$"):
        door.sign_in(Prove(proof=prove(KEY, Part.ASKING, NONCE, nonce, None)))
    assert not door.guard.is_daemon(door.session)


def test_the_guards_own_proof_is_no_answer(door: Door) -> None:
    """Who sends it back has proven nothing."""
    answer = door.sign_in(Prove(KEY.id, NONCE))
    with pytest.raises(Unauthorized):
        door.sign_in(Prove(proof=answer.proof))


def test_a_proof_is_good_for_one_connection(door: Door) -> None:
    """Another one has another nonce."""
    proof = prove(KEY, Part.ASKING, NONCE, door.challenge(), None)
    other = Session("192.0.2.2")
    now(door.begin(Prove(KEY.id, NONCE), other))
    with pytest.raises(Unauthorized):
        now(door.begin(Prove(proof=proof), other))
    assert Proof() == door.sign_in(Prove(proof=proof))


def test_a_key_that_is_retired_half_way_proves_nothing(door: Door) -> None:
    """A daemon signs in again with another one."""
    nonce = door.challenge(OLD)
    door.secret.keyring = Keyring([KEY])
    with pytest.raises(Unauthorized, match=r"is retired; sign in again$"):
        door.sign_in(Prove(proof=prove(OLD, Part.ASKING, NONCE, nonce, None)))
    assert not door.guard.is_daemon(door.session)


@pytest.mark.parametrize("request_", [Prove(), Prove(key_id="00000002"), Prove(nonce=NONCE)])
def test_half_a_proof_is_no_request(door: Door, request_: Prove) -> None:
    """The sentence says what comes in which order."""
    with pytest.raises(BadRequest, match=r"^prove takes key_id and nonce, and after the answer to that proof$"):
        door.sign_in(request_)


def test_the_last_to_sign_in_counts(door: Door) -> None:
    """A connection is one of both."""
    door.sign_in(Prove(proof=prove(KEY, Part.ASKING, NONCE, door.challenge(), None)))
    door.sign_in(signed())
    assert not door.guard.is_daemon(door.session)
    assert TOKEN == door.guard.token_of(door.session)


def test_a_session_does_not_show_its_key(door: Door) -> None:
    """Nor what it is asked to prove."""
    door.sign_in(signed())
    door.challenge()
    assert "Key(" not in repr(door.session)
    assert "hallenge" not in repr(door.session)


@pytest.mark.parametrize("wrong", [Auth("garbage"), Prove(proof="00")])
def test_who_fails_often_waits(wrong: Auth | Prove) -> None:
    """And is told to stop in the end; but a right token is taken at once, as it comes from somebody else, perhaps."""
    door = Door(free=1, most=2)
    with pytest.raises(Unauthorized):
        door.sign_in(wrong)
    second, third = door.begin(wrong), door.begin(wrong)
    assert not second.called
    door.clock.advance(0.25)
    with pytest.raises(Unauthorized):
        now(second)
    door.clock.advance(0.25)
    with pytest.raises(Busy, match=r"\(--max-auth-failures\)"):
        now(third)
    assert "write" == door.sign_in(signed()).role
    assert Proof() == door.sign_in(Prove(proof=prove(KEY, Part.ASKING, NONCE, door.challenge(), None)))


def test_an_unknown_key_is_no_failure() -> None:
    """Daemons whose keys are changed one after the other ask for both; nothing can be guessed by that."""
    door = Door(free=1)
    for _ in range(9):
        with pytest.raises(Unauthorized):
            door.sign_in(Prove("00000009", NONCE))
    assert [] == door.clock.getDelayedCalls()
