import errno
import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionClosed
from twisted.internet.error import ConnectionRefusedError as Refused

from filefly import __version__
from filefly.daemon.options import defaults_of
from filefly.daemon.service import STOP_DEADLINE_SECONDS
from filefly.data.tap import DATA_PARAMETERS, data_service
from filefly.wire.address import listening_endpoint
from tests.caller import calling
from tests.data.disks import QuickDisk, WatchedDisk, take
from tests.data.running import DIGITS, MIB, HeldDisk, asking, error, running, sum_of
from tests.on_reactor import next_turn, on_reactor


@on_reactor
async def test_the_data_server_pongs(reactor: Any, tmp_path: Path) -> None:
    """Who reaches a data server knows what it is."""
    async with asking(reactor, tmp_path) as (_server, caller):
        assert {"status": "ok", "pong": True} == await caller.ask(command="ping")


@on_reactor
async def test_a_raw_block_is_stored(reactor: Any, tmp_path: Path) -> None:
    """The bytes behind the line are the block."""
    async with asking(reactor, tmp_path) as (server, caller):
        reply = await caller.ask(DIGITS, command="store", block_id="a-0", size=10)
        assert {"status": "ok", "size": 10, "crc32c": sum_of(DIGITS)} == reply
        assert DIGITS == (server.folder / "a-0").read_bytes()


@on_reactor
async def test_a_base64_block_is_stored(reactor: Any, tmp_path: Path) -> None:
    """What `base64` spells is the block."""
    async with asking(reactor, tmp_path) as (server, caller):
        reply = await caller.ask(command="store", block_id="a-0", data=b64encode(DIGITS).decode())
        assert {"status": "ok", "size": 10, "crc32c": sum_of(DIGITS)} == reply
        assert DIGITS == (server.folder / "a-0").read_bytes()


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_another_checksum_stores_nothing(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """What was damaged on its way is refused, and the conversation goes on."""
    payload, how = (DIGITS, {"size": 10}) if raw else (b"", {"data": b64encode(DIGITS).decode()})
    async with asking(reactor, tmp_path) as (server, caller):
        reply = await caller.ask(payload, command="store", block_id="a-0", crc32c="00000000", **how)
        assert error(f"crc32c is {sum_of(DIGITS)}, expected 00000000", "corrupt") == reply
        assert error("block not found", "not_found") == await caller.ask(command="stat", block_id="a-0")
        assert [] == os.listdir(server.folder / ".incoming")


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_the_expected_checksum_is_stored(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """A client that says what it sends gets the same answer."""
    payload, how = (DIGITS, {"size": 10}) if raw else (b"", {"data": b64encode(DIGITS).decode()})
    async with asking(reactor, tmp_path) as (_server, caller):
        reply = await caller.ask(payload, command="store", block_id="a-0", crc32c=sum_of(DIGITS), **how)
        assert {"status": "ok", "size": 10, "crc32c": sum_of(DIGITS)} == reply


RANGES: list[tuple[dict[str, int], bytes]] = [
    ({}, DIGITS),
    ({"offset": 3}, b"3456789"),
    ({"length": 3}, b"012"),
    ({"offset": 3, "length": 4}, b"3456"),
    ({"offset": 8, "length": 100}, b"89"),
    ({"offset": 10}, b""),
    ({"offset": 5, "length": 0}, b""),
]


@pytest.mark.parametrize("expected", [None, sum_of(DIGITS)])
@pytest.mark.parametrize(("wanted", "data"), RANGES)
@on_reactor
async def test_a_range_is_retrieved_raw(
    reactor: Any, tmp_path: Path, wanted: dict[str, int], data: bytes, expected: str | None
) -> None:
    """A line with size and checksum, then exactly these bytes, then the next reply."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        head = await caller.ask(command="retrieve", block_id="a-0", raw=True, crc32c=expected, **wanted)
        assert {"status": "ok", "size": len(data), "crc32c": sum_of(data)} == head
        assert data == await caller.hear_bytes(len(data))
        assert {"status": "ok", "pong": True} == await caller.ask(command="ping")


@pytest.mark.parametrize("expected", [None, sum_of(DIGITS)])
@pytest.mark.parametrize(("wanted", "data"), RANGES)
@on_reactor
async def test_a_range_is_retrieved_in_base64(
    reactor: Any, tmp_path: Path, wanted: dict[str, int], data: bytes, expected: str | None
) -> None:
    """One line with everything, its status last."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        reply = await caller.ask(command="retrieve", block_id="a-0", crc32c=expected, **wanted)
        encoded = b64encode(data).decode()
        assert {"size": len(data), "crc32c": sum_of(data), "data": encoded, "status": "ok"} == reply
        assert "status" == list(reply)[-1]


@pytest.mark.parametrize("wanted", [{}, {"offset": 3, "length": 4}])
@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_a_changed_block_is_not_returned(reactor: Any, tmp_path: Path, raw: bool, wanted: dict[str, int]) -> None:
    """The whole block's sum is checked before a byte of any range leaves, also if the change is outside of it."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS[:-1] + b"8")
        reply = await caller.ask(command="retrieve", block_id="a-0", raw=raw, crc32c=sum_of(DIGITS), **wanted)
        assert error(f"crc32c is {sum_of(DIGITS[:-1] + b'8')}, expected {sum_of(DIGITS)}", "corrupt") == reply
        assert {"status": "ok", "pong": True} == await caller.ask(command="ping")


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_a_range_beyond_the_end_is_refused(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """Nothing but an error line is sent."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        reply = await caller.ask(command="retrieve", block_id="a-0", raw=raw, offset=11)
        assert error("offset 11 is beyond the block's 10 bytes", "bad_range") == reply


@on_reactor
async def test_a_block_of_20_mib_goes_both_ways_raw(reactor: Any, tmp_path: Path) -> None:
    """A block of many pieces arrives and leaves whole."""
    data = os.urandom(20 * MIB)
    async with asking(reactor, tmp_path) as (_server, caller):
        reply = await caller.ask(data, command="store", block_id="a-0", size=len(data), crc32c=sum_of(data))
        assert {"status": "ok", "size": len(data), "crc32c": sum_of(data)} == reply
        head = await caller.ask(command="retrieve", block_id="a-0", raw=True, crc32c=sum_of(data))
        assert {"status": "ok", "size": len(data), "crc32c": sum_of(data)} == head
        assert data == await caller.hear_bytes(len(data))


@on_reactor
async def test_a_large_block_without_expectations_has_no_checksum(reactor: Any, tmp_path: Path) -> None:
    """A block is not read twice for a sum that nobody asked for."""
    data = os.urandom(3 * MIB + 1)
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", data)
        head = await caller.ask(command="retrieve", block_id="a-0", raw=True)
        assert {"status": "ok", "size": len(data)} == head
        assert data == await caller.hear_bytes(len(data))


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_a_large_block_is_closed_after_it_was_sent(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """A server does not run out of descriptors, however many blocks it sends."""
    disk = WatchedDisk()
    async with asking(reactor, tmp_path, disk) as (server, caller):
        server.put("a-0", b"x" * 3 * MIB)
        await caller.ask(command="retrieve", block_id="a-0", raw=raw)
        if raw:
            await caller.hear_bytes(3 * MIB)
        await caller.ask(command="nothing")  # the requests of one connection are answered one after another
        assert ["open", "close"] == [call for call in disk.calls if call != "read"]


@on_reactor
async def test_a_large_range_has_its_own_checksum(reactor: Any, tmp_path: Path) -> None:
    """The sum in the reply is that of the bytes sent, not that of the block."""
    data = os.urandom(4 * MIB)
    part = data[7 : 7 + 3 * MIB]
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", data)
        head = await caller.ask(
            command="retrieve", block_id="a-0", raw=True, crc32c=sum_of(data), offset=7, length=len(part)
        )
        assert {"status": "ok", "size": len(part), "crc32c": sum_of(part)} == head
        assert part == await caller.hear_bytes(len(part))


@on_reactor
async def test_a_large_block_goes_both_ways_in_base64(reactor: Any, tmp_path: Path) -> None:
    """The pieces of the reply join to one text without padding inside."""
    data = os.urandom(5 * MIB + 1)
    async with asking(reactor, tmp_path) as (_server, caller):
        stored = await caller.ask(command="store", block_id="a-0", data=b64encode(data).decode())
        assert {"status": "ok", "size": len(data), "crc32c": sum_of(data)} == stored
        reply = await caller.ask(command="retrieve", block_id="a-0")
        assert "ok" == reply["status"]
        assert data == b64decode(reply["data"], validate=True)


@on_reactor
async def test_stat_tells_size_and_checksum(reactor: Any, tmp_path: Path) -> None:
    """The checksum only when it is asked for."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        assert {"status": "ok", "size": 10} == await caller.ask(command="stat", block_id="a-0")
        verified = await caller.ask(command="stat", block_id="a-0", verify=True)
        assert {"status": "ok", "size": 10, "crc32c": sum_of(DIGITS)} == verified


@on_reactor
async def test_a_block_is_deleted(reactor: Any, tmp_path: Path) -> None:
    """Twice is as good as once."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        for _ in range(2):
            assert {"status": "ok"} == await caller.ask(command="delete", block_id="a-0")
        assert not (server.folder / "a-0").exists()


@on_reactor
async def test_blocks_are_listed_page_by_page(reactor: Any, tmp_path: Path) -> None:
    """`next` goes into `after`, and is absent at the end."""
    async with asking(reactor, tmp_path) as (server, caller):
        for n in range(3):
            server.put(f"a-{n}", b"x" * n)
        assert {"status": "ok", "blocks": [{"id": "a-0", "size": 0}, {"id": "a-1", "size": 1}], "next": "a-1"} == (
            await caller.ask(command="list_blocks", limit=2)
        )
        assert {"status": "ok", "blocks": [{"id": "a-2", "size": 2}]} == (
            await caller.ask(command="list_blocks", after="a-1", limit=2)
        )


@on_reactor
async def test_status_tells_identity_and_space(reactor: Any, tmp_path: Path) -> None:
    """What a data server is, and how full it is."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        server.put("a-0", DIGITS)
        status = await caller.ask(command="status")
        assert status.pop("free_bytes") > 0
        assert {
            "status": "ok",
            "storage_id": "id of blocks",
            "used_bytes": 10,
            "block_count": 1,
            "version": __version__,
        } == status


@on_reactor
async def test_many_connections_are_served_at_once(reactor: Any, tmp_path: Path) -> None:
    """Each gets its own bytes back."""

    async def store_and_retrieve(n: int) -> bool:
        data = os.urandom(100_000 + n)
        async with calling(reactor, server.port) as caller:
            await caller.ask(data, command="store", block_id=f"a-{n}", size=len(data))
            await caller.ask(command="retrieve", block_id=f"a-{n}", raw=True, crc32c=sum_of(data))
            return data == await caller.hear_bytes(len(data))

    async with running(reactor, tmp_path) as server:
        callers = [Deferred.fromCoroutine(store_and_retrieve(n)) for n in range(30)]
        assert [True] * 30 == await gatherResults(callers)


@on_reactor
async def test_a_slow_disk_holds_nobody_else_up(reactor: Any, tmp_path: Path) -> None:
    """While one store waits for the disk, other connections are served."""
    disk = HeldDisk(reactor, "fsync")
    async with asking(reactor, tmp_path, disk) as (server, slow), calling(reactor, server.port) as other:
        slow.tell(DIGITS, command="store", block_id="a-0", size=10)
        await disk.begun
        assert {"status": "ok", "pong": True} == await other.ask(command="ping")
        assert error("block not found", "not_found") == await other.ask(command="stat", block_id="a-0")
        disk.go_on.set()
        assert "ok" == (await slow.hear())["status"]


@on_reactor
async def test_a_newer_store_of_another_connection_wins(reactor: Any, tmp_path: Path) -> None:
    """The older one answers `conflict`, whoever is first on the disk."""
    disk = HeldDisk(reactor, "fsync")
    async with asking(reactor, tmp_path, disk) as (server, older), calling(reactor, server.port) as newer:
        older.tell(b"older", command="store", block_id="a-0", size=5)
        await disk.begun
        assert "ok" == (await newer.ask(b"newer", command="store", block_id="a-0", size=5))["status"]
        disk.go_on.set()
        assert error("a newer store or a delete of this block came first", "conflict") == await older.hear()
        assert b"newer" == (server.folder / "a-0").read_bytes()
        assert [] == os.listdir(server.folder / ".incoming")


@on_reactor
async def test_a_client_that_dies_leaves_nothing(reactor: Any, tmp_path: Path) -> None:
    """A connection lost inside a payload stores nothing, and its temporary file goes."""
    disk = HeldDisk(reactor, "write")
    async with running(reactor, tmp_path, disk) as server:
        async with calling(reactor, server.port) as caller:
            caller.tell(b"x" * 2 * MIB, command="store", block_id="a-0", size=3 * MIB)
            await disk.begun
        disk.go_on.set()
        while server.factory.conversations:
            await next_turn()
        assert not (server.folder / "a-0").exists()
        assert [] == os.listdir(server.folder / ".incoming")


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "rename"])
@pytest.mark.parametrize(("cause", "code"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "internal")])
@on_reactor
async def test_a_disk_that_fails_under_a_large_store_is_told(
    reactor: Any, tmp_path: Path, operation: str, cause: int, code: str
) -> None:
    """The error is the disk's, nothing stays, and the conversation goes on behind the payload."""
    disk = WatchedDisk()
    async with asking(reactor, tmp_path, disk) as (server, caller):
        disk.fail(operation, cause)
        for _ in range(3):
            assert code == (await caller.ask(b"x" * 3 * MIB, command="store", block_id="a-0", size=3 * MIB))["code"]
        assert [] == server.blocks()
        disk.mend()
        assert "ok" == (await caller.ask(b"x" * 3 * MIB, command="store", block_id="a-0", size=3 * MIB))["status"]


@on_reactor
async def test_a_client_that_ends_its_input_gets_its_reply(reactor: Any, tmp_path: Path) -> None:
    """A store that is still on its way to the disk when `nc -N` closes its side is answered."""
    disk = HeldDisk(reactor, "fsync")
    async with asking(reactor, tmp_path, disk) as (server, caller):
        caller.tell(DIGITS, command="store", block_id="a-0", size=10)
        caller.transport.loseWriteConnection()
        await disk.begun
        while not all(conversation.input_ended for conversation in server.factory.conversations):
            await next_turn()
        disk.go_on.set()
        assert {"status": "ok", "size": 10, "crc32c": sum_of(DIGITS)} == await caller.hear()
        assert await caller.hear_the_end()


class CuttingDisk(QuickDisk):
    """Cuts a file short when its second mebibyte is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        if offset >= MIB:
            os.truncate(self._path, MIB + 7)
        return super().read(descriptor, size, offset)


@on_reactor
async def test_a_block_cut_short_under_a_raw_retrieve_aborts_the_connection(reactor: Any, tmp_path: Path) -> None:
    """Fewer bytes than were announced never look like a whole answer."""
    async with asking(reactor, tmp_path, CuttingDisk(tmp_path / "a-0")) as (server, caller):
        server.put("a-0", b"x" * 3 * MIB)
        head = await caller.ask(command="retrieve", block_id="a-0", raw=True)
        assert {"status": "ok", "size": 3 * MIB} == head
        with pytest.raises(ConnectionClosed):
            await caller.hear_bytes(3 * MIB)


@on_reactor
async def test_a_block_cut_short_under_a_base64_retrieve_ends_with_an_error(reactor: Any, tmp_path: Path) -> None:
    """The line is whole JSON, its last field tells of the failure, and the conversation goes on."""
    async with asking(reactor, tmp_path, CuttingDisk(tmp_path / "a-0")) as (server, caller):
        server.put("a-0", b"x" * 3 * MIB)
        reply = await caller.ask(command="retrieve", block_id="a-0")
        del reply["data"], reply["size"]
        assert error("the block was cut short while it was read", "unavailable") == reply
        assert {"status": "ok", "pong": True} == await caller.ask(command="ping")


# Stopping


@on_reactor
async def test_a_store_in_flight_is_finished(reactor: Any, tmp_path: Path) -> None:
    """Stopping closes the port, waits for the disk, and the client gets its reply."""
    disk = HeldDisk(reactor, "fsync")
    async with asking(reactor, tmp_path, disk) as (server, caller):
        caller.tell(DIGITS, command="store", block_id="a-0", size=10)
        await disk.begun
        stopped = server.service.stopService()
        while not server.clock.getDelayedCalls():
            await next_turn()
        with pytest.raises(Refused):
            async with calling(reactor, server.port):
                pass
        assert not stopped.called
        disk.go_on.set()
        assert {"status": "ok", "size": 10, "crc32c": sum_of(DIGITS)} == await caller.hear()
        assert await caller.hear_the_end()
        await stopped
        assert DIGITS == (server.folder / "a-0").read_bytes()


@on_reactor
async def test_an_idle_connection_does_not_keep_the_server(reactor: Any, tmp_path: Path) -> None:
    """A client that only holds its connection is closed at once."""
    async with asking(reactor, tmp_path) as (server, caller):
        await caller.ask(command="ping")
        await server.service.stopService()
        assert await caller.hear_the_end()


@on_reactor
async def test_a_peer_that_never_reads_is_cut_off(reactor: Any, tmp_path: Path) -> None:
    """At the deadline its connection is aborted, and the server stops."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", b"x" * 48 * MIB)
        head = await caller.ask(command="retrieve", block_id="a-0", raw=True)
        caller.transport.pauseProducing()
        stopped = server.service.stopService()
        while not server.clock.getDelayedCalls():
            await next_turn()
        assert not stopped.called
        server.clock.advance(STOP_DEADLINE_SECONDS)
        await stopped
        assert {"status": "ok", "size": 48 * MIB} == head
        assert {} == server.factory.conversations


@on_reactor
async def test_a_peer_that_never_finishes_its_payload_is_cut_off(reactor: Any, tmp_path: Path) -> None:
    """At the deadline its store is given up, and nothing of it is left."""
    disk = HeldDisk(reactor, "write")
    disk.go_on.set()
    async with asking(reactor, tmp_path, disk) as (server, caller):
        caller.tell(b"x" * 2 * MIB, command="store", block_id="a-0", size=3 * MIB)
        await disk.begun
        stopped = server.service.stopService()
        while not server.clock.getDelayedCalls():
            await next_turn()
        server.clock.advance(STOP_DEADLINE_SECONDS)
        await stopped
        assert [] == os.listdir(server.folder / ".incoming")


@on_reactor
async def test_the_data_service_starts_and_stops(reactor: Any, tmp_path: Path) -> None:
    """The service that `twistd` runs serves blocks from its options, and can be started again."""
    options = defaults_of(DATA_PARAMETERS)
    options |= {"max-block-size": 1000, "max-line": 100, "reserve": 0, "no-local-reads": 0}
    for n in range(2):
        storage = take(tmp_path)
        service = data_service(reactor, storage, listening_endpoint(reactor, "127.0.0.1:0"), options)
        service.startService()
        port: Any = service._port
        async with calling(reactor, port.getHost().port) as caller:
            assert "ok" == (await caller.ask(DIGITS, command="store", block_id=f"a-{n}", size=10))["status"]
            assert {"status": "ok", "size": 10} == await caller.ask(command="stat", block_id="a-0")
            too_large = await caller.ask(command="store", block_id="b-0", size=1001)
            assert error("size is over the limit of 1000 bytes (--max-block-size)", "too_large") == too_large
        async with calling(reactor, port.getHost().port) as caller:
            too_long = await caller.ask(command="ping", more="x" * 100)
            assert error("line is over the limit of 100 bytes (--max-line)", "too_large") == too_long
        await service.stopService()
        storage.release()


@pytest.mark.parametrize("send", ["line over the limit", "size over the limit"])
@on_reactor
async def test_the_last_reply_reaches_who_is_still_sending(reactor: Any, tmp_path: Path, send: str) -> None:
    """A peer whose input is dropped reads why, not that its connection was reset."""
    async with asking(reactor, tmp_path) as (_server, caller):
        if send == "line over the limit":
            caller.send(b"x" * 30 * MIB).addErrback(lambda failure: failure.trap(ConnectionClosed))
        else:
            caller.tell(b"x" * 30 * MIB, command="store", block_id="a-0", size=65 * MIB)
        assert "too_large" == (await caller.hear())["code"]
        assert await caller.hear_the_end()
