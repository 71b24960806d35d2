from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from filefly.meta import schema
from filefly.meta.catalog import committed_plan
from filefly.meta.database import open_database
from filefly.meta.schema import CatalogUnusable, catalog, plans
from tests.meta.catalogs import opened, plan, seen, store, url_of


def add_a_column(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE plans ADD COLUMN colour TEXT DEFAULT 'red'")


def fail_half_way(connection: Connection) -> None:
    add_a_column(connection)
    raise CatalogUnusable("half-way")


def version(connection: Connection) -> int:
    return int(connection.execute(select(catalog.c.schema_version)).scalar_one())


def test_a_new_catalog_has_the_newest_schema(tmp_path: Path) -> None:
    """Whatever steps led to it."""
    with opened(tmp_path) as database:
        assert len(schema.MIGRATIONS) == seen(database, version)


def test_an_older_catalog_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the steps that it lacks, each once, and with all that is in it."""
    with opened(tmp_path) as database:
        stored = store(database, "a")
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, add_a_column])
    for _ in range(2):
        with opened(tmp_path) as database:
            assert len(schema.MIGRATIONS) == seen(database, version)
            assert stored == seen(database, committed_plan, "a")
            colours = seen(database, lambda c: c.exec_driver_sql("SELECT colour FROM plans").scalars().all())
            assert ["red"] == colours


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that knew the old schema still can."""
    with opened(tmp_path) as database:
        stored = store(database, "a")
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, fail_half_way])
        with pytest.raises(CatalogUnusable, match="half-way"):
            open_database(url_of(tmp_path), lambda: "x")
    with opened(tmp_path) as database:
        assert stored == seen(database, committed_plan, "a")
        columns = seen(database, lambda c: [row[1] for row in c.exec_driver_sql("PRAGMA table_info(plans)")])
        assert "colour" not in columns


def test_a_name_is_committed_once(tmp_path: Path) -> None:
    """The database itself would refuse a second one."""
    with opened(tmp_path) as database:
        store(database, "a")
        planned = plan(database, "a")
        renewed = update(plans).where(plans.c.generation == planned.generation).values(state="committed")
        [refused] = database.write([lambda connection: connection.execute(renewed)])
        assert isinstance(refused.__cause__, IntegrityError)
