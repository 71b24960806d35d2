"""Uploads of many files, the small ones together: against scripted servers, and against real ones."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from filefly.client.api import Client
from filefly.client.batches import MOST_FILES, SMALL_BYTES
from filefly.errors import (
    BadRequest,
    FileFlyError,
    NotFound,
    Unavailable,
    UnknownCommand,
)
from filefly.wire.batches import CompleteFiles, FileToComplete, StoreBlocks, StoreFiles
from filefly.wire.messages import CompleteFile, Metadata, Request, StoredBlock, StoreFile
from tests.client.clusters import Heard, proxied
from tests.client.conftest import NAMES
from tests.client.faults import say_nothing
from tests.client.scripted import Answer, ScriptedCluster, for_kind, scripted
from tests.meta.running import running, sum_of
from tests.on_reactor import next_turn, on_reactor
from tests.peer import HeldThreads


def for_file(name: str, error: FileFlyError) -> Answer:
    """Let an item about one file, or a block of it, fail."""
    ids = re.compile(rf"{name}\Z|a-0\.{NAMES.index(name) + 1}\Z")
    fields = ("file_name", "block_id")
    return lambda item: error if any(ids.match(getattr(item, field, "")) for field in fields) else None


def committed(cluster: ScriptedCluster) -> list[str]:
    """Return what was committed, together and alone."""
    together = [file.file_name for request in cluster.catalog.of(CompleteFiles) for file in request.files]
    return sorted([*together, *(request.file_name for request in cluster.catalog.of(CompleteFile))])


def stored(cluster: ScriptedCluster, number: int = 0) -> list[bytes]:
    """Return what a data server has."""
    return sorted(cluster.data[number].blocks.values())


async def uploaded(client: Client, files: Sequence[tuple[str, Path]], **options: Any) -> list[Metadata]:
    """Upload files, and return what was told of each."""
    told: list[Metadata] = []
    await client.upload_files(iter(files), uploaded=told.append, **options)
    return sorted(told, key=lambda metadata: metadata.name)


# When all goes well


@pytest.mark.parametrize("replicas", [1, 2])
@on_reactor
async def test_small_files_are_uploaded_together(
    reactor: Any, files: Sequence[tuple[str, Path]], replicas: int
) -> None:
    """Three exchanges for all of them, one more for each further copy; nothing is asked for alone."""
    async with scripted(reactor, replicas=replicas) as cluster:
        heard = Heard()
        metadata = await uploaded(cluster.client, files, progress=heard)
        assert [StoreFiles, CompleteFiles] == [type(request) for request in cluster.catalog.asked]
        assert [True] * 4 == [file.explicit for file in cluster.catalog.of(StoreFiles)[0].files]
        for number in range(replicas):
            assert [StoreBlocks] == [type(request) for request in cluster.data[number].asked]
            assert [f"storage-{number}"] == [request.storage_id for request in cluster.data[number].of(StoreBlocks)]
            assert [b"a", b"b", b"c/d"] == stored(cluster, number)
        assert NAMES == [each.name for each in metadata]
        assert [("a", replicas), ("b", replicas), ("c/d", 3 * replicas), ("empty", 0)] == heard.begun
        assert (5 * replicas, NAMES, []) == (heard.bytes_moved, heard.ended, heard.short)
        assert [(f"a-0.{number}", 1, 1) for number in (1, 2, 3)] == heard.blocks
        assert {", ".join(cluster.catalog.addresses[:replicas])} == set(heard.places)


@on_reactor
async def test_the_commit_tells_what_was_stored(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Sums and places, so that nobody has to look."""
    async with scripted(reactor, replicas=2) as cluster:
        await uploaded(cluster.client, files[:1])
        [request] = cluster.catalog.of(CompleteFiles)
        [block] = cluster.catalog.open[1].metadata.blocks
        expected = [StoredBlock(block.id, sum_of(b"a"), block.replicas)]
        assert [FileToComplete(generation=1, file_name="a", blocks=expected)] == request.files


@on_reactor
async def test_many_files_are_stored_as_they_are(reactor: Any, tmp_path: Path) -> None:
    """Small and large, more than one batch, by real servers: what is told is what is in the catalog."""
    (tmp_path / "files").mkdir()
    contents = {f"{number:03}": os.urandom(number % 50) for number in range(MOST_FILES + 44)}
    contents |= {"large": os.urandom(SMALL_BYTES + 1), "two blocks": os.urandom(150_000)}
    for name, data in contents.items():
        (tmp_path / "files" / name).write_bytes(data)
        os.utime(tmp_path / "files" / name, ns=(0, 1_234_567_890_123_456_789))
    async with running(reactor, tmp_path, block_size=100_000) as cluster:
        client = cluster.client()
        told = await uploaded(client, [(f"x/{name}", tmp_path / "files" / name) for name in contents], replicas=2)
        assert [f"x/{name}" for name in contents] == [metadata.name for metadata in told]
        for metadata in (*told[:3], *told[-2:]):
            assert metadata == await client.stat(metadata.name)
            assert contents[metadata.name[2:]] == await client.read(metadata.name)
            assert {"mtime": "2009-02-13T23:31:30.123456789Z", "mode": "0644"} == metadata.attributes
            assert all(2 == len(block.replicas) for block in metadata.blocks)
        assert len(told) == len([file async for file in client.list("x/")])


@on_reactor
async def test_a_file_replaces_the_one_of_its_name(
    reactor: Any, tmp_path: Path, files: Sequence[tuple[str, Path]]
) -> None:
    """As one that is uploaded alone does."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await uploaded(client, files)
        files[0][1].write_text("other")
        await uploaded(client, files)
        assert [b"other", b"b"] == [await client.read(name) for name in ("a", "b")]
        assert NAMES == [file.name async for file in client.list()]


@on_reactor
async def test_no_files_are_no_work(reactor: Any) -> None:
    """Nobody is asked anything."""
    async with scripted(reactor) as cluster:
        assert ([], []) == (await uploaded(cluster.client, []), cluster.catalog.asked)


# What goes alone


@on_reactor
async def test_who_resumes_goes_alone(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """What an earlier try has stored is looked at file by file."""
    async with scripted(reactor) as cluster:
        await uploaded(cluster.client, files, resume=True)
        assert [True] * 4 == [request.resume for request in cluster.catalog.of(StoreFile)]
        assert (NAMES, []) == (committed(cluster), cluster.catalog.of(StoreFiles))


@on_reactor
async def test_an_older_metadata_server_is_asked_file_by_file(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Nobody need know."""
    async with scripted(reactor, unknown=["store_files", "complete_files"]) as cluster:
        heard = Heard()
        told = await uploaded(cluster.client, files, progress=heard, replicas=1)
        assert (NAMES, NAMES) == (committed(cluster), [metadata.name for metadata in told])
        assert (NAMES, 5) == (sorted(heard.ended), heard.bytes_moved)
        assert [1] * 4 == [request.replicas for request in cluster.catalog.of(StoreFile)]


@on_reactor
async def test_an_older_data_server_gets_its_blocks_one_by_one(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """By the plans that are there already."""
    async with scripted(reactor, replicas=2, unknown=["store_blocks"]) as cluster:
        await uploaded(cluster.client, files)
        assert [[b"a", b"b", b"c/d"]] * 2 == [stored(cluster, number) for number in (0, 1)]
        assert (NAMES, []) == (committed(cluster), cluster.catalog.of(StoreFile))


@pytest.mark.parametrize("kind", [StoreFiles, StoreBlocks])
@on_reactor
async def test_who_knows_of_no_batches_is_asked_once(
    reactor: Any, files: Sequence[tuple[str, Path]], files_in_a_batch: int, kind: type[Request]
) -> None:
    """Not for each of them."""
    async with scripted(reactor) as cluster:
        server = cluster.catalog if kind is StoreFiles else cluster.data[0]
        server.fault = for_kind(kind, UnknownCommand())
        await uploaded(cluster.client, [(f"{number}", files[0][1]) for number in range(2 * files_in_a_batch)])
        assert (1, 2 * files_in_a_batch) == (len(server.of(kind)), len(committed(cluster)))


@on_reactor
async def test_a_file_that_is_missing_is_told(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """As if it had been alone."""
    async with scripted(reactor) as cluster:
        missing = files[0][1].with_name("missing")
        with pytest.raises(NotFound, match=rf"^{missing} does not exist$"):
            await uploaded(cluster.client, [("missing", missing)])
        assert [] == cluster.catalog.asked


@on_reactor
async def test_a_file_that_cannot_be_planned_is_told(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """By the metadata server's word on it alone; the others are stored."""
    async with scripted(reactor) as cluster:
        cluster.catalog.item_fault = for_file("b", BadRequest("together"))
        cluster.catalog.fault = for_kind(StoreFile, BadRequest("no such name"))
        with pytest.raises(BadRequest, match=r"^no such name$"):
            await uploaded(cluster.client, files)
        assert ["a", "c/d", "empty"] == committed(cluster)


@on_reactor
async def test_a_request_that_is_refused_as_a_whole_is_made_in_parts(
    reactor: Any, files: Sequence[tuple[str, Path]]
) -> None:
    """Whatever was wrong with it."""
    async with scripted(reactor) as cluster:
        cluster.catalog.fault = for_kind(StoreFiles, BadRequest("too much of it"))
        await uploaded(cluster.client, files)
        assert (NAMES, 4) == (committed(cluster), len(cluster.catalog.of(StoreFile)))


@on_reactor
async def test_a_plan_of_other_blocks_is_carried_out_alone(reactor: Any, tmp_path: Path) -> None:
    """Where blocks are smaller than small files; no plan is left open."""
    (tmp_path / "a").write_bytes(b"0123456789")
    async with scripted(reactor) as cluster:
        await uploaded(cluster.client, [("a", tmp_path / "a")])
        assert ([b"0123456", b"789"], ["a"]) == (stored(cluster), committed(cluster))
        assert [1] == list(cluster.catalog.open)


# Being cancelled


@on_reactor
async def test_a_cancelled_upload_leaves_nothing_visible(
    reactor: Any, tmp_path: Path, files: Sequence[tuple[str, Path]]
) -> None:
    """And no connection: a half-sent batch must not be finished by something else."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        proxy.always = say_nothing
        client = cluster.client()
        uploading = client.upload_files(files)
        while not proxy.received:
            await next_turn()
        uploading.cancel()
        with pytest.raises(CancelledError):
            await uploading
        while proxy.open:
            await next_turn()
        assert [] == [file async for file in client.list()]


@on_reactor
async def test_an_upload_may_be_cancelled_at_any_time(reactor: Any, tmp_path: Path) -> None:
    """In each turn of the reactor: there are old files and new ones, and no mix of both."""
    (tmp_path / "file").write_bytes(b"new")
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        for name in "ab":
            await client.upload(name, b"old")
        for turns in range(0, 40, 3):
            uploading = client.upload_files([(name, tmp_path / "file") for name in "ab"])
            for _ in range(turns):
                await next_turn()
            uploading.cancel()
            with suppress(CancelledError):
                await uploading
            assert {await client.read(name) for name in "ab"} <= {b"old", b"new"}
        await client.upload_files([(name, tmp_path / "file") for name in "ab"])
        assert b"new" == await client.read("a")


@on_reactor
async def test_an_upload_may_be_cancelled_while_it_reads(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Nobody is asked anything afterwards."""
    async with scripted(reactor) as cluster:
        threads: Any = HeldThreads()
        real, cluster.client.in_thread = cluster.client.in_thread, threads
        try:
            uploading: Deferred[None] = cluster.client.upload_files(files)
            uploading.cancel()
            with pytest.raises(CancelledError):
                await uploading
            threads.run_all()
            await next_turn()
            assert [] == cluster.catalog.asked
        finally:
            cluster.client.in_thread = real


# Memory


@on_reactor
async def test_files_are_read_as_they_are_sent(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Of a million, no more than a few batches are in memory: the names, too, are taken as they are needed."""
    taken = 0

    def names() -> Any:
        nonlocal taken
        for number in range(20 * MOST_FILES):
            taken += 1
            yield f"{number}", files[0][1]

    async with scripted(reactor) as cluster:
        cluster.catalog.fault = for_kind(StoreFiles, Unavailable("away"))
        with pytest.raises(Unavailable):
            await cluster.client.upload_files(names())
        assert MOST_FILES == taken
