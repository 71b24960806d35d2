"""The data servers as the catalog keeps them: storages, the addresses where they are, and what is to become of them.

Statements only; see filefly.catalog.plans.
"""

from collections.abc import Mapping
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, delete, exists, func, insert, select, update

from filefly.catalog.repairs import Place, repair_at_once
from filefly.catalog.schema import blocks, catalog, data_servers, plans, replicas, trash
from filefly.catalog.statements import Statement
from filefly.errors import Conflict, NotFound
from filefly.units import counted


@frozen
class DataServerRow:
    """A storage as the catalog keeps it; `placing` ones get new blocks while they are up and not `draining`.

    `address` is None while it is seen nowhere, `storage_id` until it was first heard from. `displaced` says that some
    of its replicas were replaced while it was away.
    """

    key: int
    address: str | None
    advertised: str | None
    placing: bool
    storage_id: str | None = None
    draining: bool = False
    displaced: bool = False
    registered: bool = False

    @property
    def told(self) -> str:
        """Return the address that clients are told; empty while there is none."""
        return (self.advertised or self.address or "") if self.address else ""


SKIPPED_GENERATIONS = 1_000_000
"""How far a restored catalog jumps: data servers are told of generations a little late, and backups are older."""

_c = data_servers.c
_same_block = (blocks.c.generation == replicas.c.generation) & (blocks.c.position == replicas.c.position)
_ROWS = Statement(
    select(
        _c.key, _c.address, _c.advertised, _c.placing, _c.storage_id, _c.draining, _c.displaced, _c.registered
    ).order_by(_c.key)
)


def data_server_rows(connection: Connection) -> list[DataServerRow]:
    """Return all data servers, in the order in which they became known."""
    return [
        DataServerRow(key, address, advertised, bool(placing), storage_id, bool(draining), bool(displaced), bool(known))
        for key, address, advertised, placing, storage_id, draining, displaced, known in _ROWS.rows(connection)
    ]


def named_data_server(connection: Connection, name: str) -> DataServerRow:
    """Return the data server of an internal or advertised address, or of a storage id; raises NotFound."""
    rows = data_server_rows(connection)
    for row in rows:
        if name in (row.address, row.storage_id):
            return row
    for row in rows:
        if row.address and name == row.told:
            return row
    raise NotFound(f"there is no data server {name}; filefly-client servers lists them")


# Which there are


def take_data_servers(connection: Connection, listed: Mapping[str, str | None]) -> list[DataServerRow]:
    """Place from now on on the servers `listed` (address to advertised address) and on those registered earlier."""
    connection.execute(update(data_servers).values(placing=_c.registered))
    for address, advertised in listed.items():
        _put_data_server(connection, address, {"advertised": advertised, "placing": True})
    return data_server_rows(connection)


def register_data_server(connection: Connection, address: str, advertised: str | None) -> list[DataServerRow]:
    """Add a data server for good, or change what clients are told of it."""
    _put_data_server(connection, address, {"advertised": advertised, "placing": True, "registered": True})
    return data_server_rows(connection)


def _put_data_server(connection: Connection, address: str, values: Mapping[str, Any]) -> None:
    known = connection.execute(update(data_servers).where(_c.address == address).values(values))
    if not known.rowcount:
        connection.execute(insert(data_servers).values({"address": address, "registered": False, **values}))


def identify(connection: Connection, moved: Mapping[int, int], new: Mapping[int, str]) -> list[DataServerRow]:
    """Write down what a round of pings has shown; see filefly.meta.identity.Reconciled.

    What clients are told, and whether new blocks go there, goes with the address. A row whose address is taken over
    keeps its replicas and, unless it was seen elsewhere too, is looked for where the newcomer was: two disks may have
    been swapped. One that never was a storage of its own becomes a part of the one that came there.
    """
    rows = {row.key: row for row in data_server_rows(connection)}
    for key, storage_id in new.items():
        connection.execute(update(data_servers).where(_c.key == key).values(storage_id=storage_id))
    leaving = {*moved.keys(), *moved.values()}
    connection.execute(update(data_servers).where(_c.key.in_(leaving)).values(address=None))
    for key, at in moved.items():
        placing = rows[key].placing or rows[at].placing
        place: dict[str, Any] = {"address": rows[at].address, "advertised": rows[at].advertised, "placing": placing}
        if rows[at].storage_id is None:
            place["registered"] = rows[key].registered or rows[at].registered
            _merge(connection, at, key)
        connection.execute(update(data_servers).where(_c.key == key).values(place))
    ousted = [at for at in moved.values() if at not in moved and rows[at].storage_id is not None]
    left = [rows[key] for key in moved if key not in moved.values() and rows[key].address is not None]
    for key, row in zip(ousted, left, strict=False):
        place = {"address": row.address, "advertised": row.advertised}
        connection.execute(update(data_servers).where(_c.key == key).values(place))
    return data_server_rows(connection)


def _merge(connection: Connection, nameless: int, storage: int) -> None:
    """Give what was planned on a row without a storage to the storage that turned out to be there."""
    r, other = replicas.c, replicas.alias()
    doubled = exists().where(
        other.c.server == storage, other.c.generation == r.generation, other.c.position == r.position
    )
    places = connection.execute(select(r.generation, r.position).where(r.server == nameless, doubled)).all()
    connection.execute(delete(replicas).where(r.server == nameless, doubled))
    for generation, position in places:
        repair_at_once(connection, Place(generation, position))
    # Storing a block failed at one of its two addresses and succeeded at the other: what is there must not go.
    for server, at in ((storage, nameless), (nameless, storage)):
        ids = select(blocks.c.id).join_from(blocks, replicas, _same_block).where(r.server == at)
        connection.execute(delete(trash).where(trash.c.server == server, trash.c.block_id.in_(ids)))
    for table in (replicas, trash):
        connection.execute(update(table).where(table.c.server == nameless).values(server=storage))
    connection.execute(delete(data_servers).where(_c.key == nameless))


def accept_storage(connection: Connection, address: str, storage_id: str) -> list[DataServerRow]:
    """Take `storage_id` for what is at `address` from now on; what was there before is kept, without an address."""
    at = named_data_server(connection, address)
    known = connection.execute(select(_c.key).where(_c.storage_id == storage_id)).scalar_one_or_none()
    if at.storage_id is None and known is None:
        return identify(connection, {}, {at.key: storage_id})
    if known is not None:
        return data_server_rows(connection) if known == at.key else identify(connection, {known: at.key}, {})
    connection.execute(update(data_servers).where(_c.key == at.key).values(address=None, placing=False))
    values = {"address": at.address, "advertised": at.advertised, "placing": True, "registered": at.registered}
    connection.execute(insert(data_servers).values({**values, "storage_id": storage_id}))
    return data_server_rows(connection)


# What is to become of them


def set_draining(connection: Connection, name: str, draining: bool) -> list[DataServerRow]:
    """Have a data server emptied, or let it keep what it has; raises NotFound."""
    key = named_data_server(connection, name).key
    connection.execute(update(data_servers).where(_c.key == key).values(draining=draining))
    return data_server_rows(connection)


def set_displaced(connection: Connection, key: int, displaced: bool) -> list[DataServerRow]:
    """Note that replicas of a data server were replaced while it was away, or that this is settled."""
    connection.execute(update(data_servers).where(_c.key == key).values(displaced=displaced))
    return data_server_rows(connection)


@frozen
class Holdings:
    """What names a data server: replicas of committed files, and open plans."""

    committed: int
    open_plans: int

    @property
    def none(self) -> bool:
        """Whether nothing names it."""
        return not self.committed and not self.open_plans


def holdings(connection: Connection, key: int) -> Holdings:
    """Count what names a data server; files that were deleted do not, their blocks are gone with the server."""
    r = replicas.c
    of = select(func.count()).join_from(replicas, plans, plans.c.generation == r.generation).where(r.server == key)
    committed = connection.execute(of.where(plans.c.state == "committed")).scalar_one()
    pending = select(func.count(r.generation.distinct())).join_from(replicas, plans, plans.c.generation == r.generation)
    opened = connection.execute(pending.where(r.server == key, plans.c.state == "pending")).scalar_one()
    return Holdings(committed, opened)


def check_removable(connection: Connection, name: str, lost: bool) -> DataServerRow:
    """Return the data server to retire; raises Conflict if it is needed and not said to be `lost`."""
    row = named_data_server(connection, name)
    left = holdings(connection, row.key)
    if not lost and not left.none:
        raise Conflict(
            f"{name} still has {counted(left.committed, 'block')} and {counted(left.open_plans, 'open plan')}: "
            f"drain it first (filefly-client drain {name}), or give its blocks up (--lost)"
        )
    return row


def forget_data_server(connection: Connection, key: int) -> list[DataServerRow]:
    """Forget a data server that nothing names any more, and what it had still to delete."""
    connection.execute(delete(trash).where(trash.c.server == key))
    r = replicas.c
    planned = connection.execute(select(r.generation, r.position).where(r.server == key)).all()
    connection.execute(delete(replicas).where(r.server == key))
    for generation, position in planned:
        repair_at_once(connection, Place(generation, position))
    connection.execute(delete(data_servers).where(_c.key == key))
    return data_server_rows(connection)


# The catalog itself


@frozen
class CatalogRow:
    """The facts about the catalog itself; `suspended` says why nothing is deleted or expires."""

    catalog_id: str
    running_seconds: int
    suspended: str | None
    backed_up: int


def catalog_row(connection: Connection) -> CatalogRow:
    """Return the facts about the catalog itself."""
    c = catalog.c
    row = connection.execute(select(c.catalog_id, c.running_seconds, c.suspended, c.backed_up)).one()
    return CatalogRow(*row)


def save_running_seconds(connection: Connection, seconds: int) -> None:
    """Save the running time; what is not saved is waited for again."""
    connection.execute(update(catalog).values(running_seconds=seconds))


def save_backed_up(connection: Connection, seconds: int) -> None:
    """Note at which running time the catalog was last backed up."""
    connection.execute(update(catalog).values(backed_up=seconds))


def suspend(connection: Connection, why: str, generation: int) -> None:
    """Delete nothing and let nothing expire from now on, and give no generation again up to `generation`."""
    connection.execute(update(catalog).where(catalog.c.suspended.is_(None)).values(suspended=why))
    skip_generations(connection, generation)


def resume(connection: Connection) -> None:
    """Go on as usual after `suspend`."""
    connection.execute(update(catalog).values(suspended=None))


def highest_generation(connection: Connection) -> int:
    """Return the highest generation that was ever given."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'plans'").scalar_one_or_none()
    else:
        found = connection.exec_driver_sql("SELECT last_value FROM plans_generation_seq").scalar_one()
    return int(found or 0)


def skip_generations(connection: Connection, generation: int) -> None:
    """Let the next generation be above `generation`."""
    if highest_generation(connection) >= generation:
        return
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql(f"SELECT setval('plans_generation_seq', {generation:d})")
        return
    # AUTOINCREMENT goes on behind the highest key that was ever inserted.
    row = {"name": "", "state": "skipped", "explicit": False, "total_size": 0, "block_size": 0, "replicas": 0}
    connection.execute(insert(plans).values({**row, "generation": generation, "attributes": "{}"}))
    connection.execute(delete(plans).where(plans.c.generation == generation))
