"""`store_file`: from a name and a size to a plan in the catalog."""

from collections.abc import Callable, Sequence
from functools import partial

from crc32c import crc32c
from sqlalchemy import Connection

from filefly.catalog.planning import (
    NewPlan,
    newest_explicit_plan,
    plan_file,
    replace_replica,
    short_ids_free,
    touch_plan,
)
from filefly.catalog.plans import Plan, PlanBlock
from filefly.client.transfer import run_all
from filefly.errors import BadRequest, FileFlyError, TooLarge
from filefly.meta.cluster import AT_ONCE, Cluster
from filefly.meta.placement import choose_block_size, cut, place
from filefly.meta.rights import EVERYTHING, Grant
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.threads import InThread
from filefly.wire.batches import FileToStore
from filefly.wire.codec import check_attributes, crc32c_hex, decode_base64
from filefly.wire.messages import MAX_BLOCKS, StoreFile
from filefly.wire.names import check_file_name, make_block_id, stem_of


class Planner:
    """Makes plans; new blocks go round-robin over the data servers, carrying on from file to file.

    A file has at most `most_blocks` blocks.
    """

    def __init__(
        self,
        transactions: Transactions,
        cluster: Cluster,
        in_thread: InThread,
        time: RunningTime,
        block_size: int,
        replicas: int,
        most_blocks: int = MAX_BLOCKS,
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._in_thread = in_thread
        self._time = time
        self._block_size = block_size
        self._replicas = replicas
        self._most_blocks = most_blocks
        self._cursor = 0

    async def plan(self, request: StoreFile, grant: Grant = EVERYTHING) -> Plan:
        """Plan a file durably; raises BadRequest, TooLarge, Conflict, QuotaExceeded, Forbidden."""
        return await self._plan(request, None, grant)

    async def resume(self, request: StoreFile, grant: Grant = EVERYTHING) -> tuple[Plan, Plan | None]:
        """Plan a file, alike and on the same data servers if an upload can be resumed, and return that one's plan too.

        The new plan has ids of its own: whoever is still at work on the older one cannot touch its blocks. It ends the
        older one when it is committed, so that must be one that `grant` may go on with.
        """
        check_file_name(request.file_name)
        if request.file_size is None or not request.explicit:
            raise BadRequest("resume goes with file_size and explicit")
        wanted = (request.file_name, request.file_size, grant.may_go_on)
        older = await self._transactions.read(newest_explicit_plan, *wanted)
        return await self._plan(request, older, grant), older

    async def plan_each(self, files: Sequence[FileToStore], grant: Grant = EVERYTHING) -> list[Plan | FileFlyError]:
        """Plan files in one durable transaction, each for itself; raises TooLarge if they have too many blocks."""
        decided: list[NewPlan | FileFlyError] = []
        blocks = 0
        for file in files:
            try:
                _check(file)
                new = self._decide(grant.restrict(file), file.file_size, self._chosen(file.file_size), grant)
            except FileFlyError as error:
                decided.append(error)
                continue
            decided.append(new)
            blocks += len(new.sizes)
            if blocks > MAX_BLOCKS:
                raise TooLarge(f"the files have more than {MAX_BLOCKS} blocks together")
        plans = [new for new in decided if isinstance(new, NewPlan)]
        long = await self._needing_long_ids([new for new in plans if not new.explicit])
        changes = [partial(plan_file, new=new, short_ids=new.explicit or new.name not in long) for new in plans]
        planned = iter(await self._transactions.write_each(changes))
        outcomes = [next(planned) if isinstance(each, NewPlan) else each for each in decided]
        return [outcome if isinstance(outcome, Plan) else grant.as_told(outcome) for outcome in outcomes]

    async def _plan(self, request: StoreFile, older: Plan | None, grant: Grant) -> Plan:
        _check(request)
        size, block_size, sums = await self._measure(request)
        new = self._decide(grant.restrict(request), size, block_size, grant, sums, older)
        short_ids = new.explicit or not await self._needing_long_ids([new])
        try:
            return await self._transactions.write(plan_file, new, short_ids)
        except FileFlyError as error:
            raise grant.as_told(error) from None

    def _chosen(self, size: int) -> int:
        return choose_block_size(size, self._block_size, self._most_blocks)

    def _decide(
        self,
        file: StoreFile | FileToStore,
        size: int,
        block_size: int,
        grant: Grant,
        sums: Sequence[str] | None = None,
        older: Plan | None = None,
    ) -> NewPlan:
        sizes = cut(size, block_size)
        replicas = file.replicas or self._replicas
        placing = self._cluster.placing()
        places = place(len(sizes), replicas, placing, self._cursor)
        if older is not None and [block.size for block in older.blocks] == sizes:
            places = [_stay(block.servers, chosen, placing) for block, chosen in zip(older.blocks, places, strict=True)]
        self._cursor += len(sizes)
        return NewPlan(
            name=file.file_name,
            total_size=size,
            block_size=block_size,
            replicas=replicas,
            explicit=file.explicit,
            sizes=sizes,
            places=places,
            sums=sums,
            if_generation=file.if_generation,
            attributes=file.attributes,
            resumes=None if older is None else older.generation,
            touched=self._time.seconds(),
            holder=grant.holder,
        )

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
            return request.file_size, self._chosen(request.file_size), None
        size, block_size, sums = await self._in_thread(_measure_data_thd, request.data, self._chosen)
        if request.file_size not in (None, size):
            raise BadRequest(f"file_size is {request.file_size}, but data has {size} bytes")
        return size, block_size, sums

    async def _needing_long_ids(self, plans: Sequence[NewPlan]) -> set[str]:
        """Return the names of which the catalog or the chosen data servers use a short id, or may use one.

        An implicit plan commits itself once its blocks are there: a stray old block must not pass for a new one. A
        data server that cannot be asked may hold one.
        """
        if not plans:
            return set()
        used = await self._transactions.read(_names_in_use, [new.name for new in plans])
        questions = (
            partial(self._note_use, new.name, index, server, used)
            for new in plans
            for index, servers in enumerate(new.places)
            for server in servers
        )
        await run_all(questions, AT_ONCE)
        return used

    async def _note_use(self, name: str, index: int, server: int, used: set[str]) -> None:
        if name in used:
            return
        try:
            found = await self._cluster.find(server, make_block_id(stem_of(name), index, None), verify=False)
        except FileFlyError:
            used.add(name)
        else:
            if found is not None:
                used.add(name)


def _check(file: StoreFile | FileToStore) -> None:
    check_file_name(file.file_name)
    check_attributes(file.attributes)


def _names_in_use(connection: Connection, names: Sequence[str]) -> set[str]:
    return {name for name in names if not short_ids_free(connection, name)}


def _stay(before: Sequence[int], chosen: Sequence[int], placing: Sequence[int]) -> tuple[int, ...]:
    """Return as many servers as were `chosen`, those where the block was planned `before` first."""
    still = [server for server in before if server in placing]
    others = [server for server in chosen if server not in still]
    return tuple([*still, *others][: len(chosen)])


def _measure_data_thd(encoded: str, choose: Callable[[int], int]) -> tuple[int, int, list[str]]:
    data = memoryview(decode_base64(encoded))
    block_size = choose(len(data))
    sums = [crc32c_hex(crc32c(data[at : at + block_size])) for at in range(0, len(data), block_size)]
    return len(data), block_size, sums
