"""Replicas of committed blocks: which there are, and what was found wrong with them.

A replica's row is never forgotten on a diagnosis: it is marked `missing` or `corrupt`, and is good again once a copy
lies there that was verified. Statements only; see filefly.catalog.plans.
"""

from collections.abc import Collection, Iterable
from typing import Literal

from attrs import frozen
from sqlalchemy import BindParameter, Connection, bindparam, delete, func, insert, select, tuple_, update

from filefly.catalog.inventory import DataServerRow, data_server_rows, set_displaced
from filefly.catalog.repairs import FIRST, Place, forget_repair, note_repairs, postpone_repair, repair_at_once
from filefly.catalog.schema import COMMITTED, blocks, plans, replicas, trash
from filefly.catalog.statements import Statement
from filefly.errors import Conflict
from filefly.wire.names import split_block_id

Bad = Literal["missing", "corrupt"]

_EVER = 2**53

_r, _b, _p = replicas.c, blocks.c, plans.c


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


# Statements that repair and scrub run for each block, built once

_generation: BindParameter[int] = bindparam("of")
_position: BindParameter[int] = bindparam("at")
_server: BindParameter[int] = bindparam("on")
_here = (_r.generation == _generation) & (_r.position == _position)

_BLOCK = Statement(
    select(_p.name, _b.id, _b.size, _b.crc32c, _p.replicas, _p.stem)
    .join_from(blocks, plans, _p.generation == _b.generation)
    .where(COMMITTED, _b.generation == _generation, _b.position == _position)
)
_REPLICAS = Statement(select(_r.server, _r.bad, _r.rank).where(_here).order_by(_r.rank))
_TRASHED = Statement(select(trash.c.server, trash.c.due).where(trash.c.block_id == bindparam("id")))
_KNOWN = Statement(select(_b.generation).where(_b.generation == _generation).limit(1))
_MARK = Statement(update(replicas).where(_here, _r.server == _server).values(bad=bindparam("found")))
_TAKE_FROM_TRASH = Statement(delete(trash).where(trash.c.block_id == bindparam("id"), trash.c.server == _server))
_NEW_REPLICA = Statement(insert(replicas), "generation", "position", "rank", "server", "bad")
_FORGET_REPLICA = Statement(delete(replicas).where(_here, _r.server == _server))
_NEW_TRASH = Statement(insert(trash), "block_id", "server", "stem", "due")


def stored_block(connection: Connection, place: Place) -> StoredBlock | None:
    """Return a block if its file is what readers see."""
    at = {"of": place.generation, "at": place.position}
    row = _BLOCK.row(connection, at)
    if row is None:
        return None
    name, block_id, size, crc32c, wanted, stem = row
    found = _REPLICAS.rows(connection, at)
    return StoredBlock(
        place=place,
        name=name,
        id=block_id,
        size=size,
        crc32c=crc32c,
        wanted=wanted,
        servers=tuple(server for server, _bad, _rank in found),
        bad={server: bad for server, bad, _rank in found if bad is not None},
        stem=stem,
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
    return {server for server, due in _TRASHED.rows(connection, {"id": block_id}) if due <= by}


@frozen
class Situation:
    """A block, the data servers where an older copy is `going` now, and those where one waits for its grace to end."""

    block: StoredBlock
    going: set[int]
    waiting: set[int]


def situation(connection: Connection, place: Place, now: int) -> Situation | None:
    """Return what is to be known of a block to repair it at `now` in running time, if its file is what readers see."""
    block = stored_block(connection, place)
    if block is None:
        return None
    going = trashed_on(connection, block.id, now)
    return Situation(block, going, trashed_on(connection, block.id) - going)


# What was found


def mark(connection: Connection, place: Place, server: int, bad: Bad | None) -> None:
    """Note what is wrong with a replica, or that nothing is; a bad one is noted for repair at once."""
    _MARK.run(connection, {"of": place.generation, "at": place.position, "on": server, "found": bad})
    if bad is not None:
        repair_at_once(connection, place)


def settle_repair(connection: Connection, place: Place, seen: StoredBlock | None) -> None:
    """Note that a block is as it should be, if it still is as it was `seen`."""
    if stored_block(connection, place) == seen:
        forget_repair(connection, place)


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
    _TAKE_FROM_TRASH.run(connection, {"id": block.id, "on": server})
    if server in now.servers:
        return
    place = {"of": block.place.generation, "at": block.place.position}
    ranks = [rank for _server, _bad, rank in _REPLICAS.rows(connection, place)]
    planned = {"rank": max(ranks, default=-1) + 1, "server": server, "bad": "missing"}
    at = {"generation": block.place.generation, "position": block.place.position}
    _NEW_REPLICA.run(connection, {**at, **planned})


def _check_not_trashed(connection: Connection, block: StoredBlock, server: int, by: int = _EVER) -> None:
    if server in trashed_on(connection, block.id, by):
        raise Conflict(f"an older copy of {block.id} is still to go from the data server")


def copied(
    connection: Connection, block: StoredBlock, server: int, away: Collection[int], due: int
) -> list[DataServerRow]:
    """Note that the planned copy of a block is there, verified, in place of what those that are `away` have.

    If its file is not known any more, the copy is trash. Raises Conflict if it was given up meanwhile.
    """
    place = {"of": block.place.generation, "at": block.place.position}
    if _KNOWN.row(connection, place) is None:
        if place_of(connection, block.id) is None:  # else it is another file's by now
            _to_trash(connection, block, server, due)
        return data_server_rows(connection)
    _check_not_trashed(connection, block, server)
    if not _MARK.run(connection, {**place, "on": server, "found": None}):
        raise Conflict("the copy was given up while it was made")
    others = {each for each, _bad, _rank in _REPLICAS.rows(connection, place)}
    rows = data_server_rows(connection)
    for absent in set(away) & others - {row.key for row in rows if row.displaced}:
        rows = set_displaced(connection, absent, True)
    return rows


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
    place = block.place
    _FORGET_REPLICA.run(connection, {"of": place.generation, "at": place.position, "on": server})
    _to_trash(connection, block, server, due)


def _to_trash(connection: Connection, block: StoredBlock, server: int, due: int) -> None:
    _NEW_TRASH.run(connection, {"block_id": block.id, "server": server, "stem": block.stem, "due": due})


def forget_replicas(connection: Connection, server: int, limit: int) -> int:
    """Forget some of the replicas of a data server that is lost, noting their blocks for repair; return how many."""
    places = places_on(connection, server, FIRST, limit)
    if places:
        note_repairs(connection, places, away=[server])
        last = tuple_(places[-1].generation, places[-1].position)
        connection.execute(delete(replicas).where(_r.server == server, tuple_(_r.generation, _r.position) <= last))
    return len(places)
