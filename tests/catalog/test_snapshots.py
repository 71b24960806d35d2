import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from sqlalchemy import create_engine

from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.inventory import catalog_row, save_running_seconds
from filefly.catalog.plans import committed_plan
from filefly.catalog.repairs import Place
from filefly.catalog.replicas import plan_copy, stored_block
from filefly.catalog.snapshots import Snapshots, catalog_file
from filefly.errors import Conflict, DiskFull, Internal, Unavailable
from filefly.meta.backup import PREFIX
from tests.catalog.catalogs import DUE, done, opened, put_many_files, seen, store, url_of
from tests.catalog.copies import beside, names_in, snapshots_in

TIME = "2026-01-02T03:04:05.678Z"


def write_copy(snapshots: Snapshots, target: Path) -> Path:
    """Write a copy of the catalog to a file."""
    with snapshots.take(TIME) as copy:
        target.write_bytes(copy.read())
    return target


def test_a_copy_is_a_catalog_of_its_own(tmp_path: Path) -> None:
    """One file, that opens as a catalog with all that was in the first one."""
    with opened(tmp_path) as database:
        store(database, "a")
        about = seen(database, catalog_row)
        (tmp_path / "restored").mkdir()
        copy = write_copy(snapshots_in(tmp_path), tmp_path / "restored" / "catalog.sqlite")
        store(database, "b")
    assert ["a"] == names_in(copy)
    with opened(tmp_path / "restored") as database:
        restored = seen(database, catalog_row)
        assert about == evolve(restored, suspended=None)
        assert TIME in str(restored.suspended)


def test_a_copy_gives_no_generation_again(tmp_path: Path) -> None:
    """What came after it has some that it does not know."""
    with opened(tmp_path) as database:
        store(database, "a")
        (tmp_path / "restored").mkdir()
        write_copy(snapshots_in(tmp_path), tmp_path / "restored" / "catalog.sqlite")
        later = store(database, "b")
    with opened(tmp_path / "restored") as database:
        assert store(database, "c").generation > later.generation


def test_nothing_is_left_beside_the_catalog(tmp_path: Path) -> None:
    """A copy has no name any more while it is read."""
    with opened(tmp_path), snapshots_in(tmp_path).take(TIME) as copy:
        assert [] == beside(tmp_path)
        assert b"SQLite format 3\0" == copy.read(16)


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    """But nothing else, whatever the catalog's name looks like."""
    catalog = tmp_path / "[c].sqlite"
    for name in (
        "[c].sqlite",
        "[c].sqlite-wal",
        "c.sqlite.snapshot-x",
        "[c].sqlite.snapshot-x",
        "[c].sqlite.snapshot-x-wal",
    ):
        (tmp_path / name).touch()
    Snapshots(catalog, PREFIX).clear()
    assert ["[c].sqlite", "[c].sqlite-wal", "c.sqlite.snapshot-x"] == sorted(file.name for file in tmp_path.iterdir())


def test_a_copy_is_of_one_moment_and_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while it is made is not in it, and is written at once."""
    monkeypatch.setattr("filefly.catalog.snapshots._PAGES_AT_ONCE", 5)
    with opened(tmp_path) as database:
        put_many_files(database, (f"a{number}" for number in range(3000)))
        written: list[str] = []

        class Busy(Snapshots):
            def _check_running(self, *_progress: int) -> None:
                if len(written) < 3:
                    store(database, f"b{len(written)}")
                    written.append(f"b{len(written)}")

        copy = write_copy(Busy(tmp_path / "catalog.sqlite", PREFIX), tmp_path / "copy.sqlite")
    assert ["b0", "b1", "b2"] == written
    assert sorted(f"a{number}" for number in range(3000)) == names_in(copy)


def test_a_copy_under_way_ends_when_the_server_stops(tmp_path: Path) -> None:
    """And leaves nothing."""
    with opened(tmp_path):
        snapshots = snapshots_in(tmp_path)
        snapshots.stop()
        with pytest.raises(Unavailable, match="shutting down"):
            snapshots.take(TIME)
    assert [] == beside(tmp_path)


def test_a_catalog_of_a_database_server_is_backed_up_by_its_own_tools() -> None:
    """FileFly does not know how to copy it."""
    with pytest.raises(Conflict, match="back it up with pg_dump"):
        Snapshots(None, PREFIX).take(TIME)


def test_where_a_catalog_is(tmp_path: Path) -> None:
    """An SQLite catalog tells its file."""
    with opened(tmp_path) as database:
        assert tmp_path / "catalog.sqlite" == seen(database, catalog_file)
    assert create_engine(url_of(tmp_path)).dialect.name == "sqlite"


@pytest.mark.parametrize(
    ("problem", "kind", "sentence"),
    [
        (OSError(28, "No space left on device"), DiskFull, "there is no room for a copy of the catalog beside it"),
        (sqlite3.OperationalError("database or disk is full"), DiskFull, "there is no room for a copy"),
        (OSError(5, "Input/output error"), Internal, "the catalog cannot be copied: Input/output error"),
    ],
)
def test_what_goes_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, kind: type[Exception], sentence: str
) -> None:
    """And leaves nothing."""

    class Failing(Snapshots):
        def _check_running(self, *_progress: int) -> None:
            raise problem

    with opened(tmp_path), pytest.raises(kind, match=sentence):
        Failing(tmp_path / "catalog.sqlite", PREFIX).take(TIME)
    assert [] == beside(tmp_path)


def _nothing(_database: Any) -> None:
    pass


def _time_passes(database: Any) -> None:
    done(database, save_running_seconds, 77)


def _a_backup(database: Any) -> None:
    store(database, f"{PREFIX}20260102T030405Z.sqlite.gz")


def _a_file(database: Any) -> None:
    store(database, "b")


def _a_rename(database: Any) -> None:
    done(database, rename_file, "a", "b", DUE)


def _a_deletion(database: Any) -> None:
    done(database, delete_file, "a", DUE)


def _a_copy(database: Any) -> None:
    place = Place(seen(database, committed_plan, "a").generation, 0)
    done(database, plan_copy, seen(database, stored_block, place), 2, 0)


@pytest.mark.parametrize(
    ("happens", "changes"),
    [
        (_nothing, False),
        (_time_passes, False),
        (_a_backup, False),
        (_a_file, True),
        (_a_rename, True),
        (_a_deletion, True),
        (_a_copy, True),
    ],
)
def test_what_counts_as_a_change(tmp_path: Path, happens: Callable[[Any], None], changes: bool) -> None:
    """Files, their names, and the places of their blocks; not the backups themselves."""
    with opened(tmp_path) as database:
        store(database, "a")
        before = snapshots_in(tmp_path).digest()
        happens(database)
        assert changes == (before != snapshots_in(tmp_path).digest())
