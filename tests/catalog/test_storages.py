"""Storages and the addresses where they are, as the catalog keeps them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filefly.catalog.database import Database
from filefly.catalog.inventory import (
    DataServerRow,
    accept_storage,
    data_server_rows,
    identify,
    register_data_server,
    set_draining,
    take_data_servers,
)
from filefly.catalog.planning import replace_replica
from filefly.catalog.plans import committed_plan
from filefly.errors import NotFound
from tests.catalog.catalogs import DUE, commit, done, noted, open_plans, opened, plan, seen, store, trashed

LISTED = {"a:1": "far-a:1", "b:1": "far-b:1"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Have two data servers, listed, and not heard from yet."""
    with opened(tmp_path, servers=0) as database:
        done(database, take_data_servers, LISTED)
        yield database


@pytest.fixture
def two(database: Database) -> Database:
    """Have two data servers, each a storage."""
    done(database, identify, {}, {1: "one", 2: "two"})
    return database


def where(database: Database) -> dict[str | None, str | None]:
    """Return at which address each storage is."""
    return {row.storage_id: row.address for row in seen(database, data_server_rows)}


# identify: who is where


def test_a_new_storage_is_what_the_address_stands_for(database: Database) -> None:
    """From the first time that it is heard from."""
    rows = done(database, identify, {}, {2: "two"})
    assert [
        DataServerRow(1, "a:1", "far-a:1", True),
        DataServerRow(2, "b:1", "far-b:1", True, "two"),
    ] == rows
    assert rows == seen(database, data_server_rows)


def test_a_storage_that_moved_keeps_its_replicas(two: Database) -> None:
    """What it is moved in place of is looked for where that was, and keeps its own."""
    file, other = store(two, "a", 7, (1,)), store(two, "b", 7, (2,))
    done(two, identify, {1: 2}, {})
    assert {"one": "b:1", "two": "a:1"} == where(two)
    assert file == seen(two, committed_plan, "a")
    assert other == seen(two, committed_plan, "b")


def test_swapped_storages_swap_addresses(two: Database) -> None:
    """In one step, each with its replicas, told by the address where it is now."""
    files = [store(two, "a", 7, (1,)), store(two, "b", 7, (2,))]
    assert [
        DataServerRow(1, "b:1", "far-b:1", True, "one"),
        DataServerRow(2, "a:1", "far-a:1", True, "two"),
    ] == done(two, identify, {1: 2, 2: 1}, {})
    assert files == [seen(two, committed_plan, name) for name in "ab"]


def test_three_may_change_places(two: Database) -> None:
    """However long the circle is."""
    done(two, register_data_server, "c:1", None)
    done(two, identify, {}, {3: "three"})
    done(two, identify, {1: 2, 2: 3, 3: 1}, {})
    assert {"one": "b:1", "two": "c:1", "three": "a:1"} == where(two)


def test_a_storage_that_was_nowhere_is_told_where_it_is_now(two: Database) -> None:
    """Clients must not be sent to where it was."""
    done(two, identify, {1: 2}, {})
    done(two, register_data_server, "c:1", "far-c:1")
    [_one, second] = done(two, identify, {2: 3}, {})
    assert ("c:1", "far-c:1") == (second.address, second.told)


def test_a_storage_at_a_listed_address_is_placed_on(two: Database) -> None:
    """Also where its old address is listed no more."""
    done(two, take_data_servers, {"b:1": "far-b:1"})
    first, _second = done(two, identify, {1: 2}, {})
    assert ("b:1", True) == (first.address, first.placing)


def test_who_moves_is_drained_all_the_same(two: Database) -> None:
    """What was decided is about the storage."""
    done(two, set_draining, "a:1", True)
    assert [True, False] == [row.draining for row in done(two, identify, {1: 2, 2: 1}, {})]


# identify: an address that turns out to be a known storage's


@pytest.fixture
def moved(two: Database) -> Database:
    """Have storage `one` at a new address, which was registered, and has the key 3."""
    done(two, register_data_server, "c:1", "far-c:1")
    return two


def test_a_storage_at_a_new_address_is_one_data_server(moved: Database) -> None:
    """Registered as its new address is, and told as that is."""
    assert [
        DataServerRow(1, "c:1", "far-c:1", True, "one", registered=True),
        DataServerRow(2, "b:1", "far-b:1", True, "two"),
    ] == done(moved, identify, {1: 3}, {})


def test_what_was_planned_at_the_new_address_is_the_storages(moved: Database) -> None:
    """An upload that began there is completed there."""
    planned = plan(moved, "a", 7, (3, 2))
    done(moved, identify, {1: 3}, {})
    [found] = seen(moved, open_plans, "a")
    assert [(1, 2)] == [block.servers for block in found.blocks]
    assert [(1, 2)] == [block.servers for block in commit(moved, found).blocks]
    assert planned.generation == found.generation


def test_two_replicas_that_are_one_count_once(moved: Database) -> None:
    """The file has fewer than it should: that is noted for repair."""
    file = store(moved, "a", 14, (1, 3))
    store(moved, "b", 14, (1, 2))
    done(moved, identify, {1: 3}, {})
    assert [(1,), (1,)] == [block.servers for block in seen(moved, committed_plan, "a").blocks]
    assert [(file.generation, 0, 1), (file.generation, 1, 1)] == seen(moved, noted)


def test_two_places_of_an_upload_that_are_one_count_once(moved: Database) -> None:
    """It is completed with what there is, and repaired."""
    plan(moved, "a", 7, (1, 3))
    done(moved, identify, {1: 3}, {})
    [found] = seen(moved, open_plans, "a")
    assert [(1,)] == [block.servers for block in found.blocks]
    assert [(1,)] == [block.servers for block in commit(moved, found).blocks]
    assert [(found.generation, 0, 1)] == seen(moved, noted)


def test_trash_at_the_new_address_is_the_storages(moved: Database) -> None:
    """It must go from there."""
    planned = plan(moved, "a", 7, (3,))
    done(moved, replace_replica, planned.generation, "a-0", 3, [2], DUE)
    done(moved, identify, {1: 3}, {})
    assert [("a-0", 1)] == seen(moved, trashed)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_a_block_that_was_replaced_by_itself_is_not_trash(moved: Database, before: int, after: int) -> None:
    """Storing it failed at one address and succeeded at the other; both were the same storage all the time."""
    planned = plan(moved, "a", 7, (before,))
    done(moved, replace_replica, planned.generation, "a-0", before, [after], DUE)
    assert [("a-0", before)] == seen(moved, trashed)
    done(moved, identify, {1: 3}, {})
    assert [] == seen(moved, trashed)
    [found] = seen(moved, open_plans, "a")
    assert [(1,)] == [block.servers for block in commit(moved, found).blocks]


# accept_storage


def test_the_right_storage_may_be_accepted(two: Database) -> None:
    """Nothing changes."""
    before = seen(two, data_server_rows)
    assert before == done(two, accept_storage, "a:1", "one")


def test_an_address_that_was_not_heard_from_is_accepted(database: Database) -> None:
    """A storage of another catalog may be what its data server starts with."""
    first, _second = done(database, accept_storage, "a:1", "one")
    assert DataServerRow(1, "a:1", "far-a:1", True, "one") == first


def test_a_new_storage_takes_the_place_of_another(two: Database) -> None:
    """That one keeps its replicas, is nowhere, and gets nothing new."""
    file = store(two, "a", 7, (1,))
    assert [
        DataServerRow(1, None, "far-a:1", False, "one"),
        DataServerRow(2, "b:1", "far-b:1", True, "two"),
        DataServerRow(3, "a:1", "far-a:1", True, "three"),
    ] == done(two, accept_storage, "a:1", "three")
    assert file == seen(two, committed_plan, "a")


def test_a_registered_data_server_stays_registered(two: Database) -> None:
    """Whatever storage it has."""
    done(two, register_data_server, "c:1", None)
    done(two, identify, {}, {3: "three"})
    *_others, new = done(two, accept_storage, "c:1", "four")
    assert ("c:1", True, "four") == (new.address, new.registered, new.storage_id)


def test_a_known_storage_is_accepted_where_it_is_now(two: Database) -> None:
    """With its replicas; what was expected there is nowhere."""
    done(two, accept_storage, "a:1", "three")
    done(two, accept_storage, "a:1", "one")
    assert {"one": "a:1", "two": "b:1", "three": None} == where(two)


def test_a_storage_that_was_replaced_comes_back(two: Database) -> None:
    """The old disk was found, and plugged in again: it is placed on as before."""
    done(two, accept_storage, "a:1", "three")
    first, *_others = done(two, accept_storage, "a:1", "one")
    assert DataServerRow(1, "a:1", "far-a:1", True, "one") == first


def test_a_known_storage_is_accepted_at_a_new_address(moved: Database) -> None:
    """It is the same data server."""
    done(moved, accept_storage, "c:1", "one")
    assert {"one": "c:1", "two": "b:1"} == where(moved)


def test_a_storage_at_no_known_address_cannot_be_accepted(two: Database) -> None:
    """It is registered first."""
    with pytest.raises(NotFound):
        done(two, accept_storage, "x:1", "one")
    assert {"one": "a:1", "two": "b:1"} == where(two)
