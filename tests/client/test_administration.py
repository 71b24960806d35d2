import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from filefly.client.administration import Administration
from filefly.errors import Conflict, Corrupt, FileFlyError, NotFound, Unavailable, UnknownCommand
from filefly.wire.administration import (
    AcceptCatalog,
    AcceptDataServer,
    BackupCatalog,
    Drain,
    DrainProgress,
    Finding,
    Fsck,
    FsckPage,
    RemoveDataServer,
    Scrub,
    UndeleteFile,
    Undrain,
)
from filefly.wire.blocks import BytesFollow
from filefly.wire.messages import (
    DataServerList,
    DataServerState,
    ListDataServers,
    Metadata,
    MetadataReply,
    RegisterDataServer,
    Reply,
    Request,
)
from tests.client.administered import administered
from tests.meta.running import running, sum_of
from tests.on_reactor import on_reactor

SERVERS = DataServerList([DataServerState("x:1", healthy=True, state="up")], ["look out"])
PROGRESS = DrainProgress(3, 1, False, "no room")
PAGE = FsckPage([Finding("lost", "it is lost", "find it")], 1, 2, next="there")
FILE = Metadata(
    name="a", total_size=0, block_size=7, generation=1, state="committed", replicas=1, attributes={}, blocks=[]
)

CALLS: dict[str, tuple[Callable[[Administration], Deferred[Any]], Request, Reply, Any]] = {
    "data_servers": (lambda to: to.data_servers(), ListDataServers(), SERVERS, SERVERS),
    "register": (lambda to: to.register("x:1"), RegisterDataServer("x:1"), Reply(), Reply()),
    "register as": (lambda to: to.register("x:1", "y:1"), RegisterDataServer("x:1", "y:1"), Reply(), Reply()),
    "accept": (lambda to: to.accept("x:1"), AcceptDataServer("x:1"), Reply(), Reply()),
    "remove": (lambda to: to.remove("x:1"), RemoveDataServer("x:1"), Reply(), Reply()),
    "remove lost": (lambda to: to.remove("x:1", lost=True), RemoveDataServer("x:1", True), Reply(), Reply()),
    "drain": (lambda to: to.drain("x:1"), Drain("x:1"), PROGRESS, PROGRESS),
    "undrain": (lambda to: to.undrain("x:1"), Undrain("x:1"), Reply(), Reply()),
    "scrub": (lambda to: to.scrub(), Scrub(), Reply(), Reply()),
    "scrub one": (lambda to: to.scrub("x:1"), Scrub("x:1"), Reply(), Reply()),
    "fsck": (lambda to: to.fsck(), Fsck(), PAGE, PAGE),
    "fsck on": (lambda to: to.fsck("b", verify=False, repair=True, limit=7), Fsck("b", False, True, 7), PAGE, PAGE),
    "undelete": (lambda to: to.undelete("a"), UndeleteFile("a"), MetadataReply(FILE), FILE),
    "accept_catalog": (lambda to: to.accept_catalog(), AcceptCatalog(), Reply(), Reply()),
}
CHANGED_BY_ONCE = {"remove", "remove lost", "undelete"}
EVERY_CALL = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr("filefly.client.retries.RETRY_DELAYS_SECONDS", (0, 0))


@EVERY_CALL
@on_reactor
async def test_a_method_sends_its_request_and_returns_the_answer(reactor: Any, name: str) -> None:
    """To the metadata server."""
    call, request, reply, result = CALLS[name]
    async with administered(reactor, {type(request): [reply]}) as (server, client):
        assert result == await call(client.administration)
        assert [request] == server.asked


@EVERY_CALL
@on_reactor
async def test_an_error_is_raised(reactor: Any, name: str) -> None:
    """And nothing asked again: that was an answer."""
    call, request, _reply, _result = CALLS[name]
    async with administered(reactor, {type(request): [Conflict("not now")]}) as (server, client):
        with pytest.raises(Conflict, match="not now"):
            await call(client.administration)
        assert [request] == server.asked


@EVERY_CALL
@on_reactor
async def test_what_was_not_answered_is_asked_again_if_that_is_harmless(reactor: Any, name: str) -> None:
    """What may have been done, and would fail the second time, is not."""
    call, request, reply, result = CALLS[name]
    async with administered(reactor, {type(request): [OSError(), reply]}) as (server, client):
        if name in CHANGED_BY_ONCE:
            with pytest.raises(Unavailable):
                await call(client.administration)
            assert [request] == server.asked
        else:
            assert result == await call(client.administration)
            assert [request, request] == server.asked


@EVERY_CALL
@on_reactor
async def test_an_older_metadata_server_is_told_of(reactor: Any, name: str) -> None:
    """It is what must be updated."""
    call, request, _reply, _result = CALLS[name]
    command = request.__struct_config__.tag
    async with administered(reactor, {}, unknown=[type(request)]) as (_server, client):
        with pytest.raises(UnknownCommand, match=f"does not know the command {command}: it is older than this client"):
            await call(client.administration)


@on_reactor
async def test_what_cannot_be_brought_back_is_named(reactor: Any) -> None:
    """As a file that is not found is."""
    async with administered(reactor, {UndeleteFile: [NotFound("its time is over")]}) as (_server, client):
        with pytest.raises(NotFound, match=r"^a: its time is over$"):
            await client.administration.undelete("a")


# The backup


def database_of(folder: Path, rows: int = 10) -> bytes:
    """Return the bytes of an SQLite database in WAL mode."""
    path = folder / "made"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (x TEXT)")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * rows)
        database.commit()
    return path.read_bytes()


def sending(data: bytes, **fields: Any) -> Any:
    return {BackupCatalog: [(BytesFollow(**{"size": len(data), "crc32c": sum_of(data), **fields}), data)]}


@pytest.mark.parametrize("told", [{}, {"crc32c": None}])
@on_reactor
async def test_a_backup_is_written(reactor: Any, tmp_path: Path, told: Any) -> None:
    """Byte by byte, for its owner's eyes, with nothing beside it; with or without a checksum that is told."""
    data = database_of(tmp_path, rows=3000)
    target, heard = tmp_path / "out" / "catalog.sqlite", list[tuple[int, int]]()
    target.parent.mkdir()
    target.write_bytes(b"an older one")
    async with administered(reactor, sending(data, **told)) as (_server, client):
        size = await client.administration.backup_catalog(target, lambda done, total: heard.append((done, total)))
    assert (len(data), data, 0o600) == (size, target.read_bytes(), target.stat().st_mode & 0o777)
    assert [target] == list(target.parent.iterdir())
    assert (len(data), len(data)) == heard[-1]


def cut(data: bytes) -> tuple[bytes, dict[str, Any]]:
    half = data[: len(data) // 2]
    return half, {"size": len(half), "crc32c": sum_of(half)}


def no_database(_data: bytes) -> tuple[bytes, dict[str, Any]]:
    return b"no database" * 1000, {"size": 11000, "crc32c": sum_of(b"no database" * 1000)}


def nothing(_data: bytes) -> tuple[bytes, dict[str, Any]]:
    return b"", {"size": 0, "crc32c": "00000000"}


def wrong_sum(data: bytes) -> tuple[bytes, dict[str, Any]]:
    return data, {"crc32c": "00000000"}


def damaged(data: bytes) -> tuple[bytes, dict[str, Any]]:
    broken = data[:4096] + bytes([255]) * 4096 + data[8192:]
    return broken, {"crc32c": None}


@pytest.mark.parametrize("fault", [cut, no_database, nothing, wrong_sum, damaged])
@on_reactor
async def test_a_backup_that_is_not_sound_is_refused(
    reactor: Any, tmp_path: Path, fault: Callable[[bytes], tuple[bytes, dict[str, Any]]]
) -> None:
    """What was there before stays, and nothing beside it."""
    data, told = fault(database_of(tmp_path))
    target = tmp_path / "out" / "catalog.sqlite"
    target.parent.mkdir()
    target.write_bytes(b"an older one")
    async with administered(reactor, sending(data, **told)) as (_server, client):
        with pytest.raises(Corrupt, match=r"^the backup is not usable: .*; try again$"):
            await client.administration.backup_catalog(target)
    assert ([target], b"an older one") == (list(target.parent.iterdir()), target.read_bytes())


@pytest.mark.parametrize("answer", [Conflict("the catalog is kept elsewhere"), OSError(), "cut off"])
@on_reactor
async def test_a_backup_that_does_not_come_leaves_nothing(reactor: Any, tmp_path: Path, answer: Any) -> None:
    """Whether it is refused, or the server goes away before it or in the middle of it."""
    if answer == "cut off":
        answer = (BytesFollow(size=1000), b"SQLite")
    async with administered(reactor, {BackupCatalog: [answer]}) as (server, client):
        backup = client.administration.backup_catalog(tmp_path / "catalog.sqlite", lambda *_: backup.cancel())
        if isinstance(answer, tuple):
            await until_asked(reactor, server)
            backup.cancel()
        with pytest.raises((FileFlyError, CancelledError)):
            await backup
    assert [] == list(tmp_path.iterdir())


async def until_asked(reactor: Any, server: Any) -> None:
    from twisted.internet.task import deferLater

    while not server.asked:
        await deferLater(reactor, 0)


@on_reactor
async def test_a_backup_needs_its_folder(reactor: Any, tmp_path: Path) -> None:
    """Which is said before anything is copied."""
    async with administered(reactor, {}) as (server, client):
        with pytest.raises(NotFound, match="does not exist; create it first"):
            await client.administration.backup_catalog(tmp_path / "none" / "catalog.sqlite")
        assert [] == server.asked


# With a real cluster


@on_reactor
async def test_a_real_catalog_is_backed_up(reactor: Any, tmp_path: Path) -> None:
    """With the files that it has."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await client.upload("a", b"0123456789")
        await client.administration.backup_catalog(tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy")) as copy:
        assert [("a",)] == copy.execute("SELECT name FROM plans WHERE state = 'committed'").fetchall()


@on_reactor
async def test_a_data_server_comes_and_goes(reactor: Any, tmp_path: Path) -> None:
    """Registered, drained, taken back, drained again, removed."""
    async with running(reactor, tmp_path) as cluster:
        administration = cluster.client().administration
        address = cluster.data[0].address
        await administration.accept(address)  # which looks how it is
        await administration.register(address, "files.example.org:9001")
        [first, _second] = (await administration.data_servers()).servers
        assert (address, "files.example.org:9001", "up") == (first.address, first.advertised_address, first.state)
        assert (await administration.drain(address)).safe_to_remove
        assert "draining" == (await administration.data_servers()).servers[0].state
        await administration.undrain(address)
        assert "up" == (await administration.data_servers()).servers[0].state
        await administration.remove(address)
        assert [cluster.data[1].address] == [server.address for server in (await administration.data_servers()).servers]


@on_reactor
async def test_a_real_cluster_is_checked(reactor: Any, tmp_path: Path) -> None:
    """A block that was deleted by hand is found."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await client.upload("a", b"01234")
        [block] = (await client.stat("a")).blocks
        [node] = cluster.nodes(block.data_server)
        node.block(block.id).unlink()
        page = await client.administration.fsck()
        assert ["lost"] == [finding.kind for finding in page.findings]


@on_reactor
async def test_a_file_is_brought_back(reactor: Any, tmp_path: Path) -> None:
    """As it was."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        stored = await client.upload("a", b"0123456789")
        await client.delete("a")
        assert stored.generation == (await client.administration.undelete("a")).generation
        assert b"0123456789" == await client.read("a")
