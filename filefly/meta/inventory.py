"""What the catalog knows of data servers: which there are, what they must delete, and for how long it has waited.

Statements only; see filefly.meta.catalog.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, delete, insert, select, update

from filefly.meta.schema import catalog, data_servers, trash


@frozen
class DataServerRow:
    """A data server as the catalog keeps it; `placing` ones get new blocks."""

    key: int
    address: str
    advertised: str | None
    placing: bool

    @property
    def told(self) -> str:
        """Return the address that clients are told."""
        return self.advertised or self.address


@frozen
class TrashRow:
    """A replica that must go."""

    key: int
    block_id: str
    server: int


def take_data_servers(connection: Connection, listed: Mapping[str, str | None]) -> list[DataServerRow]:
    """Place from now on on the servers `listed` (address to advertised address) and on those registered earlier."""
    connection.execute(update(data_servers).values(placing=data_servers.c.registered))
    for address, advertised in listed.items():
        _put_data_server(connection, address, {"advertised": advertised, "placing": True})
    return data_server_rows(connection)


def register_data_server(connection: Connection, address: str, advertised: str | None) -> list[DataServerRow]:
    """Add a data server for good, or change what clients are told of it."""
    _put_data_server(connection, address, {"advertised": advertised, "placing": True, "registered": True})
    return data_server_rows(connection)


def _put_data_server(connection: Connection, address: str, values: Mapping[str, Any]) -> None:
    known = connection.execute(update(data_servers).where(data_servers.c.address == address).values(values))
    if not known.rowcount:
        connection.execute(insert(data_servers).values({"address": address, "registered": False, **values}))


def data_server_rows(connection: Connection) -> list[DataServerRow]:
    """Return all data servers, in the order in which they became known."""
    c = data_servers.c
    rows = connection.execute(select(c.key, c.address, c.advertised, c.placing).order_by(c.key))
    return [DataServerRow(*row) for row in rows]


def due_trash(connection: Connection, running_seconds: int, without: Sequence[int], limit: int) -> list[TrashRow]:
    """Return some of the trash whose grace period has passed, the oldest first, but none of the servers `without`."""
    c = trash.c
    due = select(c.key, c.block_id, c.server).where(c.due <= running_seconds, c.server.not_in(without))
    return [TrashRow(*row) for row in connection.execute(due.order_by(c.due, c.key).limit(limit))]


def forget_trash(connection: Connection, keys: Sequence[int]) -> None:
    """Forget trash whose data servers have confirmed that it is gone."""
    connection.execute(delete(trash).where(trash.c.key.in_(keys)))


def running_seconds(connection: Connection) -> int:
    """Return for how many seconds metadata servers have been running on this catalog, as last saved."""
    return int(connection.execute(select(catalog.c.running_seconds)).scalar_one())


def save_running_seconds(connection: Connection, seconds: int) -> None:
    """Save the running time; what is not saved is waited for again."""
    connection.execute(update(catalog).values(running_seconds=seconds))
