"""Clients of real clusters whose data servers die, are swapped, lose or damage blocks while files move."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, gatherResults

from filefly.client.decisions import offsets_of
from filefly.errors import Conflict, Unavailable
from filefly.wire.messages import Metadata
from tests.client.clusters import Heard
from tests.meta.running import DataNode, RunningCluster, running
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789abcdefghijklmnop" * 4
NEW = b"something else altogether"


async def until(happened: Callable[[], object]) -> None:
    """Wait until something is so."""
    while not happened():
        await next_turn()


def good_copies(cluster: RunningCluster, metadata: Metadata) -> list[set[DataNode]]:
    """Return for each block of the file which data servers are named for it and have it whole."""
    found = []
    for block, offset in offsets_of(metadata.blocks):
        named = cluster.nodes(*(replica.data_server for replica in block.replicas))
        part = DATA[offset : offset + block.size]
        found.append(
            {node for node in named if block.id in node.block_ids() and node.block(block.id).read_bytes() == part}
        )
    return found


# Uploads


async def die(node: DataNode) -> None:
    """Let a data server end."""
    await node.stop()


async def come_back_with_another_disk(node: DataNode) -> None:
    """Let a data server restart with an empty storage, as where a disk was not mounted."""
    await node.stop()
    node.folder.rename(node.folder.with_name("unmounted"))
    node.folder.mkdir()
    (node.folder / ".filefly.json").write_text('{"storage_id":"another"}')
    node.start()


@pytest.mark.parametrize("fail", [die, come_back_with_another_disk])
@on_reactor
async def test_an_upload_goes_on_without_a_data_server(
    reactor: Any, tmp_path: Path, fail: Callable[[DataNode], Awaitable[None]]
) -> None:
    """Whatever is wrong with it: the file has all of its copies on the others."""
    async with running(reactor, tmp_path, 3, replicas=2) as cluster:
        heard, client = Heard(), cluster.client(concurrency=2)
        while not all(state.storage_id for state in await client.data_servers()):
            await next_turn()
        uploading = client.upload("a", DATA, progress=heard)
        await until(lambda: len(heard.blocks) >= 3)
        failing, *others = cluster.data
        await fail(failing)
        copies = good_copies(cluster, await uploading)
        assert [] == heard.short
        assert all(copies)
        assert [set(others)] * 5 == copies[-5:]
        assert DATA == await client.read("a")


@on_reactor
async def test_an_upload_goes_on_with_fewer_copies(reactor: Any, tmp_path: Path) -> None:
    """Where no other data server is left, and its user is told."""
    async with running(reactor, tmp_path, 2, replicas=2) as cluster:
        heard, client = Heard(), cluster.client(concurrency=2)
        uploading = client.upload("a", DATA, progress=heard)
        await until(lambda: len(heard.blocks) >= 3)
        await cluster.data[0].stop()
        metadata = await uploading
        [(short, total)] = heard.short
        assert (15, short) == (total, sum(len(block.replicas) < 2 for block in metadata.blocks))
        assert 0 < short <= 12
        assert metadata == await client.stat("a")
        assert DATA == await client.read("a")


@on_reactor
async def test_many_uploads_survive_a_data_server(reactor: Any, tmp_path: Path) -> None:
    """Each file is whole, and none fails."""
    async with running(reactor, tmp_path, 4, replicas=2) as cluster:
        client = cluster.client(concurrency=4)
        uploading = [client.upload(f"f{number}", DATA + b"%d" % number) for number in range(10)]
        await until(lambda: len(cluster.data[2].block_ids()) > 20)
        await cluster.data[2].stop()
        await gatherResults(uploading)
        for number in range(10):
            assert DATA + b"%d" % number == await client.read(f"f{number}")


@on_reactor
async def test_an_upload_that_failed_is_resumed(reactor: Any, tmp_path: Path) -> None:
    """What is in place is not sent again; all of it is under its new ids, and the older plan is given up."""
    async with running(reactor, tmp_path, trash_grace=0) as cluster:
        client = cluster.client(concurrency=1)
        heard = Heard()
        uploading = client.upload("a", DATA, progress=heard)
        await until(lambda: len(heard.blocks) >= 5)
        uploading.cancel()
        with pytest.raises(CancelledError):
            await uploading
        again = Heard()
        metadata = await client.upload("a", DATA, resume=True, progress=again)
        [kept] = again.there_already
        assert kept - 7 * len(heard.blocks) in (0, 7), "one more may have been on its way"
        assert (104, 15 - kept // 7) == (again.bytes_moved, len(again.blocks))
        assert DATA == await client.read("a")
        await cluster.collect_trash()
        await cluster.collect_trash()
        assert sorted(block.id for block in metadata.blocks) == cluster.block_ids()


@on_reactor
async def test_a_changed_file_is_not_resumed_by_mistake(reactor: Any, tmp_path: Path) -> None:
    """Of one size, but other content: only blocks that are the same are kept."""
    async with running(reactor, tmp_path) as cluster:
        client, heard = cluster.client(concurrency=1), Heard()
        uploading = client.upload("a", DATA, progress=heard)
        await until(lambda: len(heard.blocks) >= 5)
        uploading.cancel()
        with pytest.raises(CancelledError):
            await uploading
        changed = DATA[:7] + b"X" + DATA[8:]
        again = Heard()
        await client.upload("a", changed, resume=True, progress=again)
        assert again.there_already[0] - 7 * (len(heard.blocks) - 1) in (0, 7)
        assert changed == await client.read("a")


# Downloads and streams


@on_reactor
async def test_a_download_that_failed_is_resumed(reactor: Any, tmp_path: Path) -> None:
    """When the data server that had the rest is back."""
    target = tmp_path / "copy"
    async with running(reactor, tmp_path, 2) as cluster:
        client = cluster.client(concurrency=1)
        metadata = await client.upload("a", DATA)
        [node] = cluster.nodes(metadata.blocks[1].data_server)
        await node.stop()
        with pytest.raises(Unavailable):
            await client.download("a", target, resume=True)
        node.start()
        heard = Heard()
        await client.download("a", target, resume=True, progress=heard)
        assert [7] == heard.there_already
        assert DATA == target.read_bytes()


async def replace(cluster: RunningCluster) -> None:
    """Have the file replaced, and the old blocks deleted."""
    await cluster.client().upload("a", NEW)
    await cluster.collect_trash()
    await cluster.collect_trash()


@on_reactor
async def test_a_file_that_is_replaced_while_it_is_streamed_is_told(reactor: Any, tmp_path: Path) -> None:
    """What was read of the old one cannot be taken back."""
    async with running(reactor, tmp_path, trash_grace=0) as cluster:
        await cluster.client().upload("a", DATA)
        async with aclosing(cluster.client(concurrency=1).stream("a")) as chunks:
            received = await anext(chunks)
            await replace(cluster)
            assert DATA.startswith(received)
            with pytest.raises(Conflict, match=r"^a was replaced while it was read; read it again$"):
                await anext(chunks)


@on_reactor
async def test_a_corrupt_replica_is_reported_and_moved_away(reactor: Any, tmp_path: Path) -> None:
    """The reader gets the other one's bytes; the metadata server sees for itself, and the bad file is kept."""
    async with running(reactor, tmp_path, 2, replicas=2) as cluster:
        client = cluster.client()
        metadata = await client.upload("a", DATA)
        block = metadata.blocks[3]
        [node] = cluster.nodes(block.data_server)
        node.put(block.id, b"WRONG!!")
        assert DATA == await client.read("a")
        kept = node.folder / ".corrupt" / block.id
        await until(kept.exists)
        assert b"WRONG!!" == kept.read_bytes()
