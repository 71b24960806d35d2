"""Replicas of committed blocks: which there are, what was found wrong with them, which are to be looked at.

A replica's row is never forgotten on a diagnosis: it is marked `missing` or `corrupt`, and is good again once a copy
lies there that was verified. The queue in `repairs` only says where to look; what to do is decided from the
rows as they then are. Statements only; see filefly.catalog.plans.
"""

from collections.abc import Collection, Iterable
from typing import Any, Literal

from attrs import frozen
from sqlalchemy import Connection, delete, func, insert, select, tuple_, update

from filefly.catalog.inventory import DataServerRow, data_server_rows, set_displaced
from filefly.catalog.schema import COMMITTED, blocks, plans, repairs, replicas, trash
from filefly.errors import Conflict
from filefly.wire.names import split_block_id

Bad = Literal["missing", "corrupt"]

_EVER = 2**53

_r, _b, _p = replicas.c, blocks.c, plans.c


@frozen(order=True)
class Place:
    """Which block: its file's generation and its position there."""

    generation: int
    position: int


FIRST = Place(0, -1)
"""Before every block."""


@frozen
class StoredBlock:
    """A block of a committed file, and the data servers that have it; `bad` says which of them should but do not."""

    place: Place
    name: str
    id: str
    size: int
    crc32c: str
    wanted: int
    servers: tuple[int, ...]
    bad: dict[int, str]
    stem: str | None

    @property
    def good(self) -> tuple[int, ...]:
        """Return the data servers whose replicas nothing is known against."""
        return tuple(server for server in self.servers if server not in self.bad)


_BLOCKS = (
    select(_p.name, _p.stem, _p.replicas, _b.generation, _b.position, _b.id, _b.size, _b.crc32c)
    .join_from(blocks, plans, _p.generation == _b.generation)
    .where(COMMITTED)
)


def stored_block(connection: Connection, place: Place) -> StoredBlock | None:
    """Return a block if its file is what readers see."""
    query = _BLOCKS.where(_b.generation == place.generation, _b.position == place.position)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    found = connection.execute(
        select(_r.server, _r.bad)
        .where(_r.generation == place.generation, _r.position == place.position)
        .order_by(_r.rank)
    ).all()
    return StoredBlock(
        place=place,
        name=row.name,
        id=row.id,
        size=row.size,
        crc32c=row.crc32c,
        wanted=row.replicas,
        servers=tuple(server for server, _bad in found),
        bad={server: bad for server, bad in found if bad is not None},
        stem=row.stem,
    )


def stored_blocks(connection: Connection, places: Iterable[Place]) -> list[StoredBlock]:
    """Return those of some blocks whose files are what readers see."""
    found = (stored_block(connection, place) for place in places)
    return [block for block in found if block is not None]


def places_on(connection: Connection, server: int, after: Place, limit: int) -> list[Place]:
    """Return some of the blocks, of whatever plans, that a data server has, in order, those behind `after`."""
    query = (
        select(_r.generation, _r.position)
        .where(_r.server == server, tuple_(_r.generation, _r.position) > tuple_(after.generation, after.position))
        .order_by(_r.generation, _r.position)
        .limit(limit)
    )
    return [Place(*row) for row in connection.execute(query)]


def places_after(connection: Connection, after: Place, limit: int) -> list[Place]:
    """Return some of the blocks of committed files, in order, those behind `after`."""
    query = (
        select(_b.generation, _b.position)
        .join_from(blocks, plans, _p.generation == _b.generation)
        .where(COMMITTED, tuple_(_b.generation, _b.position) > tuple_(after.generation, after.position))
        .order_by(_b.generation, _b.position)
        .limit(limit)
    )
    return [Place(*row) for row in connection.execute(query)]


def committed_on(
    connection: Connection, server: int, after: Place, last: Place, away: Collection[int] | None = None
) -> list[Place]:
    """Return the blocks of committed files that a data server has behind `after` and up to `last`.

    With `away`, only those with fewer good replicas than wanted, those on servers that are `away` not counted.
    """
    here = tuple_(_r.generation, _r.position)
    query = (
        select(_r.generation, _r.position)
        .join_from(replicas, plans, _p.generation == _r.generation)
        .where(COMMITTED, _r.server == server, here > tuple_(after.generation, after.position))
        .where(here <= tuple_(last.generation, last.position))
        .order_by(_r.generation, _r.position)
    )
    if away is not None:
        other = replicas.alias()
        same = (other.c.generation == _r.generation) & (other.c.position == _r.position)
        counts = same & other.c.bad.is_(None) & other.c.server.not_in(away)
        query = query.where(select(func.count()).select_from(other).where(counts).scalar_subquery() < _p.replicas)
    return [Place(*row) for row in connection.execute(query)]


def count_on(connection: Connection, server: int, after: Place = FIRST) -> int:
    """Count the replicas, of whatever plans, that a data server has behind `after`."""
    behind = tuple_(_r.generation, _r.position) > tuple_(after.generation, after.position)
    return int(connection.execute(select(func.count()).where(_r.server == server, behind)).scalar_one())


def place_of(connection: Connection, block_id: str) -> Place | None:
    """Return which block of which plan, of whatever state, has an id."""
    parts = split_block_id(block_id)
    if parts is None:
        return None
    stem, index, generation = parts
    query = select(_b.generation, _b.position).where(_b.position == index, _b.id == block_id)
    if generation is not None:
        query = query.where(_b.generation == generation)
    else:
        query = query.where(_b.generation.in_(select(_p.generation).where(_p.stem == stem)))
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else Place(*row)


def trashed_on(connection: Connection, block_id: str, by: int = _EVER) -> set[int]:
    """Return the data servers that have to get rid of a block of this id by some running time."""
    c = trash.c
    return set(connection.execute(select(c.server).where(c.block_id == block_id, c.due <= by)).scalars())


# What was found


def mark(connection: Connection, place: Place, server: int, bad: Bad | None) -> None:
    """Note what is wrong with a replica, or that nothing is; a bad one is noted for repair at once."""
    connection.execute(update(replicas).where(_at(place), _r.server == server).values(bad=bad))
    if bad is not None:
        repair_at_once(connection, place)


def _at(place: Place) -> Any:
    return (_r.generation == place.generation) & (_r.position == place.position)


def note_repairs(connection: Connection, places: Iterable[Place], away: Collection[int] = ()) -> None:
    """Have some blocks looked at; replicas on servers that are `away` do not count.

    Those that are noted already wait for their time, but for one that has become worse.
    """
    for place in places:
        here = _at(place) & _r.bad.is_(None) & _r.server.not_in(away)
        remaining = connection.execute(select(func.count()).where(here)).scalar_one()
        before = connection.execute(select(repairs.c.remaining).where(_noted(place))).scalar_one_or_none()
        changed = {"remaining": remaining, "due": 0}
        if before is None:
            row = {"generation": place.generation, "position": place.position, **changed}
            connection.execute(insert(repairs).values(row))
        elif remaining < before:
            connection.execute(update(repairs).where(_noted(place)).values(changed))


def repair_at_once(connection: Connection, place: Place, away: Collection[int] = ()) -> None:
    """Have a block looked at now, whatever it was waiting for; see note_repairs."""
    note_repairs(connection, [place], away)
    postpone_repair(connection, place, 0)


# What is to be looked at


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


def settle_repair(connection: Connection, place: Place, seen: StoredBlock | None) -> None:
    """Note that a block is as it should be, if it still is as it was `seen`."""
    if stored_block(connection, place) == seen:
        connection.execute(delete(repairs).where(_noted(place)))


def _noted(place: Place) -> Any:
    return (repairs.c.generation == place.generation) & (repairs.c.position == place.position)


def wake_repairs(connection: Connection) -> None:
    """Have every block that waits looked at now: what it waited for may have come."""
    connection.execute(update(repairs).where(repairs.c.due > 0).values(due=0))


def postpone_repair(connection: Connection, place: Place, due: int) -> None:
    """Have a block looked at again later."""
    connection.execute(update(repairs).where(_noted(place)).values(due=due))


def shelve_repair(connection: Connection, seen: StoredBlock, due: int) -> None:
    """Have a block that nobody can mend looked at again later, if it still is as it was `seen`."""
    if stored_block(connection, seen.place) == seen:
        postpone_repair(connection, seen.place, due)


def plan_copy(connection: Connection, block: StoredBlock, server: int, time: int) -> None:
    """Note, at a running `time`, that a copy is about to be put on a data server; it is missing until it is there.

    So the catalog knows of it whatever happens next, and it goes with its file. Trash that the data server was still to
    keep for its grace is a replica again. Raises Conflict if it must not go there now.
    """
    now = stored_block(connection, block.place)
    if now is None:
        raise Conflict("the block's file is not there any more")
    if server not in {row.key for row in data_server_rows(connection)}:
        raise Conflict("the data server was removed")
    _check_not_trashed(connection, block, server, by=time)
    connection.execute(delete(trash).where(trash.c.block_id == block.id, trash.c.server == server))
    if server in now.servers:
        return
    rank = connection.execute(select(func.max(_r.rank)).where(_at(block.place))).scalar_one()
    values = {"generation": block.place.generation, "position": block.place.position, "server": server}
    planned = {**values, "rank": (-1 if rank is None else rank) + 1, "bad": "missing"}
    connection.execute(insert(replicas).values(planned))


def _check_not_trashed(connection: Connection, block: StoredBlock, server: int, by: int = _EVER) -> None:
    if server in trashed_on(connection, block.id, by):
        raise Conflict(f"an older copy of {block.id} is still to go from the data server")


def copied(
    connection: Connection, block: StoredBlock, server: int, away: Collection[int], due: int
) -> list[DataServerRow]:
    """Note that the planned copy of a block is there, verified, in place of what those that are `away` have.

    If its file is not known any more, the copy is trash. Raises Conflict if it was given up meanwhile.
    """
    known = connection.execute(select(_b.id).where(_b.generation == block.place.generation).limit(1)).first()
    if known is None:
        if place_of(connection, block.id) is None:  # else it is another file's by now
            _to_trash(connection, block, server, due)
        return data_server_rows(connection)
    _check_not_trashed(connection, block, server)
    here = update(replicas).where(_at(block.place), _r.server == server).values(bad=None)
    if not connection.execute(here).rowcount:
        raise Conflict("the copy was given up while it was made")
    others = set(connection.execute(select(_r.server).where(_at(block.place))).scalars())
    for absent in set(away) & others:
        set_displaced(connection, absent, True)
    return data_server_rows(connection)


def give_up(
    connection: Connection,
    block: StoredBlock,
    server: int,
    verified: Collection[int],
    usable: Collection[int],
    due: int,
) -> None:
    """Turn a replica that is not needed into trash.

    Raises Conflict unless, now, the wanted number of others remains on `usable` servers, all `verified` since this was
    decided.
    """
    now = stored_block(connection, block.place)
    if now is None or server not in now.servers:
        raise Conflict("the replica is not there any more")
    remaining = {*now.good} & {*usable} & {*verified} - {server} - trashed_on(connection, block.id)
    if len(remaining) < now.wanted:
        raise Conflict("too few other replicas were verified")
    connection.execute(delete(replicas).where(_at(block.place), _r.server == server))
    _to_trash(connection, block, server, due)


def _to_trash(connection: Connection, block: StoredBlock, server: int, due: int) -> None:
    row = {"block_id": block.id, "server": server, "stem": block.stem, "due": due}
    connection.execute(insert(trash).values(row))


def forget_replicas(connection: Connection, server: int, limit: int) -> int:
    """Forget some of the replicas of a data server that is lost, noting their blocks for repair; return how many."""
    places = places_on(connection, server, FIRST, limit)
    if places:
        note_repairs(connection, places, away=[server])
        last = tuple_(places[-1].generation, places[-1].position)
        connection.execute(delete(replicas).where(_r.server == server, tuple_(_r.generation, _r.position) <= last))
    return len(places)
