"""From plan to file: commits, and the ends of plans. Statements only; see filefly.catalog.plans."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    BindParameter,
    Connection,
    bindparam,
    delete,
    insert,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from filefly.catalog.planning import place_replicas
from filefly.catalog.plans import Plan, PlanBlock, check_generation, not_open, plan_of_generation
from filefly.catalog.quotas import check_room, count, count_end, quotas_of
from filefly.catalog.schema import COMMITTED, PENDING, blocks, plans, repairs, replicas, trash
from filefly.catalog.statements import Statement
from filefly.errors import Conflict, Incomplete


class StoredReplicas(Struct, frozen=True):
    """What was found, or is believed, of a block: its checksum and the data servers that have it."""

    crc32c: str
    servers: tuple[int, ...]


_generation: BindParameter[int] = bindparam("of")

_committed = select(plans.c.generation, literal_column("1")).where(COMMITTED, plans.c.name == bindparam("name"))
_older_implicit = select(plans.c.generation, literal_column("0")).where(
    PENDING, plans.c.name == bindparam("name"), ~plans.c.explicit, plans.c.generation < _generation
)
_IN_THE_WAY = Statement(union_all(_committed, _older_implicit))
_COMMIT = Statement(
    update(plans)
    .where(plans.c.generation == _generation)
    .values(state=literal_column("'committed'"), modified=bindparam("now"))
)
_ENDED: dict[str, Any] = {"state": literal_column("'deleted'"), "due": bindparam("at")}
_END = Statement(update(plans).where(or_(COMMITTED, PENDING), plans.c.generation == _generation).values(_ENDED))
_END_OPEN = Statement(update(plans).where(PENDING, plans.c.generation == _generation).values(_ENDED))
_LEARN_SUM = Statement(
    update(blocks)
    .where(blocks.c.generation == _generation, blocks.c.position == bindparam("at"))
    .values(crc32c=bindparam("found"))
)
_FORGET_REPAIRS = Statement(delete(repairs).where(repairs.c.generation == _generation))
_FORGET_REPLICAS = Statement(
    delete(replicas).where(replicas.c.generation == _generation, replicas.c.position == bindparam("at"))
)
_NEW_TRASH = Statement(insert(trash), "block_id", "server", "stem", "due")
_NEW_REPAIR = Statement(insert(repairs), "generation", "position", "remaining", "due")


class Commit(Struct, frozen=True):
    """A plan to commit: what was stored, by position; every position has an entry."""

    generation: int
    stored: Sequence[StoredReplicas]
    modified: str
    if_generation: int | None = None
    only_if_newer: bool = False


def commit_plan(connection: Connection, commit: Commit, due: int) -> Plan:
    """Make an open plan what readers see, in place of what they saw, which may be brought back until `due`.

    With it end the name's older implicit plans, and the plan that it resumes. Blocks with fewer replicas than wanted
    are noted for repair. Committing again what is committed is fine. Raises Conflict if the plan was ended, or the
    name's generation is not the one that was asked for; Incomplete if a block is nowhere, or where it is not planned;
    QuotaExceeded if there is no room for it.
    """
    plan = plan_of_generation(connection, commit.generation)
    if plan is None:
        raise not_open(commit.generation)
    return plan if plan.committed else commit_open_plan(connection, plan, commit, due)


def commit_open_plan(connection: Connection, plan: Plan, commit: Commit, due: int) -> Plan:
    """Commit a plan that was found open in the same transaction; see commit_plan."""
    in_the_way = _IN_THE_WAY.rows(connection, {"name": plan.name, "of": plan.generation})
    current = next((generation for generation, committed in in_the_way if committed), None)
    check_generation(current, plan.if_generation)
    check_generation(current, commit.if_generation)
    if commit.only_if_newer and current is not None and current > plan.generation:
        raise Conflict("a newer file was committed first")
    _check_places(plan, commit.stored)
    prefixes = quotas_of(connection, plan.name)
    if prefixes:
        check_room(connection, prefixes, plan.total_size, [current], reserved=True)
        count(connection, prefixes, plan.total_size, used=1, planned=-1)
    for generation, _committed in in_the_way:
        end_plan(connection, generation, due)
    if plan.resumes is not None:
        end_open_plan(connection, plan.resumes, due)
    _COMMIT.run(connection, {"of": plan.generation, "now": commit.modified})
    _record_stored(connection, plan, commit.stored, due)
    stored = tuple(
        PlanBlock(block.id, block.size, found.crc32c, found.servers)
        for block, found in zip(plan.blocks, commit.stored, strict=True)
    )
    return replace(plan, state="committed", modified=commit.modified, blocks=stored)


def _check_places(plan: Plan, stored: Sequence[StoredReplicas]) -> None:
    """Raise Incomplete if a data server was replaced or removed after it was asked for a block, or none is left."""
    for block, found in zip(plan.blocks, stored, strict=True):
        if not found.servers or not {*found.servers} <= {*block.servers}:
            raise Incomplete(f"block {block.id} is not stored where it is planned now")


def _record_stored(connection: Connection, plan: Plan, stored: Sequence[StoredReplicas], due: int) -> None:
    """Write down checksums and places; a planned replica that was not stored may still turn up, so it is trash."""
    learned, moved, left, fewer = [], [], [], []
    for position, (block, found) in enumerate(zip(plan.blocks, stored, strict=True)):
        if found.crc32c != block.crc32c:
            learned.append({"of": plan.generation, "at": position, "found": found.crc32c})
        if found.servers != block.servers:
            moved.append((position, found.servers))
            left += [(block.id, server) for server in block.servers if server not in found.servers]
        if len(found.servers) < plan.replicas:
            fewer.append((position, len(found.servers)))
    _LEARN_SUM.run_each(connection, learned)
    _FORGET_REPLICAS.run_each(connection, [{"of": plan.generation, "at": position} for position, _servers in moved])
    place_replicas(connection, plan.generation, moved)
    _NEW_TRASH.run_each(
        connection,
        [{"block_id": block_id, "server": server, "stem": plan.stem, "due": due} for block_id, server in left],
    )
    if fewer:
        _FORGET_REPAIRS.run(connection, {"of": plan.generation})  # noted when a data server was removed
    noted = {"generation": plan.generation, "due": 0}
    _NEW_REPAIR.run_each(connection, [{**noted, "position": at, "remaining": count} for at, count in fewer])


def end_plan(connection: Connection, generation: int, due: int) -> None:
    """End a plan, open or committed, if it is one: its blocks become trash at `due`; until then it can come back."""
    count_end(connection, generation)
    _END.run(connection, {"of": generation, "at": due})


def end_open_plan(connection: Connection, generation: int, due: int) -> None:
    """End a plan as `end_plan` does, but only while it is open: what was committed meanwhile is a file."""
    count_end(connection, generation, only_open=True)
    _END_OPEN.run(connection, {"of": generation, "at": due})
