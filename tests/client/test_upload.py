import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, gatherResults

from filefly.client.errors import SourceChanged
from filefly.errors import BadRequest, Conflict, Corrupt, FileFlyError, NotFound, TooLarge, Unavailable
from tests.client.clusters import Heard, proxied
from tests.client.faults import Mangle, cut_after, flip_bit_of, replace, say_instead, say_nothing, the_first
from tests.meta.running import running, sum_of
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789abcdefghijklmnop"
OLD = b"what was there before"


@pytest.mark.parametrize("kind", ["bytes", "path", "path as text", "file object"])
@on_reactor
async def test_a_source_is_stored(reactor: Any, tmp_path: Path, kind: str) -> None:
    """Whatever it is, and what is told of it is what was stored."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    source: Any = {"bytes": DATA, "path": path, "path as text": str(path), "file object": io.BytesIO(DATA)}[kind]
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        metadata = await client.upload("a", source)
        assert ("a", 26, "committed") == (metadata.name, metadata.total_size, metadata.state)
        assert [sum_of(DATA[at : at + 7]) for at in range(0, 26, 7)] == [block.crc32c for block in metadata.blocks]
        assert metadata == await client.stat("a")
        assert DATA == await client.read("a")


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 14, 200])
@on_reactor
async def test_a_file_of_any_size_is_stored(reactor: Any, tmp_path: Path, size: int) -> None:
    """Empty ones, and those that fill their last block."""
    data = os.urandom(size)
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        metadata = await client.upload("a", data)
        assert (size, -(-size // 7)) == (metadata.total_size, len(metadata.blocks))
        assert data == await client.read("a")


@on_reactor
async def test_a_block_of_many_pieces_is_stored(reactor: Any, tmp_path: Path) -> None:
    """Blocks larger than what moves at a time."""
    data = os.urandom(5 * 2**20 + 1)
    async with running(reactor, tmp_path, block_size=3 * 2**20) as cluster:
        client = cluster.client()
        assert 2 == len((await client.upload("a", data)).blocks)
        assert data == await client.read("a")


@on_reactor
async def test_of_a_file_object_as_much_is_stored_as_is_asked_for(reactor: Any, tmp_path: Path) -> None:
    """And it stays open."""
    file = io.BytesIO(DATA)
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await client.upload("a", file, size=10)
        assert DATA[:10] == await client.read("a")
    assert not file.closed


@on_reactor
async def test_attributes_are_those_of_the_path_and_those_given(reactor: Any, tmp_path: Path) -> None:
    """The given ones win."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    path.chmod(0o640)
    os.utime(path, ns=(0, 10**9))
    async with running(reactor, tmp_path) as cluster:
        metadata = await cluster.client().upload("a", path, attributes={"mode": "0600", "content_type": "text/plain"})
        expected = {"mtime": "1970-01-01T00:00:01.000000000Z", "mode": "0600", "content_type": "text/plain"}
        assert expected == metadata.attributes


@on_reactor
async def test_replicas_are_stored(reactor: Any, tmp_path: Path) -> None:
    """On distinct data servers, each with all of the block."""
    async with running(reactor, tmp_path, 3) as cluster:
        metadata = await cluster.client().upload("a", DATA, replicas=2)
        for number, block in enumerate(metadata.blocks):
            one, other = cluster.nodes(*(replica.data_server for replica in block.replicas))
            part = DATA[7 * number : 7 * number + 7]
            assert one is not other
            assert part == one.block(block.id).read_bytes() == other.block(block.id).read_bytes()
        assert 8 == len(cluster.block_ids())


@on_reactor
async def test_a_file_is_replaced(reactor: Any, tmp_path: Path) -> None:
    """The old blocks are given up."""
    async with running(reactor, tmp_path, trash_grace=0) as cluster:
        client = cluster.client()
        first = await client.upload("a", OLD)
        second = await client.upload("a", DATA)
        assert second.generation > first.generation
        assert DATA == await client.read("a")
        await cluster.collect_trash()
        assert sorted(block.id for block in second.blocks) == cluster.block_ids()


@on_reactor
async def test_a_condition_is_kept(reactor: Any, tmp_path: Path) -> None:
    """Nothing moves where the file is not the one that was meant."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        first = await client.upload("a", OLD, if_generation=0)
        before = cluster.block_ids()
        with pytest.raises(Conflict, match=rf"^the file has generation {first.generation}, not 0$"):
            await client.upload("a", DATA, if_generation=0)
        assert before == cluster.block_ids()
        await client.upload("a", DATA, if_generation=first.generation)
        assert DATA == await client.read("a")


@on_reactor
async def test_many_uploads_at_once_are_all_stored(reactor: Any, tmp_path: Path) -> None:
    """They share the client's concurrency."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client(concurrency=3)
        await gatherResults([client.upload(f"f{number}", DATA + b"%d" % number) for number in range(20)])
        for number in range(20):
            assert DATA + b"%d" % number == await client.read(f"f{number}")


@on_reactor
async def test_blocks_move_at_once_on_few_connections(reactor: Any, tmp_path: Path) -> None:
    """30 blocks to one data server take as many as the concurrency allows, and later ones use them again."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        client = cluster.client(concurrency=3)
        await client.upload("a", b"x" * 210)
        await client.upload("b", b"x" * 210)
        assert 3 == proxy.connections


@on_reactor
async def test_progress_is_told(reactor: Any, tmp_path: Path) -> None:
    """Every byte of every replica, and every block when all of its replicas are stored."""
    async with running(reactor, tmp_path, 2) as cluster:
        heard = Heard()
        await cluster.client().upload("a", DATA, replicas=2, progress=heard)
        assert ([("a", 52)], 52, ["a"]) == (heard.begun, heard.bytes_moved, heard.ended)
        assert ["a-0", "a-1", "a-2", "a-3"] == sorted(block_id for block_id, _done, _total in heard.blocks)
        assert [(1, 4), (2, 4), (3, 4), (4, 4)] == [(done, total) for _id, done, total in heard.blocks]
        both = {node.address for node in cluster.data}
        assert [both] * 4 == [set(place.split(", ")) for place in heard.places]


# What cannot be stored


@pytest.mark.parametrize(
    ("name", "replicas", "kind", "sentence"),
    [
        ("", 1, BadRequest, "missing file_name"),
        ("../a", 1, BadRequest, "file_name '../a' has an empty, '.' or '..' part"),
        ("a", 3, BadRequest, "replica count 3 exceeds available data servers (2)"),
    ],
)
@on_reactor
async def test_what_the_metadata_server_refuses_is_raised(
    reactor: Any, tmp_path: Path, name: str, replicas: int, kind: type[FileFlyError], sentence: str
) -> None:
    """With its sentence."""
    async with running(reactor, tmp_path) as cluster:
        with pytest.raises(kind) as caught:
            await cluster.client().upload(name, DATA, replicas=replicas)
        assert sentence == str(caught.value)


@on_reactor
async def test_a_missing_path_is_told_before_anything_is_planned(reactor: Any, tmp_path: Path) -> None:
    """Nothing is asked of any server."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        with pytest.raises(NotFound, match=rf"^{tmp_path}/missing does not exist$"):
            await client.upload("a", tmp_path / "missing")
        with pytest.raises(NotFound, match=r"^a: file not found$"):
            await client.delete("a")


@on_reactor
async def test_without_a_metadata_server_nothing_is_stored(reactor: Any, tmp_path: Path) -> None:
    """The sentence names its address."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await cluster.stop_meta()
        with pytest.raises(Unavailable, match=rf"^cannot reach {cluster.address}: "):
            await client.upload("a", DATA)


@on_reactor
async def test_without_a_data_server_the_old_file_stays(reactor: Any, tmp_path: Path) -> None:
    """A failed upload changes nothing that was readable."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await client.upload("a", OLD)
        for node in cluster.data:
            await node.stop()
        with pytest.raises(Unavailable, match=r"^block a-\d\.2 cannot be stored \("):
            await client.upload("a", DATA)
        for node in cluster.data:
            node.start()
        assert OLD == await client.read("a")


@on_reactor
async def test_a_block_that_is_too_large_for_a_data_server_is_told(reactor: Any, tmp_path: Path) -> None:
    """By the data server's own words."""
    async with running(reactor, tmp_path, 1, block_size=20 * 2**20) as cluster:
        await cluster.data[0].stop()
        cluster.data[0].max_block_size = 2**20
        cluster.data[0].start()
        with pytest.raises(TooLarge, match=r": size is over the limit of 1048576 bytes \(--max-block-size\)\)$"):
            await cluster.client().upload("a", b"x" * (20 * 2**20))


# Sources that change


class Meddler(Heard):
    """Does something once the first block is stored."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__()
        self._meddle = meddle

    def block_done(self, name: str, block_id: str, size: int, server: str, done: int, total: int) -> None:
        super().block_done(name, block_id, size, server, done, total)
        if done == 1:
            self._meddle()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


@pytest.mark.parametrize(
    "meddle", [lambda path: os.truncate(path, 3), append, lambda path: path.write_bytes(DATA[::-1]), os.unlink]
)
@on_reactor
async def test_a_path_that_changes_is_not_stored(reactor: Any, tmp_path: Path, meddle: Callable[[Path], None]) -> None:
    """Neither as it was nor as it is: it shrinks, grows, is written to, vanishes; the old file stays."""
    path = tmp_path / "source"
    path.write_bytes(DATA)
    os.utime(path, ns=(0, 10**9))
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client(concurrency=1)
        await client.upload("a", OLD)
        with pytest.raises((SourceChanged, NotFound)):
            await client.upload("a", path, progress=Meddler(lambda: meddle(path)))
        assert OLD == await client.read("a")


@on_reactor
async def test_a_file_object_that_shrinks_is_not_stored(reactor: Any, tmp_path: Path) -> None:
    """Its size was announced."""
    file = io.BytesIO(DATA)
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client(concurrency=1)
        with pytest.raises(SourceChanged, match=r"^the file ended before its 26 bytes$"):
            await client.upload("a", file, progress=Meddler(lambda: file.truncate(8)))
        with pytest.raises(NotFound):
            await client.stat("a")


@on_reactor
async def test_replicas_of_a_file_object_that_changed_are_noticed(reactor: Any, tmp_path: Path) -> None:
    """Two copies of one block must not differ."""

    class Changing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.seek(0)
            self.write(data[::-1])
            return data

    async with running(reactor, tmp_path) as cluster:
        client = cluster.client(concurrency=1)
        with pytest.raises(SourceChanged, match=r"^the file changed while it was uploaded; upload it again$"):
            await client.upload("a", Changing(b"0123456"), replicas=2)
        with pytest.raises(NotFound):
            await client.stat("a")


# Data servers and networks that fail

WRONG_SUM = replace(b'"crc32c":"', b'"crc32c":"00000000","was":"')
NO_SUM = replace(b'"crc32c"', b'"nothing"')
CORRUPT = b'{"status":"error","error":"crc32c is 1, expected 2","code":"corrupt"}\n'
FAULTS: dict[str, Mangle] = {
    "garbage": say_instead(b"garbage\n"),
    "corrupt": say_instead(CORRUPT),
    "hung up": cut_after(0),
    "cut short": cut_after(10),
    "bit flipped": flip_bit_of(3),
    "wrong sum": WRONG_SUM,
    "no sum": NO_SUM,
}


@pytest.mark.parametrize("fault", FAULTS)
@on_reactor
async def test_what_passes_is_tried_again(reactor: Any, tmp_path: Path, fault: str) -> None:
    """Progress adds up to the file, however often a part of it had to move again."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        proxy.always = the_first(2, FAULTS[fault])
        client, heard = cluster.client(concurrency=1), Heard()
        await client.upload("a", DATA, progress=heard)
        assert DATA == await client.read("a")
        assert 26 == heard.bytes_moved
        assert [("a-0", 1, 4), ("a-1", 2, 4), ("a-2", 3, 4), ("a-3", 4, 4)] == heard.blocks


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("garbage", Unavailable), ("cut short", Unavailable), ("wrong sum", Corrupt), ("no sum", Corrupt)],
)
@on_reactor
async def test_what_does_not_pass_is_an_error(
    reactor: Any, tmp_path: Path, fault: str, kind: type[FileFlyError]
) -> None:
    """After three tries; the old file stays, and no byte is counted as moved."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        heard = Heard()
        await cluster.client().upload("a", OLD)
        proxy.always = the_first(3, FAULTS[fault])
        client = cluster.client(concurrency=1)
        with pytest.raises(kind):
            await client.upload("a", DATA, progress=heard)
        assert (0, [], []) == (heard.bytes_moved, heard.blocks, heard.ended)
        assert OLD == await client.read("a")  # the fourth try would have gone well


# Being cancelled


@on_reactor
async def test_a_cancelled_upload_leaves_nothing_visible(reactor: Any, tmp_path: Path) -> None:
    """And no connection: a half-sent block must not be finished by something else."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        proxy.always = say_nothing
        client = cluster.client(concurrency=2)
        uploading = client.upload("a", DATA)
        while proxy.connections < 2 or not proxy.received:
            await next_turn()
        uploading.cancel()
        with pytest.raises(CancelledError):
            await uploading
        while proxy.open:
            await next_turn()
        with pytest.raises(NotFound):
            await client.stat("a")


@on_reactor
async def test_an_upload_may_be_cancelled_at_any_time(reactor: Any, tmp_path: Path) -> None:
    """In each turn of the reactor: there is the old file, or the new one if the commit was under way, and no mix."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client(concurrency=2)
        await client.upload("a", OLD)
        for turns in range(0, 40, 3):
            uploading = client.upload("a", DATA)
            for _ in range(turns):
                await next_turn()
            uploading.cancel()
            with suppress(CancelledError):
                await uploading
            assert await client.read("a") in (OLD, DATA)


@on_reactor
async def test_a_client_goes_on_after_a_cancelled_upload(reactor: Any, tmp_path: Path) -> None:
    """No turn is lost: the next one has all of the concurrency."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        client = cluster.client(concurrency=2)
        for _ in range(3):
            proxy.always = say_nothing
            before = proxy.connections
            uploading = client.upload("a", DATA)
            while proxy.connections < before + 2:
                await next_turn()
            uploading.cancel()
            with pytest.raises(CancelledError):
                await uploading
        proxy.always = None
        await client.upload("a", DATA)
        assert DATA == await client.read("a")
