from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from filefly.catalog.commits import StoredReplicas
from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.plans import committed_plan
from filefly.catalog.replicas import forget_replicas
from filefly.errors import Conflict, FileFlyError, Incomplete
from tests.catalog.catalogs import (
    DUE,
    MODIFIED,
    SUM,
    commit,
    confirm_all,
    done,
    ended,
    ids_of,
    let_all_go,
    noted,
    open_plans,
    opened,
    plan,
    seen,
    store,
    trashed,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


def collect(database: Database) -> None:
    """Let all go that is over, and have it confirmed."""
    done(database, let_all_go)
    done(database, confirm_all)


# Committing


def test_a_committed_file_is_seen(database: Database) -> None:
    """With the time of the commit, and checksums and replicas as they were stored."""
    planned = plan(database, "a", 10, (1, 2))
    committed = commit(database, planned)
    assert ("committed", MODIFIED, planned.generation) == (committed.state, committed.modified, committed.generation)
    assert [(SUM, (1, 2))] * 2 == [(block.crc32c, block.servers) for block in committed.blocks]
    assert committed == seen(database, committed_plan, "a")
    assert [] == seen(database, trashed)


def test_a_replaced_file_becomes_trash(database: Database) -> None:
    """When it is over; all its replicas, and nothing of the new file."""
    first = store(database, "a", 10, (1, 2))
    second = store(database, "a", 10, (2, 3))
    assert second == seen(database, committed_plan, "a")
    assert ([first.generation], []) == (seen(database, ended), seen(database, trashed))
    done(database, let_all_go)
    assert second == seen(database, committed_plan, "a")
    assert [("a-0", 1), ("a-0", 2), ("a-1", 1), ("a-1", 2)] == sorted(seen(database, trashed))


def test_a_replica_that_was_not_stored_is_trash(database: Database) -> None:
    """The file is recorded where it is; what was planned elsewhere may still turn up there."""
    planned = plan(database, "a", 10, (1, 2, 3))
    stored = [StoredReplicas(SUM, (3, 1)), StoredReplicas(SUM, (1, 2, 3))]
    committed = commit(database, planned, stored=stored)
    assert [(3, 1), (1, 2, 3)] == [block.servers for block in committed.blocks]
    assert [("a-0", 2)] == seen(database, trashed)


def test_a_file_with_fewer_replicas_than_wanted_is_noted_for_repair(database: Database) -> None:
    """Those blocks that lack some, at once; a block that has all of them is not."""
    planned = plan(database, "a", 21, (1, 2, 3))
    found = [StoredReplicas(SUM, servers) for servers in ((3,), (3, 2, 1), (1, 2))]
    commit(database, planned, stored=found)
    assert [(planned.generation, 0, 1), (planned.generation, 2, 2)] == seen(database, noted)


@pytest.mark.parametrize("removed", [[1], [1, 2]])
def test_a_file_that_lost_a_planned_place_is_noted_for_repair(database: Database, removed: list[int]) -> None:
    """Its data servers were removed while it was uploaded; it is stored as far as it can be."""
    planned = plan(database, "a", 1, (1, 2, 3))
    for server in removed:
        done(database, forget_replicas, server, 1000)
    left = tuple(server for server in (1, 2, 3) if server not in removed)
    assert left == commit(database, planned, stored=[StoredReplicas(SUM, left)]).blocks[0].servers
    assert [(planned.generation, 0, len(left))] == seen(database, noted)


@pytest.mark.parametrize("servers", [(), (3,), (1, 3)])
def test_a_block_must_be_where_it_is_planned(database: Database, servers: tuple[int, ...]) -> None:
    """Its data server may have been replaced, or removed, after it was asked; nothing changes then."""
    before = store(database, "a", 1, (1, 2))
    planned = plan(database, "a", 1, (1, 2))
    with pytest.raises(Incomplete, match=rf"^block {ids_of(planned)[0]} is not stored where it is planned now$"):
        commit(database, planned, stored=[StoredReplicas(SUM, servers)])
    assert before == seen(database, committed_plan, "a")
    assert [planned] == seen(database, open_plans, "a")


def test_a_file_with_all_its_replicas_is_not_noted_for_repair(database: Database) -> None:
    """There is nothing to do."""
    store(database, "a", 10, (1, 2))
    assert [] == seen(database, noted)


def test_committing_again_is_fine(database: Database) -> None:
    """A reply that was lost costs nothing."""
    planned = plan(database, "a")
    assert commit(database, planned) == commit(database, planned)
    assert [] == seen(database, trashed)


def test_a_replaced_plan_cannot_be_committed_again(database: Database) -> None:
    """Its blocks are trash."""
    first = store(database, "a")
    store(database, "a")
    with pytest.raises(Conflict, match=rf"^plan {first.generation} is not open: it was ended, replaced or deleted$"):
        commit(database, first)


def test_a_deleted_plan_cannot_be_committed(database: Database) -> None:
    """Who deletes a name means the uploads that are under way too."""
    planned = plan(database, "a")
    done(database, delete_file, "a", DUE)
    with pytest.raises(Conflict):
        commit(database, planned)


def test_a_commit_ends_older_implicit_plans(database: Database) -> None:
    """They could never be seen any more."""
    older = plan(database, "a", 1, explicit=False)
    newer = plan(database, "a", 1)
    commit(database, newer)
    assert [] == seen(database, open_plans, "a")
    assert [older.generation] == seen(database, ended)


def test_a_commit_does_not_end_explicit_plans(database: Database) -> None:
    """Somebody will complete them."""
    older = plan(database, "a", 1)
    store(database, "a", 1)
    assert [older] == seen(database, open_plans, "a")
    assert older.generation == commit(database, older).generation


def test_a_commit_does_not_end_newer_plans(database: Database) -> None:
    """A newer implicit plan may still commit itself."""
    older = plan(database, "a", 1)
    newer = plan(database, "a", 1, explicit=False)
    commit(database, older)
    assert [newer] == seen(database, open_plans, "a")


def test_a_commit_does_not_end_plans_of_other_names(database: Database) -> None:
    """Not of names that begin alike either."""
    other = plan(database, "ab", 1, explicit=False)
    store(database, "a", 1)
    assert [other] == seen(database, open_plans, "ab")


def test_only_a_newer_plan_commits_itself(database: Database) -> None:
    """What was committed in the meantime stays."""
    older = plan(database, "a", 1, explicit=False)
    newer = plan(database, "b", 1)
    commit(database, newer)
    done(database, rename_file, "b", "a", DUE)
    with pytest.raises(Conflict, match="it was ended, replaced or deleted"):
        commit(database, older, only_if_newer=True)
    assert newer.generation == seen(database, committed_plan, "a").generation


# if_generation


@pytest.mark.parametrize("wanted", [1, 99])
def test_planning_asks_for_the_generation(database: Database, wanted: int) -> None:
    """Of a name that has no file."""
    with pytest.raises(Conflict, match=rf"^the file has generation 0, not {wanted}$"):
        plan(database, "a", if_generation=wanted)
    assert [] == seen(database, open_plans, "a")


def test_planning_may_ask_for_no_file(database: Database) -> None:
    """Generation 0 means that there is none."""
    assert 10 == plan(database, "a", if_generation=0).total_size
    current = store(database, "a").generation
    with pytest.raises(Conflict, match=rf"^the file has generation {current}, not 0$"):
        plan(database, "a", if_generation=0)


def test_a_plan_keeps_what_it_asked_for(database: Database) -> None:
    """Of two who both saw the same file only the first commits."""
    current = store(database, "a").generation
    first, second = (plan(database, "a", if_generation=current) for _ in range(2))
    commit(database, first)
    with pytest.raises(Conflict, match=rf"^the file has generation {first.generation}, not {current}$"):
        commit(database, second)
    assert first.generation == seen(database, committed_plan, "a").generation
    assert [second] == seen(database, open_plans, "a")


def test_a_commit_may_ask_for_the_generation(database: Database) -> None:
    """Also where the plan did not."""
    planned = plan(database, "a")
    with pytest.raises(Conflict, match=r"^the file has generation 0, not 5$"):
        commit(database, planned, if_generation=5)
    assert "committed" == commit(database, planned, if_generation=0).state


def test_a_failed_change_leaves_nothing_behind(database: Database) -> None:
    """What a change did before it failed is taken back."""
    before = store(database, "a")

    def delete_and_fail(connection: Connection) -> None:
        delete_file(connection, "a", DUE)
        raise FileFlyError("no")

    with pytest.raises(FileFlyError, match=r"^no$"):
        done(database, delete_and_fail)
    assert before == seen(database, committed_plan, "a")
