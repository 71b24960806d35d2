import binascii
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filefly.data import rights
from filefly.data.rights import Tickets, _size_of
from filefly.errors import Unauthorized
from filefly.security.keys import Keyring
from filefly.security.tickets import Right, Ticket, read_ticket
from filefly.security.tokens import Role
from filefly.wire.blocks import Store
from filefly.wire.codec import decode_base64
from tests.data.closed import NOW, STORAGE, ClosedServer, a_ticket, a_token, closed_server
from tests.data.running import DIGITS, error, sum_of
from tests.data.test_peers import OddServer, copy, two
from tests.on_reactor import on_reactor
from tests.security.texts import KEY, OLD, STRANGER, single_bit_changes

STORE = a_ticket(Right.STORE, 0, 2)
RETRIEVE = a_ticket(Right.RETRIEVE, 0, 2)
SUM = sum_of(DIGITS)

A_BLOCK: dict[str, dict[str, Any]] = {
    "store": {"command": "store", "block_id": "a-0", "size": 10, "ticket": STORE},
    "store in base64": {"command": "store", "block_id": "a-0", "data": b64encode(DIGITS).decode(), "ticket": STORE},
    "retrieve": {"command": "retrieve", "block_id": "a-0", "ticket": RETRIEVE},
    "retrieve raw": {"command": "retrieve", "block_id": "a-0", "raw": True, "ticket": RETRIEVE},
    "stat": {"command": "stat", "block_id": "a-0", "ticket": RETRIEVE},
    "stat while storing": {"command": "stat", "block_id": "a-0", "ticket": STORE},
    "link": {
        "command": "link",
        "block_id": "a-0",
        "source_block_id": "a-0",
        "crc32c": SUM,
        "ticket": STORE,
        "source_ticket": RETRIEVE,
    },
}
A_BLOCK["link of what may be stored"] = {**A_BLOCK["link"], "source_ticket": STORE}
"""What a ticket allows."""

FOR_DAEMONS: list[dict[str, Any]] = [
    {"command": "delete", "block_id": "a-0"},
    {"command": "list_blocks"},
    {"command": "copy", "block_id": "a-0", "source": "nowhere", "crc32c": SUM, "storage_id": STORAGE},
    {"command": "quarantine", "block_id": "a-0", "crc32c": "00000000", "storage_id": STORAGE},
    {"command": "set_aside", "block_id": "a-0", "storage_id": STORAGE},
    {"command": "adopt", "storage_id": STORAGE, "catalog_id": "c", "generation": 1},
]

PONG = {"status": "ok", "pong": True}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClosedServer]:
    with closed_server(tmp_path / "blocks") as running:
        (running.folder / "a-0").write_bytes(DIGITS)
        yield running


def payload_of(request: dict[str, Any]) -> bytes:
    return bytes(request.get("size", 0))


def without_ticket(request: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name != "ticket"}


def refusal_of(server: ClosedServer, request: dict[str, Any], signed_in: str | None = None) -> str:
    """Return the code of the answer to a request that must neither touch the disk nor end the conversation."""
    connection = server.connect()
    if signed_in is not None:
        assert "ok" == connection.ask(command="auth", token=signed_in)["status"]
    server.disk.calls.clear()
    code: str = connection.ask(payload_of(request), **request).get("code", "none")
    assert [] == server.disk.calls
    assert PONG == connection.ask(command="ping")
    assert DIGITS == (server.folder / "a-0").read_bytes()
    connection.peer.hang_up()
    return code


@pytest.mark.parametrize("request_", A_BLOCK.values(), ids=A_BLOCK)
def test_a_ticket_allows_what_it_is_for(server: ClosedServer, request_: dict[str, Any]) -> None:
    """Nobody need sign in for that."""
    payload = DIGITS[: request_.get("size", 0)]  # as it is there already
    assert "ok" == server.connect().ask(payload, **request_)["status"]


@pytest.mark.parametrize("request_", A_BLOCK.values(), ids=A_BLOCK)
def test_who_shows_nothing_is_refused(server: ClosedServer, request_: dict[str, Any]) -> None:
    """A store's payload is skipped."""
    assert "unauthorized" == refusal_of(server, without_ticket(request_))


@pytest.mark.parametrize("request_", A_BLOCK.values(), ids=A_BLOCK)
def test_a_token_is_no_ticket(server: ClosedServer, request_: dict[str, Any]) -> None:
    """Not even an administrator's."""
    assert "forbidden" == refusal_of(server, without_ticket(request_), a_token(Role.ADMIN))


@pytest.mark.parametrize("request_", A_BLOCK.values(), ids=A_BLOCK)
@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("unauthorized", {"expires": int(NOW)}),
        ("unauthorized", {"key": STRANGER}),
        ("unauthorized", {"key": OLD}),
        ("unauthorized", {"storage_id": "f" * 32}),
        ("forbidden", {"stem": "b"}),
        ("forbidden", {"generation": 7}),
    ],
)
def test_another_ticket_is_refused(
    server: ClosedServer, request_: dict[str, Any], code: str, changed: dict[str, Any]
) -> None:
    """Expired, another cluster's, a retired key's, another data server's, another file's, an older version's."""
    right = Right.STORE if request_["ticket"] is STORE else Right.RETRIEVE
    assert code == refusal_of(server, {**request_, "ticket": a_ticket(right, 0, 2, **changed)})


@pytest.mark.parametrize("request_", A_BLOCK.values(), ids=A_BLOCK)
def test_a_ticket_for_another_block_is_refused(server: ClosedServer, request_: dict[str, Any]) -> None:
    """A plan's blocks are on several data servers, and each has a ticket for its own."""
    right = Right.STORE if request_["ticket"] is STORE else Right.RETRIEVE
    assert "forbidden" == refusal_of(server, {**request_, "ticket": a_ticket(right, 1, 2)})


@pytest.mark.parametrize("name", ["store", "store in base64", "retrieve", "retrieve raw", "link"])
def test_a_ticket_for_the_other_thing_is_refused(server: ClosedServer, name: str) -> None:
    """Who may read a block may not overwrite it, and who stores one may not read what was there."""
    request = A_BLOCK[name]
    assert "forbidden" == refusal_of(server, {**request, "ticket": RETRIEVE if request["ticket"] is STORE else STORE})


def test_a_link_needs_both_tickets(server: ClosedServer) -> None:
    """It stores the one block, and reads the other."""
    link = A_BLOCK["link"]
    assert "unauthorized" == refusal_of(server, {**link, "source_ticket": None})
    assert "forbidden" == refusal_of(server, {**link, "ticket": link["source_ticket"]})
    assert "forbidden" == refusal_of(server, {**link, "source_block_id": "a-1"})


def test_a_link_to_a_block_of_another_size_is_refused(server: ClosedServer) -> None:
    """The last block was planned with 5 bytes."""
    assert "forbidden" == refusal_of(server, {**A_BLOCK["link"], "block_id": "a-2"})


def test_a_changed_ticket_is_refused(server: ClosedServer) -> None:
    """Whichever bit of it it is."""
    changed = single_bit_changes(STORE)
    codes = {refusal_of(server, {**A_BLOCK["store"], "ticket": ticket}) for ticket in changed}
    assert {"unauthorized"} == codes


@pytest.mark.parametrize(("block_id", "size"), [("a-0", 9), ("a-0", 11), ("a-0", 0), ("a-2", 10), ("a-2", 4)])
@pytest.mark.parametrize("raw", [True, False])
def test_a_block_of_another_size_than_planned_is_refused(
    server: ClosedServer, block_id: str, size: int, raw: bool
) -> None:
    """What base64 says is as long as what it stands for."""
    what: dict[str, Any] = {"size": size} if raw else {"data": b64encode(bytes(size)).decode()}
    assert "forbidden" == refusal_of(server, {"command": "store", "block_id": block_id, "ticket": STORE, **what})


_ENCODED = st.binary(max_size=20).map(lambda data: b64encode(data).decode())


@given(data=st.text(st.sampled_from("AZaz09+/=\n-_ "), max_size=12) | _ENCODED)
def test_the_size_of_base64_is_known_before_it_is_decoded(data: str) -> None:
    """Whatever is taken as base64 has the size that it was allowed with."""
    try:
        decoded = binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        return
    assert decoded == decode_base64(data)
    assert len(decoded) == _size_of(Store("a-0", data=data))


@pytest.mark.parametrize("request_", FOR_DAEMONS, ids=lambda request: request["command"])
def test_what_daemons_do_others_may_not(server: ClosedServer, request_: dict[str, Any]) -> None:
    """Whoever they are."""
    assert "unauthorized" == refusal_of(server, request_)
    assert "forbidden" == refusal_of(server, request_, a_token(Role.ADMIN))


def test_an_open_metadata_server_is_told_what_it_lacks(server: ClosedServer) -> None:
    """The sentence names the option that closes it, too."""
    reply = server.connect().ask(**FOR_DAEMONS[-1])
    assert reply["error"].endswith(": give the metadata server the data servers' secret (--secret-file)")


@pytest.mark.parametrize("request_", [*map(without_ticket, A_BLOCK.values()), *FOR_DAEMONS, {"command": "status"}])
def test_a_daemon_may_everything(server: ClosedServer, request_: dict[str, Any]) -> None:
    """A copy fails only as its source is no address."""
    connection = server.connect()
    assert {"status": "ok"} == connection.prove()
    reply = connection.ask(payload_of(request_), **request_)
    assert ("bad_request" if request_["command"] == "copy" else "none") == reply.get("code", "none")


@pytest.mark.parametrize("role", Role)
def test_the_status_is_for_every_token(server: ClosedServer, role: Role) -> None:
    """And for nobody without."""
    assert "unauthorized" == refusal_of(server, {"command": "status"})
    connection = server.connect()
    connection.ask(command="auth", token=a_token(role))
    assert STORAGE == connection.ask(command="status")["storage_id"]


def test_a_token_that_expires_meanwhile_is_refused(server: ClosedServer) -> None:
    """A connection may be open for long."""
    connection = server.connect()
    assert {"status": "ok", "role": "read", "expires": "1970-01-12T13:47:00.000Z"} == connection.ask(
        command="auth", token=a_token(expires=int(NOW) + 20)
    )
    server.clock.advance(19.9)
    assert "ok" == connection.ask(command="status")["status"]
    server.clock.advance(0.1)
    assert "the token has expired; ask for another one" == connection.ask(command="status")["error"]


def test_anybody_may_ping(server: ClosedServer) -> None:
    """But is not told which storage this is, nor how much room it has: not even by an error."""
    connection = server.connect()
    assert PONG == connection.ask(command="ping")
    assert PONG == connection.ask(command="ping", identity=True)
    assert STORAGE not in str(connection.ask(command="stat", block_id="a-0", storage_id="another"))
    (server.folder / ".filefly.json").write_text('{"storage_id":"one of theirs"}')
    reply = connection.ask(command="ping")
    assert "wrong_storage" == reply["code"]
    assert STORAGE not in str(reply)
    assert "theirs" not in str(reply)


@pytest.mark.parametrize("role", Role)
def test_who_has_signed_in_may_ask_which_storage_it_is(server: ClosedServer, role: Role) -> None:
    """Until the token ends; then it is nobody's."""
    connection = server.connect()
    connection.ask(command="auth", token=a_token(role, expires=int(NOW) + 20))
    assert STORAGE == connection.ask(command="ping", identity=True)["storage_id"]
    server.clock.advance(20)
    assert PONG == connection.ask(command="ping", identity=True)


def test_a_daemon_may_ask_which_storage_it_is(server: ClosedServer) -> None:
    """Also when its key is retired since, or a metadata server would take this one for down until it signs in again."""
    connection = server.connect()
    connection.prove()
    assert STORAGE == connection.ask(command="ping", identity=True)["storage_id"]
    server.secret.keyring = Keyring([OLD])
    assert STORAGE == connection.ask(command="ping", identity=True)["storage_id"]
    assert "unauthorized" == connection.ask(command="list_blocks")["code"]


def test_another_storage_is_told_first(server: ClosedServer) -> None:
    """A ticket for the storage that was meant is another's here; a new one would not help, another place does."""
    ticket = a_ticket(Right.STORE, 0, storage_id="f" * 32)
    assert "wrong_storage" == refusal_of(server, {**A_BLOCK["store"], "storage_id": "f" * 32, "ticket": ticket})


# Batches


def test_each_block_of_a_batch_is_stored_or_refused_by_itself(server: ClosedServer) -> None:
    """The bytes of those that are refused are dropped, and the next line is found."""
    connection = server.connect()
    other = a_ticket(Right.STORE, 0, stem="b", generation=3)
    blocks = [
        {"block_id": "a-1", "size": 10, "ticket": STORE},
        {"block_id": "a-2", "size": 5, "ticket": STORE},
        {"block_id": "c-0", "size": 7},
        {"block_id": "b-0.3", "size": 10, "ticket": other},
        {"block_id": "b-0.3", "size": 9, "ticket": other},
        {"block_id": "a-2", "size": 5, "ticket": RETRIEVE},
    ]
    reply = connection.ask(
        b"x" * 10 + b"right" + b"y" * 7 + DIGITS + b"z" * 9 + b"wrong", command="store_blocks", size=46, blocks=blocks
    )
    codes = ["forbidden", None, "unauthorized", None, "forbidden", "forbidden"]
    assert codes == [result.get("code") for result in reply["results"]]
    assert ["a-0", "a-2", "b-0.3"] == server.block_ids()
    assert b"right" == (server.folder / "a-2").read_bytes()
    assert DIGITS == (server.folder / "b-0.3").read_bytes()
    assert PONG == connection.ask(command="ping")


def test_each_block_of_a_batch_is_read_or_refused_by_itself(server: ClosedServer) -> None:
    """What is refused is not looked at."""
    connection = server.connect()
    blocks = [
        {"block_id": "a-0"},
        {"block_id": "a-0", "ticket": RETRIEVE},
        {"block_id": "a-0", "ticket": STORE},
        {"block_id": "a-2", "ticket": RETRIEVE},
    ]
    reply = connection.ask(command="retrieve_blocks", blocks=blocks)
    assert ["unauthorized", None, "forbidden", "not_found"] == [result.get("code") for result in reply["results"]]
    assert 10 == reply["size"]
    assert connection.peer.transport.value().endswith(b"\n" + DIGITS)


def test_a_batch_of_refusals_touches_no_disk(server: ClosedServer) -> None:
    """However many they are."""
    stores = [{"block_id": "a-0", "size": 1, "ticket": STORE}] * 9
    assert "none" == refusal_of(server, {"command": "store_blocks", "size": 9, "blocks": stores})
    assert "none" == refusal_of(server, {"command": "retrieve_blocks", "blocks": [{"block_id": "a-0"}] * 9})


def test_a_daemon_needs_no_tickets_in_batches(server: ClosedServer) -> None:
    """It may everything."""
    connection = server.connect()
    connection.prove()
    reply = connection.ask(b"x", command="store_blocks", size=1, blocks=[{"block_id": "z-0", "size": 1}])
    assert [None] == [result.get("code") for result in reply["results"]]


# Tickets that were verified already


def test_who_has_shown_a_ticket_is_no_stranger(server: ClosedServer) -> None:
    """A wrong one is worth nothing."""
    guard, connection = server.factory.guard, server.connect()
    protocol: Any = connection.peer.protocol
    session = protocol.session
    assert guard.takes_tickets
    connection.ask(command="stat", block_id="a-0", ticket=a_ticket(Right.RETRIEVE, 0, key=STRANGER))
    assert (True, False) == (session.is_stranger, guard.knows(session))
    connection.ask(command="stat", block_id="a-0", ticket=a_ticket(Right.RETRIEVE, 0))
    assert (False, True) == (session.is_stranger, guard.knows(session))


def test_a_ticket_that_was_good_expires(server: ClosedServer) -> None:
    """Its time is looked at each time."""
    connection = server.connect()
    server.clock.advance(899)
    assert "ok" == connection.ask(**A_BLOCK["retrieve"])["status"]
    server.clock.advance(1)
    assert (
        "the ticket has expired; ask the metadata server for the plan again"
        == (connection.ask(**A_BLOCK["retrieve"])["error"])
    )


def test_a_ticket_that_was_good_goes_with_its_key(server: ClosedServer) -> None:
    """What a retired key has signed is void at once; a key that only signs no more is not retired."""
    connection = server.connect()
    new = OLD
    for keys, code in [([KEY], "none"), ([new, KEY], "none"), ([new], "unauthorized")]:
        server.secret.keyring = Keyring(keys)
        assert code == connection.ask(**A_BLOCK["retrieve"]).get("code", "none")


@pytest.mark.parametrize("sign_in", ["token", "proof"])
def test_who_signed_in_with_a_retired_key_is_nobody(server: ClosedServer, sign_in: str) -> None:
    """Until it signs in again."""
    connection = server.connect()
    if sign_in == "token":
        connection.ask(command="auth", token=a_token())
    else:
        connection.prove()
    assert "ok" == connection.ask(command="status")["status"]
    server.secret.keyring = Keyring([OLD])
    assert (
        "the key that vouched for this connection is retired; sign in again"
        == (connection.ask(command="status")["error"])
    )
    connection.prove(OLD)
    assert "ok" == connection.ask(command="status")["status"]


def test_a_verified_ticket_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is among the last ones, however many others there were."""
    read: list[str] = []

    def noting(keyring: Keyring, text: str, storage_id: str, now: float) -> Ticket:
        read.append(text)
        return read_ticket(keyring, text, storage_id, now)

    monkeypatch.setattr(rights, "read_ticket", noting)
    monkeypatch.setattr(rights, "_MOST_KEPT", 2)
    keyring = Keyring([KEY])
    tickets = Tickets(STORAGE, keyring)
    one, two, three = (a_ticket(Right.STORE, index) for index in range(3))
    for text in (one, two, one, three, one, two):
        tickets.read(keyring, text, NOW)
    assert [one, two, three, two] == read


def test_verified_tickets_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of large files are long."""
    monkeypatch.setattr(rights, "_MOST_KEPT_CHARACTERS", 10_000)
    keyring = Keyring([KEY])
    tickets = Tickets(STORAGE, keyring)
    for index in range(9):
        tickets.read(keyring, a_ticket(Right.STORE, 9_000 + index, total_size=100_000), NOW)
    assert 10_000 >= tickets._characters == sum(map(len, tickets._kept)) > 0


def test_what_is_no_ticket_is_not_kept() -> None:
    """Whoever sends garbage takes no room."""
    keyring = Keyring([KEY])
    tickets = Tickets(STORAGE, keyring)
    for text in ("garbage", a_ticket(Right.STORE, 0, key=STRANGER), a_ticket(Right.STORE, 0, expires=1)):
        with pytest.raises(Unauthorized):
            tickets.read(keyring, text, NOW)
    assert {} == dict(tickets._kept)


# Between data servers


@on_reactor
async def test_a_copy_shows_the_source_its_ticket(reactor: Any, tmp_path: Path) -> None:
    """The metadata server issues it: data servers know nobody but those who show one."""
    source = OddServer([b'{"status":"error","error":"no","code":"forbidden"}\n'])
    async with source.listening(reactor) as address, two(reactor, tmp_path) as (_source, _target, caller):
        reply = await copy(caller, address, ticket="for the source")
        assert [{"command": "retrieve", "block_id": "a-0", "raw": True, "ticket": "for the source"}] == [
            {name: value for name, value in request.items() if value not in (None, 0, False)} | {"raw": request["raw"]}
            for request in source.heard
        ]
        assert error(f"{address}: no", "forbidden") == reply
