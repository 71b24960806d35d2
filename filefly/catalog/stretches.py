"""Committed blocks in their order, a stretch at a time, with all their replicas in one query. Statements only."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Row, Select, or_, select

from filefly.catalog.repairs import FIRST, Place
from filefly.catalog.replicas import StoredBlock
from filefly.catalog.schema import COMMITTED, blocks, plans, replicas


@frozen
class Stretch:
    """Some blocks in a row, how many files begin among them, and where the next ones begin, if there are any."""

    blocks: Sequence[StoredBlock]
    files: int
    next: Place | None


def next_stretch(connection: Connection, after: Place, limit: int, most_bytes: int) -> Stretch:
    """Return what is behind a block: at most `limit` blocks and empty files, and replicas of about `most_bytes`."""
    found: list[StoredBlock] = []
    size = files = count = 0
    last = after
    rows = connection.execute(_blocks_behind(after, limit))
    for (generation, position), group in groupby(rows, key=lambda row: (row.generation, row.position)):
        place = Place(generation, FIRST.position if position is None else position)
        if size >= most_bytes and count:
            return Stretch(found, files, last)
        last, count = place, count + 1
        files += position in (None, 0)
        if position is not None:
            found.append(_stored_block(place, list(group)))
            size += found[-1].size * len(found[-1].servers)
    return Stretch(found, files, last if count == limit else None)


def _blocks_behind(after: Place, limit: int) -> Select[Any]:
    """Ask for all replicas of the blocks behind one, an empty file being a block without a position."""
    p, b, r = plans.c, blocks.c, replicas.c
    some = (
        select(p.generation, b.position)
        .outerjoin_from(plans, blocks, p.generation == b.generation)
        .where(COMMITTED, p.generation >= after.generation)
        .where(or_(p.generation > after.generation, b.position > after.position))
        .order_by(p.generation, b.position)
        .limit(limit)
        .subquery()
        .c
    )
    same_block = (b.generation == some.generation) & (b.position == some.position)
    same_replica = (r.generation == some.generation) & (r.position == some.position)
    return (
        select(p.name, p.stem, p.replicas, some.generation, some.position, b.id, b.size, b.crc32c, r.server, r.bad)
        .join_from(some.generation.table, plans, p.generation == some.generation)
        .outerjoin(blocks, same_block)
        .outerjoin(replicas, same_replica)
        .order_by(some.generation, some.position, r.rank)
    )


def _stored_block(place: Place, rows: Sequence[Row[Any]]) -> StoredBlock:
    placed = {row.server: row.bad for row in rows if row.server is not None}
    return StoredBlock(
        place=place,
        name=rows[0].name,
        id=rows[0].id,
        size=rows[0].size,
        crc32c=rows[0].crc32c,
        wanted=rows[0].replicas,
        servers=tuple(placed),
        bad={server: bad for server, bad in placed.items() if bad is not None},
        stem=rows[0].stem,
    )
