"""Transfers that go on where an earlier one broke off, against scripted servers."""

import io
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from filefly.client.errors import SourceChanged
from filefly.client.targets import ResumableFile, part_of
from filefly.errors import Busy, DiskFull, NotFound, TimedOut, Unavailable
from filefly.wire.blocks import Link, Retrieve, Store
from filefly.wire.messages import CompleteFile, StoreFile
from tests.client.clusters import Heard
from tests.client.scripted import Scripted, ScriptedCluster, for_kind, no, scripted
from tests.meta.running import sum_of
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789abcdefghijklmnop"


# Uploads


async def broken_off(cluster: ScriptedCluster, blocks: int) -> None:
    """Upload so many blocks to all places, then fail, at the commit at the latest."""
    left = blocks * cluster.catalog.replicas

    def fail(_request: Any) -> Exception | None:
        nonlocal left
        left -= 1
        return DiskFull("full") if left < 0 else None

    for data_server in cluster.data:
        data_server.fault = fail
    cluster.catalog.fault = for_kind(CompleteFile, DiskFull("full"))
    with pytest.raises(DiskFull):
        await cluster.client.upload("a", DATA)
    servers: list[Scripted] = [cluster.catalog, *cluster.data]
    for server in servers:
        server.asked.clear()
        server.fault = no
    cluster.catalog.resumes = cluster.catalog.open[1].metadata


def stored(cluster: ScriptedCluster, number: int) -> list[str]:
    return [request.block_id for request in cluster.data[number].of(Store)]


@on_reactor
async def test_an_upload_that_is_resumed_sends_only_what_is_missing(reactor: Any) -> None:
    """What is in place gets its new id by a link, with the sum of what is there and the storage that is meant."""
    async with scripted(reactor, data_servers=2, replicas=2) as cluster:
        await broken_off(cluster, 2)
        heard = Heard()
        await cluster.client.upload("a", DATA, resume=True, progress=heard)
        assert [True] == [request.resume for request in cluster.catalog.of(StoreFile)]
        for number, server in enumerate(cluster.data):
            links = [
                Link(f"a-{index}.2", f"a-{index}.1", sum_of(DATA[7 * index :][:7]), f"storage-{number}")
                for index in range(4)
            ]
            assert links == server.of(Link)
            assert ["a-2.2", "a-3.2"] == stored(cluster, number)
            assert isinstance(server.asked[3], Link), "all links come before the first store"
        assert ([14], 52) == (heard.there_already, heard.bytes_moved)
        assert [("a-2.2", 3, 4), ("a-3.2", 4, 4)] == heard.blocks
        assert DATA == await cluster.client.read("a")


@on_reactor
async def test_without_resume_everything_is_sent(reactor: Any) -> None:
    """Nobody is asked what is there."""
    async with scripted(reactor) as cluster:
        await broken_off(cluster, 2)
        await cluster.client.upload("a", DATA)
        assert ([], 4) == (cluster.data[0].of(Link), len(stored(cluster, 0)))


@on_reactor
async def test_with_nothing_to_resume_everything_is_sent(reactor: Any) -> None:
    """It is an upload like any other."""
    async with scripted(reactor) as cluster:
        heard = Heard()
        await cluster.client.upload("a", DATA, resume=True, progress=heard)
        assert ([], 4, []) == (cluster.data[0].of(Link), len(stored(cluster, 0)), heard.there_already)


@on_reactor
async def test_what_is_in_place_but_differs_is_sent(reactor: Any) -> None:
    """The file has changed since, or the block was damaged."""
    async with scripted(reactor) as cluster:
        await broken_off(cluster, 3)
        cluster.data[0].blocks["a-1.1"] = b"WRONG!!"
        changed = DATA[:3] + b"X" + DATA[4:]
        await cluster.client.upload("a", changed, resume=True)
        assert ["a-0.2", "a-1.2", "a-3.2"] == stored(cluster, 0)
        assert changed == await cluster.client.read("a")


@pytest.mark.parametrize("error", [NotFound("block not found"), Unavailable("x"), DiskFull("full")])
@on_reactor
async def test_a_link_that_fails_is_no_error(reactor: Any, error: Exception) -> None:
    """The block is sent, then."""
    async with scripted(reactor) as cluster:
        await broken_off(cluster, 4)
        cluster.data[0].fault = for_kind(Link, error)
        await cluster.client.upload("a", DATA, resume=True)
        assert DATA == await cluster.client.read("a")
        assert 4 == len(stored(cluster, 0))


@on_reactor
async def test_who_does_not_answer_a_link_is_not_waited_for_again(reactor: Any) -> None:
    """A minute a block would be too long; its blocks go elsewhere."""
    async with scripted(reactor) as cluster:
        await broken_off(cluster, 4)
        cluster.data[0].fault = for_kind(Link, TimedOut("no answer"))
        await cluster.client.upload("a", DATA, resume=True)
        assert (1, [], 4) == (len(cluster.data[0].of(Link)), stored(cluster, 0), len(stored(cluster, 1)))


@on_reactor
async def test_one_replica_may_be_in_place_and_the_other_not(reactor: Any) -> None:
    """Only the missing one is sent, and the block is done with it."""
    async with scripted(reactor, replicas=2) as cluster:
        await broken_off(cluster, 4)
        cluster.data[1].blocks.clear()
        heard = Heard()
        await cluster.client.upload("a", DATA, resume=True, progress=heard)
        assert ([], 4) == (stored(cluster, 0), len(stored(cluster, 1)))
        assert ([], 52, 4) == (heard.there_already, heard.bytes_moved, len(heard.blocks))


@on_reactor
async def test_a_source_that_changes_between_link_and_store_is_noticed(reactor: Any) -> None:
    """Two copies of one block must not differ, wherever they come from."""
    async with scripted(reactor, replicas=2) as cluster:
        await broken_off(cluster, 4)
        cluster.data[1].blocks.clear()
        content = io.BytesIO(DATA)

        def change(request: Any) -> None:
            if isinstance(request, Store):
                content.getbuffer()[:] = DATA[::-1]

        cluster.data[1].fault = change
        with pytest.raises(SourceChanged):
            await cluster.client.upload("a", content, resume=True)


# Downloads


def fetched(cluster: ScriptedCluster) -> list[str]:
    return [request.block_id for server in cluster.data for request in server.of(Retrieve)]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "copy"


async def half_fetched(cluster: ScriptedCluster, target: Path) -> None:
    """Download two blocks, then fail."""
    await cluster.client.upload("a", DATA)
    lost = cluster.data[0].blocks.pop("a-2.1")
    with pytest.raises(NotFound):
        await cluster.client.download("a", target, resume=True)
    cluster.data[0].blocks["a-2.1"] = lost
    cluster.data[0].asked.clear()
    assert not target.exists()


@on_reactor
async def test_a_download_that_is_resumed_fetches_only_what_is_missing(reactor: Any, target: Path) -> None:
    """And leaves nothing but the file."""
    async with scripted(reactor) as cluster:
        await half_fetched(cluster, target)
        heard = Heard()
        await cluster.client.download("a", target, resume=True, progress=heard)
        assert ["a-2.1", "a-3.1"] == fetched(cluster)
        assert ([14], 26) == (heard.there_already, heard.bytes_moved)
        assert [("a-2.1", 3, 4), ("a-3.1", 4, 4)] == heard.blocks
        assert (DATA, ["copy"]) == (target.read_bytes(), [path.name for path in target.parent.iterdir()])


@pytest.mark.parametrize(
    "part", [b"", DATA[:10], DATA + b"and more", b"garbage" * 10, b"\0" * 26, DATA[:7] + b"WRONG!!" + DATA[14:]]
)
@on_reactor
async def test_whatever_is_in_the_part_the_file_is_right(reactor: Any, target: Path, part: bytes) -> None:
    """What differs from the catalog's checksums is fetched, what does not is not."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        part_of(target).write_bytes(part)
        await cluster.client.download("a", target, resume=True)
        right = [part[at : min(at + 7, 26)] == DATA[at : at + 7] for at in range(0, 26, 7)]
        assert [f"a-{index}.1" for index in range(4) if not right[index]] == fetched(cluster)
        assert (DATA, ["copy"]) == (target.read_bytes(), [path.name for path in target.parent.iterdir()])


@on_reactor
async def test_a_cancelled_download_leaves_its_part_only_if_it_may_be_resumed(reactor: Any, target: Path) -> None:
    """A user who asked for no such thing finds nothing."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        for resume, left in ((False, []), (True, [part_of(target).name])):
            heard = Heard()
            downloading = cluster.client.download("a", target, resume=resume, progress=heard)
            while not heard.blocks:
                await next_turn()
            downloading.cancel()
            with pytest.raises(CancelledError):
                await downloading
            assert left == [path.name for path in target.parent.iterdir()]


@on_reactor
async def test_a_file_that_was_replaced_meanwhile_is_downloaded_anew(reactor: Any, target: Path) -> None:
    """What was fetched of the old one is in its part, and does not count."""
    async with scripted(reactor) as cluster:
        await half_fetched(cluster, target)
        await cluster.client.upload("a", b"something else")
        await cluster.client.download("a", target, resume=True)
        assert b"something else" == target.read_bytes()


@on_reactor
async def test_a_file_that_is_whole_already_is_not_fetched(reactor: Any, target: Path) -> None:
    """As after a folder's download that broke off behind it; it gets its time and mode."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA, attributes={"mode": "0600", "mtime": "1970-01-01T00:00:01Z"})
        target.write_bytes(DATA)
        heard = Heard()
        await cluster.client.download("a", target, resume=True, progress=heard)
        assert ([], [26], 26, ["a"]) == (fetched(cluster), heard.there_already, heard.bytes_moved, heard.ended)
        assert (0o100600, 1.0, ["copy"]) == (
            target.stat().st_mode,
            target.stat().st_mtime,
            [path.name for path in target.parent.iterdir()],
        )


@pytest.mark.parametrize("there", [DATA[:-1], DATA[::-1], DATA + b"!"])
@on_reactor
async def test_a_file_that_differs_is_replaced(reactor: Any, target: Path, there: bytes) -> None:
    """By one that is fetched."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        target.write_bytes(there)
        await cluster.client.download("a", target, resume=True)
        assert DATA == target.read_bytes()


@on_reactor
async def test_two_downloads_that_may_be_resumed_do_not_meet(reactor: Any, target: Path) -> None:
    """The second one is told, and the first goes on."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        first = ResumableFile(target, {})
        first.open()
        with pytest.raises(Busy, match=rf"^{target} is being downloaded already$"):
            await cluster.client.download("a", target, resume=True)
        first.abort()
        await cluster.client.download("a", target, resume=True)
        assert DATA == target.read_bytes()
