"""Block files that no catalog knows: told apart from those that are known, and set aside. Statements only.

Known is what a plan of any state names, on whatever data server, and what the trash names there. What is not known may
have been stored by hand, be left from a data server that was retired, or belong to files that are newer than a restored
catalog: it is moved away, never deleted.
"""

from collections.abc import Sequence

from sqlalchemy import BindParameter, Connection, bindparam, insert, literal, select

from filefly.catalog.schema import blocks, catalog, plans, trash
from filefly.wire.names import split_block_id

# Statements, built once: there may be a million block files to ask for
_id: BindParameter[str] = bindparam("id")
_this_block = (blocks.c.position == bindparam("index")) & (blocks.c.id == _id)
_PLANNED_LONG = select(literal(1)).where(blocks.c.generation == bindparam("of"), _this_block)
_PLANNED_SHORT = (
    select(literal(1))
    .join_from(plans, blocks, blocks.c.generation == plans.c.generation)
    .where(plans.c.stem == bindparam("stem"), _this_block)
    .limit(1)
)
_TRASHED = select(literal(1)).where(trash.c.block_id == _id, trash.c.server == bindparam("server")).limit(1)
_SUSPENDED = select(catalog.c.suspended)


def unknown_ids(connection: Connection, server: int, block_ids: Sequence[str]) -> list[str]:
    """Return those of the block ids on a data server that the catalog does not know."""
    return [block_id for block_id in block_ids if not _known(connection, server, block_id)]


def _known(connection: Connection, server: int, block_id: str) -> bool:
    if _planned(connection, block_id):
        return True
    return connection.execute(_TRASHED, {"id": block_id, "server": server}).first() is not None


def _planned(connection: Connection, block_id: str) -> bool:
    parts = split_block_id(block_id)
    if parts is None:
        return False
    stem, index, generation = parts
    wanted = {"id": block_id, "index": index}
    if generation is None:
        return connection.execute(_PLANNED_SHORT, {**wanted, "stem": stem}).first() is not None
    return connection.execute(_PLANNED_LONG, {**wanted, "of": generation}).first() is not None


def set_unknown_aside(connection: Connection, server: int, block_ids: Sequence[str]) -> list[str]:
    """Have a data server move those of some blocks away that are still unknown, and return them.

    Until it has confirmed, no new plan takes their ids. Nothing is moved while the catalog is suspended: then what it
    does not know may be what it has forgotten.
    """
    if connection.execute(_SUSPENDED).scalar_one() is not None:
        return []
    unknown = unknown_ids(connection, server, block_ids)
    rows = [
        {"block_id": block_id, "server": server, "stem": _short_stem(block_id), "due": 0, "aside": True}
        for block_id in unknown
    ]
    if rows:
        connection.execute(insert(trash), rows)
    return unknown


def _short_stem(block_id: str) -> str | None:
    """Return the stem that an id of the short form occupies; one of the long form is never given again."""
    parts = split_block_id(block_id)
    if parts is None:
        return None
    stem, _index, generation = parts
    return stem if generation is None else None
