"""Blocks that a client reads itself, from open files that the data server on its machine hands out."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from filefly.client.local_reads import WORTH_A_FILE, OpenBlock
from filefly.client.transfer import BlockTransfer
from filefly.errors import Corrupt, DiskFull, FileFlyError, NotFound, Unavailable
from filefly.threads import WorkerPool
from filefly.units import Chunks
from tests.client.clusters import pooling, proxied
from tests.client.faults import flip_every_bulk, proxy_of
from tests.client.local import DATA, PING_BYTES, Fetching, Written, block_at, fetching
from tests.descriptors import none_left
from tests.meta.running import DataNode, data_node
from tests.on_reactor import next_turn, on_reactor
from tests.peer import HeldThreads, inline

# Blocks that are read here


@on_reactor
async def test_a_block_of_this_machine_is_read_here(reactor: Any, tmp_path: Path) -> None:
    """No byte of it comes over TCP, where it would have been damaged; one question is enough for all blocks."""
    async with fetching(reactor, tmp_path) as here:
        asked = []
        for _ in range(3):
            assert DATA == await here.fetch()
            asked.append(here.proxy.received)
        assert [PING_BYTES] * 3 == asked


@on_reactor
async def test_a_download_reads_here(reactor: Any, tmp_path: Path) -> None:
    """Many blocks at once, and not one over TCP."""
    async with (
        none_left(),
        proxied(reactor, tmp_path, 2, local_reads=True, block_size=WORTH_A_FILE) as (cluster, proxies),
    ):
        data = DATA[: 10 * WORTH_A_FILE]
        await cluster.client().upload("a", data)
        for proxy in proxies:
            proxy.always = flip_every_bulk
        await cluster.client().download("a", tmp_path / "copy")
        assert data == (tmp_path / "copy").read_bytes()


@on_reactor
async def test_blocks_that_are_small_come_over_tcp(reactor: Any, tmp_path: Path) -> None:
    """The data server is not even asked."""
    async with fetching(reactor, tmp_path) as here:
        here.proxy.always = None
        small = DATA[: WORTH_A_FILE - 1]
        here.node.put("b-0", small)
        written = Written()
        await here.transfer.fetch(block_at(here.proxy, block_id="b-0", data=small), written.write, written.count)
        assert small == written.data[: len(small)]
        assert len(b'{"command":"retrieve","block_id":"b-0","raw":true}\n') == here.proxy.received


@on_reactor
async def test_a_data_server_without_a_local_socket_is_asked_once(reactor: Any, tmp_path: Path) -> None:
    """Then all comes over TCP."""
    async with data_node(reactor, tmp_path) as node, proxy_of(reactor, node.port) as proxy, pooling(reactor) as pool:
        node.put("a-0", DATA)
        here = Fetching(node, proxy, BlockTransfer(reactor, pool, inline, 1), [])
        received = []
        for _ in range(3):
            assert DATA == await here.fetch()
            received.append(proxy.received)
        retrieve = len(b'{"command":"retrieve","block_id":"a-0","raw":true}\n')
        assert [PING_BYTES + retrieve * times for times in (1, 2, 3)] == received


# Blocks that are not as they should be


def missing(node: DataNode) -> None:
    """Let the block be gone."""
    node.block("a-0").unlink()


def damaged(node: DataNode) -> None:
    """Let a bit have flipped."""
    node.put("a-0", b"x" + DATA[1:])


def shorter(node: DataNode) -> None:
    """Let the block be cut."""
    node.put("a-0", DATA[:-1])


def longer(node: DataNode) -> None:
    """Let something be behind the block."""
    node.put("a-0", DATA + b"x")


BAD: list[tuple[Callable[[DataNode], None], type[FileFlyError]]] = [
    (missing, NotFound),
    (damaged, Corrupt),
    (shorter, Corrupt),
    (longer, Corrupt),
]


@pytest.mark.parametrize(("spoil", "expected"), BAD)
@on_reactor
async def test_a_bad_block_is_what_it_is_over_tcp(
    reactor: Any, tmp_path: Path, spoil: Callable[[DataNode], None], expected: type[FileFlyError]
) -> None:
    """The same error, the same report; and blocks that are good are still read here."""
    async with fetching(reactor, tmp_path) as here:
        here.node.put("b-0", DATA)
        spoil(here.node)
        here.proxy.always = None
        with pytest.raises(expected):
            await here.fetch()
        assert [("a-0", here.proxy.address)] == here.reported
        asked = here.proxy.received
        assert DATA == await here.fetch(block_id="b-0")
        assert asked == here.proxy.received


@pytest.mark.parametrize("spoil", [missing, damaged, shorter, longer])
@on_reactor
async def test_another_replica_is_read_instead_of_a_bad_one(
    reactor: Any, tmp_path: Path, spoil: Callable[[DataNode], None]
) -> None:
    """And the bad one is reported."""
    async with fetching(reactor, tmp_path) as here, data_node(reactor, tmp_path / "other", local_reads=True) as other:
        other.put("a-0", DATA)
        spoil(here.node)
        assert DATA == await here.fetch(here.node, other)
        assert [("a-0", here.node.address)] == here.reported


# Reads that end early


@on_reactor
async def test_a_read_that_is_cancelled_before_it_began_leaves_nothing(reactor: Any, tmp_path: Path) -> None:
    """Nothing is written any more, and the file is closed, though the thread has still to come to it."""
    threads = HeldThreads()
    async with fetching(reactor, tmp_path, threads) as here:
        written = Written()
        reading = Deferred.fromCoroutine(here.transfer.fetch(block_at(here.proxy), written.write, written.count))
        while not threads.held:
            await next_turn()
        reading.cancel()
        with pytest.raises(CancelledError):
            await reading
        threads.run_all()
        assert (0, 0) == (written.pieces, written.moved)


@on_reactor
async def test_a_read_that_is_cancelled_in_the_middle_ends_there(reactor: Any, tmp_path: Path) -> None:
    """The piece that is being written is the last one; the thread closes the file."""
    threads = WorkerPool(reactor, "reading", 1)
    threads.start()
    written, begun, go_on = Written(), Deferred[None](), threading.Event()

    def write_slowly(offset: int, chunks: Chunks) -> None:
        written.write(offset, chunks)
        reactor.callFromThread(begun.callback, None)
        go_on.wait(60)

    async with fetching(reactor, tmp_path, threads) as here:
        reading = Deferred.fromCoroutine(here.transfer.fetch(block_at(here.proxy), write_slowly, written.count))
        await begun
        reading.cancel()
        with pytest.raises(CancelledError):
            await reading
        go_on.set()
        threads.stop()
    assert (1, 0) == (written.pieces, written.moved)


@on_reactor
async def test_a_read_whose_threads_have_stopped_leaves_no_file_open(reactor: Any, tmp_path: Path) -> None:
    """As where a client is closed too early."""
    async with fetching(reactor, tmp_path, WorkerPool(reactor, "stopped", 1)) as here:
        here.proxy.always = None
        with pytest.raises(Unavailable, match="shutting down"):
            await here.fetch()


@on_reactor
async def test_what_cannot_be_written_here_is_an_error(reactor: Any, tmp_path: Path) -> None:
    """No other way of reading makes room for it."""

    def fail(_offset: int, _chunks: Chunks) -> None:
        raise DiskFull("full")

    async with fetching(reactor, tmp_path) as here:
        with pytest.raises(DiskFull, match="full"):
            await here.transfer.fetch(block_at(here.proxy), fail, lambda _size: None)


def test_a_file_that_became_shorter_is_said_to_be(tmp_path: Path) -> None:
    """What is not there cannot be waited for."""
    (tmp_path / "short").write_bytes(DATA[:-1])
    file = OpenBlock(os.open(tmp_path / "short", os.O_RDONLY))
    with pytest.raises(Unavailable, match="cut short"):
        file.read(len(DATA), lambda _chunks: None)


def test_what_is_no_file_is_not_read() -> None:
    """A device might have no end, or never answer."""
    with pytest.raises(Unavailable, match="no file"):
        OpenBlock(os.open("/dev/zero", os.O_RDONLY)).read(1, lambda _chunks: None)
