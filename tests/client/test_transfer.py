from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from filefly.client.decisions import slices_of
from filefly.client.transfer import BlockTransfer, run_all
from filefly.errors import Corrupt, DiskFull, Unavailable
from filefly.wire.messages import Block, Metadata, Replica
from tests.client.clusters import pooling
from tests.client.faults import Proxy, cut_after, flip_bit_of, flip_every_bulk, proxy_of, replace, say_instead
from tests.meta.running import DataNode, data_node, sum_of
from tests.on_reactor import on_reactor
from tests.peer import inline, now

Job = Callable[[], Awaitable[None]]


# run_all


class Jobs:
    """Jobs that end when the test says so."""

    def __init__(self, count: int) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.ends: dict[int, Deferred[None]] = {}
        self._count = count

    def __iter__(self) -> Iterator[Job]:
        for number in range(self._count):
            yield partial(self._run, number)

    async def _run(self, number: int) -> None:
        self.begun.append(number)
        self.ends[number] = Deferred(lambda _: self.cancelled.append(number))
        await self.ends[number]

    def run(self, at_once: int) -> Deferred[None]:
        return Deferred.fromCoroutine(run_all(self, at_once))


def test_jobs_run_a_few_at_a_time() -> None:
    """The next one begins when one ends, in their order."""
    jobs = Jobs(5)
    running = jobs.run(2)
    assert [0, 1] == jobs.begun
    jobs.ends[1].callback(None)
    assert [0, 1, 2] == jobs.begun
    for number in (0, 2, 3, 4):
        jobs.ends[number].callback(None)
    now(running)
    assert [0, 1, 2, 3, 4] == jobs.begun


def test_no_jobs_are_done_at_once() -> None:
    """There is nothing to wait for."""
    now(Jobs(0).run(4))


def test_the_first_error_ends_all_jobs() -> None:
    """Those that run are cancelled, those that wait never begin; the error is raised as it is."""
    jobs = Jobs(5)
    running = jobs.run(2)
    jobs.ends[0].errback(DiskFull("full"))
    with pytest.raises(DiskFull, match=r"^full$"):
        now(running)
    assert ([0, 1], [1]) == (jobs.begun, jobs.cancelled)


def test_cancelling_ends_all_jobs() -> None:
    """And none begins after it."""
    jobs = Jobs(5)
    running = jobs.run(2)
    running.cancel()
    with pytest.raises(CancelledError):
        now(running)
    assert ([0, 1], [0, 1]) == (jobs.begun, jobs.cancelled)


@pytest.mark.parametrize("nested", [False, True])
def test_jobs_are_cancelled_once(nested: bool) -> None:
    """A job that cleans up is waited for, while others have done so already."""
    heard: list[str] = []
    cleaning: Deferred[None] = Deferred()

    async def clean_up_slowly() -> None:
        try:
            await Deferred()
        finally:
            await cleaning
            heard.append("clean")

    async def end_at_once() -> None:
        await Deferred()

    jobs = partial(run_all, [clean_up_slowly, end_at_once], 2)
    running = Deferred.fromCoroutine(run_all([jobs, end_at_once], 2) if nested else jobs())
    running.cancel()
    assert [] == heard
    cleaning.callback(None)
    with pytest.raises(CancelledError):
        now(running)
    assert ["clean"] == heard


# Pieces: what the metadata server sends on as it comes


def file_at(data: bytes, *addresses: str) -> Metadata:
    block = Block("a-0", len(data), addresses[0], [Replica(address) for address in addresses], sum_of(data))
    fields: dict[str, Any] = {"name": "a", "block_size": len(data), "generation": 1, "replicas": 2, "attributes": {}}
    return Metadata(**fields, total_size=len(data), state="committed", blocks=[block])


DATA = bytes(range(256)) * 400


@asynccontextmanager
async def two_ways(reactor: Any, node: DataNode) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """Run two proxies before one data server: as good as two replicas."""
    async with proxy_of(reactor, node.port) as one, proxy_of(reactor, node.port) as other:
        yield one, other


@asynccontextmanager
async def serving(reactor: Any, folder: Path) -> AsyncIterator[DataNode]:
    """Run a data server that has the block."""
    async with data_node(reactor, folder) as node:
        node.put("a-0", DATA)
        yield node


@pytest.mark.parametrize(("offset", "length"), [(0, None), (1000, None), (0, 70_000), (1000, 70_000)])
@on_reactor
async def test_another_replica_goes_on_half_way_in_a_block(
    reactor: Any, tmp_path: Path, offset: int, length: int | None
) -> None:
    """Behind the last byte that came from the first one."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, two_ways(reactor, node) as (bad, good):
        bad.always = cut_after(40_000)
        transfer = BlockTransfer(reactor, pool, inline, 1)
        [part] = slices_of(file_at(DATA, bad.address, good.address), offset, length)
        received = b"".join([piece async for piece in transfer.pieces(part)])
        assert DATA[offset:][:length] == received
        assert (1, 1) == (bad.connections, good.connections)


@pytest.mark.parametrize(("offset", "length"), [(0, None), (1000, 70_000)])
@on_reactor
async def test_bytes_that_changed_on_the_way_end_with_an_error(
    reactor: Any, tmp_path: Path, offset: int, length: int | None
) -> None:
    """They have been passed on already, so nothing may look as if it went well."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, proxy_of(reactor, node.port) as bad:
        bad.always = flip_every_bulk
        transfer = BlockTransfer(reactor, pool, inline, 1)
        [part] = slices_of(file_at(DATA, bad.address), offset, length)
        with pytest.raises(Corrupt):
            async for _piece in transfer.pieces(part):
                pass


@on_reactor
async def test_bytes_that_changed_on_the_way_are_not_mended_by_another_replica(reactor: Any, tmp_path: Path) -> None:
    """Going on behind wrong bytes would make a whole that looks right."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, two_ways(reactor, node) as (bad, good):
        bad.always = flip_every_bulk
        transfer = BlockTransfer(reactor, pool, inline, 1)
        [part] = slices_of(file_at(DATA, bad.address, good.address))
        with pytest.raises(Corrupt):
            async for _piece in transfer.pieces(part):
                pass


@on_reactor
async def test_a_range_that_two_replicas_sent_is_checked_too(reactor: Any, tmp_path: Path) -> None:
    """The first one's bytes have no checksum of their own, for it broke off: were they wrong, who would know?"""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:

        def flip_and_cut(data: bytes, at: int) -> bytes | None:
            return cut_after(40_000)(flip_bit_of(5_000)(data, at) or b"", at)

        async with proxy_of(reactor, node.port) as bad, proxy_of(reactor, node.port) as good:
            bad.always = flip_and_cut
            transfer = BlockTransfer(reactor, pool, inline, 1)
            [part] = slices_of(file_at(DATA, bad.address, good.address), 1000, 70_000)
            with pytest.raises(Unavailable, match=r"crc32c is \w+, expected \w+\)$"):
                async for _piece in transfer.pieces(part):
                    pass


@on_reactor
async def test_a_range_without_a_checksum_is_not_trusted(reactor: Any, tmp_path: Path) -> None:
    """Whoever checked the whole block knows that of the range."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, proxy_of(reactor, node.port) as bad:
        bad.always = replace(b'"crc32c"', b'"nothing"')
        transfer = BlockTransfer(reactor, pool, inline, 1)
        [part] = slices_of(file_at(DATA, bad.address), 1000, 70_000)
        with pytest.raises(Corrupt):
            async for _piece in transfer.pieces(part):
                pass


@on_reactor
async def test_all_replicas_are_named_where_none_has_the_block(reactor: Any, tmp_path: Path) -> None:
    """With what each of them said; only one that is really bad is reported."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        node.block("a-0").unlink()
        async with proxy_of(reactor, node.port) as one, proxy_of(reactor, node.port) as other:
            other.always = say_instead(b"garbage\n")
            reported: list[tuple[str, str]] = []
            transfer = BlockTransfer(reactor, pool, inline, 1, lambda *bad: reported.append(bad))
            [part] = slices_of(file_at(DATA, one.address, other.address))
            with pytest.raises(Unavailable) as caught:
                await anext(transfer.pieces(part))
            assert f"{one.address}: block not found; {other.address}: the server's reply" in str(caught.value)
            assert [("a-0", one.address)] == reported


# Data servers that do not answer


@on_reactor
async def test_who_did_not_answer_is_asked_last_for_a_while(reactor: Any, tmp_path: Path) -> None:
    """The next blocks do not wait for it; after a minute it gets another chance."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, two_ways(reactor, node) as (hung, good):
        clock, asked = Clock(), []

        def say_too_late(_data: bytes, _at: int) -> bytes:
            asked.append(clock.seconds())
            return b'{"status":"error","error":"no answer","code":"timeout"}\n'

        hung.always = say_too_late
        transfer = BlockTransfer(clock, pool, inline, 1)
        [part] = slices_of(file_at(DATA, hung.address, good.address), 0, 10)
        for seconds in (0, 1, 58, 2, 1):
            clock.advance(seconds)
            assert [DATA[:10]] == await transfer.read(part)
        assert [0, 61] == asked
