from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file
from filefly.catalog.inventory import (
    DataServerRow,
    Holdings,
    catalog_row,
    check_removable,
    data_server_rows,
    forget_data_server,
    highest_generation,
    holdings,
    identify,
    named_data_server,
    register_data_server,
    resume,
    save_backed_up,
    save_running_seconds,
    set_displaced,
    set_draining,
    skip_generations,
    suspend,
    take_data_servers,
)
from filefly.catalog.planning import plan_file, short_ids_free
from filefly.catalog.schema import plans
from filefly.errors import Conflict, NotFound
from tests.catalog.catalogs import (
    DUE,
    count_rows,
    done,
    ids_of,
    let_all_go,
    new_plan,
    opened,
    plan,
    seen,
    store,
    trashed,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path, servers=0) as database:
        yield database


# Which there are


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
        assert [
            DataServerRow(1, "a:1", None, True),
            DataServerRow(2, "b:1", "far:1", True, registered=True),
        ] == rows


def test_registering_again_changes_what_clients_are_told(database: Database) -> None:
    """The data server stays the same one."""
    done(database, register_data_server, "a:1", None)
    renewed = [DataServerRow(1, "a:1", "far:1", True, registered=True)]
    assert renewed == done(database, register_data_server, "a:1", "far:1")
    assert renewed == seen(database, data_server_rows)


def test_a_restart_changes_nothing_about_a_storage(database: Database) -> None:
    """Who it is, and what was decided about it."""
    done(database, take_data_servers, {"a:1": None, "b:1": None})
    done(database, identify, {}, {1: "one"})
    done(database, set_draining, "a:1", True)
    before = done(database, set_displaced, 1, True)
    assert DataServerRow(1, "a:1", None, True, "one", draining=True, displaced=True) == before[0]
    assert before == done(database, take_data_servers, {"a:1": None, "b:1": None})


# Naming one


@pytest.mark.parametrize(("name", "key"), [("b:1", 2), ("far:1", 2), ("two", 2), ("three", 3)])
def test_a_data_server_has_several_names(database: Database, name: str, key: int) -> None:
    """Its internal address, what clients are told, and its storage's id, wherever that is."""
    done(database, take_data_servers, {"a:1": None, "b:1": "far:1", "c:1": None})
    done(database, identify, {}, {1: "one", 2: "two", 3: "three"})
    done(database, identify, {1: 3}, {})  # the third storage is nowhere now
    assert key == seen(database, named_data_server, name).key


@pytest.mark.parametrize("name", ["", "x:1", "tw"])
def test_what_names_no_data_server_is_refused(database: Database, name: str) -> None:
    """Nothing at all does not name a storage that is seen at no address."""
    done(database, take_data_servers, {"b:1": "far:1", "c:1": None})
    done(database, identify, {}, {1: "two", 2: "three"})
    done(database, identify, {1: 2}, {})
    with pytest.raises(NotFound, match=rf"^there is no data server {name}; filefly-client servers lists them$"):
        seen(database, named_data_server, name)


# What is to become of one


@pytest.fixture
def three(database: Database) -> Database:
    """Have three data servers, each a storage."""
    done(database, take_data_servers, {"a:1": None, "b:1": None, "c:1": None})
    done(database, identify, {}, {1: "one", 2: "two", 3: "three"})
    return database


def test_draining_is_kept(three: Database) -> None:
    """Until it is taken back; other data servers are not concerned."""
    assert [False, True, False] == [row.draining for row in done(three, set_draining, "b:1", True)]
    assert [False, True, False] == [row.draining for row in seen(three, data_server_rows)]
    assert [False, False, False] == [row.draining for row in done(three, set_draining, "two", False)]


def test_who_does_not_exist_cannot_be_drained(three: Database) -> None:
    """A mistyped address must not look drained."""
    with pytest.raises(NotFound):
        done(three, set_draining, "x:1", True)


def test_holdings_are_committed_blocks_and_open_plans(three: Database) -> None:
    """Each block and each plan once; what was deleted does not count."""
    store(three, "a", 21, (1, 2))
    plan(three, "b", 21, (1,))
    plan(three, "c", 7, (1,))
    store(three, "d", 21, (1,))
    done(three, delete_file, "d", DUE)
    assert Holdings(committed=3, open_plans=2) == seen(three, holdings, 1)
    assert Holdings(committed=3, open_plans=0) == seen(three, holdings, 2)
    assert Holdings(committed=0, open_plans=0) == seen(three, holdings, 3)
    assert [False, False, True] == [seen(three, holdings, key).none for key in (1, 2, 3)]


def test_a_data_server_that_is_needed_is_not_removed(three: Database) -> None:
    """The sentence says by what, and what to do."""
    store(three, "a", 10, (1,))
    plan(three, "b", 10, (1,))
    with pytest.raises(Conflict) as caught:
        seen(three, check_removable, "a:1", False)
    assert (
        "a:1 still has 2 blocks and 1 open plan: drain it first (filefly-client drain a:1), "
        "or give its blocks up (--lost)"
    ) == str(caught.value)


@pytest.mark.parametrize(("name", "lost", "key"), [("a:1", True, 1), ("b:1", False, 2), ("three", False, 3)])
def test_a_data_server_that_is_not_needed_may_be_removed(three: Database, name: str, lost: bool, key: int) -> None:
    """Or one that is lost."""
    store(three, "a", 10, (1,))
    assert key == seen(three, check_removable, name, lost).key


def test_a_forgotten_data_server_takes_its_trash_along(three: Database) -> None:
    """Nobody waits for it to confirm; the trash of others stays."""
    store(three, "a", 7, (1, 2))
    done(three, delete_file, "a", DUE)
    done(three, let_all_go)
    assert ["b:1", "c:1"] == [row.address for row in done(three, forget_data_server, 1)]
    assert [("a-0", 2)] == seen(three, trashed)


# The catalog itself


def test_a_new_catalog_has_not_been_running(database: Database) -> None:
    """Nor was it backed up, and nothing is wrong with it."""
    row = seen(database, catalog_row)
    assert ("id of a test", 0, None, 0) == (row.catalog_id, row.running_seconds, row.suspended, row.backed_up)


def test_running_time_is_kept(tmp_path: Path) -> None:
    """It goes on where it was saved, and so does when the catalog was backed up."""
    with opened(tmp_path) as database:
        done(database, save_running_seconds, 12345)
        done(database, save_backed_up, 12000)
    with opened(tmp_path) as database:
        row = seen(database, catalog_row)
        assert (12345, 12000) == (row.running_seconds, row.backed_up)


def test_a_catalog_stays_suspended(tmp_path: Path) -> None:
    """For the first reason, over restarts, until somebody decides otherwise."""
    with opened(tmp_path) as database:
        done(database, suspend, "it is old", 1000)
        done(database, suspend, "it is old still", 2000)
    with opened(tmp_path) as database:
        assert "it is old" == seen(database, catalog_row).suspended
        done(database, resume)
        assert None is seen(database, catalog_row).suspended


def test_a_suspended_catalog_gives_no_generation_again(database: Database) -> None:
    """Data servers may hold blocks of all of those that it does not know."""
    store(database, "a", 0)
    done(database, suspend, "it is old", 1000)
    assert 1001 == plan(database, "a").generation


def test_a_suspended_catalog_gives_long_ids(database: Database) -> None:
    """A short one may be a block's that it does not know."""
    done(database, suspend, "it is old", 1000)
    assert not seen(database, short_ids_free, "a")
    assert ["a-0.1001", "a-1.1001"] == ids_of(plan(database, "a"))
    done(database, resume)
    assert ["a-0", "a-1"] == ids_of(plan(database, "a"))


# Generations


def generations_of(connection: Connection, *names: str) -> list[int]:
    return [plan_file(connection, new_plan(name), True).generation for name in names]


def test_the_highest_generation_is_the_last_one_given(database: Database) -> None:
    """0 before the first; also where its plan is gone."""
    assert 0 == seen(database, highest_generation)
    done(database, generations_of, "a", "b")
    assert 2 == seen(database, highest_generation)
    done(database, delete_file, "b", DUE)
    done(database, let_all_go)
    assert 2 == seen(database, highest_generation)


def test_skipped_generations_are_not_given(tmp_path: Path) -> None:
    """Not after a restart either; and nothing is left of the skipping."""
    with opened(tmp_path) as database:
        done(database, skip_generations, 10**12)
        assert 10**12 == seen(database, highest_generation)
        assert 0 == seen(database, count_rows, plans)
    with opened(tmp_path) as database:
        assert [10**12 + 1, 10**12 + 2] == done(database, generations_of, "a", "a")


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_generations_that_were_given_are_not_skipped_again(database: Database, generation: int) -> None:
    """The counter never goes back."""
    done(database, generations_of, "a", "b")
    done(database, skip_generations, generation)
    assert [3] == done(database, generations_of, "c")


def test_a_skip_that_is_taken_back_is_none(database: Database) -> None:
    """It belongs to its transaction like anything else."""

    def skip_and_fail(connection: Connection) -> None:
        skip_generations(connection, 1000)
        raise Conflict

    with pytest.raises(Conflict):
        done(database, skip_and_fail)
    assert [1] == done(database, generations_of, "a")
