import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from filefly.catalog import migrations
from filefly.catalog.database import Database, open_database
from filefly.catalog.endings import delete_file, due_trash, let_go, rename_file
from filefly.catalog.inventory import (
    CatalogRow,
    DataServerRow,
    catalog_row,
    data_server_rows,
    highest_generation,
    identify,
)
from filefly.catalog.plans import committed_plan
from filefly.catalog.schema import CatalogUnusable, catalog, newest_version, plans
from filefly.errors import NotFound
from tests.catalog.catalogs import commit, done, listed, open_plans, opened, plan, seen, store, trashed, url_of

VERSION_1 = Path(__file__).with_name("catalog_version_1.sql")


def add_a_column(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE plans ADD COLUMN colour TEXT DEFAULT 'red'")


def fail_half_way(connection: Connection) -> None:
    add_a_column(connection)
    raise CatalogUnusable("half-way")


def version(connection: Connection) -> int:
    return int(connection.execute(select(catalog.c.schema_version)).scalar_one())


def rows_of(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.exec_driver_sql(statement)]


# Steps


def test_a_new_catalog_has_the_newest_schema(tmp_path: Path) -> None:
    """Whatever steps would lead to it."""
    with opened(tmp_path) as database:
        assert newest_version() == seen(database, version)


def test_an_older_catalog_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the steps that it lacks, each once, and with all that is in it."""
    with opened(tmp_path) as database:
        stored = store(database, "a")
        before = seen(database, version)
    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, add_a_column])
    for _ in range(2):
        with opened(tmp_path) as database:
            assert before + 1 == seen(database, version)
            assert stored == seen(database, committed_plan, "a")
            assert [("red",)] == seen(database, rows_of, "SELECT colour FROM plans")


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that knew the old schema still can."""
    with opened(tmp_path) as database:
        stored = store(database, "a")
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, fail_half_way])
        with pytest.raises(CatalogUnusable, match="half-way"):
            open_database(url_of(tmp_path), lambda: "x")
    with opened(tmp_path) as database:
        assert stored == seen(database, committed_plan, "a")
        assert "colour" not in [column for _number, column, *_ in seen(database, rows_of, "PRAGMA table_info(plans)")]


def test_a_name_is_committed_once(tmp_path: Path) -> None:
    """The database itself would refuse a second one."""
    with opened(tmp_path) as database:
        store(database, "a")
        planned = plan(database, "a")
        renewed = update(plans).where(plans.c.generation == planned.generation).values(state="committed")
        [refused] = database.write([lambda connection: connection.execute(renewed)])
        assert isinstance(refused.__cause__, IntegrityError)


# From version 1


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Make a folder with a catalog of schema version 1."""
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.executescript(VERSION_1.read_text())
    connection.close()
    return tmp_path


def taken(folder: Path) -> Database:
    return open_database(url_of(folder), lambda: "id of a new catalog")


def shape(connection: Connection) -> dict[str, Sequence[Any]]:
    """Return what the tables look like: columns in any order, keys, references and indexes."""
    found: dict[str, Sequence[Any]] = {}
    for table, definition in rows_of(connection, "SELECT name, sql FROM sqlite_master WHERE type = 'table'"):
        columns = rows_of(connection, f"PRAGMA table_info('{table}')")
        found[table] = [
            sorted((name, kind, required, str(default), key) for _at, name, kind, required, default, key in columns),
            "AUTOINCREMENT" in definition,
            "WITHOUT ROWID" in definition,
            sorted(row[2:5] for row in rows_of(connection, f"PRAGMA foreign_key_list('{table}')")),
        ]
        for _at, index, unique, origin, partial in rows_of(connection, f"PRAGMA index_list('{table}')"):
            of = [row[2] for row in rows_of(connection, f"PRAGMA index_info('{index}')")]
            found[f"{table} {of} {index if origin == 'c' else ''}"] = [unique, partial]
    indexes = rows_of(connection, "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    found["indexes"] = sorted(sql.split() for [sql] in indexes)
    return found


def test_a_catalog_of_version_1_gets_the_schema_of_a_new_one(
    old: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same tables, columns, keys and indexes."""
    new, migrated = taken(tmp_path_factory.mktemp("new")), taken(old)
    assert seen(new, shape) == seen(migrated, shape)
    assert newest_version() == seen(migrated, version)
    assert [] == seen(migrated, rows_of, "PRAGMA foreign_key_check")
    assert [("ok",)] == seen(migrated, rows_of, "PRAGMA integrity_check")
    new.close()
    migrated.close()


def test_a_catalog_of_version_1_keeps_what_is_in_it(old: Path) -> None:
    """Files, open plans, trash, data servers, its id and its clock."""
    database = taken(old)
    names = ["letters/a.txt", "letters/empty", "letters/ß.txt", "replaced"]
    assert names == seen(database, listed, "", "", "", 10).files
    first = seen(database, committed_plan, "letters/a.txt")
    assert (1, {"mode": "0644"}, "2026-01-02T03:04:05.678Z") == (first.generation, first.attributes, first.modified)
    assert [("letters/a.txt-0", 7, "0a0b0c0d", (1, 2)), ("letters/a.txt-1", 3, "0a0b0c0d", (1, 2))] == [
        (block.id, block.size, block.crc32c, block.servers) for block in first.blocks
    ]
    [upload], [by_hand] = seen(database, open_plans, "upload"), seen(database, open_plans, "by hand")
    assert (True, 0, False, ["00000001"]) == (
        upload.explicit,
        upload.if_generation,
        by_hand.explicit,
        [block.crc32c for block in by_hand.blocks],
    )
    assert [("replaced-0", 1), ("replaced-0", 4), ("deleted-0", 3)] == seen(database, trashed)
    assert [
        DataServerRow(1, "one:9001", None, True),
        DataServerRow(2, "two:9001", "far.example:9002", True),
        DataServerRow(3, "three:9001", None, False),
        DataServerRow(4, "four:9001", "far.example:9004", True, registered=True),
    ] == seen(database, data_server_rows)
    assert CatalogRow("0123456789abcdef0123456789abcdef", 12345, None, 0) == seen(database, catalog_row)
    database.close()


def test_an_upload_of_version_1_has_its_time_before_it_expires(old: Path) -> None:
    """It counts from the migration: the older program kept no signs of life."""
    database = taken(old)
    touched = "SELECT DISTINCT touched FROM plans WHERE state = 'pending'"
    assert [(12345,)] == seen(database, rows_of, touched)
    database.close()


def test_a_catalog_of_version_1_works(old: Path) -> None:
    """Plans are committed, files renamed and deleted; trash goes; no generation is given again."""
    database = taken(old)
    assert 8 == seen(database, highest_generation)
    done(database, identify, {}, {1: "storage one"})
    committed = commit(database, seen(database, open_plans, "upload")[0])
    assert committed == seen(database, committed_plan, "upload")
    assert 9 == store(database, "new", 7, (4,)).generation
    done(database, rename_file, "letters/ß.txt", "renamed", 12345)
    done(database, delete_file, "renamed", 12345)
    with pytest.raises(NotFound):
        seen(database, committed_plan, "renamed")
    assert 1 == done(database, let_go, 12345, 1000)
    going = ["old name-0", "old name-1", "old name-2", "deleted-0"]
    assert going == [row.block_id for row in seen(database, due_trash, 3, 12345, 100)]
    database.close()
