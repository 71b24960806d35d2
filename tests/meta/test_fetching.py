import os
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionClosed

from filefly.errors import PayloadEnded
from filefly.wire.framing import PIECE_BYTES
from tests.caller import Caller
from tests.meta.running import DataNode, RunningCluster, asking, bytes_of, error, plan_of, put
from tests.on_reactor import on_reactor

DATA = b"0123456789abcdefghijklmnop"
INCOMPLETE = error("a is not complete: its blocks are not all stored yet", "incomplete")


async def fetch_raw(caller: Caller, **fields: object) -> tuple[Any, bytes]:
    head = await caller.ask(command="fetch_file", file_name="a", raw=True, **fields)
    return head, await caller.hear_bytes(head["size"])


RANGES: list[tuple[dict[str, int], bytes]] = [
    ({}, DATA),
    ({"offset": 7}, DATA[7:]),
    ({"offset": 5, "length": 4}, DATA[5:9]),
    ({"offset": 6, "length": 9}, DATA[6:15]),
    ({"offset": 7, "length": 7}, DATA[7:14]),
    ({"offset": 20, "length": 100}, DATA[20:]),
    ({"offset": 26}, b""),
    ({"offset": 3, "length": 0}, b""),
    ({"length": 2**53 - 1}, DATA),
]


@on_reactor
async def test_ranges_are_fetched(reactor: Any, tmp_path: Path) -> None:
    """Raw and in base64, across blocks, with the end clipped; `metadata` is always that of the whole file."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        metadata = await put(cluster, caller, "a", DATA)
        for wanted, data in RANGES:
            reply = await caller.ask(command="fetch_file", file_name="a", **wanted)
            assert {"metadata": metadata, "data": b64encode(data).decode(), "status": "ok"} == reply
            assert "status" == list(reply)[-1]
            head = {"status": "ok", "size": len(data), "metadata": metadata}
            assert (head, data) == await fetch_raw(caller, **wanted)


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_a_range_beyond_the_end_is_refused(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """The conversation goes on."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        reply = await caller.ask(command="fetch_file", file_name="a", raw=raw, offset=27)
        assert error("offset 27 is beyond the file's 26 bytes", "bad_range") == reply
        assert {"status": "ok"} == await caller.ask(command="ping")


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_an_incomplete_file_cannot_be_fetched(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """There is a plan, and nothing to read yet."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        await plan_of(caller)
        assert INCOMPLETE == await caller.ask(command="fetch_file", file_name="a", raw=raw)


@on_reactor
async def test_an_empty_file_is_fetched(reactor: Any, tmp_path: Path) -> None:
    """It has no blocks, but metadata."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        metadata = await put(cluster, caller, "a", b"")
        fetched = await caller.ask(command="fetch_file", file_name="a")
        assert {"metadata": metadata, "data": "", "status": "ok"} == fetched
        assert ({"status": "ok", "size": 0, "metadata": metadata}, b"") == await fetch_raw(caller)


@on_reactor
async def test_a_file_of_many_pieces_is_fetched(reactor: Any, tmp_path: Path) -> None:
    """Pieces of a size that is no multiple of three join to one text."""
    data = os.urandom(2 * PIECE_BYTES + 12345)
    async with asking(reactor, tmp_path, block_size=PIECE_BYTES + 1) as (cluster, caller):
        await put(cluster, caller, "a", data)
        assert data == await bytes_of(caller, "a")
        assert data == (await fetch_raw(caller))[1]


@on_reactor
async def test_many_fetch_at_once(reactor: Any, tmp_path: Path) -> None:
    """Each gets all of it."""

    async def fetch(cluster: RunningCluster) -> bytes:
        async with cluster.calling() as caller:
            return (await fetch_raw(caller))[1]

    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        fetching = [Deferred.fromCoroutine(fetch(cluster)) for _ in range(12)]
        assert [DATA] * 12 == await gatherResults(fetching)


def damage(node: DataNode, block: str, how: str) -> None:
    """Do to a block file what disks and people do."""
    file = node.block(block)
    if how == "deleted":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "longer":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        data = bytearray(file.read_bytes())
        data[3] ^= 1
        file.write_bytes(data)


DAMAGES = [("deleted", "not_found"), ("truncated", "corrupt"), ("longer", "corrupt"), ("flipped", "corrupt")]


@pytest.mark.parametrize(("how", "code"), DAMAGES)
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("wanted", [{}, {"offset": 1, "length": 2}])
@on_reactor
async def test_a_damaged_first_block_is_an_error(
    reactor: Any, tmp_path: Path, how: str, code: str, raw: bool, wanted: dict[str, int]
) -> None:
    """Nothing but an error line is sent, also where the range is not the damaged part; the conversation goes on."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        damage(cluster.data[0], "a-0", how)
        reply = await caller.ask(command="fetch_file", file_name="a", raw=raw, **wanted)
        assert ("error", code) == (reply["status"], reply["code"])
        assert reply["error"].startswith("block a-0 cannot be read (")
        assert "data" not in reply
        assert {"status": "ok"} == await caller.ask(command="ping")


@pytest.mark.parametrize(("how", "code"), DAMAGES)
@on_reactor
async def test_a_damaged_later_block_ends_base64_with_an_error(
    reactor: Any, tmp_path: Path, how: str, code: str
) -> None:
    """The line is still JSON; its last field says that the data before it is not the file."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        damage(cluster.data[0], "a-2", how)
        reply = await caller.ask(command="fetch_file", file_name="a")
        assert ("error", code) == (reply["status"], reply["code"])
        assert ["metadata", "data", "status"] == list(reply)[:3]
        assert DATA[:14].startswith(b64decode(reply["data"] + "=" * (-len(reply["data"]) % 4)))
        assert {"status": "ok"} == await caller.ask(command="ping")


@pytest.mark.parametrize(("how", "_code"), DAMAGES)
@on_reactor
async def test_a_damaged_later_block_aborts_raw_bytes(reactor: Any, tmp_path: Path, how: str, _code: str) -> None:
    """The connection ends before the announced size is there, and what came before is right."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        damage(cluster.data[0], "a-2", how)
        head = await caller.ask(command="fetch_file", file_name="a", raw=True)
        assert len(DATA) == head["size"]
        caller.begin_payload(head["size"])
        received = b""
        with suppress(ConnectionClosed, PayloadEnded):
            while chunks := await caller.receive_chunks(at_least=1):
                received += b"".join(chunks)
        assert not caller.payload_ended
        assert DATA[:14].startswith(received)


@on_reactor
async def test_a_data_server_that_is_down_is_an_error(reactor: Any, tmp_path: Path) -> None:
    """The sentence names it, and the block."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        await cluster.data[0].stop()
        reply = await caller.ask(command="fetch_file", file_name="a")
        assert "unavailable" == reply["code"]
        assert reply["error"].startswith(f"block a-0 cannot be read ({cluster.data[0].address}: cannot reach")


@pytest.mark.parametrize("how", ["deleted", "truncated", "longer", "flipped", "down"])
@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_another_replica_stands_in(reactor: Any, tmp_path: Path, how: str, raw: bool) -> None:
    """One good copy of each block is enough, whichever it is."""
    async with asking(reactor, tmp_path, 2, replicas=2) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        if how == "down":
            await cluster.data[0].stop()
        else:
            damage(cluster.data[0], "a-0", how)
            damage(cluster.data[1], "a-1", how)
            damage(cluster.data[0], "a-2", how)
        assert DATA == ((await fetch_raw(caller))[1] if raw else await bytes_of(caller, "a"))


@on_reactor
async def test_what_was_replaced_can_still_be_read_to_its_end(reactor: Any, tmp_path: Path) -> None:
    """The old blocks wait in the trash until who reads them is done."""
    old, new = os.urandom(3 * PIECE_BYTES), b"new"
    async with asking(reactor, tmp_path, block_size=PIECE_BYTES) as (cluster, reader):
        await put(cluster, reader, "a", old)
        head = await reader.ask(command="fetch_file", file_name="a", raw=True)
        async with cluster.calling() as writer:
            await put(cluster, writer, "a", new)
            await cluster.collect_trash()
            assert new == await bytes_of(writer, "a")
        assert old == await reader.hear_bytes(head["size"])


@on_reactor
async def test_a_reader_that_leaves_costs_nothing(reactor: Any, tmp_path: Path) -> None:
    """Half-way through a file that does not fit into the buffers; others are served."""
    data = os.urandom(8 * PIECE_BYTES)
    async with asking(reactor, tmp_path, block_size=4 * PIECE_BYTES) as (cluster, caller):
        await put(cluster, caller, "a", data)
        async with cluster.calling() as leaver:
            leaver.tell(command="fetch_file", file_name="a", raw=True)
            await leaver.hear()
        assert data == (await fetch_raw(caller))[1]
