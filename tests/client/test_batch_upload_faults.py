"""Uploads of many files past data servers, metadata servers and local files that do not hold still."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from filefly.client.errors import SourceChanged
from filefly.errors import (
    Conflict,
    Corrupt,
    DiskFull,
    FileFlyError,
    Unavailable,
    WrongStorage,
)
from filefly.wire.batches import CompleteFiles, FileToComplete, StoreBlocks, StoreFiles
from filefly.wire.blocks import Store
from filefly.wire.messages import CompleteFile, Metadata, Request, StoreFile
from tests.client.clusters import Heard
from tests.client.conftest import NAMES
from tests.client.scripted import always, for_kind, for_the_first, scripted
from tests.client.test_batch_uploads import committed, for_file, stored, uploaded
from tests.meta.running import running
from tests.on_reactor import on_reactor

# Data servers that fail


@pytest.mark.parametrize("error", [DiskFull("full"), WrongStorage("not mine"), Corrupt("x"), Unavailable("y")])
@pytest.mark.parametrize("what", ["one block", "all of them"])
@on_reactor
async def test_another_data_server_stands_in_for_one_that_fails(
    reactor: Any, files: Sequence[tuple[str, Path]], what: str, error: FileFlyError
) -> None:
    """With the plan that is there already: it ends in a commit, and none is left open."""
    async with scripted(reactor, replicas=2) as cluster:
        heard = Heard()
        if what == "one block":
            cluster.data[0].item_fault = for_file("b", error)
            cluster.data[0].fault = for_kind(Store, error)
            expected = [[b"a", b"c/d"], [b"a", b"b", b"c/d"], [b"b"]]
        else:
            cluster.data[0].fault = always(error)
            expected = [[], [b"a", b"b", b"c/d"], [b"a", b"b", b"c/d"]]
        told = await uploaded(cluster.client, files, progress=heard)
        assert expected == [stored(cluster, number) for number in range(3)]
        assert (NAMES, [], 4) == (committed(cluster), cluster.catalog.of(StoreFile), len(cluster.catalog.open))
        assert [2, 2, 2] == [len(block.replicas) for metadata in told for block in metadata.blocks]
        assert (10, NAMES, []) == (heard.bytes_moved, sorted(heard.ended), heard.short)


@on_reactor
async def test_what_passes_by_itself_does_not_show(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """It is tried again, all together."""
    async with scripted(reactor) as cluster:
        cluster.data[0].fault = for_the_first(2, always(Unavailable("busy")))
        await uploaded(cluster.client, files)
        assert [StoreBlocks] * 3 == [type(request) for request in cluster.data[0].asked]


@on_reactor
async def test_who_was_away_gets_one_more_chance_a_file(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """After all patience for the first batch."""
    async with scripted(reactor) as cluster:
        cluster.data[0].fault = always(Unavailable("away"))
        await uploaded(cluster.client, files)
        assert (3, 3) == (len(cluster.data[0].of(StoreBlocks)), len(cluster.data[0].of(Store)))


@on_reactor
async def test_who_says_nothing_is_not_waited_for_again(
    reactor: Any, files: Sequence[tuple[str, Path]], files_in_a_batch: int
) -> None:
    """Neither by the files of this batch, nor by the next one."""
    hanging = 0

    async def hang(_request: Any, conversation: Any, _session: Any) -> None:
        nonlocal hanging
        hanging += 1
        await conversation.skip_payload()
        await conversation.receive_line()

    async with scripted(reactor, timeout_seconds=0.05) as cluster:
        cluster.data[0].answer = hang  # type: ignore[method-assign,assignment]
        many = [(f"{number}", files[0][1]) for number in range(2 * files_in_a_batch)]
        await uploaded(cluster.client, many)
        assert (3, len(many)) == (hanging, len(committed(cluster)))
        assert len(many) == len(cluster.data[1].blocks)


@on_reactor
async def test_files_with_fewer_copies_are_told(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Where no other data server is left."""
    async with scripted(reactor, data_servers=2, replicas=2) as cluster:
        heard = Heard()
        cluster.data[0].fault = always(DiskFull("full"))
        told = await uploaded(cluster.client, files[:2], progress=heard)
        assert ([(1, 1)] * 2, [1, 1]) == (heard.short, [len(each.blocks[0].replicas) for each in told])


@on_reactor
async def test_a_plan_of_fewer_copies_is_told(reactor: Any, tmp_path: Path, files: Sequence[tuple[str, Path]]) -> None:
    """Also where all went well otherwise."""
    async with running(reactor, tmp_path, data_servers=2) as cluster:
        await cluster.data[0].stop()
        await cluster.check_health()
        heard = Heard()
        await uploaded(cluster.client(), files[:2], progress=heard, replicas=2)
        assert [(1, 1)] * 2 == heard.short


# Commits that fail


@on_reactor
async def test_a_commit_that_is_refused_is_told(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """It is no reason to store what may be committed again; the other files are told, too."""
    async with scripted(reactor) as cluster:
        cluster.catalog.item_fault = lambda item: (
            Conflict("too late") if isinstance(item, FileToComplete) and item.file_name == "b" else None
        )
        told: list[Metadata] = []
        with pytest.raises(Conflict, match=r"^too late$"):
            await cluster.client.upload_files(files, uploaded=told.append)
        assert ["a", "c/d", "empty"] == [metadata.name for metadata in told]
        assert ([], []) == (cluster.data[0].of(Store), cluster.catalog.of(CompleteFile))


@pytest.mark.parametrize("kind", [StoreFiles, CompleteFiles])
@on_reactor
async def test_a_lost_answer_is_asked_for_again(
    reactor: Any, files: Sequence[tuple[str, Path]], kind: type[Request]
) -> None:
    """By the same request: to plan again does no harm, to commit again is fine."""
    async with scripted(reactor) as cluster:
        cluster.catalog.fault = for_the_first(1, for_kind(kind, ConnectionError()))
        await uploaded(cluster.client, files)
        assert 2 == len(cluster.catalog.of(kind))


@pytest.mark.parametrize("kind", [StoreFiles, CompleteFiles])
@on_reactor
async def test_without_a_metadata_server_an_upload_fails(
    reactor: Any, files: Sequence[tuple[str, Path]], kind: type[Request]
) -> None:
    """It is not asked for each file on top."""
    async with scripted(reactor) as cluster:
        cluster.catalog.fault = for_kind(kind, ConnectionError())
        with pytest.raises(Unavailable):
            await uploaded(cluster.client, files)
        assert (3, []) == (len(cluster.catalog.of(kind)), cluster.catalog.of(StoreFile))


@on_reactor
async def test_too_few_answers_are_not_understood(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Nobody knows to which files they belong."""
    async with scripted(reactor) as cluster:
        cluster.catalog.each = lambda *_arguments: []  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match=r"^the server's reply is not understood: 0 results for 4 files$"):
            await uploaded(cluster.client, files)


# Sources that change


@on_reactor
async def test_a_file_that_changes_before_it_is_sent_alone_is_told(
    reactor: Any, files: Sequence[tuple[str, Path]]
) -> None:
    """Its plan says what it was; what was there before stays."""
    async with scripted(reactor) as cluster:

        def change(item: Any) -> FileFlyError:
            files[0][1].write_text("longer")
            return DiskFull("full")

        cluster.data[0].item_fault = change
        with pytest.raises(SourceChanged, match=rf"^{files[0][1]} changed while it was uploaded; upload it again$"):
            await uploaded(cluster.client, files[:1])
        assert [] == committed(cluster)


@on_reactor
async def test_what_was_read_at_one_moment_is_stored(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Whatever becomes of the file afterwards: that is what it was."""
    async with scripted(reactor) as cluster:

        def change(_request: Any) -> None:
            files[0][1].write_text("longer")

        cluster.catalog.fault = change
        await uploaded(cluster.client, files[:1])
        assert ([b"a"], ["a"]) == (stored(cluster), committed(cluster))
