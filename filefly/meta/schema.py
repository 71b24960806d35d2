"""The catalog's tables, and how a database is brought to them.

| table | a row is |
| --- | --- |
| `catalog` | the one row of facts about the catalog itself |
| `data_servers` | a data server that replicas are, or may be, placed on |
| `plans` | a file's metadata: an open plan (`pending`) or what readers see (`committed`, one a name) |
| `blocks` | a block of a plan, in order of `position` |
| `replicas` | where a block is planned (pending) or stored (committed); `rank` 0 is preferred |
| `trash` | a replica that must go, until its data server has confirmed |

`plans.generation` never repeats (AUTOINCREMENT). `stem` is set where the plan's ids have the short form and so occupy
it. `trash.due` is in seconds of running time (`catalog.running_seconds`). Names are compared as UTF-8 bytes.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    inspect,
    literal_column,
    select,
    update,
)

_Number = BigInteger().with_variant(Integer, "sqlite")
_Name = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

catalog = Table(
    "catalog",
    metadata,
    Column("schema_version", Integer, nullable=False),
    Column("catalog_id", Text, nullable=False),
    Column("running_seconds", _Number, nullable=False),
)

data_servers = Table(
    "data_servers",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("address", Text, nullable=False, unique=True),
    Column("advertised", Text),
    Column("registered", Boolean, nullable=False),
    Column("placing", Boolean, nullable=False),
)

plans = Table(
    "plans",
    metadata,
    Column("generation", _Number, primary_key=True),
    Column("name", _Name, nullable=False),
    Column("state", Text, nullable=False),
    Column("explicit", Boolean, nullable=False),
    Column("total_size", _Number, nullable=False),
    Column("block_size", _Number, nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("stem", _Name),
    Column("if_generation", _Number),
    Column("modified", Text),
    sqlite_autoincrement=True,
)

# Literals, not parameters: SQLite uses a partial index only where it can read that the condition holds.
COMMITTED = plans.c.state == literal_column("'committed'")
PENDING = plans.c.state == literal_column("'pending'")
Index("plans_committed_name", plans.c.name, unique=True, sqlite_where=COMMITTED, postgresql_where=COMMITTED)
Index("plans_pending_name", plans.c.name, sqlite_where=PENDING, postgresql_where=PENDING)
_HAS_STEM = plans.c.stem.is_not(None)
Index("plans_stem", plans.c.stem, sqlite_where=_HAS_STEM, postgresql_where=_HAS_STEM)

blocks = Table(
    "blocks",
    metadata,
    Column("generation", _Number, ForeignKey("plans.generation"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("id", _Name, nullable=False),
    Column("size", _Number, nullable=False),
    Column("crc32c", Text),
    sqlite_with_rowid=False,
)

replicas = Table(
    "replicas",
    metadata,
    Column("generation", _Number, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("rank", Integer, primary_key=True, autoincrement=False),
    Column("server", Integer, ForeignKey("data_servers.key"), nullable=False),
    sqlite_with_rowid=False,
)

trash = Table(
    "trash",
    metadata,
    Column("key", _Number, primary_key=True),
    Column("block_id", _Name, nullable=False),
    Column("server", Integer, ForeignKey("data_servers.key"), nullable=False),
    Column("stem", _Name),
    Column("due", _Number, nullable=False),
)
Index("trash_due", trash.c.due)
Index("trash_stem", trash.c.stem, sqlite_where=trash.c.stem.is_not(None), postgresql_where=trash.c.stem.is_not(None))


class CatalogUnusable(Exception):
    """The catalog cannot be used."""


def _create(connection: Connection) -> None:
    metadata.create_all(connection)


MIGRATIONS: Sequence[Callable[[Connection], None]] = [_create]
"""Step N brings a catalog from schema version N to N + 1."""


def migrate(connection: Connection, new_id: Callable[[], str]) -> None:
    """Bring the catalog to the newest schema, inside the caller's transaction; `new_id` names a new one.

    Raises CatalogUnusable if a newer program has been here.
    """
    version = 0
    if inspect(connection).has_table(catalog.name):
        version = connection.execute(select(catalog.c.schema_version)).scalar_one()
    if version > len(MIGRATIONS):
        raise CatalogUnusable(
            f"the catalog has schema version {version}, this program knows up to {len(MIGRATIONS)}; "
            "use the newer FileFly that made it"
        )
    for step in MIGRATIONS[version:]:
        step(connection)
    if version == 0:
        row = {"schema_version": len(MIGRATIONS), "catalog_id": new_id(), "running_seconds": 0}
        connection.execute(catalog.insert().values(row))
    elif version < len(MIGRATIONS):
        connection.execute(update(catalog).values(schema_version=len(MIGRATIONS)))
