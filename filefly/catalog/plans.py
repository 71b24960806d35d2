"""What the catalog knows of files: plans and commits. Statements only; knows no Twisted.

Every function takes a connection inside a transaction of `filefly.catalog.database` and raises FileFlyError to take its
part of the transaction back. Data servers are named by their key.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from attrs import evolve, field, frozen
from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    Table,
    bindparam,
    delete,
    exists,
    insert,
    or_,
    select,
    update,
)

from filefly.catalog.replicas import trashed_on
from filefly.catalog.schema import COMMITTED, PENDING, blocks, catalog, plans, repairs, replicas, trash
from filefly.errors import Conflict, Incomplete, NotFound, Unavailable
from filefly.wire.codec import encode
from filefly.wire.messages import Attributes
from filefly.wire.names import make_block_id, stem_of


@frozen
class PlanBlock:
    """A block of a plan, and the data servers that it is planned for or stored on."""

    id: str
    size: int
    crc32c: str | None
    servers: tuple[int, ...]


@frozen
class NewPlan:
    """What is decided about a plan before the catalog gives it a generation and ids."""

    name: str
    total_size: int
    block_size: int
    replicas: int
    explicit: bool
    sizes: Sequence[int]
    places: Sequence[tuple[int, ...]]
    sums: Sequence[str] | None = None
    if_generation: int | None = None
    attributes: Attributes = field(factory=dict)
    resumes: int | None = None
    touched: int = 0


@frozen
class Plan:
    """A plan, open or committed."""

    generation: int
    name: str
    state: str
    explicit: bool
    total_size: int
    block_size: int
    replicas: int
    attributes: Attributes
    stem: str | None
    if_generation: int | None
    modified: str | None
    resumes: int | None
    blocks: tuple[PlanBlock, ...]

    @property
    def committed(self) -> bool:
        """Whether readers see it."""
        return self.state == "committed"


@frozen
class StoredReplicas:
    """What was found, or is believed, of a block: its checksum and the data servers that have it."""

    crc32c: str
    servers: tuple[int, ...]


# Statements, built once: building them again for each request would cost more than running them

_name: BindParameter[str] = bindparam("name")
_generation: BindParameter[int] = bindparam("of")
_same_block = (blocks.c.generation == replicas.c.generation) & (blocks.c.position == replicas.c.position)

_PLAN = select(plans).where(or_(COMMITTED, PENDING), plans.c.generation == _generation)
_COMMITTED_PLAN = select(plans).where(COMMITTED, plans.c.name == _name)
_COMMITTED_GENERATION = select(plans.c.generation).where(COMMITTED, plans.c.name == _name)
_OPEN_PLANS = select(plans).where(PENDING, plans.c.name == _name).order_by(plans.c.generation.desc())
_OLDER_IMPLICIT_PLANS = select(plans.c.generation).where(
    PENDING, plans.c.name == _name, ~plans.c.explicit, plans.c.generation < _generation
)
_BLOCKS_OF_PLAN = (
    select(blocks.c.position, blocks.c.id, blocks.c.size, blocks.c.crc32c, replicas.c.server)
    .outerjoin_from(blocks, replicas, _same_block)
    .where(blocks.c.generation == _generation)
    .order_by(blocks.c.position, replicas.c.bad.is_not(None), replicas.c.rank)
)
_STEM_IS_USED = select(
    or_(
        exists().where(plans.c.stem == bindparam("stem")),
        exists().where(trash.c.stem == bindparam("stem")),
        exists().where(catalog.c.suspended.is_not(None)),  # an older catalog does not know what is in use
    )
)
_NEW_PLAN = insert(plans).returning(plans.c.generation)
_INSERT_INTO = {table.name: insert(table) for table in (blocks, replicas, trash, repairs)}
_COMMIT = update(plans).where(plans.c.generation == _generation).values(state="committed", modified=bindparam("now"))
_TOUCH = update(plans).where(PENDING, plans.c.generation == _generation).values(touched=bindparam("now"))
_ENDED = {"state": "deleted", "due": bindparam("at")}
_END = update(plans).where(or_(COMMITTED, PENDING), plans.c.generation == _generation).values(_ENDED)
_END_OPEN = update(plans).where(PENDING, plans.c.generation == _generation).values(_ENDED)
_LEARN_SUM = (
    update(blocks)
    .where(blocks.c.generation == _generation, blocks.c.position == bindparam("at"))
    .values(crc32c=bindparam("found"))
)
_FORGET_REPAIRS = delete(repairs).where(repairs.c.generation == _generation)
_FORGET_REPLICAS = delete(replicas).where(replicas.c.generation == _generation, replicas.c.position == bindparam("at"))


# Looking up


def committed_plan(connection: Connection, name: str) -> Plan:
    """Return what readers see of `name`; raises NotFound."""
    row = connection.execute(_COMMITTED_PLAN, {"name": name}).one_or_none()
    if row is None:
        raise NotFound
    return _plan(connection, row)


def plan_of_generation(connection: Connection, generation: int) -> Plan | None:
    """Return the plan, open or committed, of a generation."""
    row = connection.execute(_PLAN, {"of": generation}).one_or_none()
    return None if row is None else _plan(connection, row)


def open_plans(connection: Connection, name: str) -> list[Plan]:
    """Return the open plans of `name`, the newest first."""
    return [_plan(connection, row) for row in connection.execute(_OPEN_PLANS, {"name": name}).all()]


def _plan(connection: Connection, row: Row[Any]) -> Plan:
    planned = connection.execute(_BLOCKS_OF_PLAN, {"of": row.generation})
    found: list[PlanBlock] = []
    for position, block_id, size, crc32c, server in planned:
        if position < len(found):
            found[position] = PlanBlock(block_id, size, crc32c, (*found[position].servers, server))
        else:
            found.append(PlanBlock(block_id, size, crc32c, () if server is None else (server,)))
    return Plan(
        generation=row.generation,
        name=row.name,
        state=row.state,
        explicit=row.explicit,
        total_size=row.total_size,
        block_size=row.block_size,
        replicas=row.replicas,
        attributes=msgspec.json.decode(row.attributes),
        stem=row.stem,
        if_generation=row.if_generation,
        modified=row.modified,
        resumes=row.resumes,
        blocks=tuple(found),
    )


# Planning


def short_ids_free(connection: Connection, name: str) -> bool:
    """Whether nothing in the catalog, trash included, uses the short ids of `name`."""
    return not connection.execute(_STEM_IS_USED, {"stem": stem_of(name)}).scalar_one()


def plan_file(connection: Connection, new: NewPlan, short_ids: bool) -> Plan:
    """Write down a plan; `short_ids` says that the data servers hold no block with a short id of this name.

    Raises Conflict if the name's generation is not the one that was asked for.
    """
    _check_generation(committed_generation(connection, new.name), new.if_generation)
    stem = stem_of(new.name)
    short = short_ids and short_ids_free(connection, new.name)
    used_stem = stem if short else None
    values = {
        "name": new.name,
        "state": "pending",
        "explicit": new.explicit,
        "total_size": new.total_size,
        "block_size": new.block_size,
        "replicas": new.replicas,
        "attributes": encode(new.attributes).decode(),
        "stem": used_stem,
        "if_generation": new.if_generation,
        "touched": new.touched,
        "resumes": new.resumes,
    }
    generation = connection.execute(_NEW_PLAN, values).scalar_one()
    sums: Sequence[str | None] = new.sums or [None] * len(new.sizes)
    planned = tuple(
        PlanBlock(make_block_id(stem, index, None if short else generation), size, crc32c, servers)
        for index, (size, servers, crc32c) in enumerate(zip(new.sizes, new.places, sums, strict=True))
    )
    _insert(
        connection,
        blocks,
        (
            {"generation": generation, "position": at, "id": block.id, "size": block.size, "crc32c": block.crc32c}
            for at, block in enumerate(planned)
        ),
    )
    _insert_replicas(connection, generation, enumerate(block.servers for block in planned))
    return Plan(
        generation=generation,
        name=new.name,
        state="pending",
        explicit=new.explicit,
        total_size=new.total_size,
        block_size=new.block_size,
        replicas=new.replicas,
        attributes=new.attributes,
        stem=used_stem,
        if_generation=new.if_generation,
        modified=None,
        resumes=new.resumes,
        blocks=planned,
    )


def _insert(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    if values := list(rows):
        connection.execute(_INSERT_INTO[table.name], values)


def _insert_replicas(connection: Connection, generation: int, places: Iterable[tuple[int, tuple[int, ...]]]) -> None:
    _insert(
        connection,
        replicas,
        (
            {"generation": generation, "position": position, "rank": rank, "server": server}
            for position, servers in places
            for rank, server in enumerate(servers)
        ),
    )


def newest_explicit_plan(connection: Connection, name: str, total_size: int) -> Plan | None:
    """Return the newest open explicit plan of a name and size: what an upload may resume."""
    plans_of_size = (plan for plan in open_plans(connection, name) if plan.total_size == total_size)
    return next((plan for plan in plans_of_size if plan.explicit), None)


def replace_replica(
    connection: Connection, generation: int, block_id: str, server: int, candidates: Sequence[int], due: int
) -> PlanBlock:
    """Plan a block of an open plan for the first of the `candidates` that can take it, instead of for `server`.

    What `server` may have of it becomes trash. Once it was replaced, again is fine. Raises Conflict if the plan is not
    open, NotFound if it has no such block, Unavailable if there is no other data server.
    """
    plan = plan_of_generation(connection, generation)
    if plan is None or plan.committed:
        raise _not_open(generation)
    found = next(((at, block) for at, block in enumerate(plan.blocks) if block.id == block_id), None)
    if found is None:
        raise NotFound("block not found")
    position, block = found
    if server not in block.servers:
        return block
    taken = {*block.servers, *trashed_on(connection, block_id)}
    new = next((candidate for candidate in candidates if candidate not in taken), None)
    if new is None:
        raise Unavailable("no other data server can take the block: each has it, is down, draining or full")
    servers = tuple(new if each == server else each for each in block.servers)
    connection.execute(_FORGET_REPLICAS, {"of": generation, "at": position})
    _insert_replicas(connection, generation, [(position, servers)])
    row = {"block_id": block_id, "server": server, "stem": plan.stem, "due": due}
    _insert(connection, trash, [row])
    return evolve(block, servers=servers)


def touch_plan(connection: Connection, generation: int, now: int) -> None:
    """Note a sign of life of an open plan's client at `now` in running time; raises Conflict if it was ended."""
    if not connection.execute(_TOUCH, {"of": generation, "now": now}).rowcount:
        raise _not_open(generation)


def _not_open(generation: int) -> Conflict:
    return Conflict(f"plan {generation} is not open: it was ended, replaced or deleted")


def committed_generation(connection: Connection, name: str) -> int | None:
    """Return the generation that readers of `name` see, or None."""
    return connection.execute(_COMMITTED_GENERATION, {"name": name}).scalar_one_or_none()


def _check_generation(current: int | None, wanted: int | None) -> None:
    if wanted is not None and wanted != (current or 0):
        raise Conflict(f"the file has generation {current or 0}, not {wanted}")


# Committing


@frozen
class Commit:
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
    name's generation is not the one that was asked for; Incomplete if a block is nowhere, or where it is not planned.
    """
    plan = plan_of_generation(connection, commit.generation)
    if plan is None:
        raise _not_open(commit.generation)
    if plan.committed:
        return plan
    current = committed_generation(connection, plan.name)
    _check_generation(current, plan.if_generation)
    _check_generation(current, commit.if_generation)
    if commit.only_if_newer and current is not None and current > plan.generation:
        raise Conflict("a newer file was committed first")
    _check_places(plan, commit.stored)
    if current is not None:
        end_plan(connection, current, due)
    older = connection.execute(_OLDER_IMPLICIT_PLANS, {"name": plan.name, "of": plan.generation})
    for generation in older.scalars().all():
        end_plan(connection, generation, due)
    if plan.resumes is not None:
        connection.execute(_END_OPEN, {"of": plan.resumes, "at": due})
    connection.execute(_COMMIT, {"of": plan.generation, "now": commit.modified})
    _record_stored(connection, plan, commit.stored, due)
    stored = tuple(
        evolve(block, crc32c=found.crc32c, servers=found.servers)
        for block, found in zip(plan.blocks, commit.stored, strict=True)
    )
    return evolve(plan, state="committed", modified=commit.modified, blocks=stored)


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
    if learned:
        connection.execute(_LEARN_SUM, learned)
    if moved:
        connection.execute(_FORGET_REPLICAS, [{"of": plan.generation, "at": position} for position, _servers in moved])
    _insert_replicas(connection, plan.generation, moved)
    rows = ({"block_id": block_id, "server": server, "stem": plan.stem, "due": due} for block_id, server in left)
    _insert(connection, trash, rows)
    if fewer:
        connection.execute(_FORGET_REPAIRS, {"of": plan.generation})  # noted when a data server was removed
    of = {"generation": plan.generation, "due": 0}
    _insert(connection, repairs, ({**of, "position": position, "remaining": count} for position, count in fewer))


def end_plan(connection: Connection, generation: int, due: int) -> None:
    """End a plan, open or committed, if it is one: its blocks become trash at `due`; until then it can come back."""
    connection.execute(_END, {"of": generation, "at": due})


def end_open_plan(connection: Connection, generation: int, due: int) -> None:
    """End a plan as `end_plan` does, but only while it is open: what was committed meanwhile is a file."""
    connection.execute(_END_OPEN, {"of": generation, "at": due})
