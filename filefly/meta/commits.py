"""From plan to file: `complete_file`, and implicit plans that commit themselves once their blocks are all there."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from attrs import frozen
from sqlalchemy import Connection

from filefly.catalog.plans import (
    Commit,
    Plan,
    StoredReplicas,
    commit_plan,
    committed_plan,
    open_plans,
    plan_of_generation,
    touch_plan,
)
from filefly.client.transfer import run_all
from filefly.errors import BadRequest, Conflict, Corrupt, FileFlyError, Incomplete, NotFound
from filefly.meta.cluster import AT_ONCE, Cluster
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.wire.messages import CompleteFile, HandedBackPlan, StoredBlock
from filefly.wire.names import check_file_name

T = TypeVar("T")
Timestamp = Callable[[], str]
TrashDue = Callable[[], int]


@frozen
class Known:
    """What the catalog knows of a name: what readers see, and the open plans, the newest first."""

    committed: Plan | None
    open: Sequence[Plan]


def known(connection: Connection, name: str) -> Known:
    """Look a name up in one snapshot."""
    try:
        committed = committed_plan(connection, name)
    except NotFound:
        committed = None
    return Known(committed, open_plans(connection, name))


class Committer:
    """Commits plans; `now` tells the commit's time (RFC 3339), `trash_due` when what it replaces may be deleted."""

    def __init__(
        self, transactions: Transactions, cluster: Cluster, time: RunningTime, now: Timestamp, trash_due: TrashDue
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._time = time
        self._now = now
        self._trash_due = trash_due

    async def complete(self, request: CompleteFile) -> Plan:
        """Commit the plan that `request` names; again is fine. Raises Conflict, Incomplete, Corrupt, NotFound."""
        plan = await self._named_plan(request)
        if plan.committed:
            return plan
        reported = {block.id: block for block in request.blocks}
        if unknown := reported.keys() - {block.id for block in plan.blocks}:
            raise BadRequest(f"block {min(unknown)} is not of plan {plan.generation}")
        try:
            stored = await self._stored(plan, {name: block for name, block in reported.items() if _believed(block)})
        except Incomplete:
            await self._transactions.write(touch_plan, plan.generation, self._time.seconds())
            raise
        return await self._commit(plan, stored, if_generation=request.if_generation)

    async def look_up(self, name: str) -> Plan:
        """Return what readers see of `name`, committing first the newest implicit plan whose blocks are all there.

        Without a committed file, return the newest implicit plan; an explicit one is not to be seen. Raises NotFound.
        """
        found = await self._transactions.read(known, name)
        implicit = [plan for plan in found.open if not plan.explicit]
        for plan in implicit:
            if found.committed is not None and plan.generation < found.committed.generation:
                break
            try:
                return await self.settle(plan)
            except FileFlyError:
                continue  # not all there, or ended by somebody else meanwhile
        if found.committed is not None:
            return found.committed
        if not implicit:
            raise NotFound
        return implicit[0]

    async def settle(self, plan: Plan) -> Plan:
        """Commit an implicit plan whose blocks are all there.

        Raises Incomplete if they are not, Conflict if something newer is there, others if that cannot be said now.
        """
        return await self._commit(plan, await self._stored(plan, {}), only_if_newer=True)

    async def _named_plan(self, request: CompleteFile) -> Plan:
        """Find the plan by its generation, else by its block ids, else as the only open one of its name."""
        handed_back = request.metadata or HandedBackPlan()
        name = _only(request.file_name, handed_back.name, "file_name")
        generation = _only(request.generation, handed_back.generation, "generation")
        if name is not None:
            check_file_name(name)
        if generation is not None:
            plan = await self._transactions.read(plan_of_generation, generation)
            if plan is None or name not in (None, plan.name):
                raise Conflict(f"plan {generation} is not open: it was ended, replaced or deleted")
            return plan
        if name is None:
            raise BadRequest("missing file_name")
        found = await self._transactions.read(known, name)
        candidates = [*found.open, *([found.committed] if found.committed else [])]
        ids = {block.id for block in request.blocks or handed_back.blocks}
        if ids:
            for plan in candidates:
                if ids <= {block.id for block in plan.blocks}:
                    return plan
            raise Conflict("no open plan has these blocks: it was ended, replaced or deleted")
        if len(found.open) > 1:
            raise Conflict(f"{len(found.open)} plans of this file are open; name one by its generation")
        if not candidates:
            raise NotFound
        return candidates[0]

    async def _stored(self, plan: Plan, believed: dict[str, StoredBlock]) -> list[StoredReplicas]:
        """Return for every block what is believed or found of it; raises Incomplete or Corrupt if that will not do."""
        found: dict[int, StoredReplicas] = {}

        async def look(position: int) -> None:
            found[position] = await self._look(plan, position)

        for position, block in enumerate(plan.blocks):
            report = believed.get(block.id)
            if report is not None and report.crc32c is not None:
                if block.crc32c not in (None, report.crc32c):
                    raise Corrupt(f"block {block.id} was stored with crc32c {report.crc32c}, not {block.crc32c}")
                servers = dict.fromkeys(self._cluster.key_of(place.data_server, block) for place in report.replicas)
                found[position] = StoredReplicas(report.crc32c, tuple(servers))
        await run_all((partial(look, at) for at in range(len(plan.blocks)) if at not in found), AT_ONCE)
        return [found[position] for position in range(len(plan.blocks))]

    async def _look(self, plan: Plan, position: int) -> StoredReplicas:
        """Ask every planned data server for a block: each must have it, of its size, and with one checksum."""
        block = plan.blocks[position]
        if not block.servers:
            raise Incomplete(f"block {block.id} was planned for a data server that was removed")
        agreed = block.crc32c
        for server in block.servers:
            stored = await self._cluster.find(server, block.id, verify=True)
            where = f"block {block.id} on {self._cluster.servers[server].told}"
            if stored is None:
                raise Incomplete(f"{where} is not stored yet")
            if stored.size != block.size:
                raise Incomplete(f"{where} has {stored.size} bytes, not {block.size}")
            agreed = agreed or stored.crc32c
            if stored.crc32c != agreed:
                raise Incomplete(f"{where} has crc32c {stored.crc32c}, not {agreed}")
        return StoredReplicas(agreed or "", block.servers)

    async def _commit(
        self,
        plan: Plan,
        stored: Sequence[StoredReplicas],
        if_generation: int | None = None,
        only_if_newer: bool = False,
    ) -> Plan:
        commit = Commit(plan.generation, stored, self._now(), if_generation, only_if_newer)
        return await self._transactions.write(commit_plan, commit, self._trash_due())


def _believed(block: StoredBlock) -> bool:
    return block.crc32c is not None and bool(block.replicas)


def _only(one: T | None, other: T | None, field: str) -> T | None:
    if one is not None and other is not None and one != other:
        raise BadRequest(f"{field} differs from that of metadata")
    return other if one is None else one
