"""Another data server for a block of an upload, in the catalog."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file
from filefly.catalog.planning import replace_replica
from filefly.catalog.plans import PlanBlock
from filefly.errors import Conflict, NotFound, Unavailable
from tests.catalog.catalogs import (
    DUE,
    commit,
    confirm_all,
    done,
    found_on,
    let_all_go,
    open_plans,
    opened,
    plan,
    seen,
    store,
    trashed,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path, servers=5) as database:
        yield database


def replace(database: Database, generation: int, server: int, *candidates: int, block_id: str = "a-0") -> PlanBlock:
    return done(database, replace_replica, generation, block_id, server, candidates, DUE)


def servers_of(database: Database, name: str = "a") -> list[tuple[int, ...]]:
    [planned] = seen(database, open_plans, name)
    return [block.servers for block in planned.blocks]


def test_a_block_is_planned_elsewhere(database: Database) -> None:
    """For the first that can take it, in the place of the one that failed; other blocks stay."""
    planned = plan(database, "a", 14, (1, 2))
    assert ("a-0", 7, (3, 2)) == (
        (block := replace(database, planned.generation, 1, 3, 4)).id,
        block.size,
        block.servers,
    )
    assert [(3, 2), (1, 2)] == servers_of(database)


def test_what_the_old_place_may_have_is_trash(database: Database) -> None:
    """The store may have succeeded, or may still do so; it goes after its grace period."""
    planned = plan(database, "a", 14, (1, 2))
    replace(database, planned.generation, 2, 3)
    assert [("a-0", 2)] == seen(database, trashed)
    file = commit(database, seen(database, open_plans, "a")[0], stored=[found_on(1, 3), found_on(1, 2)])
    assert ([(1, 3), (1, 2)], [("a-0", 2)]) == ([block.servers for block in file.blocks], seen(database, trashed))


def test_asking_again_is_fine(database: Database) -> None:
    """A client that did not hear the answer gets the same one; nothing more is trash."""
    planned = plan(database, "a", 7, (1, 2))
    first = replace(database, planned.generation, 1, 3, 4)
    assert first == replace(database, planned.generation, 1, 4, 3)
    assert ([(3, 2)], [("a-0", 1)]) == (servers_of(database), seen(database, trashed))


def test_who_has_the_block_or_has_failed_is_not_chosen(database: Database) -> None:
    """A block is on distinct data servers; a late delete must not meet it."""
    planned = plan(database, "a", 7, (1, 2))
    replace(database, planned.generation, 1, 2, 1, 3)
    assert [(3, 2)] == servers_of(database)
    replace(database, planned.generation, 3, 1, 2, 3, 4)
    assert [(4, 2)] == servers_of(database)
    assert [("a-0", 1), ("a-0", 3)] == seen(database, trashed)


def test_who_has_confirmed_may_be_chosen_again(database: Database) -> None:
    """There is nothing left to be deleted."""
    planned = plan(database, "a", 7, (1,))
    replace(database, planned.generation, 1, 2)
    done(database, confirm_all)
    replace(database, planned.generation, 2, 1)
    assert ([(1,)], [("a-0", 2)]) == (servers_of(database), seen(database, trashed))


@pytest.mark.parametrize("candidates", [(), (2,), (2, 1)])
def test_without_another_data_server_nothing_changes(database: Database, candidates: tuple[int, ...]) -> None:
    """The client goes on with the ones that it has, if there are any."""
    planned = plan(database, "a", 7, (1, 2))
    sentence = r"^no other data server can take the block: each has it, is down, draining or full$"
    with pytest.raises(Unavailable, match=sentence):
        replace(database, planned.generation, 1, *candidates)
    assert ([(1, 2)], []) == (servers_of(database), seen(database, trashed))


@pytest.mark.parametrize("how", ["committed", "deleted", "unknown"])
def test_only_a_block_of_an_upload_is_replaced(database: Database, how: str) -> None:
    """A file is repaired; what was ended stays so."""
    planned = plan(database, "a", 7, (1, 2))
    if how == "committed":
        commit(database, planned)
    if how == "deleted":
        done(database, delete_file, "a", DUE)
    generation = planned.generation + (how == "unknown")
    with pytest.raises(Conflict, match=rf"^plan {generation} is not open: it was ended, replaced or deleted$"):
        replace(database, generation, 1, 3)
    assert [] == seen(database, trashed)


def test_a_block_of_another_upload_is_not_found(database: Database) -> None:
    """Each upload has its own."""
    first, second = plan(database, "a", 7), plan(database, "a", 7)
    with pytest.raises(NotFound, match=r"^block not found$"):
        replace(database, second.generation, 1, 3, block_id=first.blocks[0].id)


def test_what_was_replaced_goes_even_if_the_upload_is_given_up(database: Database) -> None:
    """All places where the block may be, each once."""
    planned = plan(database, "a", 7, (1, 2))
    replace(database, planned.generation, 1, 3)
    done(database, delete_file, "a", DUE)
    done(database, let_all_go)
    assert [("a-0", 1), ("a-0", 2), ("a-0", 3)] == sorted(seen(database, trashed))


def test_a_place_keeps_its_rank(database: Database) -> None:
    """First replicas, which readers prefer, stay spread."""
    planned = plan(database, "a", 7, (1, 2, 3))
    replace(database, planned.generation, 2, 4)
    assert [(1, 4, 3)] == servers_of(database)
    store(database, "b", 7, (4,))
    assert [(1, 4, 3)] == servers_of(database)
