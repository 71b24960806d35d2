"""`complete_file` as far as the catalog alone decides it: which plan is meant, and what is believed of its blocks.

Statements only; see filefly.catalog.plans.
"""

from collections.abc import Callable, Collection, Mapping, Sequence, Set

from msgspec import Struct
from sqlalchemy import Connection, bindparam, or_, select

from filefly.catalog.commits import Commit, StoredReplicas, commit_open_plan
from filefly.catalog.plans import Plan, PlanBlock, committed_plan, not_open, open_generations, plan_of_generation
from filefly.catalog.schema import COMMITTED, PENDING, plans
from filefly.catalog.statements import Statement
from filefly.errors import BadRequest, Conflict, Corrupt, NotFound
from filefly.wire.messages import StoredBlock
from filefly.wire.names import check_file_name, split_block_id

_LAST = 2**63 - 1
_IMPLICIT = Statement(
    select(plans.c.generation, plans.c.if_generation)
    .where(
        PENDING,
        plans.c.name == bindparam("name"),
        ~plans.c.explicit,
        plans.c.generation > bindparam("above"),
        plans.c.generation < bindparam("below"),
    )
    .order_by(plans.c.generation.desc())
)
_WITH_STEM = Statement(
    select(plans.c.generation).where(
        or_(COMMITTED, PENDING), plans.c.stem == bindparam("stem"), plans.c.name == bindparam("name")
    )
)


class Implicit(Struct, frozen=True):
    """An open implicit plan; one that `only_adds` asks for a name of which there is no file."""

    generation: int
    only_adds: bool


class Known(Struct, frozen=True):
    """What the catalog knows of a name: what readers see, and which implicit plans may become that, in their turn."""

    committed: Plan | None
    implicit: Sequence[Implicit]


def known(connection: Connection, name: str) -> Known:
    """Look a name up in one snapshot."""
    try:
        committed = committed_plan(connection, name)
    except NotFound:
        return Known(None, implicit_in_turn(connection, name))
    newer = implicit_in_turn(connection, name, above=committed.generation)
    return Known(committed, [each for each in newer if not each.only_adds])


def implicit_in_turn(connection: Connection, name: str, above: int = 0, below: int = _LAST) -> list[Implicit]:
    """Return the open implicit plans between two generations in the order in which they are to be looked at.

    Of those that may replace a file the newest wins, of those that only add one the oldest that nothing comes before.
    """
    rows = _IMPLICIT.rows(connection, {"name": name, "above": above, "below": below})
    newest_first = [Implicit(generation, if_generation == 0) for generation, if_generation in rows]
    return [
        *(each for each in newest_first if not each.only_adds),
        *(each for each in reversed(newest_first) if each.only_adds),
    ]


def _any_plan(_plan: Plan) -> None:
    """Let every plan pass."""


class Completion(Struct, frozen=True):
    """What a client says of a plan: by its generation, else by ids of its blocks, else as the only open one of a name.

    `told` says what clients are told of each data server's address; `check` raises Forbidden for a plan that the client
    may not commit.
    """

    name: str | None
    generation: int | None
    ids: Collection[str]
    reported: Sequence[StoredBlock]
    told: Mapping[int, str]
    modified: str
    if_generation: int | None = None
    check: Callable[[Plan], None] = _any_plan


class Outstanding(Struct, frozen=True):
    """A plan that is not committed yet, and what is believed of its blocks by position; others are to be looked at.

    If it is only to add a file, the name's older implicit plans are to be looked at first: they may be complete.
    """

    plan: Plan
    believed: Mapping[int, StoredReplicas]
    only_adds: bool


def complete_plan(connection: Connection, completion: Completion, due: int) -> Plan | Outstanding:
    """Commit the plan that is meant if its blocks are all believed, see commit_plan; again is fine.

    Raises Conflict, NotFound, BadRequest or Corrupt if it cannot be meant so, Forbidden if it may not be.
    """
    plan = _named_plan(connection, completion)
    completion.check(plan)
    if plan.committed:
        return plan
    believed = _believed(plan, completion)
    only_adds = 0 in (plan.if_generation, completion.if_generation)
    in_doubt = only_adds and implicit_in_turn(connection, plan.name, below=plan.generation)
    if in_doubt or len(believed) < len(plan.blocks):
        return Outstanding(plan, believed, only_adds)
    stored = [believed[position] for position in range(len(plan.blocks))]
    commit = Commit(plan.generation, stored, completion.modified, completion.if_generation)
    return commit_open_plan(connection, plan, commit, due)


def _named_plan(connection: Connection, completion: Completion) -> Plan:
    name, generation, ids = completion.name, completion.generation, {*completion.ids}
    if generation is not None:
        plan = plan_of_generation(connection, generation)
        if plan is not None and name in (None, plan.name):
            return plan
    if name is not None:
        check_file_name(name)
    if generation is not None:
        raise not_open(generation)
    if name is None:
        raise BadRequest("missing file_name")
    if ids:
        return _plan_of_blocks(connection, name, ids)
    found = open_generations(connection, name)
    if len(found) > 1:
        raise Conflict(f"{len(found)} plans of this file are open; name one by its generation")
    plan = plan_of_generation(connection, found[0]) if found else None
    return plan or committed_plan(connection, name)


def _plan_of_blocks(connection: Connection, name: str, ids: Set[str]) -> Plan:
    """Return the plan that has these blocks: a long id names its generation, a short one the stem that is its own."""
    stem, _index, generation = split_block_id(min(ids)) or (None, 0, None)
    if generation is None:
        generation = _WITH_STEM.value(connection, {"stem": stem, "name": name})
    plan = None if generation is None else plan_of_generation(connection, generation)
    if plan is None or plan.name != name or not ids <= {block.id for block in plan.blocks}:
        raise Conflict("no open plan has these blocks: it was ended, replaced or deleted")
    return plan


def _believed(plan: Plan, completion: Completion) -> dict[int, StoredReplicas]:
    """Return what was reported with both checksum and replicas."""
    reported = {block.id: block for block in completion.reported}
    if unknown := reported.keys() - {block.id for block in plan.blocks}:
        raise BadRequest(f"block {min(unknown)} is not of plan {plan.generation}")
    believed: dict[int, StoredReplicas] = {}
    for position, block in enumerate(plan.blocks):
        report = reported.get(block.id)
        if report is None or report.crc32c is None or not report.replicas:
            continue
        if block.crc32c not in (None, report.crc32c):
            raise Corrupt(f"block {block.id} was stored with crc32c {report.crc32c}, not {block.crc32c}")
        servers = dict.fromkeys(_key_of(place.data_server, block, completion.told) for place in report.replicas)
        believed[position] = StoredReplicas(report.crc32c, tuple(servers))
    return believed


def _key_of(address: str, block: PlanBlock, told: Mapping[int, str]) -> int:
    """Return which of a planned block's data servers clients are told as `address`."""
    for server in block.servers:
        if address and told.get(server) == address:
            return server
    raise BadRequest(f"block {block.id} is not planned for data server {address}")
