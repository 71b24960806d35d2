import json
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.errors import Unauthorized
from filefly.security.keys import Keyring
from filefly.security.signing import MAX_SIGNED_CHARACTERS
from filefly.security.tickets import Right, Ticket, issue_ticket
from filefly.security.tokens import Role, Token, issue_token, read_token
from tests.security.texts import (
    KEY,
    KEYRING,
    OLD,
    STRANGER,
    forge,
    json_values,
    other_spellings,
    segment,
    single_bit_changes,
)

NOW = 1_800_000_000
TOKEN = Token("t1", Role.WRITE, "docs/", NOW + 60)
CLAIMS = {"jti": "t1", "role": "write", "prefix": "docs/", "exp": NOW + 60}

tokens = st.builds(
    Token,
    id=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    role=st.sampled_from(Role),
    prefix=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    expires=st.none() | st.integers(NOW + 1, 2**53),
)


def refuse(text: str, sentence: str | None = None, keyring: Keyring = KEYRING, now: float = NOW) -> None:
    with pytest.raises(Unauthorized, match=sentence):
        read_token(keyring, text, now)


@given(tokens)
@settings(max_examples=300, deadline=None)
def test_a_token_is_read_as_it_was_issued(token: Token) -> None:
    """Nothing of what it says is lost or changed."""
    assert token == read_token(KEYRING, issue_token(KEYRING, token), NOW)


@pytest.mark.parametrize("character", ["x", "é", "日", "😀", '"', "\\"])
def test_the_longest_prefix_fits(character: str) -> None:
    """A token may be for names of 1,024 bytes, whatever each byte costs there."""
    token = Token("t1", Role.ADMIN, (character * 1024).encode()[:1024].decode(errors="ignore"), NOW + 60)
    assert token == read_token(KEYRING, issue_token(KEYRING, token), NOW)


def test_a_token_says_what_the_format_says() -> None:
    """Another program can make one from this description."""
    assert TOKEN == read_token(KEYRING, forge(KEY.for_tokens, CLAIMS), NOW)


@pytest.mark.parametrize("own", Role)
@pytest.mark.parametrize("other", Role)
def test_a_role_includes_those_before_it(own: Role, other: Role) -> None:
    """And itself, but none that comes after it."""
    included = {
        Role.READ: {Role.READ},
        Role.APPEND: {Role.READ, Role.APPEND},
        Role.WRITE: {Role.READ, Role.APPEND, Role.WRITE},
        Role.ADMIN: {Role.READ, Role.APPEND, Role.WRITE, Role.ADMIN},
    }
    assert (other in included[own]) == own.includes(other)


def test_an_old_key_is_still_valid() -> None:
    """While the secret is being changed both keys' tokens are good."""
    assert TOKEN == read_token(Keyring([KEY, OLD]), issue_token(Keyring([OLD]), TOKEN), NOW)


def test_the_first_key_signs() -> None:
    """What is issued while the secret is being changed outlives the change."""
    assert TOKEN == read_token(KEYRING, issue_token(Keyring([KEY, OLD]), TOKEN), NOW)


def test_a_retired_key_is_void() -> None:
    """What it signed is refused, with the reason."""
    refuse(issue_token(Keyring([OLD]), TOKEN), "no key of this cluster has signed it, or that key is retired$")


def test_another_clusters_token_is_refused() -> None:
    """Even if its key has the same id."""
    refuse(issue_token(Keyring([STRANGER]), TOKEN), "it was changed, or signed for another cluster$")


def test_a_ticket_is_no_token() -> None:
    """They are signed with different keys."""
    ticket = Ticket("s1", Right.STORE, "a", None, 1, 1, 1, NOW + 60)
    refuse(issue_ticket(KEYRING, ticket), "it was changed")


def test_what_a_ticket_is_signed_with_makes_no_token() -> None:
    """A token's claims under a key that is for something else, or under the secret itself, are refused."""
    for secret in (KEY.for_tickets, KEY.for_proofs, KEY.secret):
        refuse(forge(secret, CLAIMS), "it was changed")


def test_a_changed_bit_makes_a_token_invalid() -> None:
    """Every bit of every character counts, but for the last one's two bits that belong to no byte."""
    text = issue_token(KEYRING, TOKEN)
    for changed in set(single_bit_changes(text)) - other_spellings(text):
        refuse(changed, "^the token is not valid: ")


def test_another_spelling_of_a_token_says_nothing_else() -> None:
    """Those two bits change nothing: PyJWT 2.15 refuses the text, older ones read the same claims."""
    for changed in other_spellings(issue_token(KEYRING, TOKEN)):
        with suppress(Unauthorized):
            assert TOKEN == read_token(KEYRING, changed, NOW)


def test_a_padded_token_is_the_same() -> None:
    """So the text of a token must not stand for it."""
    assert TOKEN == read_token(KEYRING, issue_token(KEYRING, TOKEN) + "=", NOW)


def test_an_unsigned_token_is_refused() -> None:
    """Algorithm `none` is none, whatever stands in the signature's place."""
    text = forge(None, CLAIMS, "none")
    refuse(text, "it was changed")
    refuse(text + issue_token(KEYRING, TOKEN).rpartition(".")[2], "it was changed")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "hs256", "HS512", None, 1, [], {}])
def test_an_odd_algorithm_is_refused(algorithm: object) -> None:
    """However it is spelled in the header, with the signature of a valid token behind it."""
    _header, claims, signature = issue_token(KEYRING, TOKEN).split(".")
    header = segment(json.dumps({"alg": algorithm, "typ": "JWT", "kid": KEY.id}).encode())
    refuse(f"{header}.{claims}.{signature}", "it was changed")
    refuse(f"{header}.{claims}.", "it was changed")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
@pytest.mark.filterwarnings("ignore:The HMAC key")
def test_another_hmac_is_refused(algorithm: str) -> None:
    """One algorithm is enough, even if the key is right."""
    refuse(forge(KEY.for_tokens, CLAIMS, algorithm), "it was changed")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_public_key_algorithm_is_refused(algorithm: str) -> None:
    """No header makes the server take a key for one of another kind."""
    private: Any = (
        rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
    )
    refuse(forge(private, CLAIMS, algorithm), "it was changed")


@pytest.mark.parametrize("now", [NOW + 60, NOW + 60.001, NOW + 10**9])
def test_a_token_has_expired_at_its_time(now: float) -> None:
    """The second in which it expires is not its own any more."""
    refuse(issue_token(KEYRING, TOKEN), "^the token has expired; ask for another one$", now=now)


@pytest.mark.parametrize("now", [0, NOW, NOW + 59, NOW + 59.999])
def test_a_token_is_valid_until_its_time(now: float) -> None:
    """The clock that counts is the one that is handed in."""
    assert TOKEN == read_token(KEYRING, issue_token(KEYRING, TOKEN), now)


def test_a_token_may_never_expire() -> None:
    """One without a time is good for ever."""
    token = Token("t1", Role.READ)
    assert token == read_token(KEYRING, issue_token(KEYRING, token), 10.0**12)


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"nbf": 1},
        {"aud": "x"},
        {"role": "owner"},
        {"role": "WRITE"},
        {"role": None},
        {"jti": 1},
        {"prefix": None},
        {"exp": "tomorrow"},
        {"exp": NOW + 60.5},
        {"exp": True},
        {"exp": float("nan")},
    ],
)
def test_claims_of_another_kind_are_refused(changes: dict[str, Any]) -> None:
    """What is not understood may be a limit, so it is not passed over."""
    refuse(forge(KEY.for_tokens, {**CLAIMS, **changes}), "it is not one of this version of FileFly$")


@pytest.mark.parametrize("missing", ["jti", "role"])
def test_a_missing_claim_is_refused(missing: str) -> None:
    """A token without a role allows nothing, and one without an id could not be revoked."""
    claims = {name: value for name, value in CLAIMS.items() if name != missing}
    refuse(forge(KEY.for_tokens, claims), "it is not one of this version of FileFly$")


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "\ud800", "....", "x" * (MAX_SIGNED_CHARACTERS + 1)])
def test_what_is_no_token_is_refused(text: str) -> None:
    """It gets the sentence of a changed one."""
    refuse(text, "it was changed, or signed for another cluster$")


@given(st.text(st.characters()) | st.text("ey.JhbGci_-=0", max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_refused(text: str) -> None:
    """No text makes the server fail in another way."""
    refuse(text)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "cty", "x"]), json_values), json_values)
@settings(max_examples=300, deadline=None)
def test_any_header_is_refused(header: dict[str, object], claims: object) -> None:
    """Nor does a header or are claims that nobody would sign."""
    said = segment(json.dumps({"alg": "HS256", "kid": KEY.id, **header}).encode())
    refuse(f"{said}.{segment(json.dumps(claims).encode())}.{'A' * 43}")


@pytest.mark.parametrize("crit", [None, 1, "b64", [], [1], [None], [[]], [{}], ["b64"], ["exp"], {"b64": 1}])
@pytest.mark.parametrize("b64", [None, True, False, 0, []])
def test_critical_extensions_are_refused(crit: object, b64: object) -> None:
    """There are none (RFC 7515, 4.1.11)."""
    said = segment(json.dumps({"alg": "HS256", "kid": KEY.id, "crit": crit, "b64": b64}).encode())
    refuse(f"{said}.{segment(b'{}')}.{'A' * 43}", "it was changed")
    refuse(f"{said}..{'A' * 43}", "it was changed")


def test_a_deeply_nested_header_is_refused() -> None:
    """It does not use up the stack."""
    refuse(f"{segment(b'[' * 6000)}.{segment(b'{}')}.{'A' * 43}", "it was changed")
