"""From plan to file: `complete_file`, and implicit plans that commit themselves once their blocks are all there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from filefly.catalog.commits import Commit, StoredReplicas, commit_open_plan, commit_plan
from filefly.catalog.completion import Completion, Implicit, Outstanding, complete_plan, implicit_in_turn, known
from filefly.catalog.planning import touch_plan
from filefly.catalog.plans import Plan, not_open, plan_of_generation
from filefly.client.transfer import run_all
from filefly.daemon.guard import Session
from filefly.errors import BadRequest, Conflict, FileFlyError, Incomplete, NotFound, QuotaExceeded
from filefly.meta.cluster import AT_ONCE, Cluster
from filefly.meta.rights import EVERYTHING, Grant
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.wire.batches import FileToComplete
from filefly.wire.messages import CompleteFile, HandedBackPlan, Reply, Request, StoredBlock

T = TypeVar("T")
Timestamp = Callable[[], str]
TrashDue = Callable[[], int]
Note = Callable[[Request, Session, Reply], None]

_ITSELF = Session("this machine", is_daemon=True)


def _unnoted(_request: Request, _session: Session, _reply: Reply) -> None:
    """Tell nobody."""


class Committer:
    """Commits plans; `now` tells the commit's time (RFC 3339), `trash_due` when what it replaces may be deleted.

    What nobody has asked for, a plan that commits itself, goes to `note` as if this daemon had asked to complete it.
    """

    def __init__(
        self,
        transactions: Transactions,
        cluster: Cluster,
        time: RunningTime,
        now: Timestamp,
        trash_due: TrashDue,
        note: Note = _unnoted,
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._time = time
        self._now = now
        self._trash_due = trash_due
        self._note = note

    async def complete(self, request: CompleteFile, grant: Grant = EVERYTHING) -> Plan:
        """Commit the plan that `request` names; again is fine.

        Raises Conflict, Incomplete, Corrupt, NotFound, QuotaExceeded, Forbidden.
        """
        handed_back = request.metadata or HandedBackPlan()
        name = _only(request.file_name, handed_back.name, "file_name")
        generation = _only(request.generation, handed_back.generation, "generation")
        ids = [block.id for block in request.blocks or handed_back.blocks]
        asked = self._completion(name, generation, ids, request.blocks, request.if_generation, grant)
        outcome = await self._transactions.write(complete_plan, asked, self._trash_due())
        return await self._finish(outcome, request.if_generation, AT_ONCE)

    async def complete_each(
        self, files: Sequence[FileToComplete], grant: Grant = EVERYTHING
    ) -> list[Plan | FileFlyError]:
        """Commit plans, each for itself, as `complete` does: those whose blocks are all believed in one transaction."""
        due = self._trash_due()
        asked = [
            self._completion(file.file_name, file.generation, (), file.blocks, file.if_generation, grant)
            for file in files
        ]
        outcomes = await self._transactions.write_each(
            [partial(_complete_plan, completion=each, due=due, grant=grant) for each in asked]
        )

        async def finish(number: int) -> None:
            try:
                outcomes[number] = await self._finish(outcomes[number], files[number].if_generation, 1)
            except FileFlyError as error:
                outcomes[number] = error

        outstanding = (number for number, outcome in enumerate(outcomes) if isinstance(outcome, Outstanding))
        await run_all((partial(finish, number) for number in outstanding), AT_ONCE)
        return outcomes

    def _completion(
        self,
        name: str | None,
        generation: int | None,
        ids: Sequence[str],
        reported: Sequence[StoredBlock],
        if_generation: int | None,
        grant: Grant,
    ) -> Completion:
        told, now, check = self._cluster.told, self._now(), grant.check_plan
        return Completion(name, generation, ids, reported, told, now, if_generation, check)

    async def _finish(self, outcome: Plan | Outstanding, if_generation: int | None, at_once: int) -> Plan:
        """Commit an outstanding plan after all, having looked at those of its blocks that are not believed."""
        if isinstance(outcome, Plan):
            return outcome
        try:
            if outcome.only_adds:
                await self._settle_older(outcome.plan)
            stored = await self._stored(outcome.plan, outcome.believed, at_once)
        except Incomplete:
            await self._transactions.write(touch_plan, outcome.plan.generation, self._time.seconds())
            raise
        commit = Commit(outcome.plan.generation, stored, self._now(), if_generation)
        return await self._transactions.write(commit_plan, commit, self._trash_due())

    async def look_up(self, name: str) -> Plan:
        """Return what readers see of `name`, committing first the implicit plan whose turn it is and that is complete.

        Without a committed file, return the newest implicit plan; an explicit one is not to be seen. Raises NotFound.
        """
        found = await self._transactions.read(known, name)
        try:
            settled = await self._settle_one(found.implicit)
        except FileFlyError:
            settled = None  # that cannot be said now
        plan = settled or found.committed
        if plan is None and found.implicit:
            newest = max(each.generation for each in found.implicit)
            plan = await self._transactions.read(plan_of_generation, newest)
            return plan or await self.look_up(name)  # it was ended meanwhile
        if plan is None:
            raise NotFound
        return plan

    async def settle(self, generation: int) -> Plan:
        """Commit an implicit plan whose blocks are all there.

        Raises Incomplete if they are not, Conflict if something newer is there, others if that cannot be said now.
        """
        plan = await self._transactions.read(plan_of_generation, generation)
        if plan is None:
            raise not_open(generation)
        if plan.if_generation == 0:
            await self._settle_older(plan)
        return await self._settle(plan)

    async def _settle_older(self, plan: Plan) -> None:
        """Commit what a plan that only adds a file would end, if it is complete: then the plan conflicts with it."""
        older = await self._transactions.read(_older_implicit, plan)
        await self._settle_one(older)

    async def _settle_one(self, implicit: Sequence[Implicit]) -> Plan | None:
        """Commit the first of some plans whose blocks are all there, and return it.

        What only adds a file waits until that can be said of all before it; raises FileFlyError if it cannot.
        """
        unsure: FileFlyError | None = None
        for each in implicit:
            if each.only_adds and unsure is not None:
                break
            try:
                plan = await self._transactions.read(plan_of_generation, each.generation)
                if plan is not None:
                    return await self._settle(plan)
            except (Incomplete, Conflict, QuotaExceeded):
                continue
            except FileFlyError as error:
                unsure = error
        if unsure is not None:
            raise unsure
        return None

    async def _settle(self, plan: Plan) -> Plan:
        commit = Commit(plan.generation, await self._stored(plan, {}), self._now(), only_if_newer=True)
        settled, was_open = await self._transactions.write(_settle_plan, commit, self._trash_due())
        if was_open:
            self._note(CompleteFile(settled.name, generation=settled.generation), _ITSELF, Reply())
        return settled

    async def _stored(
        self, plan: Plan, believed: Mapping[int, StoredReplicas], at_once: int = AT_ONCE
    ) -> list[StoredReplicas]:
        """Return for every block what is believed or found of it; raises Incomplete if that will not do."""
        found = dict(believed)

        async def look(position: int) -> None:
            found[position] = await self._look(plan, position)

        positions = range(len(plan.blocks))
        await run_all((partial(look, position) for position in positions if position not in found), at_once)
        return [found[position] for position in positions]

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


def _settle_plan(connection: Connection, commit: Commit, due: int) -> tuple[Plan, bool]:
    """Commit a plan as `commit_plan` does; return also whether it was open until now, and not committed already."""
    plan = plan_of_generation(connection, commit.generation)
    if plan is None or plan.committed:
        return commit_plan(connection, commit, due), False
    return commit_open_plan(connection, plan, commit, due), True


def _older_implicit(connection: Connection, plan: Plan) -> Sequence[Implicit]:
    return implicit_in_turn(connection, plan.name, below=plan.generation)


def _complete_plan(connection: Connection, completion: Completion, due: int, grant: Grant) -> Plan | Outstanding:
    if completion.name is not None:
        grant.check_name(completion.name)
    return complete_plan(connection, completion, due)


def _only(one: T | None, other: T | None, field: str) -> T | None:
    if one is not None and other is not None and one != other:
        raise BadRequest(f"{field} differs from that of metadata")
    return other if one is None else one
