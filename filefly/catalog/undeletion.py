"""Bringing deleted files back, in a state to be trusted. Statements only; see filefly.catalog.plans."""

from sqlalchemy import BindParameter, Connection, bindparam, delete, func, insert, literal, select

from filefly.catalog.endings import undelete_file
from filefly.catalog.plans import Plan
from filefly.catalog.schema import blocks, repairs, replicas

_generation: BindParameter[int] = bindparam("of")
_REMAINING = (
    select(func.count())
    .where(
        replicas.c.generation == blocks.c.generation,
        replicas.c.position == blocks.c.position,
        replicas.c.bad.is_(None),
    )
    .scalar_subquery()
)
_FORGET_REPAIRS = delete(repairs).where(repairs.c.generation == _generation)
_REPAIR_ALL = insert(repairs).from_select(
    ["generation", "position", "remaining", "due"],
    select(blocks.c.generation, blocks.c.position, _REMAINING, literal(0)).where(blocks.c.generation == _generation),
)


def bring_back(connection: Connection, name: str) -> Plan:
    """Bring back what was last deleted or replaced under `name`, and have all its blocks looked at.

    Nobody cared for them meanwhile: a data server may have been retired, or drained. It is one statement, however
    many blocks there are. Raises as `undelete_file` does.
    """
    plan = undelete_file(connection, name)
    connection.execute(_FORGET_REPAIRS, {"of": plan.generation})
    connection.execute(_REPAIR_ALL, {"of": plan.generation})
    return plan
