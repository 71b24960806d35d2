"""`store_file`: from a name and a size to a plan in the catalog."""

from collections.abc import Sequence
from functools import partial

from crc32c import crc32c

from filefly.catalog.plans import (
    NewPlan,
    Plan,
    PlanBlock,
    newest_explicit_plan,
    plan_file,
    replace_replica,
    short_ids_free,
    touch_plan,
)
from filefly.client.transfer import run_all
from filefly.errors import BadRequest, FileFlyError
from filefly.meta.cluster import AT_ONCE, Cluster
from filefly.meta.placement import choose_block_size, cut, place
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.threads import InThread
from filefly.wire.codec import check_attributes, crc32c_hex, decode_base64
from filefly.wire.messages import StoreFile
from filefly.wire.names import check_file_name, make_block_id, stem_of


class Planner:
    """Makes plans; new blocks go round-robin over the data servers, carrying on from file to file."""

    def __init__(
        self,
        transactions: Transactions,
        cluster: Cluster,
        in_thread: InThread,
        time: RunningTime,
        block_size: int,
        replicas: int,
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._in_thread = in_thread
        self._time = time
        self._block_size = block_size
        self._replicas = replicas
        self._cursor = 0

    async def plan(self, request: StoreFile) -> Plan:
        """Plan a file durably; raises BadRequest, TooLarge, Conflict."""
        return await self._plan(request, None)

    async def resume(self, request: StoreFile) -> tuple[Plan, Plan | None]:
        """Plan a file, alike and on the same data servers if an upload can be resumed, and return that one's plan too.

        The new plan has ids of its own: whoever is still at work on the older one cannot touch its blocks. It ends the
        older one when it is committed.
        """
        check_file_name(request.file_name)
        if request.file_size is None or not request.explicit:
            raise BadRequest("resume goes with file_size and explicit")
        older = await self._transactions.read(newest_explicit_plan, request.file_name, request.file_size)
        return await self._plan(request, older), older

    async def _plan(self, request: StoreFile, older: Plan | None) -> Plan:
        check_file_name(request.file_name)
        check_attributes(request.attributes)
        size, block_size, sums = await self._measure(request)
        sizes = cut(size, block_size)
        replicas = request.replicas or self._replicas
        placing = self._cluster.placing()
        places = place(len(sizes), replicas, placing, self._cursor)
        if older is not None and [block.size for block in older.blocks] == sizes:
            places = [_stay(block.servers, chosen, placing) for block, chosen in zip(older.blocks, places, strict=True)]
        self._cursor += len(sizes)
        new = NewPlan(
            name=request.file_name,
            total_size=size,
            block_size=block_size,
            replicas=replicas,
            explicit=request.explicit,
            sizes=sizes,
            places=places,
            sums=sums,
            if_generation=request.if_generation,
            attributes=request.attributes,
            resumes=None if older is None else older.generation,
            touched=self._time.seconds(),
        )
        short_ids = request.explicit or await self._short_ids_unused(new)
        return await self._transactions.write(plan_file, new, short_ids)

    async def replace(self, generation: int, block_id: str, told: str, due: int) -> PlanBlock:
        """Plan a block for another data server than the one that clients are told as `told`; see replace_replica."""
        failed = next((row.key for row in self._cluster.servers.values() if row.told == told), -1)
        self._cursor += 1
        placing = self._cluster.placing()
        first = self._cursor % len(placing) if placing else 0
        candidates = [*placing[first:], *placing[:first]]
        await self._transactions.write(touch_plan, generation, self._time.seconds())
        return await self._transactions.write(replace_replica, generation, block_id, failed, candidates, due)

    async def renew(self, generation: int) -> None:
        """Note a sign of life of an open plan's client; raises Conflict."""
        await self._transactions.write(touch_plan, generation, self._time.seconds())

    async def _measure(self, request: StoreFile) -> tuple[int, int, list[str] | None]:
        """Return the file's size, its block size, and its blocks' checksums if its data was given."""
        if request.data is None:
            if request.file_size is None:
                raise BadRequest("missing file_size or data")
            return request.file_size, choose_block_size(request.file_size, self._block_size), None
        size, block_size, sums = await self._in_thread(_measure_data_thd, request.data, self._block_size)
        if request.file_size not in (None, size):
            raise BadRequest(f"file_size is {request.file_size}, but data has {size} bytes")
        return size, block_size, sums

    async def _short_ids_unused(self, new: NewPlan) -> bool:
        """Whether neither the catalog nor the chosen data servers use a short id of this name.

        An implicit plan commits itself once its blocks are there: a stray old block must not pass for a new one. A
        data server that cannot be asked may hold one.
        """
        if not await self._transactions.read(short_ids_free, new.name):
            return False
        stem = stem_of(new.name)
        questions = (
            partial(self._check_absent, server, make_block_id(stem, index, None))
            for index, servers in enumerate(new.places)
            for server in servers
        )
        try:
            await run_all(questions, AT_ONCE)
        except FileFlyError:
            return False
        return True

    async def _check_absent(self, server: int, block_id: str) -> None:
        if await self._cluster.find(server, block_id, verify=False) is not None:
            raise FileFlyError(f"{block_id} is there already")


def _stay(before: Sequence[int], chosen: Sequence[int], placing: Sequence[int]) -> tuple[int, ...]:
    """Return as many servers as were `chosen`, those where the block was planned `before` first."""
    still = [server for server in before if server in placing]
    others = [server for server in chosen if server not in still]
    return tuple([*still, *others][: len(chosen)])


def _measure_data_thd(encoded: str, wanted_block_size: int) -> tuple[int, int, list[str]]:
    data = memoryview(decode_base64(encoded))
    block_size = choose_block_size(len(data), wanted_block_size)
    sums = [crc32c_hex(crc32c(data[at : at + block_size])) for at in range(0, len(data), block_size)]
    return len(data), block_size, sums
