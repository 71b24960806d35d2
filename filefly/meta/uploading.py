"""Files that the metadata server stores itself, as a client would: plan, blocks, commit."""

from collections.abc import Callable
from functools import partial

from attrs import define

from filefly.catalog.commits import end_open_plan
from filefly.catalog.plans import Plan, PlanBlock
from filefly.client.decisions import error_of_all
from filefly.client.files import Source
from filefly.client.transfer import run_all
from filefly.errors import FileFlyError
from filefly.meta.cluster import AT_ONCE, Cluster
from filefly.meta.commits import Committer
from filefly.meta.planning import Planner
from filefly.meta.transactions import Transactions
from filefly.wire.messages import Attributes, Block, CompleteFile, Replica, StoredBlock, StoreFile


@define(eq=False)
class Uploader:
    """Stores files. A block that is on one data server at least is stored; repair makes up for what is missing."""

    _transactions: Transactions
    _cluster: Cluster
    _planner: Planner
    _committer: Committer
    _trash_due: Callable[[], int]

    async def store(self, name: str, source: Source, replicas: int, attributes: Attributes) -> Plan:
        """Store a file durably; raises what keeps it from being stored, and then leaves nothing that readers see."""
        request = StoreFile(name, source.size, replicas=replicas, explicit=True, attributes=attributes)
        plan = await self._planner.plan(request)
        stored: dict[int, StoredBlock] = {}

        async def store(position: int, block: PlanBlock, offset: int) -> None:
            stored[position] = await self._store_block(block, source, offset)

        jobs, offset = [], 0
        for position, block in enumerate(plan.blocks):
            jobs.append(partial(store, position, block, offset))
            offset += block.size
        try:
            await run_all(jobs, AT_ONCE)
            blocks = [stored[position] for position in sorted(stored)]
            return await self._committer.complete(CompleteFile(generation=plan.generation, blocks=blocks))
        except FileFlyError:
            await self._transactions.write(end_open_plan, plan.generation, self._trash_due())
            raise

    async def _store_block(self, block: PlanBlock, source: Source, offset: int) -> StoredBlock:
        places, errors, checksum = [], dict[str, FileFlyError](), ""
        wanted = Block(id=block.id, size=block.size, data_server="", replicas=())
        for server in block.servers:
            row = self._cluster.servers[server]
            try:
                checksum = await self._cluster.transfer.store(
                    row.address or "", wanted, source, offset, lambda _moved: None, row.storage_id
                )
                places.append(Replica(row.told))
            except FileFlyError as error:
                errors[row.address or ""] = error
        if not places:
            raise error_of_all(block.id, "stored", errors)
        return StoredBlock(block.id, checksum, places)
