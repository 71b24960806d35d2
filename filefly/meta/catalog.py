"""What the catalog knows of files: plans, commits, deletions. Statements only; knows no Twisted.

Every function takes a connection inside a transaction of `filefly.meta.database` and raises FileFlyError to take its
part of the transaction back. Data servers are named by their key.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from attrs import evolve, field, frozen
from sqlalchemy import (
    BindParameter,
    Connection,
    Integer,
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

from filefly.errors import Conflict, NotFound
from filefly.meta.schema import COMMITTED, PENDING, blocks, plans, replicas, trash
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

_PLAN = select(plans).where(plans.c.generation == _generation)
_COMMITTED_PLAN = select(plans).where(COMMITTED, plans.c.name == _name)
_COMMITTED_GENERATION = select(plans.c.generation).where(COMMITTED, plans.c.name == _name)
_OPEN_PLANS = select(plans).where(PENDING, plans.c.name == _name).order_by(plans.c.generation.desc())
_OLDER_IMPLICIT_PLANS = select(plans.c.generation).where(
    PENDING, plans.c.name == _name, ~plans.c.explicit, plans.c.generation < _generation
)
_GENERATIONS = select(plans.c.generation).where(or_(COMMITTED, PENDING), plans.c.name == _name)
_BLOCKS_OF_PLAN = (
    select(blocks.c.position, blocks.c.id, blocks.c.size, blocks.c.crc32c, replicas.c.server)
    .outerjoin_from(blocks, replicas, _same_block)
    .where(blocks.c.generation == _generation)
    .order_by(blocks.c.position, replicas.c.rank)
)
_STEM_IS_USED = select(
    or_(exists().where(plans.c.stem == bindparam("stem")), exists().where(trash.c.stem == bindparam("stem")))
)
_NEW_PLAN = insert(plans).returning(plans.c.generation)
_INSERT_INTO = {table.name: insert(table) for table in (blocks, replicas, trash)}
_COMMIT = update(plans).where(plans.c.generation == _generation).values(state="committed", modified=bindparam("now"))
_RENAME = update(plans).where(plans.c.generation == _generation).values(name=bindparam("to"))
_LEARN_SUM = (
    update(blocks)
    .where(blocks.c.generation == _generation, blocks.c.position == bindparam("at"))
    .values(crc32c=bindparam("found"))
)
_FORGET_REPLICAS = delete(replicas).where(replicas.c.generation == _generation, replicas.c.position == bindparam("at"))
_PLAN_TO_TRASH = insert(trash).from_select(
    ["block_id", "server", "stem", "due"],
    select(blocks.c.id, replicas.c.server, plans.c.stem, bindparam("due", type_=Integer))
    .join_from(blocks, plans, blocks.c.generation == plans.c.generation)
    .join(replicas, _same_block)
    .where(blocks.c.generation == _generation),
)
_FORGET_PLAN = [delete(table).where(table.c.generation == _generation) for table in (replicas, blocks, plans)]


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
    _check_generation(_committed_generation(connection, new.name), new.if_generation)
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


def _committed_generation(connection: Connection, name: str) -> int | None:
    return connection.execute(_COMMITTED_GENERATION, {"name": name}).scalar_one_or_none()


def _check_generation(current: int | None, wanted: int | None) -> None:
    if wanted is not None and wanted != (current or 0):
        raise Conflict(f"the file has generation {current or 0}, not {wanted}")


# Committing, deleting, renaming


@frozen
class Commit:
    """A plan to commit: what was stored, by position; every position has an entry."""

    generation: int
    stored: Sequence[StoredReplicas]
    modified: str
    if_generation: int | None = None
    only_if_newer: bool = False


def commit_plan(connection: Connection, commit: Commit, due: int) -> Plan:
    """Make an open plan what readers see, in place of what they saw, whose replicas become trash, `due` as given.

    With it end the name's older implicit plans. Committing again what is committed is fine. Raises Conflict if the
    plan was ended, or the name's generation is not the one that was asked for.
    """
    plan = plan_of_generation(connection, commit.generation)
    if plan is None:
        raise Conflict(f"plan {commit.generation} is not open: it was ended, replaced or deleted")
    if plan.committed:
        return plan
    current = _committed_generation(connection, plan.name)
    _check_generation(current, plan.if_generation)
    _check_generation(current, commit.if_generation)
    if commit.only_if_newer and current is not None and current > plan.generation:
        raise Conflict("a newer file was committed first")
    if current is not None:
        _end_plan(connection, current, due)
    older = connection.execute(_OLDER_IMPLICIT_PLANS, {"name": plan.name, "of": plan.generation})
    for generation in older.scalars().all():
        _end_plan(connection, generation, due)
    connection.execute(_COMMIT, {"of": plan.generation, "now": commit.modified})
    _record_stored(connection, plan, commit.stored, due)
    stored = tuple(
        evolve(block, crc32c=found.crc32c, servers=found.servers)
        for block, found in zip(plan.blocks, commit.stored, strict=True)
    )
    return evolve(plan, state="committed", modified=commit.modified, blocks=stored)


def _record_stored(connection: Connection, plan: Plan, stored: Sequence[StoredReplicas], due: int) -> None:
    """Write down checksums and places; a planned replica that was not stored may still turn up, so it is trash."""
    learned, moved, left = [], [], []
    for position, (block, found) in enumerate(zip(plan.blocks, stored, strict=True)):
        if found.crc32c != block.crc32c:
            learned.append({"of": plan.generation, "at": position, "found": found.crc32c})
        if found.servers != block.servers:
            moved.append((position, found.servers))
            left += [(block.id, server) for server in block.servers if server not in found.servers]
    if learned:
        connection.execute(_LEARN_SUM, learned)
    if moved:
        connection.execute(_FORGET_REPLICAS, [{"of": plan.generation, "at": position} for position, _servers in moved])
    _insert_replicas(connection, plan.generation, moved)
    rows = ({"block_id": block_id, "server": server, "stem": plan.stem, "due": due} for block_id, server in left)
    _insert(connection, trash, rows)


def _end_plan(connection: Connection, generation: int, due: int) -> None:
    """Turn all replicas of a plan into trash and forget it."""
    connection.execute(_PLAN_TO_TRASH, {"of": generation, "due": due})
    for forget in _FORGET_PLAN:
        connection.execute(forget, {"of": generation})


def delete_file(connection: Connection, name: str, due: int) -> None:
    """Delete the file and end every open plan of its name; raises NotFound if there is neither."""
    generations = connection.execute(_GENERATIONS, {"name": name}).scalars().all()
    if not generations:
        raise NotFound
    for generation in generations:
        _end_plan(connection, generation, due)


def rename_file(connection: Connection, name: str, new_name: str, due: int) -> None:
    """Give a committed file another name; a committed file of that name becomes trash. Raises NotFound."""
    generation = _committed_generation(connection, name)
    if generation is None:
        raise NotFound
    if name == new_name:
        return
    replaced = _committed_generation(connection, new_name)
    if replaced is not None:
        _end_plan(connection, replaced, due)
    connection.execute(_RENAME, {"of": generation, "to": new_name})
