import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import OperationalError

from filefly.catalog.database import Change, Database, open_database
from filefly.catalog.endings import delete_file, let_go, undelete_file
from filefly.catalog.inventory import catalog_row, data_server_rows, save_running_seconds
from filefly.catalog.planning import plan_file
from filefly.catalog.plans import committed_plan, plan_of_generation
from filefly.catalog.schema import CatalogUnusable, catalog, data_servers, newest_version, plans
from filefly.errors import Conflict, DiskFull, Internal, NotFound
from tests.catalog.catalogs import (
    DUE,
    commit,
    done,
    new_plan,
    open_catalog,
    open_plans,
    opened,
    plan,
    seen,
    store,
    trashed,
    url_of,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


def planning(name: str) -> Change:
    return lambda connection: plan_file(connection, new_plan(name), True)


# Writing in groups


def test_each_change_has_its_result(database: Database) -> None:
    """In the order of the changes."""
    outcomes = database.write([planning(name) for name in "abc"])
    assert ["a", "b", "c"] == [outcome.name for outcome in outcomes]


def test_nothing_to_write_is_fine(database: Database) -> None:
    """An empty group has no results."""
    assert [] == database.write([])


def test_a_failing_change_takes_no_other_with_it(database: Database) -> None:
    """Its neighbours in the transaction are kept."""
    first, failed, last = database.write(
        [planning("a"), lambda connection: delete_file(connection, "missing", DUE), planning("b")]
    )
    assert isinstance(failed, NotFound)
    for planned in (first, last):
        assert planned == seen(database, plan_of_generation, planned.generation)


def test_a_failing_change_leaves_nothing_of_its_own(database: Database) -> None:
    """What it wrote before it failed is taken back, and a later change of the group does not see it."""

    def plan_and_fail(connection: Connection) -> None:
        plan_file(connection, new_plan("a"), True)
        raise Conflict

    _failed, found = database.write([plan_and_fail, lambda connection: open_plans(connection, "a")])
    assert [] == found


def put_server_1_again(connection: Connection) -> None:
    row = {"key": 1, "address": "elsewhere:1", "registered": False, "placing": False}
    connection.execute(insert(data_servers), row)


def divide_by_zero(_connection: Connection) -> float:
    return 1 / 0


@pytest.mark.parametrize(
    ("breaking", "sentence"),
    [(put_server_1_again, "UNIQUE constraint failed"), (divide_by_zero, "division by zero")],
)
def test_a_change_that_breaks_the_transaction_takes_no_other_with_it(
    database: Database, breaking: Change, sentence: str
) -> None:
    """A bug in one request must not fail those that happened to be in its group."""
    first, broken, last = database.write([planning("a"), breaking, planning("b")])
    assert isinstance(broken, Internal)
    assert sentence in str(broken)
    assert ["a", "b"] == [first.name, last.name]
    for planned in (first, last):
        assert planned == seen(database, plan_of_generation, planned.generation)
    assert first.generation < last.generation


def test_a_broken_change_alone_is_an_error(database: Database) -> None:
    """The cause is kept for the log."""
    [broken] = database.write([put_server_1_again])
    assert isinstance(broken, Internal)
    assert broken.__cause__ is not None
    assert 3 == len(seen(database, data_server_rows))


def test_a_full_disk_is_told(database: Database) -> None:
    """By its own code, and what to do."""

    def fill(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        try:
            plan_file(connection, new_plan("x" * 1000, 200_000), True)
        finally:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")

    [failed] = database.write([fill])
    assert isinstance(failed, DiskFull)
    assert "the catalog's disk is full; free some space" == str(failed)
    assert [] == seen(database, open_plans, "x" * 1000)


def test_a_failing_query_is_an_error_of_the_catalog(database: Database) -> None:
    """Nobody outside knows SQLAlchemy's exceptions."""
    with pytest.raises(Internal, match=r"^the catalog failed: no such table: missing$") as caught:
        database.read(lambda connection: connection.exec_driver_sql("SELECT * FROM missing"))
    assert isinstance(caught.value.__cause__, OperationalError)


def test_a_query_may_say_no(database: Database) -> None:
    """Its own errors are passed on."""
    with pytest.raises(NotFound):
        seen(database, committed_plan, "a")


# Several at once


def test_concurrent_writers_do_not_lose_updates(tmp_path: Path) -> None:
    """Two connections that each read, add one and write: the sum is right."""
    with opened(tmp_path) as one:
        other = Database(one._engine, None)

        def add_one(connection: Connection) -> None:
            save_running_seconds(connection, catalog_row(connection).running_seconds + 1)

        def add_ten(database: Database) -> None:
            for _ in range(10):
                done(database, add_one)

        threads = [threading.Thread(target=add_ten, args=(database,)) for database in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 20 == seen(one, catalog_row).running_seconds


def test_a_reader_sees_only_what_is_committed(database: Database) -> None:
    """While a transaction is under way, others read the state before it, and wait for nothing."""

    def plan_and_look(connection: Connection) -> tuple[Any, Any]:
        planned = plan_file(connection, new_plan("a"), True)
        return open_plans(connection, "a") == [planned], seen(database, open_plans, "a")

    assert (True, []) == done(database, plan_and_look)
    assert 1 == len(seen(database, open_plans, "a"))


def test_a_reader_sees_one_snapshot(database: Database) -> None:
    """What is committed between two of its statements is not seen by the second."""

    def count_twice(connection: Connection) -> tuple[int, int]:
        first = len(open_plans(connection, "a"))
        plan(database, "a")
        return first, len(open_plans(connection, "a"))

    assert (0, 0) == database.read(count_twice)
    assert 1 == len(seen(database, open_plans, "a"))


# Opening


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    """Files, open plans, deleted files, trash, data servers."""
    with opened(tmp_path) as database:
        for name in ("gone", "deleted"):
            store(database, name)
            done(database, delete_file, name, DUE)
            done(database, let_go, DUE if name == "gone" else 0, 1000)
        committed, pending = store(database, "a"), plan(database, "b", explicit=False)
        trash, servers = seen(database, trashed), seen(database, data_server_rows)
        assert [("gone-0", 1), ("gone-1", 1)] == trash
    with opened(tmp_path) as database:
        assert committed == seen(database, committed_plan, "a")
        assert [pending] == seen(database, open_plans, "b")
        assert trash == seen(database, trashed)
        assert servers == seen(database, data_server_rows)
        assert "deleted" == done(database, undelete_file, "deleted").name


def test_a_catalog_keeps_its_identity(tmp_path: Path) -> None:
    """It is named once."""
    names = iter(["first", "second"])
    for _ in range(2):
        database = open_database(url_of(tmp_path), lambda: next(names))
        found = database.read(lambda connection: connection.execute(select(catalog.c.catalog_id)).scalars().all())
        database.close()
        assert ["first"] == found


def set_version(connection: Connection, version: int) -> None:
    connection.execute(update(catalog).values(schema_version=version))


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A program that does not know the schema touches nothing, and says which program does."""
    known = newest_version()
    with opened(tmp_path) as database:
        store(database, "a")
        done(database, set_version, known + 1)
    with pytest.raises(CatalogUnusable) as caught:
        open_database(url_of(tmp_path), lambda: "x")
    sentence = f"the catalog has schema version {known + 1}, this program knows up to {known}; "
    assert sentence + "use the newer FileFly that made it" == str(caught.value)


def test_a_refused_catalog_is_not_kept_locked(tmp_path: Path) -> None:
    """The right program can open it at once."""
    with opened(tmp_path) as database:
        done(database, set_version, newest_version() + 1)
    with pytest.raises(CatalogUnusable, match=f"schema version {newest_version() + 1}"):
        open_database(url_of(tmp_path), lambda: "x")
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.execute(f"UPDATE catalog SET schema_version = {newest_version()}")
    connection.close()
    open_catalog(tmp_path).close()


def test_a_catalog_in_use_is_refused(tmp_path: Path) -> None:
    """Two metadata servers would both give out the same ids."""
    with opened(tmp_path), pytest.raises(CatalogUnusable) as caught:
        open_database(url_of(tmp_path), lambda: "x")
    assert f"{tmp_path / 'catalog.sqlite'} is in use by another metadata server; stop that one first" == str(
        caught.value
    )


def test_a_catalog_is_not_made_through_a_link(tmp_path: Path) -> None:
    """That somebody has put there; one that leads to a catalog is followed."""
    path, elsewhere = tmp_path / "catalog.sqlite", tmp_path / "elsewhere"
    path.symlink_to(elsewhere)
    with pytest.raises(CatalogUnusable, match=r"catalog\.sqlite is a link that leads nowhere; remove it"):
        open_database(f"sqlite:///{path}", lambda: "x")
    assert not elsewhere.exists()
    open_database(f"sqlite:///{elsewhere}", lambda: "x").close()
    open_database(f"sqlite:///{path}", lambda: "x").close()


def test_closing_connections_keeps_the_lock(tmp_path: Path) -> None:
    """Before a fork SQLite must be closed, but nobody else may take the catalog."""
    with opened(tmp_path) as database:
        planned = plan(database, "a")
        database.close_connections()
        with pytest.raises(CatalogUnusable, match="is in use"):
            open_database(url_of(tmp_path), lambda: "x")
        assert [planned] == seen(database, open_plans, "a")


def test_a_closed_catalog_can_be_opened_again(tmp_path: Path) -> None:
    """The lock ends with it."""
    for _ in range(2):
        open_catalog(tmp_path).close()


@pytest.mark.parametrize("content", [b"this is not a database, and long enough to be none" * 100, b"\0" * 8192])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """And stays as it was."""
    (tmp_path / "catalog.sqlite").write_bytes(content)
    with pytest.raises(
        CatalogUnusable, match=r"^the catalog sqlite:.*/catalog.sqlite cannot be opened: .*; check that"
    ):
        open_database(url_of(tmp_path), lambda: "x")
    assert content == (tmp_path / "catalog.sqlite").read_bytes()


def test_a_truncated_catalog_is_refused(tmp_path: Path) -> None:
    """Half a database is none."""
    open_catalog(tmp_path).close()
    file = tmp_path / "catalog.sqlite"
    file.write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(CatalogUnusable, match="cannot be opened"):
        open_database(url_of(tmp_path), lambda: "x")


def test_somebody_elses_table_is_refused(tmp_path: Path) -> None:
    """A database with a table `catalog` that is not ours."""
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.execute("CREATE TABLE catalog (title TEXT)")
    connection.close()
    with pytest.raises(CatalogUnusable, match="cannot be opened: no such column"):
        open_database(url_of(tmp_path), lambda: "x")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """SQLite's own words are passed on."""
    (tmp_path / "catalog.sqlite").mkdir()
    with pytest.raises(CatalogUnusable, match="cannot be opened: unable to open database file"):
        open_database(url_of(tmp_path), lambda: "x")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """It is not created: a mistyped path would be a new, empty catalog."""
    with pytest.raises(CatalogUnusable, match=r"^cannot write beside the catalog .*: No such file or directory$"):
        open_database(url_of(tmp_path / "missing"), lambda: "x")


@pytest.mark.parametrize("url", ["", "catalog.sqlite", "nonsense://x", "sqlite+nonsense:///x"])
def test_what_is_no_url_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an example of one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatalogUnusable, match=r"is not a database URL; write sqlite:///catalog.sqlite$"):
        open_database(url, lambda: "x")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_catalog_in_memory_is_refused(url: str) -> None:
    """Acknowledged is durable."""
    with pytest.raises(CatalogUnusable, match=r"^an SQLite catalog needs a file"):
        open_database(url, lambda: "x")


# Crashes

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

WRITER = """
import sys
from pathlib import Path
from tests.catalog.catalogs import DUE, done, open_catalog, store
from filefly.catalog.endings import delete_file, let_go, undelete_file

database = open_catalog(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(1_000_000):
    plan = store(database, f"file{number % 7}", 20)
    print("stored", plan.name, plan.generation, flush=True)
    if number % 5 == 4:
        done(database, delete_file, plan.name, DUE)
        print("deleted", plan.name, plan.generation, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 2, 23, 57, 120])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, acknowledged: int) -> None:
    """After the crash the catalog shows what the last acknowledgements said, or at most one change more."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, env=ENVIRONMENT)
    with writer:
        assert writer.stdout is not None
        assert b"ready\n" == writer.stdout.readline()
        lines = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    expected: dict[str, int | None] = {}
    for line in lines:
        what, name, generation = line.decode().split()
        expected[name] = int(generation) if what == "stored" else None
    with opened(tmp_path) as database:
        rows = database.read(
            lambda connection: connection.execute(select(plans.c.name, plans.c.generation, plans.c.state)).all()
        )
        found = {name: generation for name, generation, state in rows if state == "committed"}
        differing = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
        assert len(differing) <= 1
        newest = max(int(line.split()[2]) for line in lines)
        for name in differing:  # the change that was committed, but not yet acknowledged
            assert found.get(name) is None or found[name] > newest
        for name in found:
            assert 20 == sum(block.size for block in seen(database, committed_plan, name).blocks)
        assert plan(database, "next").generation > newest


def test_an_unfinished_transaction_is_not_there_after_kill_9(tmp_path: Path) -> None:
    """The process dies inside of it."""
    program = """
import os, signal, sys
from pathlib import Path
from tests.catalog.catalogs import new_plan, open_catalog, store
from filefly.catalog.planning import plan_file

database = open_catalog(Path(sys.argv[1]))
store(database, "whole")

def plan_and_die(connection):
    plan_file(connection, new_plan("half", 100_000), True)
    os.kill(os.getpid(), signal.SIGKILL)

database.write([plan_and_die])
"""
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], env=ENVIRONMENT)
    assert -signal.SIGKILL == ended.returncode
    with opened(tmp_path) as database:
        assert 10 == seen(database, committed_plan, "whole").total_size
        assert [] == seen(database, open_plans, "half")
        assert "committed" == commit(database, plan(database, "half")).state
