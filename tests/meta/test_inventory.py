from collections.abc import Iterator
from pathlib import Path

import pytest

from filefly.meta.catalog import delete_file
from filefly.meta.database import Database
from filefly.meta.inventory import (
    DataServerRow,
    data_server_rows,
    due_trash,
    forget_trash,
    register_data_server,
    running_seconds,
    save_running_seconds,
    take_data_servers,
)
from tests.meta.catalogs import done, opened, seen, store, trashed


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path, servers=0) as database:
        yield database


def test_listed_data_servers_are_placed_on(database: Database) -> None:
    """In the order of the list, each told as it is advertised."""
    rows = done(database, take_data_servers, {"b:1": None, "a:1": "far:1"})
    assert [DataServerRow(1, "b:1", None, True), DataServerRow(2, "a:1", "far:1", True)] == rows
    assert ["b:1", "far:1"] == [row.told for row in rows]


def test_a_data_server_keeps_its_key(database: Database) -> None:
    """Replicas are recorded by it, whatever the order of the next list."""
    done(database, take_data_servers, {"a:1": None, "b:1": None})
    rows = done(database, take_data_servers, {"b:1": "far:1", "a:1": None})
    assert [DataServerRow(1, "a:1", None, True), DataServerRow(2, "b:1", "far:1", True)] == rows


def test_a_data_server_that_is_not_listed_any_more_stays_known(database: Database) -> None:
    """Its replicas are still read, but nothing new goes there."""
    done(database, take_data_servers, {"a:1": None, "b:1": None})
    rows = done(database, take_data_servers, {"b:1": None})
    assert [("a:1", False), ("b:1", True)] == [(row.address, row.placing) for row in rows]


def test_a_registered_data_server_is_placed_on_after_a_restart(tmp_path: Path) -> None:
    """It needs no place in any list."""
    with opened(tmp_path, servers=0) as database:
        done(database, take_data_servers, {"a:1": None})
        done(database, register_data_server, "b:1", "far:1")
    with opened(tmp_path, servers=0) as database:
        rows = done(database, take_data_servers, {"a:1": None})
        assert [DataServerRow(1, "a:1", None, True), DataServerRow(2, "b:1", "far:1", True)] == rows


def test_registering_again_changes_what_clients_are_told(database: Database) -> None:
    """The data server stays the same one."""
    done(database, register_data_server, "a:1", None)
    assert [DataServerRow(1, "a:1", "far:1", True)] == done(database, register_data_server, "a:1", "far:1")
    assert [DataServerRow(1, "a:1", "far:1", True)] == seen(database, data_server_rows)


@pytest.fixture
def trashy(database: Database) -> Database:
    """Make trash on servers 1, 2, 1, 2, due at 10, 10, 20, 20."""
    done(database, take_data_servers, {"a:1": None, "b:1": None})
    for name, due in (("x", 10), ("y", 20)):
        store(database, name, 1, (1, 2))
        done(database, delete_file, name, due)
    return database


def test_trash_is_due_after_its_grace_period(trashy: Database) -> None:
    """Not a second earlier."""
    assert [] == seen(trashy, due_trash, 9, [], 100)
    assert [("x-0", 1), ("x-0", 2)] == [(row.block_id, row.server) for row in seen(trashy, due_trash, 19, [], 100)]
    assert 4 == len(seen(trashy, due_trash, 20, [], 100))


def test_the_oldest_trash_comes_first(trashy: Database) -> None:
    """As much as is asked for."""
    assert ["x-0", "x-0", "y-0"] == [row.block_id for row in seen(trashy, due_trash, 99, [], 3)]


def test_trash_of_some_servers_can_wait(trashy: Database) -> None:
    """It does not stand in the way of the others'."""
    assert [("x-0", 2), ("y-0", 2)] == [(row.block_id, row.server) for row in seen(trashy, due_trash, 99, [1], 100)]
    assert [] == seen(trashy, due_trash, 99, [1, 2], 100)


def test_confirmed_trash_is_forgotten(trashy: Database) -> None:
    """And no other."""
    first, *_others = seen(trashy, due_trash, 99, [], 100)
    done(trashy, forget_trash, [first.key])
    assert [("x-0", 2), ("y-0", 1), ("y-0", 2)] == seen(trashy, trashed)


def test_running_time_begins_at_nothing(database: Database) -> None:
    """A new catalog has not been running."""
    assert 0 == seen(database, running_seconds)


def test_running_time_is_kept(tmp_path: Path) -> None:
    """It goes on where it was saved."""
    with opened(tmp_path) as database:
        done(database, save_running_seconds, 12345)
    with opened(tmp_path) as database:
        assert 12345 == seen(database, running_seconds)
