import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from tests.caller import Caller, calling
from tests.data.disks import WatchedDisk
from tests.data.running import DIGITS, MIB, HeldDisk, Running, asking, error, running, sum_of
from tests.on_reactor import next_turn, on_reactor

SUM = sum_of(DIGITS)


async def copy(caller: Caller, source: str, **fields: object) -> Any:
    """Ask for the block `a-0` of 10 digits at `source`."""
    request = {"block_id": "a-0", "source": source, "crc32c": SUM, "storage_id": "id of target"} | fields
    return await caller.ask(command="copy", **request)


class OddServer:
    """Hears one request, says `replies` piece by piece, and then closes, closes its sending side, aborts, or waits."""

    def __init__(self, replies: Sequence[bytes], then: str = "wait") -> None:
        self.heard: list[Any] = []
        self.asked: Deferred[None] = Deferred()
        self.connections: list[Any] = []
        self._replies = replies
        self._then = then

    def answer(self, connection: Any, request: bytes) -> None:
        """Say what there is to say."""
        self.heard.append(msgspec.json.decode(request))
        for reply in self._replies:
            connection.write(reply)
        if self._then == "abort":
            connection.abortConnection()
        elif self._then == "half-close":
            connection.loseWriteConnection()
        elif self._then == "close":
            connection.loseConnection()
        self.asked.callback(None)

    @asynccontextmanager
    async def listening(self, reactor: Any) -> AsyncIterator[str]:
        """Listen, and hang up in the end."""
        odd = self

        class Odd(Protocol):
            def connectionMade(self) -> None:
                odd.connections.append(self.transport)

            def dataReceived(self, data: bytes) -> None:
                odd.answer(self.transport, data)

        port = reactor.listenTCP(0, Factory.forProtocol(Odd), interface="127.0.0.1")
        try:
            yield f"127.0.0.1:{port.getHost().port}"
        finally:
            await port.stopListening()
            for connection in self.connections:
                connection.abortConnection()
            await next_turn()


@asynccontextmanager
async def two(
    reactor: Any, folder: Path, disk: WatchedDisk | None = None
) -> AsyncIterator[tuple[Running, Running, Caller]]:
    """Run a data server that has `a-0`, and one, with a client, that is told to copy it."""
    async with running(reactor, folder / "source") as source:
        source.put("a-0", DIGITS)
        async with asking(reactor, folder / "target", disk) as (target, caller):
            yield source, target, caller


@on_reactor
async def test_a_block_is_copied(reactor: Any, tmp_path: Path) -> None:
    """From one data server to the other, and answered like a store."""
    async with two(reactor, tmp_path) as (source, target, caller):
        assert {"status": "ok", "size": 10, "crc32c": SUM} == await copy(caller, source.address)
        assert DIGITS == (target.folder / "a-0").read_bytes()
        assert ["a-0"] == target.blocks()


@on_reactor
async def test_a_large_block_is_copied_over_one_connection(reactor: Any, tmp_path: Path) -> None:
    """In many pieces, and again."""
    data = os.urandom(5 * MIB + 3)
    async with two(reactor, tmp_path) as (source, target, caller):
        source.put("a-0", data)
        for _ in range(3):
            reply = await copy(caller, source.address, crc32c=sum_of(data))
            assert {"status": "ok", "size": len(data), "crc32c": sum_of(data)} == reply
        assert data == (target.folder / "a-0").read_bytes()
        assert 1 == len(source.factory.conversations)


@on_reactor
async def test_a_source_without_a_host_is_where_the_request_came_from(reactor: Any, tmp_path: Path) -> None:
    """As everywhere where an address is a port alone."""
    async with two(reactor, tmp_path) as (source, _target, caller):
        assert {"status": "ok", "size": 10, "crc32c": SUM} == await copy(caller, f":{source.port}")


@on_reactor
async def test_a_copy_is_durable_before_it_is_acknowledged(reactor: Any, tmp_path: Path) -> None:
    """As any store is."""
    disk = WatchedDisk()
    async with two(reactor, tmp_path, disk) as (source, _target, caller):
        await copy(caller, source.address)
        assert ["create", "write", "fsync", "close", "rename", "fsync_directory"] == disk.calls


@on_reactor
async def test_a_copy_replaces_the_block(reactor: Any, tmp_path: Path) -> None:
    """A repair puts a good copy where a bad one is."""
    async with two(reactor, tmp_path) as (source, target, caller):
        target.put("a-0", b"corrupt")
        assert "ok" == (await copy(caller, source.address))["status"]
        assert DIGITS == (target.folder / "a-0").read_bytes()


@pytest.mark.parametrize("size", [10, 3 * MIB])
@on_reactor
async def test_wrong_bytes_are_not_stored(reactor: Any, tmp_path: Path, size: int) -> None:
    """Only what the catalog says the block is: the old one stays, and the conversation goes on."""
    wrong = b"x" * size
    async with two(reactor, tmp_path) as (source, target, caller):
        source.put("a-0", wrong)
        target.put("a-0", b"old")
        assert error(f"crc32c is {sum_of(wrong)}, expected {SUM}", "corrupt") == await copy(caller, source.address)
        assert (["a-0"], b"old") == (target.blocks(), (target.folder / "a-0").read_bytes())
        source.put("a-0", DIGITS)
        assert "ok" == (await copy(caller, source.address))["status"]


@on_reactor
async def test_bytes_that_are_not_what_was_announced_are_not_stored(reactor: Any, tmp_path: Path) -> None:
    """The source's own word for the checksum is not believed."""
    lies = OddServer([b'{"status":"ok","size":10,"crc32c":"%b"}\n' % SUM.encode(), b"0123456780"])
    async with asking(reactor, tmp_path / "target") as (target, caller), lies.listening(reactor) as source:
        assert error(f"crc32c is {sum_of(b'0123456780')}, expected {SUM}", "corrupt") == await copy(caller, source)
        assert [] == target.blocks()


@on_reactor
async def test_a_source_is_asked_for_the_raw_block(reactor: Any, tmp_path: Path) -> None:
    """In the words of the protocol, so that any data server can be a source."""
    odd = OddServer([b'{"status":"ok","size":10}\n', DIGITS])
    async with asking(reactor, tmp_path / "target") as (_target, caller), odd.listening(reactor) as source:
        assert "ok" == (await copy(caller, source))["status"]
        assert [{"command": "retrieve", "block_id": "a-0", "raw": True}] == odd.heard


@pytest.mark.parametrize("then", ["close", "half-close", "abort"])
@pytest.mark.parametrize(
    "said",
    [
        [],
        [b'{"status":"ok","si'],
        [b'{"status":"ok","size":10}\n'],
        [b'{"status":"ok","size":10}\n', b"012345678"],
        [b'{"status":"ok","size":3145728}\n', b"x" * 2 * MIB],
    ],
    ids=["nothing", "half a line", "a line", "nine of ten bytes", "two of three mebibytes"],
)
@on_reactor
async def test_half_a_block_is_not_stored(reactor: Any, tmp_path: Path, said: list[bytes], then: str) -> None:
    """However a source goes away, the answer is an error, nothing stays, and the next try works."""
    odd = OddServer(said, then)
    async with two(reactor, tmp_path) as (good, target, caller), odd.listening(reactor) as source:
        reply = await copy(caller, source)
        assert ("error", "unavailable") == (reply["status"], reply["code"])
        assert source in reply["error"] or "not understood" in reply["error"]
        assert [] == target.blocks()
        assert "ok" == (await copy(caller, good.address))["status"]


@on_reactor
async def test_a_source_that_is_not_there_is_unavailable(reactor: Any, tmp_path: Path) -> None:
    """The sentence names it."""
    async with two(reactor, tmp_path) as (source, target, caller):
        await source.service.stopService()
        reply = await copy(caller, source.address)
        assert "unavailable" == reply["code"]
        assert reply["error"].startswith(f"cannot reach {source.address}: ")
        assert [] == target.blocks()


@on_reactor
async def test_a_source_that_falls_silent_is_given_up(reactor: Any, tmp_path: Path) -> None:
    """A stopped machine does not hold a copy for ever; nothing of it stays."""
    odd = OddServer([b'{"status":"ok","size":3145728}\n', b"x" * 2 * MIB])
    disk = HeldDisk(reactor, "write")
    disk.go_on.set()
    async with asking(reactor, tmp_path / "target", disk) as (target, caller), odd.listening(reactor) as source:
        copying = Deferred.fromCoroutine(copy(caller, source))
        await disk.begun
        while not copying.called:
            if len(target.clock.getDelayedCalls()) > 1:  # what is still on its way is written; more is waited for
                target.clock.advance(20)
            await next_turn()
        assert error(f"{source} did not answer for 20 seconds", "timeout") == await copying
        assert [] == target.blocks()


@on_reactor
async def test_a_source_that_trickles_is_given_up(reactor: Any, tmp_path: Path) -> None:
    """As long as a byte comes now and then nobody is silent, but nobody waits for ever, either."""
    odd = OddServer([b'{"status":"ok","size":3145728}\n'])
    async with asking(reactor, tmp_path / "target") as (target, caller), odd.listening(reactor) as source:
        copying = Deferred.fromCoroutine(copy(caller, source))
        await odd.asked
        while not copying.called:
            odd.connections[0].write(b"x")
            for _ in range(20):
                await next_turn()
            target.clock.advance(1)
        assert error(f"the copy from {source} took more than 110 seconds", "timeout") == await copying
        assert [] == target.blocks()


@pytest.mark.parametrize(
    ("said", "sentence", "code"),
    [
        ({"status": "error", "error": "block not found", "code": "not_found"}, "block not found", "not_found"),
        ({"status": "error", "error": "the disk is broken", "code": "internal"}, "the disk is broken", "internal"),
        ({"status": "error", "error": "shutting down", "code": "unavailable"}, "shutting down", "unavailable"),
    ],
)
@on_reactor
async def test_what_the_source_says_is_passed_on(
    reactor: Any, tmp_path: Path, said: dict[str, str], sentence: str, code: str
) -> None:
    """With its address, so that nobody takes it for the target's own trouble."""
    odd = OddServer([msgspec.json.encode(said) + b"\n"])
    async with asking(reactor, tmp_path / "target") as (target, caller), odd.listening(reactor) as source:
        assert error(f"{source}: {sentence}", code) == await copy(caller, source)
        assert [] == target.blocks()


@on_reactor
async def test_a_source_that_is_no_data_server_is_unavailable(reactor: Any, tmp_path: Path) -> None:
    """What it says is not understood, and is not stored."""
    odd = OddServer([b"HTTP/1.1 400 Bad Request\r\n\r\n"])
    async with asking(reactor, tmp_path / "target") as (target, caller), odd.listening(reactor) as source:
        assert "unavailable" == (await copy(caller, source))["code"]
        assert [] == target.blocks()


@on_reactor
async def test_a_block_over_the_limit_is_not_fetched(reactor: Any, tmp_path: Path) -> None:
    """Its size is known before its first byte."""
    odd = OddServer([b'{"status":"ok","size":9007199254740991}\n'])
    async with asking(reactor, tmp_path / "target") as (target, caller), odd.listening(reactor) as source:
        sentence = f"the block at {source} is over the limit of 67108864 bytes (--max-block-size)"
        assert error(sentence, "too_large") == await copy(caller, source)
        assert [] == target.blocks()


@pytest.mark.parametrize("address", ["", "somewhere", "127.0.0.1", ":0", "127.0.0.1:99999"])
@on_reactor
async def test_what_is_no_address_is_refused(reactor: Any, tmp_path: Path, address: str) -> None:
    """The sentence names the field."""
    async with asking(reactor, tmp_path / "target") as (_target, caller):
        assert error(f"source: {address!r} is not an address; write HOST:PORT", "bad_request") == (
            await copy(caller, address)
        )


@on_reactor
async def test_a_bad_id_is_refused(reactor: Any, tmp_path: Path) -> None:
    """Before anybody is asked for it."""
    odd = OddServer([])
    async with asking(reactor, tmp_path / "target") as (_target, caller), odd.listening(reactor) as source:
        assert "bad_request" == (await copy(caller, source, block_id="../a-0"))["code"]
        assert [] == odd.heard


@on_reactor
async def test_a_copy_to_another_storage_is_refused(reactor: Any, tmp_path: Path) -> None:
    """A disk that was swapped gets no blocks that are meant for the other one."""
    async with two(reactor, tmp_path) as (source, target, caller):
        reply = await copy(caller, source.address, storage_id="another")
        assert error("this is another storage, not another", "wrong_storage") == reply
        assert [] == target.blocks()


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "close", "rename"])
@pytest.mark.parametrize(("cause", "code"), [(errno.EIO, "internal"), (errno.ENOSPC, "disk_full")])
@on_reactor
async def test_a_failed_copy_leaves_nothing(
    reactor: Any, tmp_path: Path, operation: str, cause: int, code: str
) -> None:
    """The old block stays, the temporary file goes, and the next try works."""
    disk = WatchedDisk()
    data = os.urandom(3 * MIB)
    async with two(reactor, tmp_path, disk) as (source, target, caller):
        source.put("a-0", data)
        target.put("a-0", b"old")
        disk.fail(operation, cause)
        assert code == (await copy(caller, source.address, crc32c=sum_of(data)))["code"]
        assert (["a-0"], b"old") == (target.blocks(), (target.folder / "a-0").read_bytes())
        disk.mend()
        assert "ok" == (await copy(caller, source.address, crc32c=sum_of(data)))["status"]
        assert data == (target.folder / "a-0").read_bytes()


@pytest.mark.parametrize("other", ["store", "delete"])
@on_reactor
async def test_a_store_or_a_delete_that_comes_later_wins(reactor: Any, tmp_path: Path, other: str) -> None:
    """A copy that is late on the disk answers `conflict`."""
    disk = HeldDisk(reactor, "fsync")
    async with two(reactor, tmp_path, disk) as (source, target, caller), calling(reactor, target.port) as client:
        copying = Deferred.fromCoroutine(copy(caller, source.address))
        await disk.begun
        payload, size = (b"newer", {"size": 5}) if other == "store" else (b"", {})
        assert "ok" == (await client.ask(payload, command=other, block_id="a-0", **size))["status"]
        disk.go_on.set()
        assert error("a newer store or a delete of this block came first", "conflict") == await copying
        assert (["a-0"] if other == "store" else []) == target.blocks()


@on_reactor
async def test_connections_to_peers_end_with_the_daemon(reactor: Any, tmp_path: Path) -> None:
    """None is left behind."""
    async with two(reactor, tmp_path) as (source, target, caller):
        await copy(caller, source.address)
        assert 1 == len(source.factory.conversations)
        await target.service.stopService()
        while source.factory.conversations:
            await next_turn()
