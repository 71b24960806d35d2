from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Connection

from filefly.catalog.commits import StoredReplicas, end_open_plan
from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.planning import MAX_IMPLICIT_PLANS, plan_file, short_ids_free
from filefly.catalog.plans import Plan, committed_plan, plan_of_generation
from filefly.errors import Busy, Conflict, NotFound
from tests.catalog.catalogs import (
    DUE,
    SUM,
    commit,
    confirm_all,
    done,
    ids_of,
    let_all_go,
    new_plan,
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


def test_a_plan_may_be_had_without_its_blocks(database: Database) -> None:
    """They may be thousands."""
    planned = plan(database, "a")
    assert replace(planned, blocks=()) == seen(database, plan_of_generation, planned.generation, False)


def test_so_many_implicit_plans_of_a_name_are_open_and_no_more(database: Database) -> None:
    """Others are not counted: explicit ones, those that are over, those of another name."""
    planned = [plan(database, "a", explicit=False) for _ in range(MAX_IMPLICIT_PLANS)]
    with pytest.raises(Busy, match=r"^100 plans of this file are open; complete one of them,"):
        plan(database, "a", explicit=False)
    plan(database, "b", explicit=False)
    plan(database, "a")
    done(database, end_open_plan, planned[0].generation, DUE)
    plan(database, "a", explicit=False)


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
