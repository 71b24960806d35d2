import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from filefly.errors import BadRange, Corrupt
from tests.client.clusters import proxied, with_file
from tests.client.faults import OF_A_READ, say_nothing
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789abcdefghijklmnop"


@on_reactor
async def test_every_range_is_read(reactor: Any, tmp_path: Path) -> None:
    """Any offset and length, within blocks and across them, clipped at the end."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        for offset in range(27):
            for length in (None, 0, 1, 6, 7, 8, 13, 40):
                assert DATA[offset:][:length] == await client.read("a", offset, length)


@on_reactor
async def test_a_range_beyond_the_end_is_refused(reactor: Any, tmp_path: Path) -> None:
    """At once."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        with pytest.raises(BadRange, match=r"^offset 27 is beyond the file's 26 bytes$"):
            await client.read("a", 27)


@on_reactor
async def test_a_stream_is_in_order(reactor: Any, tmp_path: Path) -> None:
    """Though its blocks come as they like."""
    data = os.urandom(700)
    async with with_file(reactor, tmp_path, data) as (_cluster, client):
        chunks = []
        async with aclosing(client.stream("a")) as stream:
            async for chunk in stream:
                chunks.append(chunk)
        assert data == b"".join(chunks)
        assert len(chunks) > 50


@on_reactor
async def test_a_stream_reads_ahead_within_bounds(reactor: Any, tmp_path: Path) -> None:
    """No more blocks wait for a slow reader than the concurrency allows."""
    data = os.urandom(210_000)
    async with proxied(reactor, tmp_path, block_size=10_000) as (cluster, [proxy]):
        passed: list[int] = []

        def count(data: bytes, _at: int) -> bytes:
            passed.append(len(data))
            return data

        await cluster.client().upload("a", data)
        proxy.always = count
        async with aclosing(cluster.client(concurrency=2).stream("a")) as stream:
            await anext(stream)
            for _ in range(200):
                await next_turn()
            assert sum(passed) < 3 * 10_500


@on_reactor
async def test_a_stream_may_be_left(reactor: Any, tmp_path: Path) -> None:
    """What was read ahead is given up; the client goes on."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        for _ in range(3):
            async with aclosing(client.stream("a")) as stream:
                assert DATA.startswith(await anext(stream))
        assert DATA == await client.read("a")


@on_reactor
async def test_a_stream_never_yields_wrong_bytes(reactor: Any, tmp_path: Path) -> None:
    """It ends with an error where the damage begins."""
    async with with_file(reactor, tmp_path, DATA) as (cluster, client):
        [node] = [node for node in cluster.data if "a-2" in node.block_ids()]
        node.put("a-2", b"WRONG!!")
        received = b""
        with pytest.raises(Corrupt):  # noqa: PT012
            async with aclosing(client.stream("a")) as stream:
                async for chunk in stream:
                    received += chunk
        assert DATA[:14] == received


@pytest.mark.parametrize("fault", OF_A_READ)
@on_reactor
async def test_a_stream_goes_on_with_another_replica(reactor: Any, tmp_path: Path, fault: str) -> None:
    """Ranges of blocks are verified, too."""
    data = os.urandom(210_000)
    async with proxied(reactor, tmp_path, 2, block_size=70_000, replicas=2) as (cluster, proxies):
        await cluster.client().upload("a", data)
        proxies[0].always = OF_A_READ[fault]
        client = cluster.client(concurrency=2)
        assert data == await client.read("a")
        assert data[5:190_000] == await client.read("a", 5, 189_995)


@on_reactor
async def test_a_cancelled_read_leaves_nothing(reactor: Any, tmp_path: Path) -> None:
    """No connection that waits for bytes which nobody wants."""
    async with proxied(reactor, tmp_path) as (cluster, [proxy]):
        await cluster.client().upload("a", DATA)
        idle = len(proxy.open)
        proxy.always = say_nothing
        reading = cluster.client(concurrency=2).read("a")
        while len(proxy.open) < idle + 2:
            await next_turn()
        reading.cancel()
        with pytest.raises(CancelledError):
            await reading
        while len(proxy.open) > idle:
            await next_turn()


@implementer(IConsumer)
class Consumer:
    """Takes one chunk at a time."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self.taken.append(data)
        self.producer.pauseProducing()


@on_reactor
async def test_a_consumer_sets_the_pace(reactor: Any, tmp_path: Path) -> None:
    """Nothing is written while it is full."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        consumer = Consumer()
        writing = client.download_to("a", consumer, 3)
        while not consumer.taken:
            await next_turn()
        for _ in range(20):
            await next_turn()
        assert 1 == len(consumer.taken)
        while not writing.called:
            if consumer.producer is not None:
                consumer.producer.resumeProducing()
            await next_turn()
        await writing
        assert DATA[3:] == b"".join(consumer.taken)
        assert consumer.producer is None


@on_reactor
async def test_a_consumer_that_waits_can_be_left(reactor: Any, tmp_path: Path) -> None:
    """It is not left with a producer."""
    async with with_file(reactor, tmp_path, DATA) as (_cluster, client):
        consumer = Consumer()
        writing = client.download_to("a", consumer)
        while not consumer.taken:
            await next_turn()
        writing.cancel()
        with pytest.raises(CancelledError):
            await writing
        assert consumer.producer is None
