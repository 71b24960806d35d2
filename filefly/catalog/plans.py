"""What the catalog knows of files: plans, and how they are looked up. Statements only; knows no Twisted.

Every function takes a connection inside a transaction of `filefly.catalog.database` and raises FileFlyError to take its
part of the transaction back. Data servers are named by their key.

Plans and their blocks are msgspec structs: thousands are made a second, in a tenth of the time of attrs classes.
"""

from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import BindParameter, Connection, bindparam, or_, select

from filefly.catalog.schema import COMMITTED, PENDING, blocks, plans, replicas
from filefly.catalog.statements import Statement
from filefly.errors import Conflict, NotFound
from filefly.wire.messages import Attributes


class PlanBlock(Struct, frozen=True):
    """A block of a plan, and the data servers that it is planned for or stored on."""

    id: str
    size: int
    crc32c: str | None
    servers: tuple[int, ...]


class Plan(Struct, frozen=True):
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
    holder: str | None
    blocks: tuple[PlanBlock, ...]

    @property
    def committed(self) -> bool:
        """Whether readers see it."""
        return self.state == "committed"


# A plan's columns in the order of Plan's, its blocks apart
_COLUMNS = [plans.c[name] for name in Plan.__struct_fields__[:-1]]

_name: BindParameter[str] = bindparam("name")
_generation: BindParameter[int] = bindparam("of")
_same_block = (blocks.c.generation == replicas.c.generation) & (blocks.c.position == replicas.c.position)

_PLAN = Statement(select(*_COLUMNS).where(or_(COMMITTED, PENDING), plans.c.generation == _generation))
_COMMITTED_PLAN = Statement(select(*_COLUMNS).where(COMMITTED, plans.c.name == _name))
_COMMITTED_GENERATION = Statement(select(plans.c.generation).where(COMMITTED, plans.c.name == _name))
_OPEN_GENERATIONS = Statement(select(plans.c.generation).where(PENDING, plans.c.name == _name))
_BLOCKS_OF_PLAN = Statement(
    select(blocks.c.position, blocks.c.id, blocks.c.size, blocks.c.crc32c, replicas.c.server)
    .outerjoin_from(blocks, replicas, _same_block)
    .where(blocks.c.generation == _generation)
    .order_by(blocks.c.position, replicas.c.bad.is_not(None), replicas.c.rank)
)


def committed_plan(connection: Connection, name: str) -> Plan:
    """Return what readers see of `name`; raises NotFound."""
    row = _COMMITTED_PLAN.row(connection, {"name": name})
    if row is None:
        raise NotFound
    return _plan(connection, row)


def plan_of_generation(connection: Connection, generation: int, with_blocks: bool = True) -> Plan | None:
    """Return the plan, open or committed, of a generation; it may have thousands of blocks."""
    row = _PLAN.row(connection, {"of": generation})
    return None if row is None else _plan(connection, row, with_blocks)


def open_generations(connection: Connection, name: str) -> list[int]:
    """Return the generations of the open plans of `name`: they may be many."""
    return [generation for (generation,) in _OPEN_GENERATIONS.rows(connection, {"name": name})]


def blocks_of_plan(connection: Connection, generation: int) -> tuple[PlanBlock, ...]:
    """Return the blocks of a plan in their order, of each the data servers with good replicas first."""
    found: list[PlanBlock] = []
    for position, block_id, size, crc32c, server in _BLOCKS_OF_PLAN.rows(connection, {"of": generation}):
        if position < len(found):
            found[position] = PlanBlock(block_id, size, crc32c, (*found[position].servers, server))
        else:
            found.append(PlanBlock(block_id, size, crc32c, () if server is None else (server,)))
    return tuple(found)


def _plan(connection: Connection, row: Any, with_blocks: bool = True) -> Plan:
    generation, name, state, explicit, size, block_size, wanted, attributes, *rest = row
    stem, if_generation, modified, resumes, holder = rest
    return Plan(
        generation,
        name,
        state,
        bool(explicit),
        size,
        block_size,
        wanted,
        msgspec.json.decode(attributes),
        stem,
        if_generation,
        modified,
        resumes,
        holder,
        blocks_of_plan(connection, generation) if with_blocks else (),
    )


def committed_generation(connection: Connection, name: str) -> int | None:
    """Return the generation that readers of `name` see, or None."""
    generation: int | None = _COMMITTED_GENERATION.value(connection, {"name": name})
    return generation


def check_generation(current: int | None, wanted: int | None) -> None:
    """Raise Conflict if a name's `current` generation is not the one that was asked for; 0 asks for none."""
    if wanted is not None and wanted != (current or 0):
        raise Conflict(f"the file has generation {current or 0}, not {wanted}")


def not_open(generation: int) -> Conflict:
    """Return the error that says that a plan is over."""
    return Conflict(f"plan {generation} is not open: it was ended, replaced or deleted")
