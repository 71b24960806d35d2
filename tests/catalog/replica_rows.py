"""What a catalog's rows say of replicas, for tests."""

from sqlalchemy import select

from filefly.catalog.database import Database
from filefly.catalog.inventory import data_server_rows
from filefly.catalog.plans import Plan
from filefly.catalog.repairs import Place
from filefly.catalog.replicas import StoredBlock, stored_block
from filefly.catalog.schema import repairs
from tests.catalog.catalogs import seen


def block_of(catalog: Database, stored: Plan, position: int = 0) -> StoredBlock:
    """Return what the catalog says of a block that there is."""
    found = seen(catalog, stored_block, Place(stored.generation, position))
    assert found is not None
    return found


def queue(catalog: Database) -> list[tuple[Place, int, int]]:
    """Return what is noted for repair: the block, how many good replicas remain, when it is due."""
    c = repairs.c
    query = select(c.generation, c.position, c.remaining, c.due).order_by(c.generation, c.position)
    rows = seen(catalog, lambda connection: connection.execute(query).all())
    return [(Place(generation, position), remaining, due) for generation, position, remaining, due in rows]


def displaced(catalog: Database) -> list[int]:
    """Return the data servers whose replicas were replaced while they were away."""
    return [row.key for row in seen(catalog, data_server_rows) if row.displaced]
