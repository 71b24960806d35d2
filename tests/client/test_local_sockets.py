"""Where a client looks for open files, and other programs that have such a name."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol

from filefly.client.errors import Unreachable
from filefly.client.local_reads import LocalReads
from filefly.daemon.guard import Session
from filefly.daemon.protocol import ServerFactory
from filefly.errors import BadRequest, FileFlyError, Unavailable
from filefly.wire.address import listening_endpoint
from filefly.wire.framing import Conversation
from filefly.wire.messages import Ping, Pong, Reply, Request
from tests.client.clusters import pooling
from tests.client.faults import cut_after, flip_every_bulk, proxy_of, replace, say_instead
from tests.client.local import DATA, fetching
from tests.client.scripted import ScriptedData, always, for_the_first
from tests.meta.running import data_node
from tests.on_reactor import next_turn, on_reactor

# Who is asked for a local socket


class Telling(ScriptedData):
    """A data server that says of itself what the test wants."""

    name: str | None = f"filefly-{'0' * 32}"

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        await super().answer(request, conversation, session)
        return Pong(pong=True, local_socket=self.name, local_uid=1000)


@asynccontextmanager
async def telling(reactor: Any, host: str = "127.0.0.1") -> AsyncIterator[tuple[Telling, LocalReads]]:
    """Run one until the end of the block."""
    server = Telling()
    factory = ServerFactory(reactor, server)
    port: Any = await listening_endpoint(reactor, f"{host}:0").listen(factory)
    server.address = f"{host}:{port.getHost().port}"
    async with pooling(reactor) as pool:
        yield server, LocalReads(pool)
    await port.stopListening()
    while factory.conversations:
        await next_turn()


@on_reactor
async def test_all_who_wait_for_a_data_server_have_one_answer(reactor: Any) -> None:
    """Many blocks are begun at once; the question is asked once."""
    async with telling(reactor) as (server, local_reads):
        asking = [Deferred.fromCoroutine(local_reads.socket_of(server.address)) for _ in range(5)]
        told = [(found.endpoint, found.uid) for found in await gatherResults(asking) if found is not None]
        assert [(f"unix:\0{server.name}:timeout=5", 1000)] * 5 == told
        assert 1 == len(server.of(Ping))


@on_reactor
async def test_a_data_server_on_another_machine_is_not_asked(reactor: Any) -> None:
    """Its end of the connection has another address than ours."""
    async with telling(reactor, "127.0.0.2") as (server, local_reads):
        assert None is await local_reads.socket_of(server.address)
        assert [] == server.asked


@pytest.mark.parametrize("name", [None, "", "X11", "filefly-", "filefly-a:b", "filefly-a/b", f"filefly-{'a' * 100}"])
@on_reactor
async def test_no_other_socket_is_dialled(reactor: Any, name: str | None) -> None:
    """A data server cannot send its clients to other programs."""
    async with telling(reactor) as (server, local_reads):
        server.name = name
        assert None is await local_reads.socket_of(server.address)


@pytest.mark.parametrize("error", [Unavailable("the disk is gone"), BadRequest("identity?")])
@on_reactor
async def test_a_data_server_that_says_no_has_none(reactor: Any, error: FileFlyError) -> None:
    """It may be an older one; its blocks come over TCP."""
    async with telling(reactor) as (server, local_reads):
        server.fault = always(error)
        for _ in range(2):
            assert None is await local_reads.socket_of(server.address)
        assert 1 == len(server.of(Ping))


@on_reactor
async def test_an_answer_that_is_not_understood_is_none(reactor: Any, tmp_path: Path) -> None:
    """Newer data servers may say other things."""
    async with (
        data_node(reactor, tmp_path) as node,
        proxy_of(reactor, node.port) as proxy,
        pooling(reactor) as pool,
    ):
        proxy.always = say_instead(b"garbage\n")
        assert None is await LocalReads(pool).socket_of(proxy.address)


@on_reactor
async def test_a_data_server_that_goes_away_is_asked_again(reactor: Any) -> None:
    """It is as if the block had been asked for: the caller tries again, or elsewhere."""
    async with telling(reactor) as (server, local_reads):
        server.fault = for_the_first(1, always(ValueError("hang up")))
        with pytest.raises(Unreachable):
            await local_reads.socket_of(server.address)
        assert None is not await local_reads.socket_of(server.address)


@on_reactor
async def test_a_data_server_that_stops_is_asked_again(reactor: Any, tmp_path: Path) -> None:
    """It has closed the connection in good order, but has not answered."""
    async with (
        data_node(reactor, tmp_path, local_reads=True) as node,
        proxy_of(reactor, node.port) as proxy,
        pooling(reactor) as pool,
    ):
        proxy.faults = [cut_after(0)]
        local_reads = LocalReads(pool)
        with pytest.raises(Unreachable):
            await local_reads.socket_of(proxy.address)
        assert None is not await local_reads.socket_of(proxy.address)


# Local sockets that are not as they should be


@on_reactor
async def test_a_local_socket_that_is_gone_is_not_missed(reactor: Any, tmp_path: Path) -> None:
    """The data server may be at the other end of a tunnel: bytes come over TCP, and nobody looks again."""
    async with fetching(reactor, tmp_path) as here:
        here.proxy.always = replace(b'"local_socket":"filefly-', b'"local_socket":"filefly-elsewhere-')
        assert DATA == await here.fetch()
        here.proxy.always = flip_every_bulk
        assert None is await here.transfer._local.socket_of(here.proxy.address)
        assert [] == here.reported


@on_reactor
async def test_a_data_server_that_restarts_is_read_from_again(reactor: Any, tmp_path: Path) -> None:
    """The connection that was kept is gone, its local socket is there again."""
    async with fetching(reactor, tmp_path) as here:
        assert DATA == await here.fetch()
        await here.node.stop()
        here.node.start()
        assert DATA == await here.fetch()


@pytest.mark.parametrize("uid", [b"4294967294", b"9007199254740991", b"null"])
@on_reactor
async def test_nothing_is_asked_of_another_users_socket(reactor: Any, tmp_path: Path, uid: bytes) -> None:
    """It would be shown a ticket; the system says who listens, and the data server who that should be."""
    async with fetching(reactor, tmp_path) as here, squatting(reactor, ok()) as squatter:
        ours = b'"%b","local_uid":%d' % (here.name, os.geteuid())
        here.proxy.always = replace(ours, b'"%b","local_uid":%b' % (squatter.name.encode(), uid))
        for _ in range(2):
            assert DATA == await here.fetch()
        assert (0, []) == (squatter.asked, here.reported)


@on_reactor
async def test_a_name_is_forgotten_with_the_connection_that_told_it(reactor: Any, tmp_path: Path) -> None:
    """The data server was restarted, and another program was quicker to take the name."""
    async with fetching(reactor, tmp_path) as here:
        assert DATA == await here.fetch()
        await here.node.stop()
        async with squatting(reactor, ok(), name=here.name.decode()) as squatter:
            here.node.local_reads = False
            here.node.start()
            here.proxy.always = lambda data, _at: data
            assert DATA == await here.fetch()
            assert (0, []) == (squatter.asked, here.reported)


@define(eq=False)
class Squatter:
    """Has a local socket's name, and answers whatever it is asked with the same words, and perhaps open files."""

    reactor: Any
    words: bytes | None
    files: list[int]
    name: str
    asked: int = 0
    open: list[Any] = field(factory=list)

    def answer(self, transport: Any) -> None:
        """Answer a request."""
        self.asked += 1
        if self.words is None:
            transport.loseConnection()
            return
        for file in self.files:
            transport.sendFileDescriptor(file)
        transport.write(self.words)


class _Squatting(Protocol):
    squatter: Squatter

    def connectionMade(self) -> None:
        self.squatter.open.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.squatter.answer(self.transport)


@asynccontextmanager
async def squatting(reactor: Any, words: bytes | None, *files: int, name: str | None = None) -> AsyncIterator[Squatter]:
    """Run one until the end of the block, by default with a name of its own."""
    squatter = Squatter(reactor, words, list(files), name or f"filefly-{uuid4().hex}")

    def squat() -> _Squatting:
        protocol = _Squatting()
        protocol.squatter = squatter
        return protocol

    factory: Any = Factory.forProtocol(squat)
    factory.noisy = False
    port = reactor.listenUNIX(f"\0{squatter.name}", factory)
    try:
        yield squatter
    finally:
        await port.stopListening()
        for connection in squatter.open:
            connection.transport.abortConnection()


def ok(size: int = len(DATA)) -> bytes:
    return b'{"status":"ok","size":%d}\n' % size


def no(code: bytes) -> bytes:
    return b'{"status":"error","error":"no","code":"%s"}\n' % code


def opened(what: str, folder: Path) -> int:
    """Open what a squatter hands out."""
    (folder / "right").write_bytes(DATA)
    (folder / "other").write_bytes(b"x" * len(DATA))
    (folder / "short").write_bytes(DATA[:-1])
    match what:
        case "folder":
            return os.open(folder, os.O_RDONLY)
        case "pipe":
            os.mkfifo(folder / "pipe")
            return os.open(folder / "pipe", os.O_RDWR)
        case "device":
            return os.open("/dev/zero", os.O_RDONLY)
        case "for writing":
            return os.open(folder / "right", os.O_WRONLY)
        case "name only":
            return os.open(folder / "right", os.O_PATH)
    return os.open(folder / what, os.O_RDONLY)


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (None, []),
        (b"garbage\n", []),
        (no(b"not_found"), []),
        (no(b"busy"), ["right"]),
        (ok(), []),
        (ok(), ["other"]),
        (ok(), ["right", "other"]),
        (ok(), ["short"]),
        (ok(len(DATA) - 1), ["short"]),
        (ok(0), ["right"]),
        (ok(), ["folder"]),
        (ok(), ["pipe"]),
        (ok(), ["device"]),
        (ok(), ["for writing"]),
        (ok(), ["name only"]),
    ],
)
@on_reactor
async def test_a_local_socket_that_is_another_program_s_is_not_used_again(
    reactor: Any, tmp_path: Path, words: bytes | None, files: list[str]
) -> None:
    """Whatever it says or hands out: bytes come over TCP, nobody hears of it, and it is not asked twice."""
    (tmp_path / "offered").mkdir()
    async with fetching(reactor, tmp_path) as here:
        handed_out = [opened(what, tmp_path / "offered") for what in files]
        async with squatting(reactor, words, *handed_out) as squatter:
            here.proxy.always = replace(here.name, squatter.name.encode())
            for _ in range(2):
                assert DATA == await here.fetch()
            assert (1, []) == (squatter.asked, here.reported)
        for file in handed_out:
            os.close(file)


@on_reactor
async def test_a_local_socket_that_is_silent_is_not_waited_for_long(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is opened quickly, or not at all."""
    monkeypatch.setattr("filefly.client.local_reads._SILENCE_SECONDS", 0.01)
    async with fetching(reactor, tmp_path) as here, squatting(reactor, b"") as squatter:
        here.proxy.always = replace(here.name, squatter.name.encode())
        for _ in range(2):
            assert DATA == await here.fetch()
        assert (1, []) == (squatter.asked, here.reported)
