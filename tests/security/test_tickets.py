from typing import Any

import jwt
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.errors import Forbidden, Unauthorized
from filefly.security.keys import Keyring
from filefly.security.signing import MAX_SIGNED_CHARACTERS
from filefly.security.tickets import Right, Ticket, check_ticket_time, indexes_of, issue_ticket, read_ticket
from filefly.security.tokens import Role, Token, issue_token
from filefly.wire.names import make_block_id
from tests.security.texts import KEY, KEYRING, OLD, STRANGER, forge, other_spellings, single_bit_changes

NOW = 1_800_000_000
TICKET = Ticket("s1", Right.STORE, "docs/a.txt", 7, 0b1011, 28, 8, NOW + 60, "t1")
CLAIMS = {
    "aud": "s1",
    "right": "store",
    "stem": "docs/a.txt",
    "indexes": "Cw==",
    "size": 28,
    "block_size": 8,
    "exp": NOW + 60,
    "generation": 7,
    "sub": "t1",
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
generations = st.none() | st.integers(0, 2**53 - 1)
index_sets = st.sets(st.integers(0, 300))
tickets = st.builds(
    Ticket,
    storage_id=st.just("s1"),
    right=st.sampled_from(Right),
    stem=texts,
    generation=generations,
    indexes=index_sets.map(indexes_of),
    total_size=st.integers(0, 2**53),
    block_size=st.integers(1, 2**53),
    expires=st.integers(NOW + 1, 2**53),
    holder=texts,
)


def refuse(
    text: str, sentence: str | None = None, keyring: Keyring = KEYRING, now: float = NOW, storage: str = "s1"
) -> None:
    with pytest.raises(Unauthorized, match=sentence):
        read_ticket(keyring, text, storage, now)


def forbid(ticket: Ticket, right: Right, block_id: str, size: int | None = None, sentence: str | None = None) -> None:
    with pytest.raises(Forbidden, match=sentence):
        ticket.check(right, block_id, size)


@given(tickets)
@settings(max_examples=300, deadline=None)
def test_a_ticket_is_read_as_it_was_issued(ticket: Ticket) -> None:
    """Nothing of what it says is lost or changed."""
    assert ticket == read_ticket(KEYRING, issue_ticket(KEYRING, ticket), "s1", NOW)


def test_a_ticket_says_what_the_format_says() -> None:
    """Another program can make one from this description."""
    assert TICKET == read_ticket(KEYRING, forge(KEY.for_tickets, CLAIMS), "s1", NOW)


@pytest.mark.parametrize("character", ["x", "é", "日", "😀", '"', "\\"])
def test_a_ticket_for_the_largest_plan_fits(character: str) -> None:
    """20,000 blocks with the longest stem are within what is read."""
    stem = (character * 198).encode()[:198].decode(errors="ignore")
    ticket = evolve(TICKET, stem=stem, generation=2**53 - 1, indexes=indexes_of(range(20_000)), holder="f" * 32)
    text = issue_ticket(KEYRING, ticket)
    assert len(text) <= MAX_SIGNED_CHARACTERS
    assert ticket == read_ticket(KEYRING, text, "s1", NOW)


@given(st.lists(st.integers(0, 19_999)))
def test_indexes_are_a_set(numbers: list[int]) -> None:
    """Bit N is set exactly for each number N, in whatever order and however often it comes."""
    assert sum(1 << number for number in set(numbers)) == indexes_of(numbers)


@given(generations, index_sets, st.integers(0, 2000), st.integers(1, 9), st.sampled_from(Right))
@settings(deadline=None)
def test_a_ticket_allows_exactly_its_blocks(
    generation: int | None, indexes: set[int], total_size: int, block_size: int, right: Right
) -> None:
    """Those of its set, stem and generation, and no other."""
    ticket = Ticket("s1", right, "a-0", generation, indexes_of(indexes), total_size, block_size, NOW + 60)
    for index in range(310):
        block_id = make_block_id("a-0", index, generation)
        if index in indexes:
            ticket.check(right, block_id)
        else:
            forbid(ticket, right, block_id, sentence="^the ticket is not for block ")
        for other in ("a", "a-0-0", "b-0", "A-0", "/a-0"):
            forbid(ticket, right, make_block_id(other, index, generation))
    for index in indexes:
        other_generation = None if generation is not None else 0
        forbid(ticket, right, make_block_id("a-0", index, other_generation))
        forbid(ticket, right, make_block_id("a-0", index, (generation or 0) + 1))


@given(st.integers(0, 100), st.integers(1, 9), st.integers(0, 200))
def test_a_block_has_the_planned_size(total_size: int, block_size: int, size: int) -> None:
    """All blocks are full but the last one, which has what is left; any other size is refused."""
    content = bytes(total_size)
    blocks = [content[start : start + block_size] for start in range(0, total_size, block_size)] or [b""]
    ticket = Ticket("s1", Right.STORE, "a", None, indexes_of(range(len(blocks))), total_size, block_size, NOW + 60)
    for index, block in enumerate(blocks):
        ticket.check(Right.STORE, f"a-{index}", len(block))
        if size != len(block):
            forbid(ticket, Right.STORE, f"a-{index}", size, f"^block 'a-{index}' was planned with {len(block)} bytes$")


@pytest.mark.parametrize("block_id", ["a-01", "a-001", "a-1.07", "a-01.7", "a-00", "a-1.007"])
@pytest.mark.parametrize("generation", [None, 7])
def test_an_id_that_only_looks_the_same_is_refused(block_id: str, generation: int | None) -> None:
    """A number with zeros before it makes another id, which is another block on disk."""
    forbid(evolve(TICKET, stem="a", generation=generation, indexes=0b11), Right.STORE, block_id)


@pytest.mark.parametrize(
    "block_id", ["", "docs/a.txt", "docs/a.txt-", "docs/a.txt-0", "docs/a.txt-x.7", "docs/a.txt-0.7\n", "\ud800"]
)
def test_what_is_no_id_of_the_plan_is_refused(block_id: str) -> None:
    """Whatever it is."""
    forbid(TICKET, Right.STORE, block_id, 8, "^the ticket is not for block ")


@pytest.mark.parametrize(
    ("own", "other", "sentence"),
    [
        (Right.STORE, Right.RETRIEVE, "^the ticket is not for reading blocks, but for storing them$"),
        (Right.RETRIEVE, Right.STORE, "^the ticket is not for storing blocks, but for reading them$"),
    ],
)
def test_one_right_is_not_the_other(own: Right, other: Right, sentence: str) -> None:
    """Who may store may not read by that, nor the other way round."""
    ticket = evolve(TICKET, right=own)
    ticket.check(own, "docs/a.txt-0.7", 8)
    forbid(ticket, other, "docs/a.txt-0.7", 8, sentence)


def test_a_ticket_is_for_one_data_server() -> None:
    """Another one refuses it."""
    refuse(issue_ticket(KEYRING, TICKET), "^the ticket is for another data server$", storage="s2")


def test_an_old_key_is_still_valid() -> None:
    """While the secret is being changed both keys' tickets are good."""
    assert TICKET == read_ticket(Keyring([KEY, OLD]), issue_ticket(Keyring([OLD]), TICKET), "s1", NOW)


def test_a_retired_key_is_void() -> None:
    """What it signed is refused, with the reason."""
    refuse(issue_ticket(Keyring([OLD]), TICKET), "no key of this cluster has signed it, or that key is retired$")


def test_another_clusters_ticket_is_refused() -> None:
    """Even if its key has the same id."""
    refuse(issue_ticket(Keyring([STRANGER]), TICKET), "it was changed, or signed for another cluster$")


def test_a_token_is_no_ticket() -> None:
    """They are signed with different keys."""
    refuse(issue_token(KEYRING, Token("t1", Role.ADMIN)), "it was changed")


def test_what_a_token_is_signed_with_makes_no_ticket() -> None:
    """A ticket's claims under a key that is for something else, or under the secret itself, are refused."""
    for secret in (KEY.for_tokens, KEY.for_proofs, KEY.secret):
        refuse(forge(secret, CLAIMS), "it was changed")


def test_a_changed_bit_makes_a_ticket_invalid() -> None:
    """Every bit of every character counts, also those of the last one that belong to no byte."""
    for changed in single_bit_changes(issue_ticket(KEYRING, TICKET)):
        refuse(changed, "^the ticket is not valid: ")


def test_another_spelling_of_a_ticket_is_refused() -> None:
    """A ticket has one text; other ones of the same bytes, padding and line ends among them, are none."""
    text = issue_ticket(KEYRING, TICKET)
    first, second, third = text.split(".")
    padded = [f"{first}=.{second}.{third}", f"{first}.{second}=.{third}", f"{text}="]
    for changed in {*other_spellings(text), *padded, f"{text}.", f".{text}", f"{text}\n", f" {text}"}:
        refuse(changed, "^the ticket is not valid: ")


def test_a_ticket_is_a_json_web_token() -> None:
    """Whatever reads those can show what it says."""
    text = issue_ticket(KEYRING, TICKET)
    assert {"alg": "HS256", "kid": KEY.id, "typ": "JWT"} == jwt.get_unverified_header(text)
    assert CLAIMS == jwt.decode(text, KEY.for_tickets, ["HS256"], audience="s1", options={"verify_exp": False})


@pytest.mark.filterwarnings("ignore:The HMAC key")
@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_another_algorithm_is_refused(algorithm: str) -> None:
    """No signature is none, and one algorithm is enough."""
    refuse(forge(None if algorithm == "none" else KEY.for_tickets, CLAIMS, algorithm), "^the ticket is not valid: ")


@pytest.mark.parametrize("now", [NOW + 60, NOW + 60.001, NOW + 10**9])
def test_a_ticket_has_expired_at_its_time(now: float) -> None:
    """The second in which it expires is not its own any more."""
    refuse(issue_ticket(KEYRING, TICKET), "^the ticket has expired; ask the metadata server ", now=now)
    with pytest.raises(Unauthorized, match=r"^the ticket has expired"):
        check_ticket_time(TICKET.expires, now)


@pytest.mark.parametrize("now", [0, NOW, NOW + 59.999])
def test_a_ticket_is_valid_until_its_time(now: float) -> None:
    """The clock that counts is the one that is handed in."""
    assert TICKET == read_ticket(KEYRING, issue_ticket(KEYRING, TICKET), "s1", now)
    check_ticket_time(TICKET.expires, now)


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"nbf": 1},
        {"right": "delete"},
        {"right": None},
        {"aud": ["s1", "s2"]},
        {"stem": 1},
        {"indexes": "C"},
        {"indexes": "C!=="},
        {"indexes": "é"},
        {"indexes": 11},
        {"size": "28"},
        {"block_size": 8.5},
        {"exp": None},
        {"exp": float("inf")},
        {"generation": "7"},
        {"sub": None},
    ],
)
def test_claims_of_another_kind_are_refused(changes: dict[str, Any]) -> None:
    """What is not understood may be a limit, so it is not passed over."""
    refuse(forge(KEY.for_tickets, {**CLAIMS, **changes}), "it is not one of this version of FileFly$")


@pytest.mark.parametrize("missing", ["aud", "right", "stem", "indexes", "size", "block_size", "exp"])
def test_a_missing_claim_is_refused(missing: str) -> None:
    """Only the generation and the holder may be absent."""
    claims = {name: value for name, value in CLAIMS.items() if name != missing}
    refuse(forge(KEY.for_tickets, claims), "it is not one of this version of FileFly$")


@given(st.text(st.characters()) | st.text("ey.JhbGci_-=0", max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_refused(text: str) -> None:
    """No text makes the server fail in another way."""
    refuse(text)
