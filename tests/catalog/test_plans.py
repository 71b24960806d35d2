from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.plans import (
    Plan,
    StoredReplicas,
    committed_plan,
    open_plans,
    plan_file,
    plan_of_generation,
    short_ids_free,
)
from filefly.catalog.replicas import forget_replicas
from filefly.errors import Conflict, FileFlyError, Incomplete, NotFound
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
    new_plan,
    noted,
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


# Planning


def test_a_plan_is_pending(database: Database) -> None:
    """What was planned is found as it was planned, and no reader sees it."""
    planned = plan(database, "a", 10, (1, 2), attributes={"mode": "0644"})
    assert ("pending", 10, 7, 2, {"mode": "0644"}) == (
        planned.state,
        planned.total_size,
        planned.block_size,
        planned.replicas,
        planned.attributes,
    )
    assert [("a-0", 7, (1, 2)), ("a-1", 3, (1, 2))] == [(b.id, b.size, b.servers) for b in planned.blocks]
    assert [planned] == seen(database, open_plans, "a")
    with pytest.raises(NotFound, match=r"^file not found$"):
        seen(database, committed_plan, "a")


def test_checksums_of_given_data_are_kept(database: Database) -> None:
    """A plan made from data knows what its blocks must sum up to."""
    planned = plan(database, "a", 10, sums=["00000001", "00000002"])
    found = seen(database, plan_of_generation, planned.generation)
    assert found is not None
    assert ["00000001", "00000002"] == [block.crc32c for block in found.blocks]


def test_an_empty_file_has_no_blocks(database: Database) -> None:
    """It is planned and committed like any other."""
    assert ((), "committed") == ((committed := store(database, "a", 0)).blocks, committed.state)


def test_open_plans_are_listed_newest_first(database: Database) -> None:
    """Planning again ends nothing."""
    plans = [plan(database, "a") for _ in range(3)]
    assert plans[::-1] == seen(database, open_plans, "a")


# Generations


def test_generations_grow(database: Database) -> None:
    """One counter for the whole catalog."""
    generations = [plan(database, name).generation for name in "abca"]
    assert sorted(set(generations)) == generations


def test_a_generation_does_not_come_back_after_a_deletion(database: Database) -> None:
    """Not even where the newest plan was deleted."""
    last = store(database, "a").generation
    done(database, delete_file, "a", DUE)
    assert plan(database, "a").generation > last


def test_a_generation_does_not_come_back_after_a_restart(tmp_path: Path) -> None:
    """Not even where the newest plan was deleted before it."""
    with opened(tmp_path) as database:
        last = store(database, "a").generation
        done(database, delete_file, "a", DUE)
    with opened(tmp_path) as database:
        assert plan(database, "a").generation > last


def test_a_generation_of_a_plan_taken_back_is_not_given_to_two(database: Database) -> None:
    """A request that fails after planning leaves no plan; nobody has heard of its generation."""

    def plan_and_fail(connection: Connection) -> None:
        plan_file(connection, new_plan("lost"), True)
        raise Conflict

    outcomes = database.write(
        [lambda c: plan_file(c, new_plan("a"), True), plan_and_fail, lambda c: plan_file(c, new_plan("b"), True)]
    )
    first, failed, second = outcomes
    assert isinstance(failed, Conflict)
    assert first.generation < second.generation
    assert [] == seen(database, open_plans, "lost")


# Ids


def test_short_ids_are_free_in_an_empty_catalog(database: Database) -> None:
    """The first upload of a name gets readable ids."""
    assert seen(database, short_ids_free, "a")
    assert ["a-0", "a-1"] == ids_of(plan(database, "a"))


def test_short_ids_need_free_data_servers(database: Database) -> None:
    """Whoever plans may know that a data server has such a block already."""
    planned = done(database, plan_file, new_plan("a", 1), False)
    assert [f"a-0.{planned.generation}"] == ids_of(planned)


def assert_long(planned: Plan) -> None:
    assert [f"a-{index}.{planned.generation}" for index in range(2)] == ids_of(planned)


def test_an_open_plan_keeps_its_short_ids(database: Database) -> None:
    """A second plan of the name gets other ids."""
    plan(database, "a")
    assert_long(plan(database, "a"))


def test_a_file_keeps_its_short_ids(database: Database) -> None:
    """Replacing a file writes other blocks."""
    store(database, "a")
    assert_long(plan(database, "a"))


@pytest.mark.parametrize("going", [False, True])
def test_a_deleted_file_keeps_its_short_ids(database: Database, going: bool) -> None:
    """It may come back, and later the trash must never take a block of a new file."""
    store(database, "a")
    done(database, delete_file, "a", DUE)
    if going:
        done(database, let_all_go)
    assert_long(plan(database, "a"))


def test_a_renamed_file_keeps_its_short_ids(database: Database) -> None:
    """They tell of the name that the file had when it was planned."""
    store(database, "a")
    done(database, rename_file, "a", "b", DUE)
    assert_long(plan(database, "a"))
    assert ["b-0", "b-1"] == ids_of(plan(database, "b"))


def test_a_replica_that_was_not_stored_keeps_its_short_id(database: Database) -> None:
    """It may still turn up, and is trash until its data server has confirmed, also when the file is long gone."""
    planned = plan(database, "a", 1, (1, 2))
    commit(database, planned, stored=[StoredReplicas(SUM, (1,))])
    done(database, delete_file, "a", DUE)
    done(database, let_all_go)
    done(database, confirm_all, [1])
    assert [("a-0", 2)] == seen(database, trashed)
    again = plan(database, "a", 1, (2,))
    assert [f"a-0.{again.generation}"] == ids_of(again)


def test_confirmed_trash_frees_the_short_ids(database: Database) -> None:
    """Nothing uses them any more."""
    store(database, "a")
    done(database, delete_file, "a", DUE)
    collect(database)
    assert ["a-0", "a-1"] == ids_of(plan(database, "a"))


def test_long_ids_do_not_keep_the_short_ones(database: Database) -> None:
    """Only a plan with short ids occupies them."""
    store(database, "a")
    store(database, "a")
    collect(database)
    assert ["a-0", "a-1"] == ids_of(plan(database, "a"))


def test_names_that_look_like_ids_do_not_collide(database: Database) -> None:
    """`a` with index 0 and a file named `a-0` have blocks of their own."""
    ids = [*ids_of(store(database, "a", 20)), *ids_of(store(database, "a-0", 20)), *ids_of(store(database, "a-0.1"))]
    assert sorted(set(ids)) == sorted(ids)


@settings(deadline=None, max_examples=30)
@given(names=st.lists(st.text("a-.01/~", min_size=1, max_size=5), max_size=12))
def test_no_two_blocks_share_an_id(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is planned in whatever order."""
    with opened(tmp_path_factory.mktemp("catalog")) as database:
        ids = [block_id for name in names for block_id in ids_of(plan(database, name))]
    assert len(ids) == len(set(ids))


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
