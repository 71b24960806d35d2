"""Downloads of many files, the small ones together: by real servers, with faults between them and the client."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from filefly.client.api import Client
from filefly.client.batches import MOST_FILES, SMALL_BYTES
from filefly.client.small_files import SmallTargets
from filefly.client.targets import part_of
from filefly.errors import Busy, Corrupt, DiskFull, FileFlyError, NotFound, TimedOut, Unavailable, UnknownCommand
from filefly.wire.batches import RetrieveBlocks
from filefly.wire.messages import ListedFile, Metadata
from tests.client.clusters import Heard, proxied
from tests.client.faults import Mangle, Proxy, cut_after, flip_every_bulk, replace, say_instead, say_nothing, the_first
from tests.client.scripted import ScriptedCluster, for_kind, scripted
from tests.meta.running import RunningCluster, running
from tests.on_reactor import next_turn, on_reactor

CONTENTS: Mapping[str, bytes] = {"a": b"a" * 400, "b": b"b" * 500, "c/d": b"d" * 600, "empty": b""}
OLD = b"what was there before"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


async def stored(client: Client, contents: Mapping[str, bytes] = CONTENTS, replicas: int = 1) -> None:
    """Upload files."""
    await gatherResults([client.upload(name, data, replicas=replicas) for name, data in contents.items()])


async def targets(client: Client, here: Path) -> list[tuple[ListedFile, Path]]:
    """Return all files of the catalog, and where each goes below a folder."""
    return [(file, here / file.name) async for file in client.list(blocks=True)]


async def downloaded(client: Client, here: Path, **options: Any) -> list[Metadata]:
    """Download all files of the catalog to a folder, and return what was told of each."""
    told: list[Metadata] = []
    await client.download_files(await targets(client, here), downloaded=told.append, **options)
    return sorted(told, key=lambda metadata: metadata.name)


def found(here: Path) -> Mapping[str, bytes]:
    """Return what is in a folder."""
    return {str(file.relative_to(here)): file.read_bytes() for file in sorted(here.rglob("*")) if file.is_file()}


@asynccontextmanager
async def behind(
    reactor: Any, folder: Path, data_servers: int = 1, replicas: int = 1
) -> AsyncIterator[tuple[RunningCluster, Sequence[Proxy], Client]]:
    """Run a cluster whose data servers, with the files on them, are behind proxies, and a fresh client of it."""
    async with proxied(reactor, folder, data_servers, block_size=1000) as (cluster, proxies):
        await stored(cluster.client(), replicas=replicas)
        yield cluster, proxies, cluster.client()


# When all goes well


@on_reactor
async def test_small_files_are_downloaded_together(reactor: Any, tmp_path: Path, here: Path) -> None:
    """By one connection, for all that is on a data server; what is told of them is their metadata."""
    async with behind(reactor, tmp_path) as (_cluster, [proxy], client):
        heard, before = Heard(), proxy.connections
        told = await downloaded(client, here, progress=heard)
        assert (CONTENTS, 1) == (found(here), proxy.connections - before)
        assert [await client.stat(name) for name in CONTENTS] == told
        assert sorted((name, len(data)) for name, data in CONTENTS.items()) == sorted(heard.begun)
        assert (1500, list(CONTENTS)) == (heard.bytes_moved, sorted(heard.ended))
        assert [("a-0", 1, 1), ("b-0", 1, 1), ("c/d-0", 1, 1)] == sorted(heard.blocks)
        assert [proxy.address] * 3 == heard.places


@on_reactor
async def test_many_files_come_back_as_they_were(reactor: Any, tmp_path: Path, here: Path) -> None:
    """Small and large, of one block and of several, from several data servers, with their modes and times."""
    (tmp_path / "files").mkdir()
    contents = {f"{number:03}": os.urandom(number % 50) for number in range(MOST_FILES + 44)}
    contents |= {"large": os.urandom(SMALL_BYTES + 1), "two blocks": os.urandom(150_000)}
    for name, data in contents.items():
        path = tmp_path / "files" / name
        path.write_bytes(data)
        path.chmod(0o640)
        os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    async with running(reactor, tmp_path, block_size=100_000) as cluster:
        client = cluster.client()
        await client.upload_files([(name, tmp_path / "files" / name) for name in contents])
        told = await downloaded(client, here)
        assert (list(contents), contents) == ([metadata.name for metadata in told], found(here))
        states = [path.stat() for path in here.iterdir()]
        assert {(0o640, 1_234_567_890_123_456_789)} == {(state.st_mode & 0o777, state.st_mtime_ns) for state in states}


@on_reactor
async def test_what_is_there_is_replaced(reactor: Any, tmp_path: Path, here: Path) -> None:
    """Whatever it was."""
    here.mkdir()
    (here / "a").write_bytes(OLD)
    async with behind(reactor, tmp_path) as (_cluster, _proxies, client):
        await downloaded(client, here)
        assert CONTENTS == found(here)


@on_reactor
async def test_no_files_are_no_work(reactor: Any) -> None:
    """Nobody is asked anything."""
    async with scripted(reactor) as cluster:
        await cluster.client.download_files([])
        assert [] == cluster.catalog.asked


# What goes alone


@on_reactor
async def test_files_that_were_listed_without_blocks_go_alone(reactor: Any, tmp_path: Path, here: Path) -> None:
    """As an older metadata server lists them; or who does not ask for the blocks."""
    async with behind(reactor, tmp_path) as (_cluster, _proxies, client):
        listed = [(file, here / file.name) async for file in client.list()]
        assert [None] * 4 == [file.blocks for file, _path in listed]
        await client.download_files(listed)
        assert CONTENTS == found(here)


async def alike(cluster: ScriptedCluster, folder: Path, count: int) -> Sequence[tuple[ListedFile, Path]]:
    """Return so many files, all with the same block."""
    metadata = await cluster.client.upload("a", b"0123456")
    file = ListedFile("a", 7, 1, 1, "", metadata.attributes, 7, metadata.blocks)
    return [(file, folder / f"{number}") for number in range(count)]


@on_reactor
async def test_an_older_data_server_gives_its_blocks_one_by_one(reactor: Any, here: Path) -> None:
    """Nobody need know."""
    async with scripted(reactor, unknown=["retrieve_blocks"]) as cluster:
        await cluster.client.download_files(await alike(cluster, here, 3))
        assert {"0": b"0123456", "1": b"0123456", "2": b"0123456"} == found(here)


@pytest.mark.parametrize(
    ("error", "times"),
    [(UnknownCommand(), 1), (Unavailable("away"), 1), (TimedOut("slow"), 1), (Busy("busy"), 2), (DiskFull("odd"), 2)],
)
@on_reactor
async def test_who_does_not_answer_many_is_not_asked_for_many(
    reactor: Any, here: Path, files_in_a_batch: int, error: FileFlyError, times: int
) -> None:
    """Unless the next batch may well find it in better health."""
    async with scripted(reactor) as cluster:
        files = await alike(cluster, here, 2 * files_in_a_batch)
        cluster.data[0].fault = for_kind(RetrieveBlocks, error)
        await cluster.client.download_files(files)
        assert (times, len(files)) == (len(cluster.data[0].of(RetrieveBlocks)), len(found(here)))


@on_reactor
async def test_who_resumes_keeps_what_is_there(reactor: Any, tmp_path: Path, here: Path) -> None:
    """Files that are begun go alone; the others are fetched together, and leave no part."""
    (here / "c").mkdir(parents=True)
    (here / "a").write_bytes(CONTENTS["a"])
    part_of(here / "b").write_bytes(b"b" * 100)
    async with behind(reactor, tmp_path) as (_cluster, _proxies, client):
        heard = Heard()
        await downloaded(client, here, resume=True, progress=heard)
        assert (CONTENTS, [400]) == (found(here), heard.there_already)
        assert (1500, 4) == (heard.bytes_moved, len(heard.ended))


# Faults

FAULTS: Mapping[str, Mangle] = {
    "garbage": say_instead(b"garbage\n"),
    "refused": say_instead(b'{"status":"error","error":"too busy","code":"busy"}\n'),
    "hung up": cut_after(0),
    "cut in the line": cut_after(10),
    "cut in the bytes": cut_after(1000),
    "bit flipped": flip_every_bulk,
    "too long": replace(b'"size":500', b'"size":501'),
    "too short": replace(b'"size":500', b'"size":499'),
    "huge": replace(b'"size":1500', b'"size":9007199254740991'),
    "one missing": replace(b'{"size":500,"crc32c"', b'{"code":"not_found","error"'),
    "one too few": replace(b'{"size":500,', b'{"size":900},{"x":0,'),
}


@pytest.mark.parametrize("fault", FAULTS)
@on_reactor
async def test_files_are_fetched_alone_after_a_fault(reactor: Any, tmp_path: Path, here: Path, fault: str) -> None:
    """Each is right and there once, whatever the batch's answer was, and counted once."""
    async with behind(reactor, tmp_path) as (_cluster, [proxy], client):
        heard, hit = Heard(), list[bool]()

        def mangle(data: bytes, at: int) -> bytes | None:
            mangled = FAULTS[fault](data, at)
            hit.append(mangled != data)
            return mangled

        files = await targets(client, here)
        proxy.faults = [the_first(1, mangle)]
        await client.download_files(files, progress=heard)
        assert ([True], CONTENTS) == (hit, found(here))
        assert (1500, list(CONTENTS)) == (heard.bytes_moved, sorted(heard.ended))


@pytest.mark.parametrize("damage", ["corrupt", "missing", "data server down", "says nothing"])
@on_reactor
async def test_another_replica_stands_in(reactor: Any, tmp_path: Path, here: Path, damage: str) -> None:
    """As for a file that is downloaded alone."""
    async with behind(reactor, tmp_path, data_servers=2, replicas=2) as (cluster, proxies, client):
        files = await targets(client, here)
        place = next(file.blocks[0].data_server for file, _path in files if file.name == "a" and file.blocks)
        [number] = [number for number, proxy in enumerate(proxies) if proxy.address == place]
        if damage == "corrupt":
            cluster.data[number].put("a-0", b"x" * 400)
        elif damage == "missing":
            cluster.data[number].block("a-0").unlink()
        elif damage == "data server down":
            await cluster.data[number].stop()
        else:
            client._pool._timeout_seconds = 0.05
            proxies[number].always = say_nothing
        await client.download_files(files)
        assert CONTENTS == found(here)


@pytest.mark.parametrize(
    ("damage", "errors"),
    [
        ("corrupt", (Corrupt, NotFound)),  # the metadata server, which hears of it, may have it moved aside meanwhile
        ("missing", NotFound),
        ("down", Unavailable),
    ],
)
@on_reactor
async def test_without_another_replica_the_download_fails(
    reactor: Any, tmp_path: Path, here: Path, damage: str, errors: Any
) -> None:
    """With the sentence of a file that is downloaded alone; what was there stays, and wrong bytes are never there."""
    here.mkdir()
    (here / "a").write_bytes(OLD)
    async with behind(reactor, tmp_path) as (cluster, _proxies, client):
        files = await targets(client, here)
        if damage == "corrupt":
            cluster.data[0].put("a-0", b"x" * 400)
        elif damage == "missing":
            cluster.data[0].block("a-0").unlink()
        else:
            await cluster.data[0].stop()
        with pytest.raises(errors, match=r"^block [a-z/]+-0 cannot be read"):
            await client.download_files(files)
        client.close()  # waits for the threads that clear up
        assert {"a": OLD}.items() <= found(here).items()
        assert {**CONTENTS, "a": OLD}.items() >= found(here).items()


@on_reactor
async def test_a_file_that_was_replaced_is_read_as_it_is_now(reactor: Any, tmp_path: Path, here: Path) -> None:
    """If what was listed is no longer there."""
    async with behind(reactor, tmp_path) as (cluster, _proxies, client):
        files = await targets(client, here)
        await client.upload("a", b"new")
        cluster.data[0].block("a-0").unlink()
        await client.download_files(files)
        assert {**CONTENTS, "a": b"new"} == found(here)


# Folders and disks


@on_reactor
async def test_a_file_in_the_way_of_a_folder_is_told(reactor: Any, tmp_path: Path, here: Path) -> None:
    """As a file that is downloaded alone tells it."""
    here.mkdir()
    (here / "c").write_bytes(OLD)
    async with behind(reactor, tmp_path) as (_cluster, _proxies, client):
        with pytest.raises(FileFlyError, match=rf"^cannot create the folder {here}/c: File exists$"):
            await downloaded(client, here)
        assert OLD == (here / "c").read_bytes()


@on_reactor
async def test_a_folder_in_the_way_of_a_file_is_told(reactor: Any, tmp_path: Path, here: Path) -> None:
    """And nothing of the file is left."""
    (here / "a").mkdir(parents=True)
    async with behind(reactor, tmp_path) as (_cluster, _proxies, client):
        with pytest.raises(FileFlyError, match=rf"^cannot write {here}/a: Is a directory$"):
            await downloaded(client, here)
        assert not [name for name in os.listdir(here) if name.startswith(".")]


# Being cancelled


@on_reactor
async def test_a_cancelled_download_leaves_no_part(reactor: Any, tmp_path: Path, here: Path) -> None:
    """In each turn of the reactor: every file is whole, or not there."""
    async with behind(reactor, tmp_path) as (_cluster, _proxies, client):
        files = await targets(client, here)
        for turns in range(0, 30, 3):
            downloading: Deferred[None] = client.download_files(files)
            for _ in range(turns):
                await next_turn()
            downloading.cancel()
            with suppress(CancelledError):
                await downloading
            before = found(here)
            assert before.items() <= CONTENTS.items()
            await next_turn()
            assert before == found(here)
        await client.download_files(files)
        assert CONTENTS == found(here)


@on_reactor
async def test_a_thread_that_writes_is_waited_for(
    reactor: Any, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may finish the file it is at, and writes no other; all that in time."""
    async with behind(reactor, tmp_path) as (_cluster, _proxies, client):
        files = await targets(client, here)
        real, downloading = SmallTargets.write, list[Deferred[None]]()

        def write(self: SmallTargets, *arguments: Any) -> None:
            real(self, *arguments)
            reactor.callFromThread(downloading[0].cancel)
            while not self._over:
                os.sched_yield()

        monkeypatch.setattr(SmallTargets, "write", write)
        downloading.append(client.download_files([item for item in files if item[0].blocks]))
        with pytest.raises(CancelledError):
            await downloading[0]
        assert {"a": CONTENTS["a"]} == found(here)
