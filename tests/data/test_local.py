"""Local reads: open files from a data server's Unix socket."""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
    serverFromString,
)
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs
from zope.interface import implementer

from filefly.daemon.options import defaults_of
from filefly.data.local import LocalSocket, WithLocalSocket, name_of_local_socket
from filefly.data.tap import DATA_PARAMETERS, data_service
from filefly.wire.address import listening_endpoint
from tests.caller import Caller, calling
from tests.data.disks import take
from tests.data.running import DIGITS, HeldDisk, Running, error, give_unique_id, running
from tests.descriptors import none_left
from tests.on_reactor import next_turn, on_reactor

OPTIONS = defaults_of(DATA_PARAMETERS)
OPTIONS |= {"max-block-size": 1000, "max-line": 1000, "reserve": 0, "disk-threads": 1}


@implementer(IFileDescriptorReceiver)
class LocalCaller(Caller):
    """Keeps the open files that it is sent."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.files: list[int] = []

    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.files.append(descriptor)

    def read(self, size: int) -> bytes:
        """Read and close the one file that came."""
        [file] = self.files
        self.files.clear()
        with open(file, "rb") as block:
            return block.read(size)


@asynccontextmanager
async def calling_locally(reactor: Any, name: str) -> AsyncIterator[LocalCaller]:
    """Connect to a local socket, and hang up in the end."""
    caller: LocalCaller = await connectProtocol(UNIXClientEndpoint(reactor, f"\0{name}"), LocalCaller(reactor))
    try:
        yield caller
    finally:
        caller.abort()
        await caller.gone
        for file in caller.files:
            os.close(file)


def name_of(server: Running) -> str:
    """Return the name of a data server's local socket."""
    return name_of_local_socket(server.storage.storage_id)


@asynccontextmanager
async def asking_locally(reactor: Any, folder: Path) -> AsyncIterator[tuple[Running, LocalCaller]]:
    """Run a data server, with a client on its local socket."""
    async with (
        none_left(),
        running(reactor, folder, local_reads=True) as server,
        calling_locally(reactor, name_of(server)) as caller,
    ):
        yield server, caller


# The verb


@on_reactor
async def test_a_block_comes_as_an_open_file(reactor: Any, tmp_path: Path) -> None:
    """With its size, one for each request; the conversation goes on, and the server keeps none open."""
    async with asking_locally(reactor, tmp_path) as (server, caller):
        for block_id, data in (("a-0", DIGITS), ("b-0", DIGITS * 9), ("c-0", b"")):
            server.put(block_id, data)
            reply = await caller.ask(command="retrieve", block_id=block_id, descriptor=True)
            assert {"status": "ok", "size": len(data)} == reply
            assert data == caller.read(100)
        assert {"status": "ok", "pong": True} == await caller.ask(command="ping")


@on_reactor
async def test_files_come_in_the_order_of_the_requests(reactor: Any, tmp_path: Path) -> None:
    """Also when nobody waits for the replies."""
    async with asking_locally(reactor, tmp_path) as (server, caller):
        for number in range(20):
            server.put(f"a-{number}", b"%d" % number)
            caller.tell(command="retrieve", block_id=f"a-{number}", descriptor=True)
        assert [1] * 10 + [2] * 10 == [(await caller.hear())["size"] for _ in range(20)]
        assert [b"%d" % number for number in range(20)] == [os.pread(file, 9, 0) for file in caller.files]


@on_reactor
async def test_an_open_file_cannot_be_written(reactor: Any, tmp_path: Path) -> None:
    """Who may read a block may not change it."""
    async with asking_locally(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        await caller.ask(command="retrieve", block_id="a-0", descriptor=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(caller.files[0], b"x", 0)
        assert DIGITS == caller.read(100)


@on_reactor
async def test_an_open_file_outlives_its_block(reactor: Any, tmp_path: Path) -> None:
    """As every open file does: what was begun is read to its end."""
    async with asking_locally(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        await caller.ask(command="retrieve", block_id="a-0", descriptor=True)
        assert {"status": "ok"} == await caller.ask(command="delete", block_id="a-0")
        assert DIGITS == caller.read(100)


@on_reactor
async def test_no_file_comes_where_there_is_no_block(reactor: Any, tmp_path: Path) -> None:
    """The usual error."""
    async with asking_locally(reactor, tmp_path) as (_server, caller):
        missing = await caller.ask(command="retrieve", block_id="a-0", descriptor=True)
        assert error("block not found", "not_found") == missing
        assert [] == caller.files


@pytest.mark.parametrize("more", [{"offset": 1}, {"length": 1}, {"raw": True}, {"crc32c": "00000000"}])
@on_reactor
async def test_only_whole_blocks_come_as_open_files(reactor: Any, tmp_path: Path, more: dict[str, Any]) -> None:
    """What the server would have to do with the bytes, it cannot do for others."""
    async with asking_locally(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        refused = await caller.ask(command="retrieve", block_id="a-0", descriptor=True, **more)
        assert error("descriptor goes with none of offset, length, raw and crc32c", "bad_request") == refused
        assert [] == caller.files


@on_reactor
async def test_no_open_file_goes_over_tcp(reactor: Any, tmp_path: Path) -> None:
    """The one who asks hears what to do instead."""
    async with running(reactor, tmp_path, local_reads=True) as server, calling(reactor, server.port) as caller:
        server.put("a-0", DIGITS)
        refused = await caller.ask(command="retrieve", block_id="a-0", descriptor=True)
        sentence = "descriptor is for the data server's local socket; over TCP ask for raw"
        assert error(sentence, "bad_request") == refused


@on_reactor
async def test_the_local_socket_knows_all_commands(reactor: Any, tmp_path: Path) -> None:
    """It is the same server."""
    async with asking_locally(reactor, tmp_path) as (server, caller):
        stored = await caller.ask(DIGITS, command="store", block_id="a-0", size=10)
        assert ("ok", ["a-0"]) == (stored["status"], server.blocks())
        head = await caller.ask(command="retrieve", block_id="a-0", raw=True)
        assert DIGITS == await caller.hear_bytes(head["size"])


@on_reactor
async def test_a_client_that_goes_before_its_file_came_leaves_none_open(reactor: Any, tmp_path: Path) -> None:
    """The server closes what it could not send."""
    disk = HeldDisk(reactor, "open")
    async with none_left(), running(reactor, tmp_path, disk, local_reads=True) as server:
        server.put("a-0", DIGITS)
        async with calling_locally(reactor, name_of(server)) as caller:
            caller.tell(command="retrieve", block_id="a-0", descriptor=True)
            await disk.begun
        disk.go_on.set()


@on_reactor
async def test_a_connection_that_is_lost_before_its_file_came_leaves_none_open(reactor: Any, tmp_path: Path) -> None:
    """As where the client has not even read the last reply."""
    disk = HeldDisk(reactor, "open")
    async with none_left(), running(reactor, tmp_path, disk, local_reads=True) as server:
        server.put("a-0", DIGITS)
        async with calling_locally(reactor, name_of(server)) as caller:
            caller.transport.pauseProducing()
            caller.tell(command="make_coffee")
            caller.tell(command="retrieve", block_id="a-0", descriptor=True)
            await disk.begun
        while not all(conversation.lost for conversation in server.factory.conversations):
            await next_turn()
        disk.go_on.set()


# The socket


@on_reactor
async def test_ping_tells_the_local_socket(reactor: Any, tmp_path: Path) -> None:
    """Who asks for the server's identity learns where else it is."""
    async with running(reactor, tmp_path, local_reads=True) as server, calling(reactor, server.port) as caller:
        pong = await caller.ask(command="ping", identity=True)
        assert (name_of(server), os.geteuid()) == (pong["local_socket"], pong["local_uid"])
        assert {"status": "ok", "pong": True} == await caller.ask(command="ping")


@on_reactor
async def test_ping_tells_it_only_on_this_machine(reactor: Any, tmp_path: Path) -> None:
    """Both ends of the connection have one address then."""
    async with running(reactor, tmp_path, local_reads=True) as server:
        elsewhere = Caller(reactor)
        await connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", server.port, bindAddress=("127.0.0.2", 0)), elsewhere
        )
        pong = await elsewhere.ask(command="ping", identity=True)
        assert ("ok", None, None) == (pong["status"], pong.get("local_socket"), pong.get("local_uid"))
        elsewhere.abort()
        await elsewhere.gone


def test_the_name_does_not_tell_the_storage() -> None:
    """Everybody on the machine sees the names of such sockets."""
    names = [name_of_local_socket(storage_id) for storage_id in ("0123456789abcdef", "0123456789abcdee")]
    assert 2 == len({*names})
    assert all("0123456789" not in name for name in names)


@asynccontextmanager
async def serving(reactor: Any, folder: Path, no_local_reads: int = 0) -> AsyncIterator[tuple[str, Any]]:
    """Run what `twistd` runs; tell the name that its local socket has, if there is one, and its pong."""
    if not folder.exists():
        give_unique_id(folder)
    storage = take(folder)
    options = {**OPTIONS, "no-local-reads": no_local_reads}
    service = data_service(reactor, storage, listening_endpoint(reactor, "127.0.0.1:0"), options)
    service.startService()
    try:
        port: Any = service._port
        async with calling(reactor, port.getHost().port) as caller:
            yield name_of_local_socket(storage.storage_id), await caller.ask(command="ping", identity=True)
    finally:
        await service.stopService()
        storage.release()


@on_reactor
async def test_a_client_that_does_not_read_leaves_no_files_open(reactor: Any, tmp_path: Path) -> None:
    """However many it asks for; others are served meanwhile."""
    folder = tmp_path / "blocks"
    async with none_left(), serving(reactor, folder) as (name, _pong):
        (folder / "a-0").write_bytes(DIGITS)
        async with calling_locally(reactor, name) as caller, calling_locally(reactor, name) as other:
            caller.transport.pauseProducing()
            for _ in range(2000):
                caller.tell(command="retrieve", block_id="a-0", descriptor=True)
            for _ in range(100):
                assert {"status": "ok", "size": 10} == await other.ask(command="stat", block_id="a-0")


async def reachable(reactor: Any, name: str) -> bool:
    """Return whether somebody listens at a local socket."""
    try:
        async with calling_locally(reactor, name):
            return True
    except ConnectError:
        return False


@on_reactor
async def test_the_local_socket_goes_with_the_service(reactor: Any, tmp_path: Path) -> None:
    """Its conversations end, nobody listens any more, and the next one to run can."""
    for _ in range(2):
        async with none_left(), serving(reactor, tmp_path / "blocks") as (name, pong):
            assert name == pong["local_socket"]
            local = LocalCaller(reactor)
            await connectProtocol(UNIXClientEndpoint(reactor, f"\0{name}"), local)
        assert await local.hear_the_end()
        await local.gone
        assert not await reachable(reactor, name)


@on_reactor
async def test_local_reads_can_be_turned_off(reactor: Any, tmp_path: Path) -> None:
    """Then there is no socket, and nobody is told of one."""
    async with serving(reactor, tmp_path / "blocks", no_local_reads=1) as (name, pong):
        assert "local_socket" not in pong
        assert not await reachable(reactor, name)


@pytest.fixture
def somebody_else(tmp_path: Path) -> Iterator[str]:
    """Let another program have the name of the local socket, and return that."""
    give_unique_id(tmp_path / "blocks")
    storage = take(tmp_path / "blocks")
    storage.release()
    name = name_of_local_socket(storage.storage_id)
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"\0{name}")
        yield name


@on_reactor
async def test_a_name_that_is_taken_is_done_without(reactor: Any, tmp_path: Path, somebody_else: str) -> None:
    """The data server serves over TCP, tells nobody of the other one's socket, and logs why."""
    with capturedLogs() as events:
        async with serving(reactor, tmp_path / "blocks") as (name, pong):
            assert somebody_else == name
            assert ("ok", None) == (pong["status"], pong.get("local_socket"))
    [event] = [event for event in events if event["log_namespace"] == "filefly.data.local.WithLocalSocket"]
    assert ("info", "Address already in use") == (event["log_level"].name, event["error"].socketError.strerror)


@on_reactor
async def test_a_system_without_such_sockets_does_without(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Abstract names are Linux's alone."""
    monkeypatch.setattr("filefly.data.local._HAS_ABSTRACT_NAMES", False)
    async with serving(reactor, tmp_path / "blocks") as (name, pong):
        assert ("ok", None) == (pong["status"], pong.get("local_socket"))
        assert not await reachable(reactor, name)


@on_reactor
async def test_beside_a_unix_socket_with_a_path_there_is_none(reactor: Any, tmp_path: Path) -> None:
    """Its folder says who may use it; a name that everybody can reach would not."""
    told: list[LocalSocket] = []
    factory: Any = Factory()
    factory.noisy = False
    endpoint = serverFromString(reactor, f"unix:{tmp_path}/socket")
    port: Any = await WithLocalSocket(reactor, endpoint, "a", told.append).listen(factory)
    assert [] == told
    await port.stopListening()


@on_reactor
async def test_both_ports_start_and_stop_as_one(reactor: Any, tmp_path: Path) -> None:
    """The local one is never there alone, nor missing."""
    told: list[LocalSocket] = []
    factory: Any = Factory.forProtocol(Protocol)
    factory.noisy = False
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port: Any = await WithLocalSocket(reactor, endpoint, uuid4().hex, told.append).listen(factory)
    [local] = told
    for _ in range(2):
        assert await reachable(reactor, local.name)
        await port.stopListening()
        assert not await reachable(reactor, local.name)
        port.startListening()
    await port.stopListening()
