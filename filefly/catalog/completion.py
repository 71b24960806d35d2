"""`complete_file` as far as the catalog alone decides it: which plan is meant, and what is believed of its blocks.

Statements only; see filefly.catalog.plans.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct
from sqlalchemy import Connection

from filefly.catalog.commits import Commit, StoredReplicas, commit_open_plan
from filefly.catalog.plans import Plan, PlanBlock, committed_plan, not_open, open_plans, plan_of_generation
from filefly.errors import BadRequest, Conflict, Corrupt, NotFound
from filefly.wire.messages import StoredBlock
from filefly.wire.names import check_file_name


class Known(Struct, frozen=True):
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
    """A plan that is not committed yet, and what is believed of its blocks by position; others are to be looked at."""

    plan: Plan
    believed: Mapping[int, StoredReplicas]


def complete_plan(connection: Connection, completion: Completion, due: int) -> Plan | Outstanding:
    """Commit the plan that is meant if its blocks are all believed, see commit_plan; again is fine.

    Raises Conflict, NotFound, BadRequest or Corrupt if it cannot be meant so, Forbidden if it may not be.
    """
    plan = _named_plan(connection, completion)
    completion.check(plan)
    if plan.committed:
        return plan
    believed = _believed(plan, completion)
    if len(believed) < len(plan.blocks):
        return Outstanding(plan, believed)
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
    found = known(connection, name)
    candidates = [*found.open, *([found.committed] if found.committed else [])]
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
