import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from filefly.client.api import Client
from filefly.errors import Corrupt, FileFlyError, Incomplete, NotFound, Unavailable
from tests.client.clusters import Heard, proxied, with_file
from tests.client.faults import OF_A_READ, Proxy, cut_after, flip_bit_of, say_nothing
from tests.meta.running import plan_of, running
from tests.on_reactor import next_turn, on_reactor
from tests.peer import HeldThreads

DATA = b"0123456789abcdefghijklmnop"
NEW = b"something else altogether"


def parts(folder: Path) -> list[str]:
    """Return what is in the folder that is downloaded to."""
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "copy"


# To a path


@pytest.mark.parametrize("size", [0, 1, 7, 8, 200])
@on_reactor
async def test_a_file_of_any_size_comes_back(reactor: Any, tmp_path: Path, target: Path, size: int) -> None:
    """Nothing but it is left in the folder."""
    data = os.urandom(size)
    async with with_file(reactor, tmp_path, data) as (_cluster, client):
        metadata = await client.download("a", target)
        assert metadata == await client.stat("a")
        assert data == target.read_bytes()
        assert ["copy"] == parts(target.parent)


@on_reactor
async def test_a_file_of_large_blocks_comes_back(reactor: Any, tmp_path: Path, target: Path) -> None:
    """Each in many pieces, all written to their places."""
    data = os.urandom(5 * 2**20 + 1)
    async with with_file(reactor, tmp_path, data, block_size=3 * 2**20) as (_cluster, client):
        await client.download("a", target)
        assert data == target.read_bytes()


@on_reactor
async def test_a_file_gets_its_time_and_mode_back(reactor: Any, tmp_path: Path, target: Path) -> None:
    """As they were at the upload."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    source.chmod(0o604)
    os.utime(source, ns=(0, 1_234_567_890_123_456_789))
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await client.upload("a", source)
        await client.download("a", target)
        assert (0o604, 1_234_567_890_123_456_789) == (target.stat().st_mode & 0o777, target.stat().st_mtime_ns)


@on_reactor
async def test_a_download_replaces_what_was_there(reactor: Any, tmp_path: Path, target: Path) -> None:
    """When it is complete, and not before."""
    target.write_bytes(b"old")
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        await client.download("a", target)
        assert DATA == target.read_bytes()


@on_reactor
async def test_a_download_tells_of_its_progress(reactor: Any, tmp_path: Path, target: Path) -> None:
    """Every byte, every block and where it came from."""
    async with with_file(reactor, tmp_path, DATA) as (cluster, client):
        heard = Heard()
        await client.download("a", target, progress=heard)
        assert ([("a", 26)], 26, ["a"]) == (heard.begun, heard.bytes_moved, heard.ended)
        assert [(1, 4), (2, 4), (3, 4), (4, 4)] == [(done, total) for _id, done, total in heard.blocks]
        assert {node.address for node in cluster.data} == set(heard.places)


@on_reactor
async def test_a_missing_file_cannot_be_downloaded(reactor: Any, tmp_path: Path, target: Path) -> None:
    """The sentence names it; nothing is created."""
    async with running(reactor, tmp_path) as cluster:
        with pytest.raises(NotFound, match=r"^missing: file not found$"):
            await cluster.client().download("missing", target)
        assert [] == parts(target.parent)


@on_reactor
async def test_a_plan_cannot_be_downloaded(reactor: Any, tmp_path: Path, target: Path) -> None:
    """Its blocks are not there yet."""
    async with running(reactor, tmp_path) as cluster:
        async with cluster.calling() as caller:
            await plan_of(caller)
        with pytest.raises(Incomplete, match=r"^a is not complete: "):
            await cluster.client().download("a", target)
        assert [] == parts(target.parent)


@on_reactor
async def test_a_missing_folder_is_told(reactor: Any, tmp_path: Path, target: Path) -> None:
    """It is not created here."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        with pytest.raises(NotFound, match=r"/here/no does not exist; create it first$"):
            await client.download("a", target.parent / "no" / "copy")


@pytest.mark.parametrize(
    ("damage", "kind"),
    [(lambda _data: None, NotFound), (lambda data: data[:-1], Corrupt), (lambda data: data[::-1], Corrupt)],
)
@on_reactor
async def test_a_damaged_block_is_never_written(
    reactor: Any, tmp_path: Path, target: Path, damage: Any, kind: type[FileFlyError]
) -> None:
    """Without another replica there is no file; what was there before stays."""
    target.write_bytes(b"old")
    async with with_file(reactor, tmp_path, DATA) as (cluster, client):
        [node] = [node for node in cluster.data if "a-2" in node.block_ids()]
        data = damage(node.block("a-2").read_bytes())
        if data is None:
            node.block("a-2").unlink()
        else:
            node.put("a-2", data)
        heard = Heard()
        with pytest.raises(kind, match=r"^block a-2 cannot be read \(127\.0\.0\.1:"):
            await client.download("a", target, progress=heard)
        assert [] == heard.ended
        assert b"old" == target.read_bytes()
        assert ["copy"] == parts(target.parent)


@pytest.mark.parametrize("fault", OF_A_READ)
@on_reactor
async def test_another_replica_stands_in(reactor: Any, tmp_path: Path, target: Path, fault: str) -> None:
    """Whatever a data server, or what is between, does to a block; progress adds up."""
    data = os.urandom(210_000)
    async with proxied(reactor, tmp_path, 2, block_size=70_000, replicas=2) as (cluster, proxies):
        heard = Heard()
        await cluster.client().upload("a", data)
        proxies[0].always = OF_A_READ[fault]
        await cluster.client(concurrency=1).download("a", target, progress=heard)
        assert data == target.read_bytes()
        assert 210_000 == heard.bytes_moved
        assert {proxies[1].address} == set(heard.places)


@pytest.mark.parametrize(("fault", "kind"), [("garbage", Unavailable), ("bit flipped", Corrupt), ("too long", Corrupt)])
@on_reactor
async def test_without_a_good_replica_there_is_an_error(
    reactor: Any, tmp_path: Path, target: Path, fault: str, kind: type[FileFlyError]
) -> None:
    """It tells what each place said; no byte is counted, no file appears."""
    data = os.urandom(70_000)
    async with proxied(reactor, tmp_path, 2, block_size=70_000, replicas=2) as (cluster, proxies):
        heard = Heard()
        await cluster.client().upload("a", data)
        for proxy in proxies:
            proxy.always = OF_A_READ[fault]
        with pytest.raises(kind) as caught:
            await cluster.client().download("a", target, progress=heard)
        assert all(f"{proxy.address}: " in str(caught.value) for proxy in proxies)
        assert (0, []) == (heard.bytes_moved, heard.ended)
        assert [] == parts(target.parent)


@on_reactor
async def test_a_fault_that_passes_is_tried_again(reactor: Any, tmp_path: Path, target: Path) -> None:
    """Also where there is only one replica."""
    data = os.urandom(210_000)
    async with proxied(reactor, tmp_path, 1, block_size=70_000) as (cluster, [proxy]):
        heard = Heard()
        await cluster.client().upload("a", data)
        proxy.faults = [flip_bit_of(5_000), cut_after(60_000)]
        await cluster.client(concurrency=1).download("a", target, progress=heard)
        assert data == target.read_bytes()
        assert 210_000 == heard.bytes_moved


@on_reactor
async def test_a_silent_data_server_is_left_for_another(reactor: Any, tmp_path: Path, target: Path) -> None:
    """After the time that the client was given."""
    async with proxied(reactor, tmp_path, 2, replicas=2) as (cluster, proxies):
        await cluster.client().upload("a", DATA)
        proxies[0].always = say_nothing
        client = Client(reactor, cluster.address, timeout_seconds=0.05)
        try:
            assert DATA == await client.read("a")
        finally:
            client.close()


# What changes while it is downloaded


async def hold(proxy: Proxy, client: Client, target: Path) -> Any:
    """Begin a download, and return when it waits for its first block."""
    proxy.always = say_nothing
    before = proxy.received
    downloading = client.download("a", target)
    while proxy.received == before:
        await next_turn()
    proxy.always = None
    return downloading


def let_go(proxy: Proxy) -> None:
    """Break the connections that wait."""
    for connection in list(proxy.open):
        connection.transport.abortConnection()


@on_reactor
async def test_a_file_that_is_replaced_while_it_is_downloaded_starts_over(
    reactor: Any, tmp_path: Path, target: Path
) -> None:
    """The old blocks are gone: the new file is what is there in the end, and no mix."""
    async with proxied(reactor, tmp_path, trash_grace=0) as (cluster, [proxy]):
        writer = cluster.client()
        await writer.upload("a", DATA)
        downloading = await hold(proxy, cluster.client(concurrency=1), target)
        second = await writer.upload("a", NEW)
        await cluster.collect_trash()
        let_go(proxy)
        assert second.generation == (await downloading).generation
        assert NEW == target.read_bytes()
        assert ["copy"] == parts(target.parent)


@on_reactor
async def test_a_file_that_is_deleted_while_it_is_downloaded_is_not_found(
    reactor: Any, tmp_path: Path, target: Path
) -> None:
    """Nothing is left of what had been read."""
    async with proxied(reactor, tmp_path, trash_grace=0) as (cluster, [proxy]):
        writer = cluster.client()
        await writer.upload("a", DATA)
        downloading = await hold(proxy, cluster.client(concurrency=1), target)
        await writer.delete("a")
        await cluster.collect_trash()
        let_go(proxy)
        with pytest.raises(NotFound, match=r"^a: file not found$"):
            await downloading
        assert [] == parts(target.parent)


@on_reactor
async def test_what_was_replaced_is_still_read_within_its_grace(reactor: Any, tmp_path: Path, target: Path) -> None:
    """A download that began before ends with the file that it began with."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        writer = cluster.client()
        first = await writer.upload("a", DATA)
        downloading = await hold(proxy, cluster.client(concurrency=1), target)
        await writer.upload("a", NEW)
        await cluster.collect_trash()
        let_go(proxy)
        assert first.generation == (await downloading).generation
        assert DATA == target.read_bytes()


# Being cancelled


@on_reactor
async def test_a_cancelled_download_leaves_nothing(reactor: Any, tmp_path: Path, target: Path) -> None:
    """Neither a file nor a connection, and what was there before stays."""
    target.write_bytes(b"old")
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        await cluster.client().upload("a", DATA)
        downloading = await hold(proxy, cluster.client(concurrency=1), target)
        idle = len(proxy.open) - 1
        downloading.cancel()
        with pytest.raises(CancelledError):
            await downloading
        while len(proxy.open) > idle:
            await next_turn()
        assert b"old" == target.read_bytes()
        assert ["copy"] == parts(target.parent)


@on_reactor
async def test_a_download_may_be_cancelled_at_any_time(reactor: Any, tmp_path: Path, target: Path) -> None:
    """In each turn of the reactor: there is the whole file or none."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        for turns in range(0, 36, 2):
            target.unlink(missing_ok=True)
            downloading = client.download("a", target)
            for _ in range(turns):
                await next_turn()
            downloading.cancel()
            with suppress(CancelledError):
                await downloading
            assert parts(target.parent) in ([], ["copy"])
            assert not target.exists() or target.read_bytes() == DATA


@on_reactor
async def test_a_download_may_be_cancelled_before_its_file_is_open(reactor: Any, tmp_path: Path, target: Path) -> None:
    """A thread that cannot be stopped creates nothing afterwards."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        threads: Any = HeldThreads()
        real, client.in_thread = client.in_thread, threads
        try:
            downloading = client.download("a", target)
            while not threads.held:
                await next_turn()
            downloading.cancel()
            while threads.held:
                threads.run_all()
                await next_turn()
            with pytest.raises(CancelledError):
                await downloading
            assert [] == parts(target.parent)
        finally:
            client.in_thread = real
