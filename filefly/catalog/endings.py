"""How files end: deleted, replaced, expired; brought back within the grace, and gone after it.

Ending a plan changes one row. Only when it is due, in one transaction, do its blocks become trash rows and is the plan
forgotten: from then on it cannot come back, and deletes may be sent. Statements only; see filefly.catalog.plans.
"""

from collections.abc import Sequence

from attrs import frozen
from sqlalchemy import BindParameter, Connection, bindparam, delete, insert, literal, or_, select, update

from filefly.catalog.commits import end_plan
from filefly.catalog.plans import Plan, committed_generation, committed_plan
from filefly.catalog.quotas import check_room, count, count_rename, quotas_of
from filefly.catalog.schema import COMMITTED, DELETED, PENDING, blocks, plans, repairs, replicas, trash
from filefly.errors import Conflict, NotFound

_generation: BindParameter[int] = bindparam("of")

_GENERATIONS = select(plans.c.generation).where(or_(COMMITTED, PENDING), plans.c.name == bindparam("name"))
_OPEN_IMPLICIT = select(plans.c.generation).where(PENDING, plans.c.name == bindparam("name"), ~plans.c.explicit)
_PLACELESS = (
    select(blocks.c.position)
    .outerjoin(replicas, (blocks.c.generation == replicas.c.generation) & (blocks.c.position == replicas.c.position))
    .where(blocks.c.generation == _generation, replicas.c.server.is_(None))
    .limit(1)
)
_RENAME = update(plans).where(plans.c.generation == _generation).values(name=bindparam("to"))
_LAST_DELETED = (
    select(plans.c.generation)
    .where(DELETED, plans.c.name == bindparam("name"), plans.c.modified.is_not(None))
    .order_by(plans.c.due.desc(), plans.c.generation.desc())
    .limit(1)
)
_UNDELETE = update(plans).where(plans.c.generation == _generation).values(state="committed", due=None)
_SILENT = (
    select(plans.c.generation, plans.c.explicit)
    .where(PENDING, plans.c.touched <= bindparam("since"))
    .order_by(plans.c.touched)
    .limit(1000)
)
_DUE = select(plans.c.generation).where(DELETED, plans.c.due <= bindparam("now")).order_by(plans.c.due).limit(1000)
_PLAN_TO_TRASH = insert(trash).from_select(
    ["block_id", "server", "stem", "due"],
    select(blocks.c.id, replicas.c.server, plans.c.stem, literal(0))
    .join_from(blocks, plans, blocks.c.generation == plans.c.generation)
    .join(replicas, (blocks.c.generation == replicas.c.generation) & (blocks.c.position == replicas.c.position))
    .where(blocks.c.generation == _generation),
)
# Whoever uploads by a plan that was never committed may not know that it was ended, and store its blocks for as long as
# he likes: their short ids are not given again. It is at most one row for a stem.
_KEEPS_STEM = plans.c.stem.is_not(None) & plans.c.modified.is_(None)
_FORGET_PLAN = [
    *(delete(table).where(table.c.generation == _generation) for table in (repairs, replicas, blocks)),
    update(plans).where(plans.c.generation == _generation, _KEEPS_STEM).values(state="over", name="", due=None),
    delete(plans).where(plans.c.generation == _generation, ~_KEEPS_STEM),
]


@frozen
class TrashRow:
    """A block that must go from a data server; an `aside` one is moved away instead of deleted."""

    key: int
    block_id: str
    server: int
    aside: bool


def delete_file(connection: Connection, name: str, due: int) -> None:
    """Delete the file and end every open plan of its name; raises NotFound if there is neither."""
    generations = connection.execute(_GENERATIONS, {"name": name}).scalars().all()
    if not generations:
        raise NotFound
    for generation in generations:
        end_plan(connection, generation, due)


def undelete_file(connection: Connection, name: str) -> Plan:
    """Bring back what was last deleted or replaced under `name`, if its blocks are not going yet.

    Raises NotFound if there is nothing to bring back, Conflict if there is a file of that name, QuotaExceeded if there
    is no room for it.
    """
    if committed_generation(connection, name) is not None:
        raise Conflict(f"{name} exists; rename or delete it first")
    generation = connection.execute(_LAST_DELETED, {"name": name}).scalar_one_or_none()
    if generation is None:
        raise NotFound("nothing of this name can be brought back: it was never stored, or its time is over")
    if connection.execute(_PLACELESS, {"of": generation}).first() is not None:
        raise NotFound("its blocks went with a data server that was removed")
    connection.execute(_UNDELETE, {"of": generation})
    plan = committed_plan(connection, name)
    prefixes = quotas_of(connection, name)
    if prefixes:
        check_room(connection, prefixes, plan.total_size, [])
        count(connection, prefixes, plan.total_size, used=1)
    return plan


def rename_file(connection: Connection, name: str, new_name: str, due: int) -> None:
    """Give a committed file another name; a committed file of that name is replaced.

    Raises NotFound, QuotaExceeded if there is no room where it comes to.
    """
    generation = committed_generation(connection, name)
    if generation is None:
        raise NotFound
    if name == new_name:
        return
    replaced = committed_generation(connection, new_name)
    count_rename(connection, generation, new_name, replaced)
    if replaced is not None:
        end_plan(connection, replaced, due)
    for implicit in connection.execute(_OPEN_IMPLICIT, {"name": new_name}).scalars().all():
        end_plan(connection, implicit, due)  # what was stored before must not replace what came later
    connection.execute(_RENAME, {"of": generation, "to": new_name})


def anything_over(connection: Connection, since: int, now: int) -> bool:
    """Whether there is something for `expire_plans` or `let_go` to do."""
    silent = connection.execute(_SILENT.limit(1), {"since": since}).first()
    return silent is not None or connection.execute(_DUE.limit(1), {"now": now}).first() is not None


def expire_plans(connection: Connection, since: int, due: int) -> int:
    """End some open explicit plans whose clients gave no sign of life after `since`, and return how many."""
    silent = [row.generation for row in connection.execute(_SILENT, {"since": since}) if row.explicit]
    for generation in silent:
        end_plan(connection, generation, due)
    return len(silent)


def silent_implicit_plans(connection: Connection, since: int) -> list[int]:
    """Return some open implicit plans whose clients gave no sign of life after `since`: they may be complete.

    The oldest come first: those that only add a file wait for all that are older.
    """
    return sorted(row.generation for row in connection.execute(_SILENT, {"since": since}) if not row.explicit)


def let_go(connection: Connection, now: int, most_blocks: int) -> int:
    """Turn the blocks of some ended plans that are due into trash, for good; return how many plans.

    Plans are taken until they have `most_blocks` blocks or more, so that no transaction lasts for long.
    """
    gone = moved = 0
    for generation in connection.execute(_DUE, {"now": now}).scalars().all():
        moved += connection.execute(_PLAN_TO_TRASH, {"of": generation}).rowcount
        for forget in _FORGET_PLAN:
            connection.execute(forget, {"of": generation})
        gone += 1
        if moved >= most_blocks:
            break
    return gone


def due_trash(connection: Connection, server: int, now: int, limit: int) -> list[TrashRow]:
    """Return some of what a data server must get rid of, what has waited longest first."""
    c = trash.c
    due = select(c.key, c.block_id, c.server, c.aside).where(c.server == server, c.due <= now)
    return [TrashRow(*row) for row in connection.execute(due.order_by(c.due, c.key).limit(limit))]


def mark_going(connection: Connection, rows: Sequence[TrashRow]) -> list[TrashRow]:
    """Note that deletes are about to be sent: nobody takes this trash back. Return what is still there of it."""
    keys = [row.key for row in rows]
    connection.execute(update(trash).where(trash.c.key.in_(keys), trash.c.due > 0).values(due=0))
    c = trash.c
    left = select(c.key, c.block_id, c.server, c.aside).where(c.key.in_(keys))
    there = {TrashRow(*row) for row in connection.execute(left)}
    return [row for row in rows if row in there]


def forget_trash(connection: Connection, keys: Sequence[int], server: int | None = None) -> None:
    """Forget trash of which a data server has confirmed that it is gone; keys of a removed one are given again."""
    here = trash.c.key.in_(keys) if server is None else trash.c.key.in_(keys) & (trash.c.server == server)
    connection.execute(delete(trash).where(here))
