"""Clusters whose data servers clients reach through proxies."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from filefly.client.api import Client
from filefly.client.connection import ConnectionPool
from filefly.client.progress import Progress
from tests.client.faults import Proxy, proxy_of
from tests.meta.running import RunningCluster, running


class Heard(Progress):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.bytes_moved = 0
        self.blocks: list[tuple[str, int, int]] = []
        self.places: list[str] = []
        self.ended: list[str] = []
        self.there_already: list[int] = []
        self.short: list[tuple[int, int]] = []

    def started(self, name: str, total_size: int) -> None:
        self.begun.append((name, total_size))

    def kept(self, name: str, size: int) -> None:
        self.there_already.append(size)

    def moved(self, name: str, size: int) -> None:
        self.bytes_moved += size

    def block_done(self, name: str, block_id: str, size: int, server: str, done: int, total: int) -> None:
        self.blocks.append((block_id, done, total))
        self.places.append(server)

    def short_of_copies(self, name: str, blocks: int, total: int) -> None:
        self.short.append((blocks, total))

    def finished(self, name: str) -> None:
        self.ended.append(name)


@asynccontextmanager
async def pooling(reactor: Any, known_host: str = "localhost") -> AsyncIterator[ConnectionPool]:
    """Have a pool of connections until the end of the block."""
    pool = ConnectionPool(reactor, known_host)
    try:
        yield pool
    finally:
        pool.close()


@asynccontextmanager
async def proxied(
    reactor: Any, folder: Path, data_servers: int = 1, **options: Any
) -> AsyncIterator[tuple[RunningCluster, Sequence[Proxy]]]:
    """Run a cluster that tells clients the addresses of proxies, which stand before its data servers."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running(reactor, folder, data_servers, **options))
        proxies = [await stack.enter_async_context(proxy_of(reactor, node.port)) for node in cluster.data]
        async with cluster.calling() as caller:
            for node, proxy in zip(cluster.data, proxies, strict=True):
                addresses = {"data_server_addr": node.address, "advertised_addr": proxy.address}
                assert {"status": "ok"} == await caller.ask(command="register_data_server", **addresses)
        yield cluster, proxies


@asynccontextmanager
async def with_file(
    reactor: Any, folder: Path, data: bytes, data_servers: int = 2, replicas: int = 1, **options: Any
) -> AsyncIterator[tuple[RunningCluster, Client]]:
    """Run a cluster that has the file `a`, and a client of it."""
    async with running(reactor, folder, data_servers, **options) as cluster:
        client = cluster.client()
        await client.upload("a", data, replicas=replicas)
        yield cluster, client
