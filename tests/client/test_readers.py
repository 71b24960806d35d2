"""Files that are replaced, or whose blocks move, while they are read, against scripted servers."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from filefly.errors import BadRange, Conflict, Internal, NotFound, Unavailable
from filefly.wire.blocks import Retrieve
from filefly.wire.messages import GetMetadata, Replica
from tests.client.scripted import ScriptedCluster, for_kind, scripted
from tests.on_reactor import on_reactor

DATA = b"0123456789abcdefghijklmnop"
NEW = b"something else altogether"

Meddle = Callable[[ScriptedCluster], Awaitable[None]]


async def replaced(cluster: ScriptedCluster) -> None:
    """Have the file replaced, and the old blocks deleted."""
    old = {block_id for server in cluster.data for block_id in server.blocks}
    await cluster.other_client.upload("a", NEW)
    for server in cluster.data:
        for block_id in old & set(server.blocks):
            del server.blocks[block_id]


async def replaced_with_one_server_away(cluster: ScriptedCluster) -> None:
    """Have the file replaced, and one data server go away: what is told of the old blocks is `unavailable`, too."""
    await replaced(cluster)
    cluster.data[0].fault = for_kind(Retrieve, Unavailable("away"))


async def moved(cluster: ScriptedCluster) -> None:
    """Have all blocks of the first data servers moved to the last one."""
    *others, last = cluster.data
    for server in others:
        last.blocks |= server.blocks
        server.blocks.clear()
    assert cluster.catalog.committed is not None
    blocks = [
        msgspec.structs.replace(block, data_server=last.address, replicas=[Replica(last.address)])
        for block in cluster.catalog.committed.blocks
    ]
    cluster.catalog.committed = msgspec.structs.replace(cluster.catalog.committed, blocks=blocks)


def meddle_at(cluster: ScriptedCluster, count: int, meddle: Meddle) -> None:
    """Let something happen before the data server 0 answers the `count`th request for a block."""
    server, seen = cluster.data[0], 0
    answer = server.answer

    async def meddled(request: Any, conversation: Any, session: Any) -> Any:
        nonlocal seen
        if isinstance(request, Retrieve):
            seen += 1
            if seen == count:
                await meddle(cluster)
        return await answer(request, conversation, session)

    server.answer = meddled  # type: ignore[method-assign]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("meddle", "expected"), [(replaced, NEW), (replaced_with_one_server_away, NEW), (moved, DATA)])
@on_reactor
async def test_a_reader_goes_on_with_what_is_there_by_then(
    reactor: Any, tmp_path: Path, meddle: Meddle, expected: bytes, count: int
) -> None:
    """The new file whole, or the old one from where its blocks are now; never a mix."""
    for kind in ("read", "download"):
        async with scripted(reactor, replicas=2) as cluster:
            await cluster.client.upload("a", DATA)
            meddle_at(cluster, count, meddle)
            if kind == "read":
                assert expected == await cluster.client.read("a")
            else:
                await cluster.client.download("a", tmp_path / "copy")
                assert expected == (tmp_path / "copy").read_bytes()


async def streamed(cluster: ScriptedCluster, received: list[bytes], offset: int = 0) -> bytes:
    async with aclosing(cluster.client.stream("a", offset)) as chunks:
        async for chunk in chunks:
            received.append(chunk)
    return b"".join(received)


@on_reactor
async def test_a_stream_of_which_nothing_was_read_starts_over(reactor: Any) -> None:
    """With the new file; nobody has seen the old one."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        meddle_at(cluster, 1, replaced)
        assert NEW == await streamed(cluster, [])


@on_reactor
async def test_a_stream_of_which_something_was_read_is_a_conflict(reactor: Any) -> None:
    """What was yielded cannot be taken back."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        meddle_at(cluster, 3, replaced)
        received: list[bytes] = []
        with pytest.raises(Conflict, match=r"^a was replaced while it was read; read it again$"):
            await streamed(cluster, received)
        assert DATA[:14] == b"".join(received)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@on_reactor
async def test_a_stream_goes_on_where_the_blocks_are_by_then(reactor: Any, count: int) -> None:
    """Behind what was yielded: it is the same file."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        meddle_at(cluster, count, moved)
        assert DATA[3:] == await streamed(cluster, [], offset=3)


@on_reactor
async def test_a_range_may_be_beyond_the_end_of_the_new_file(reactor: Any) -> None:
    """Then it is that file's error."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA + b"longer")
        meddle_at(cluster, 1, replaced)
        with pytest.raises(BadRange, match=r"^offset 30 is beyond the file's 25 bytes$"):
            await cluster.client.read("a", 30)


@on_reactor
async def test_what_is_still_the_same_is_an_error(reactor: Any) -> None:
    """The metadata is asked for once more, and no further round begins."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        cluster.data[0].blocks.clear()
        with pytest.raises(NotFound, match=r"^block a-0\.1 cannot be read \("):
            await cluster.client.read("a")
        assert 2 == len(cluster.catalog.of(GetMetadata))


@on_reactor
async def test_the_first_error_counts_where_the_metadata_cannot_be_read_again(reactor: Any) -> None:
    """It tells what is wrong with the file."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)

        async def broken(cluster: ScriptedCluster) -> None:
            cluster.data[0].blocks.clear()
            cluster.catalog.fault = for_kind(GetMetadata, Internal())

        meddle_at(cluster, 1, broken)
        with pytest.raises(NotFound, match=r"^block a-0\.1 cannot be read \("):
            await cluster.client.read("a")


@on_reactor
async def test_a_block_at_no_known_address_is_unavailable(reactor: Any) -> None:
    """Nobody is asked, and a sentence says why."""
    async with scripted(reactor) as cluster:
        await cluster.client.upload("a", DATA)
        assert cluster.catalog.committed is not None
        blocks = [
            msgspec.structs.replace(block, data_server="", replicas=[]) for block in cluster.catalog.committed.blocks
        ]
        cluster.catalog.committed = msgspec.structs.replace(cluster.catalog.committed, blocks=blocks)
        sentence = r"^block a-0\.1 cannot be read: none of the data servers that have it was seen lately$"
        with pytest.raises(Unavailable, match=sentence):
            await cluster.client.read("a")
