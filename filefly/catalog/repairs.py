"""The queue of blocks that are to be looked at: their replicas may be too few, too many, or bad.

It only says where to look; what to do is decided from the rows as they then are. Statements only; see
filefly.catalog.plans.
"""

from collections.abc import Collection, Iterable

from attrs import frozen
from sqlalchemy import BindParameter, Connection, bindparam, delete, func, insert, literal_column, select, update

from filefly.catalog.schema import repairs, replicas
from filefly.catalog.statements import Statement


@frozen(order=True)
class Place:
    """Which block: its file's generation and its position there."""

    generation: int
    position: int


FIRST = Place(0, -1)
"""Before every block."""


_generation: BindParameter[int] = bindparam("of")
_position: BindParameter[int] = bindparam("at")
_this = (repairs.c.generation == _generation) & (repairs.c.position == _position)

_GOOD = Statement(
    select(replicas.c.server).where(
        replicas.c.generation == _generation, replicas.c.position == _position, replicas.c.bad.is_(None)
    )
)
_NOTED = Statement(select(repairs.c.remaining).where(_this))
_NOTE = Statement(insert(repairs), "generation", "position", "remaining", "due")
_WORSE = Statement(update(repairs).where(_this).values(remaining=bindparam("good"), due=literal_column("0")))
_POSTPONE = Statement(update(repairs).where(_this).values(due=bindparam("until")))
_FORGET = Statement(delete(repairs).where(_this))


# Noting


def note_repairs(connection: Connection, places: Iterable[Place], away: Collection[int] = ()) -> None:
    """Have some blocks looked at; replicas on servers that are `away` do not count.

    Those that are noted already wait for their time, but for one that has become worse.
    """
    for place in places:
        at = {"of": place.generation, "at": place.position}
        remaining = sum(server not in away for (server,) in _GOOD.rows(connection, at))
        before = _NOTED.value(connection, at)
        if before is None:
            row = {"generation": place.generation, "position": place.position, "remaining": remaining, "due": 0}
            _NOTE.run(connection, row)
        elif remaining < before:
            _WORSE.run(connection, {**at, "good": remaining})


def repair_at_once(connection: Connection, place: Place, away: Collection[int] = ()) -> None:
    """Have a block looked at now, whatever it was waiting for; see note_repairs."""
    note_repairs(connection, [place], away)
    postpone_repair(connection, place, 0)


# What is noted


def due_repairs(connection: Connection, now: int, limit: int) -> list[Place]:
    """Return some of the blocks to look at, those with the fewest good replicas first."""
    c = repairs.c
    query = select(c.generation, c.position).where(c.due <= now).order_by(c.remaining, c.due, c.generation, c.position)
    return [Place(*row) for row in connection.execute(query.limit(limit))]


def count_repairs(connection: Connection, now: int | None = None, most: int | None = None) -> int:
    """Count the blocks that are to be looked at, or those that are due `now`; with `most`, only so far."""
    some = select(repairs.c.generation).limit(most)
    some = some if now is None else some.where(repairs.c.due <= now)
    return int(connection.execute(select(func.count()).select_from(some.subquery())).scalar_one())


def wake_repairs(connection: Connection) -> None:
    """Have every block that waits looked at now: what it waited for may have come."""
    connection.execute(update(repairs).where(repairs.c.due > 0).values(due=0))


def postpone_repair(connection: Connection, place: Place, due: int) -> None:
    """Have a block looked at again later."""
    _POSTPONE.run(connection, {"of": place.generation, "at": place.position, "until": due})


def forget_repair(connection: Connection, place: Place) -> None:
    """Note that a block need not be looked at any more."""
    _FORGET.run(connection, {"of": place.generation, "at": place.position})
