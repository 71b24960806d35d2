"""The data servers as the metadata server knows them: who they are, and questions to them."""

from collections.abc import Sequence
from typing import Any

from filefly.client.connection import ConnectionPool
from filefly.client.transfer import BlockTransfer
from filefly.errors import BadRequest, NotFound
from filefly.meta.catalog import Plan, PlanBlock
from filefly.meta.inventory import DataServerRow
from filefly.threads import InThread
from filefly.wire.messages import Block, BlockSum, Delete, Metadata, Ping, Pong, Replica, Reply, Stat

AT_ONCE = 8
"""How many questions to data servers one request may have under way."""

_TIMEOUT_SECONDS = 20.0


class Cluster:
    """The data servers of one catalog, by key. `:PORT` in an address means this machine."""

    def __init__(self, reactor: Any, in_thread: InThread) -> None:
        self.servers: dict[int, DataServerRow] = {}
        self._pool = ConnectionPool(reactor, "localhost", _TIMEOUT_SECONDS)
        self.transfer = BlockTransfer(reactor, self._pool, in_thread, concurrency=AT_ONCE)

    def take(self, rows: Sequence[DataServerRow]) -> None:
        """Go by these rows of the catalog from now on."""
        self.servers = {row.key: row for row in rows}

    def placing(self) -> list[int]:
        """Return the data servers that get new blocks, in a stable order."""
        return [row.key for row in self.servers.values() if row.placing]

    def start(self) -> None:
        """Nothing to start: connections are made as they are needed."""

    def stop(self) -> None:
        """Close the connections."""
        self._pool.close()

    # Questions to data servers

    async def ping(self, server: int) -> None:
        """Return if the data server answers; raises Unavailable or TimedOut."""
        await self._pool.request(self.servers[server].address, Ping(), Pong)

    async def find(self, server: int, block_id: str, verify: bool) -> BlockSum | None:
        """Return what a data server has of a block, with `verify` its checksum too; None if it has none of it."""
        try:
            return await self._pool.request(self.servers[server].address, Stat(block_id, verify), BlockSum)
        except NotFound:
            return None

    async def delete(self, server: int, block_id: str) -> None:
        """Have a data server delete a block for good."""
        await self._pool.request(self.servers[server].address, Delete(block_id), Reply)

    # Plans as clients are told them, and as this process reads them

    def key_of(self, told: str, block: PlanBlock) -> int:
        """Return which of a planned block's data servers clients are told as `told`; raises BadRequest."""
        for server in block.servers:
            if self.servers[server].told == told:
                return server
        raise BadRequest(f"block {block.id} is not planned for data server {told}")

    def metadata_of(self, plan: Plan, internal: bool = False) -> Metadata:
        """Return a plan as it goes over the wire, with `internal` addresses for this process's own reads."""
        return Metadata(
            name=plan.name,
            total_size=plan.total_size,
            block_size=plan.block_size,
            generation=plan.generation,
            state=plan.state,
            replicas=plan.replicas,
            blocks=[self._block(block, internal) for block in plan.blocks],
            modified=plan.modified,
            attributes=plan.attributes,
        )

    def _block(self, block: PlanBlock, internal: bool) -> Block:
        rows = [self.servers[server] for server in block.servers]
        places = [Replica(row.address if internal else row.told) for row in rows]
        first = places[0].data_server if places else ""
        return Block(id=block.id, size=block.size, data_server=first, replicas=places, crc32c=block.crc32c)
