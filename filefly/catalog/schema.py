"""The catalog's tables, and how a database is brought to them.

| table | a row is |
| --- | --- |
| `catalog` | the one row of facts about the catalog itself |
| `data_servers` | a storage that replicas are, or may be, placed on, and the address at which it was last seen |
| `plans` | a file's metadata: an open plan (`pending`), what readers see (`committed`), or may get back (`deleted`) |
| `blocks` | a block of a plan, in order of `position` |
| `replicas` | where a block is planned or stored; `rank` 0 is preferred; `bad`: found to be `missing` or `corrupt` |
| `trash` | a block that must go from a data server, until that has confirmed; `aside` ones are moved away |
| `repairs` | a block that has to be looked at: its replicas are too few, too many, or bad |
| `quotas` | a limit for files whose names begin with `prefix`, and how much of it is used |
| `revoked_tokens` | a token that is void before its time |

`plans.generation` and `data_servers.key` never repeat (AUTOINCREMENT). `stem` is set where the plan's ids have the
short form and so occupy it. An upload that was given up keeps its stem when all else of it is forgotten (`over`):
whoever is still at work on it must not meet another file's blocks. Times named `due`, `touched` and `begun` are in
seconds of running time (`catalog.running_seconds`). Names are compared as UTF-8 bytes. `data_servers.storage_id` is
empty until a data server was first heard from, `address` while its storage is seen nowhere. `displaced` says that
replicas of it were replaced while it was away. `plans.holder` is the id of the token that a plan was made with.
"""

from collections.abc import Callable

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
    false,
    inspect,
    literal_column,
    select,
    update,
)

from filefly.catalog import migrations

_Number = BigInteger().with_variant(Integer, "sqlite")
_Name = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

catalog = Table(
    "catalog",
    metadata,
    Column("schema_version", Integer, nullable=False),
    Column("catalog_id", Text, nullable=False),
    Column("running_seconds", _Number, nullable=False),
    Column("suspended", Text),
    Column("backed_up", _Number, nullable=False, server_default="0"),
)

data_servers = Table(
    "data_servers",
    metadata,
    Column("key", Integer, primary_key=True),
    Column("address", Text, unique=True),
    Column("advertised", Text),
    Column("registered", Boolean, nullable=False),
    Column("placing", Boolean, nullable=False),
    Column("storage_id", Text, unique=True),
    Column("draining", Boolean, nullable=False, server_default=false()),
    Column("displaced", Boolean, nullable=False, server_default=false()),
    Column("scrub_begun", _Number),
    Column("scrub_hurry", Boolean, nullable=False, server_default=false()),
    Column("scrub_generation", _Number, nullable=False, server_default="0"),
    Column("scrub_position", Integer, nullable=False, server_default="0"),
    Column("scrub_checked", _Number, nullable=False, server_default="0"),
    Column("scrub_total", _Number, nullable=False, server_default="0"),
    Column("scrub_bad", _Number, nullable=False, server_default="0"),
    Column("scrub_finished", Text),
    sqlite_autoincrement=True,
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
    Column("touched", _Number, nullable=False, server_default="0"),
    Column("resumes", _Number),
    Column("due", _Number),
    Column("holder", Text),
    sqlite_autoincrement=True,
)

# Literals, not parameters: SQLite uses a partial index only where it can read that the condition holds.
COMMITTED = plans.c.state == literal_column("'committed'")
PENDING = plans.c.state == literal_column("'pending'")
DELETED = plans.c.state == literal_column("'deleted'")
Index("plans_committed_name", plans.c.name, unique=True, sqlite_where=COMMITTED, postgresql_where=COMMITTED)
Index("plans_pending_name", plans.c.name, sqlite_where=PENDING, postgresql_where=PENDING)
Index("plans_pending_touched", plans.c.touched, sqlite_where=PENDING, postgresql_where=PENDING)
Index("plans_deleted_name", plans.c.name, sqlite_where=DELETED, postgresql_where=DELETED)
Index("plans_deleted_due", plans.c.due, sqlite_where=DELETED, postgresql_where=DELETED)
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
    Column("bad", Text),
    sqlite_with_rowid=False,
)
Index("replicas_server", replicas.c.server, replicas.c.generation, replicas.c.position)

trash = Table(
    "trash",
    metadata,
    Column("key", _Number, primary_key=True),
    Column("block_id", _Name, nullable=False),
    Column("server", Integer, ForeignKey("data_servers.key"), nullable=False),
    Column("stem", _Name),
    Column("due", _Number, nullable=False),
    Column("aside", Boolean, nullable=False, server_default=false()),
)
Index("trash_server", trash.c.server, trash.c.due)
Index("trash_block", trash.c.block_id)
Index("trash_stem", trash.c.stem, sqlite_where=trash.c.stem.is_not(None), postgresql_where=trash.c.stem.is_not(None))


repairs = Table(
    "repairs",
    metadata,
    Column("generation", _Number, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("remaining", Integer, nullable=False),
    Column("due", _Number, nullable=False),
    sqlite_with_rowid=False,
)
Index("repairs_remaining", repairs.c.remaining, repairs.c.due)

quotas = Table(
    "quotas",
    metadata,
    Column("prefix", _Name, primary_key=True),
    Column("max_bytes", _Number),
    Column("max_files", _Number),
    Column("used_bytes", _Number, nullable=False),
    Column("used_files", _Number, nullable=False),
    Column("open_bytes", _Number, nullable=False),
    Column("open_files", _Number, nullable=False),
    sqlite_with_rowid=False,
)

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("token_id", _Name, primary_key=True),
    Column("revoked", Text, nullable=False),
    sqlite_with_rowid=False,
)


class CatalogUnusable(Exception):
    """The catalog cannot be used."""


def migrate(connection: Connection, new_id: Callable[[], str]) -> None:
    """Bring the catalog to the newest schema, inside the caller's transaction; `new_id` names a new one.

    Raises CatalogUnusable if a newer program has been here.
    """
    if not inspect(connection).has_table(catalog.name):
        metadata.create_all(connection)
        row = {"schema_version": newest_version(), "catalog_id": new_id(), "running_seconds": 0}
        connection.execute(catalog.insert().values(row))
        return
    version = connection.execute(select(catalog.c.schema_version)).scalar_one()
    if version > newest_version():
        raise CatalogUnusable(
            f"the catalog has schema version {version}, this program knows up to {newest_version()}; "
            "use the newer FileFly that made it"
        )
    for step in migrations.MIGRATIONS[version - 1 :]:
        step(connection)
    if version < newest_version():
        connection.execute(update(catalog).values(schema_version=newest_version()))


def newest_version() -> int:
    """Return the schema version that these tables have."""
    return len(migrations.MIGRATIONS) + 1
