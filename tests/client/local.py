"""A data server on this machine, behind a proxy over which only lines come unharmed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define

from filefly.client.transfer import BlockTransfer
from filefly.data.local import name_of_local_socket
from filefly.units import Chunks
from filefly.wire.messages import Block, Replica
from tests.client.clusters import pooling
from tests.client.faults import Proxy, flip_every_bulk, proxy_of
from tests.descriptors import none_left
from tests.meta.running import DataNode, data_node, sum_of
from tests.peer import inline

DATA = bytes(range(256)) * 12_000  # three pieces
PING_BYTES = len(b'{"command":"ping","identity":true}\n')


def block_at(*nodes: DataNode | Proxy, block_id: str = "a-0", data: bytes = DATA) -> Block:
    addresses = [node.address for node in nodes]
    replicas = [Replica(address) for address in addresses]
    return Block(block_id, len(data), addresses[0], replicas, sum_of(data))


class Written:
    """What was fetched."""

    def __init__(self) -> None:
        self.data = bytearray(len(DATA))
        self.pieces = 0
        self.moved = 0

    def write(self, offset: int, chunks: Chunks) -> None:
        self.pieces += 1
        for chunk in chunks:
            self.data[offset : offset + len(chunk)] = chunk
            offset += len(chunk)

    def count(self, size: int) -> None:
        self.moved += size


@define(eq=False)
class Fetching:
    """A data server with local reads behind a proxy over which only lines come unharmed, and a transfer."""

    node: DataNode
    proxy: Proxy
    transfer: BlockTransfer
    reported: list[tuple[str, str]]

    @property
    def name(self) -> bytes:
        """The data server's local socket."""
        return name_of_local_socket(self.node.identity["storage_id"]).encode()

    async def fetch(self, *nodes: DataNode | Proxy, block_id: str = "a-0") -> bytes:
        """Fetch a block, by default from the proxy alone."""
        written = Written()
        block = block_at(*(nodes or (self.proxy,)), block_id=block_id)
        await self.transfer.fetch(block, written.write, written.count)
        assert len(DATA) == written.moved
        return bytes(written.data)


@asynccontextmanager
async def fetching(reactor: Any, folder: Path, in_thread: Any = inline) -> AsyncIterator[Fetching]:
    """Run what it takes until the end of the block; no descriptor may be left."""
    async with (
        none_left(),
        data_node(reactor, folder, local_reads=True) as node,
        proxy_of(reactor, node.port) as proxy,
        pooling(reactor) as pool,
    ):
        node.put("a-0", DATA)
        proxy.always = flip_every_bulk
        reported: list[tuple[str, str]] = []
        yield Fetching(
            node, proxy, BlockTransfer(reactor, pool, in_thread, 4, lambda *bad: reported.append(bad)), reported
        )
