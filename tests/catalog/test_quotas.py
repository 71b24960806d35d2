from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from filefly.catalog.commits import end_open_plan
from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, rename_file, undelete_file
from filefly.catalog.quotas import MAX_QUOTAS, OPTION, list_quotas, set_quota
from filefly.errors import BadRequest, Conflict, QuotaExceeded
from filefly.wire.security import Quota
from tests.catalog.catalogs import DUE, commit, done, opened, plan, seen, store


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Database]:
    """Open a catalog."""
    with opened(tmp_path) as database:
        yield database


def used(catalog: Database, prefix: str = "d/") -> tuple[int, int]:
    """Return how many bytes and files a quota says are used."""
    [quota] = [quota for quota in seen(catalog, list_quotas) if quota.prefix == prefix]
    return quota.used_bytes, quota.used_files


def limit(catalog: Database, max_bytes: int | None = None, max_files: int | None = None, prefix: str = "d/") -> None:
    """Set a quota."""
    done(catalog, set_quota, prefix, max_bytes, max_files)


def refused(change: Callable[..., Any], *args: Any, **fields: Any) -> str:
    """Do something that goes beyond a quota, and return the sentence that says so."""
    with pytest.raises(QuotaExceeded) as caught:
        change(*args, **fields)
    return str(caught.value)


# What counts


def test_what_is_there_counts_when_a_quota_is_set(catalog: Database) -> None:
    """The sizes of committed files below the prefix, once each, however many replicas they have."""
    store(catalog, "d/a", 10, servers=(1, 2, 3))
    store(catalog, "d/b", 3)
    store(catalog, "e", 100)
    plan(catalog, "d/c", 50)
    limit(catalog, max_bytes=1000)
    assert (13, 2) == used(catalog)


def test_replacing_deleting_and_bringing_back_count(catalog: Database) -> None:
    """A deleted file counts no more, though it takes room until its grace is over; brought back it counts again."""
    limit(catalog, max_bytes=1000)
    store(catalog, "d/a", 10)
    store(catalog, "d/b", 5)
    assert (15, 2) == used(catalog)
    store(catalog, "d/a", 4)
    assert (9, 2) == used(catalog)
    done(catalog, delete_file, "d/a", DUE)
    assert (5, 1) == used(catalog)
    done(catalog, undelete_file, "d/a")
    assert (9, 2) == used(catalog)


def test_a_renamed_file_counts_where_it_is(catalog: Database) -> None:
    """It leaves one prefix and comes to another; within one it counts once, and what it replaces not at all."""
    limit(catalog, max_bytes=1000)
    limit(catalog, max_bytes=1000, prefix="e/")
    store(catalog, "d/a", 10)
    store(catalog, "e/b", 3)
    done(catalog, rename_file, "d/a", "d/c", DUE)
    assert ((10, 1), (3, 1)) == (used(catalog), used(catalog, "e/"))
    done(catalog, rename_file, "d/c", "e/b", DUE)
    assert ((0, 0), (10, 1)) == (used(catalog), used(catalog, "e/"))


def test_every_quota_whose_prefix_begins_the_name_counts(catalog: Database) -> None:
    """Also that of all files; one that only looks alike does not."""
    for prefix in ("", "d/", "d/e/", "d/e"):
        limit(catalog, max_bytes=1000, prefix=prefix)
    store(catalog, "d/e/a", 10)
    store(catalog, "d/eel", 5)
    expected = {"": (15, 2), "d/": (15, 2), "d/e": (15, 2), "d/e/": (10, 1)}
    assert expected == {prefix: used(catalog, prefix) for prefix in expected}


def test_a_commit_that_is_taken_back_does_not_count(catalog: Database) -> None:
    """The counts change in the same transaction, and in the same part of it."""
    limit(catalog, max_bytes=1000)
    planned = plan(catalog, "d/a", 10)
    with pytest.raises(Conflict):
        commit(catalog, planned, if_generation=77)
    assert (0, 0) == used(catalog)
    commit(catalog, planned)
    assert (10, 1) == used(catalog)
    commit(catalog, planned)
    assert (10, 1) == used(catalog)


# What is refused


def test_a_plan_over_a_quota_is_refused(catalog: Database) -> None:
    """The sentence says of which prefix the quota is, how much it is, and how much is used."""
    limit(catalog, max_bytes=20, max_files=3)
    store(catalog, "d/a", 10)
    sentence = "the quota of files below 'd/' is 20 bytes: 10 are used, and this takes 11 more"
    assert sentence == refused(plan, catalog, "d/b", 11)
    plan(catalog, "e", 11)
    plan(catalog, "d/b", 10)


def test_open_plans_are_reserved(catalog: Database) -> None:
    """What is being uploaded must fit in beside what is used; once such a plan ends its room is free again."""
    limit(catalog, max_bytes=20, max_files=2)
    store(catalog, "d/a", 5)
    first = plan(catalog, "d/b", 10)
    sentence = "the quota of files below 'd/' is 20 bytes: 5 are used and 10 planned, and this takes 6 more"
    assert sentence == refused(plan, catalog, "d/c", 6)
    sentence = "the quota of files below 'd/' is 2 files: 1 is used and 1 planned, and this takes 1 more"
    assert sentence == refused(plan, catalog, "d/c", 1)
    done(catalog, end_open_plan, first.generation, DUE)
    plan(catalog, "d/c", 15)


def test_plans_that_are_open_when_a_quota_is_set_are_reserved(catalog: Database) -> None:
    """As much as those that come later."""
    plan(catalog, "d/a", 10)
    limit(catalog, max_bytes=15)
    refused(plan, catalog, "d/b", 6)
    plan(catalog, "d/b", 5)


def test_a_replacement_takes_what_it_has_more(catalog: Database) -> None:
    """A file may be replaced where there is no room for another one."""
    limit(catalog, max_bytes=20, max_files=1)
    store(catalog, "d/a", 15)
    refused(plan, catalog, "d/a", 21)
    store(catalog, "d/a", 20)
    assert (20, 1) == used(catalog)


@pytest.mark.parametrize("size", [10, 0])
def test_one_replacement_at_a_time_is_over_the_quota(catalog: Database, size: int) -> None:
    """Until it is committed it is on the disks beside what it replaces; one that is over makes room for the next."""
    store(catalog, "d/a", size)
    store(catalog, "d/b", size)
    limit(catalog, max_bytes=2 * size, max_files=2)
    first = plan(catalog, "d/a", size)
    for name in ("d/a", "d/b"):
        assert refused(plan, catalog, name, size).endswith("this fits in only once what is planned is over")
    done(catalog, rename_file, "d/a", "d/c", DUE)
    refused(plan, catalog, "d/c", size)
    done(catalog, end_open_plan, first.generation, DUE)
    store(catalog, "d/c", size)
    store(catalog, "d/b", size)
    assert (2 * size, 2) == used(catalog)


def test_replacements_are_planned_beside_each_other_where_there_is_room(catalog: Database) -> None:
    """As others are."""
    for name in ("d/a", "d/b"):
        store(catalog, name, 10)
    limit(catalog, max_bytes=30)
    first, second = plan(catalog, "d/a", 10), plan(catalog, "d/b", 10)
    refused(plan, catalog, "d/a", 10)
    commit(catalog, first)
    commit(catalog, second)
    assert (20, 2) == used(catalog)


def test_an_upload_that_is_resumed_again_needs_room(catalog: Database) -> None:
    """All that were made before it are still on the disks: its commit ends the one that it resumes."""
    limit(catalog, max_bytes=20)
    first = plan(catalog, "d/a", 15)
    second = plan(catalog, "d/a", 15, resumes=first.generation)
    refused(plan, catalog, "d/a", 15, resumes=second.generation)
    done(catalog, end_open_plan, first.generation, DUE)
    plan(catalog, "d/a", 15, resumes=second.generation)


def test_an_upload_that_was_committed_before_it_was_resumed_frees_its_room_once(catalog: Database) -> None:
    """It is what is replaced."""
    limit(catalog, max_bytes=20)
    first = store(catalog, "d/a", 10)
    plan(catalog, "d/b", 10)
    refused(plan, catalog, "d/a", 20, resumes=first.generation)


def test_what_comes_by_another_way_leaves_room_for_what_is_planned(catalog: Database) -> None:
    """Room that is reserved is not given to a file that is renamed or brought back."""
    store(catalog, "e", 10)
    store(catalog, "d/a", 10)
    done(catalog, delete_file, "d/a", DUE)
    limit(catalog, max_bytes=15)
    planned = plan(catalog, "d/b", 10)
    sentence = "the quota of files below 'd/' is 15 bytes: 0 are used and 10 planned, and this takes 10 more"
    assert sentence == refused(done, catalog, rename_file, "e", "d/e", DUE)
    assert sentence == refused(done, catalog, undelete_file, "d/a")
    commit(catalog, planned)


def test_a_resumed_upload_takes_its_room_once(catalog: Database) -> None:
    """It ends the plan that it resumes."""
    limit(catalog, max_bytes=20)
    first = plan(catalog, "d/a", 15)
    refused(plan, catalog, "d/a", 15)
    second = plan(catalog, "d/a", 15, resumes=first.generation)
    commit(catalog, second)
    assert (15, 1) == used(catalog)
    plan(catalog, "d/b", 5)


def test_a_commit_over_a_quota_is_refused(catalog: Database) -> None:
    """Its quota may have been made smaller meanwhile; the plan stays open."""
    planned = plan(catalog, "d/a", 10)
    limit(catalog, max_bytes=9)
    sentence = "the quota of files below 'd/' is 9 bytes: 0 are used, and this takes 10 more"
    assert sentence == refused(commit, catalog, planned)
    limit(catalog, max_bytes=10)
    commit(catalog, planned)


def test_what_takes_no_more_is_always_allowed(catalog: Database) -> None:
    """Also where a quota was made smaller than what is used: so its users can get below it."""
    store(catalog, "d/a", 10)
    store(catalog, "d/b", 10)
    limit(catalog, max_bytes=5, max_files=1)
    store(catalog, "d/a", 10)
    store(catalog, "d/a", 9)
    done(catalog, rename_file, "d/a", "d/b", DUE)
    assert (9, 1) == used(catalog)
    done(catalog, delete_file, "d/b", DUE)
    assert (0, 0) == used(catalog)


def test_renaming_into_a_full_prefix_is_refused(catalog: Database) -> None:
    """And the file stays where it is; within the prefix it may be renamed."""
    limit(catalog, max_files=1)
    store(catalog, "d/a", 10)
    store(catalog, "e", 10)
    sentence = "the quota of files below 'd/' is 1 file: 1 is used, and this takes 1 more"
    assert sentence == refused(done, catalog, rename_file, "e", "d/b", DUE)
    done(catalog, rename_file, "d/a", "d/b", DUE)
    done(catalog, rename_file, "e", "d/b", DUE)
    assert (10, 1) == used(catalog)


def test_bringing_back_into_a_full_prefix_is_refused(catalog: Database) -> None:
    """Until there is room again."""
    limit(catalog, max_bytes=10)
    store(catalog, "d/a", 10)
    done(catalog, delete_file, "d/a", DUE)
    store(catalog, "d/b", 1)
    refused(done, catalog, undelete_file, "d/a")
    assert (1, 1) == used(catalog)
    done(catalog, delete_file, "d/b", DUE)
    done(catalog, undelete_file, "d/a")
    assert (10, 1) == used(catalog)


def test_the_narrowest_room_counts(catalog: Database) -> None:
    """Of nested quotas each must have room."""
    limit(catalog, max_bytes=10, prefix="")
    limit(catalog, max_bytes=100)
    sentence = "the quota of all files is 10 bytes: 0 are used, and this takes 11 more"
    assert sentence == refused(plan, catalog, "d/a", 11)


# The quotas themselves


def test_a_quota_is_changed_and_taken_back(catalog: Database) -> None:
    """Without a limit it is none any more, and nothing is refused."""
    store(catalog, "d/a", 10)
    limit(catalog, max_bytes=100, max_files=7)
    assert [Quota("d/", 10, 1, 100, 7)] == seen(catalog, list_quotas)
    limit(catalog, max_files=1)
    assert [Quota("d/", 10, 1, None, 1)] == seen(catalog, list_quotas)
    limit(catalog)
    assert [] == seen(catalog, list_quotas)
    store(catalog, "d/b", 1000)


def test_quotas_hold_after_a_restart(tmp_path: Path) -> None:
    """They are in the catalog, and so is what is used of them."""
    with opened(tmp_path) as catalog:
        limit(catalog, max_bytes=20)
        store(catalog, "d/a", 15)
    with opened(tmp_path) as catalog:
        assert (15, 1) == used(catalog)
        refused(plan, catalog, "d/b", 6)


def test_a_quota_whose_transaction_broke_is_none(catalog: Database) -> None:
    """What is in memory only says where to look."""

    def break_off(connection: Connection) -> None:
        set_quota(connection, "d/", 1, None)
        raise QuotaExceeded("for the test")

    with pytest.raises(QuotaExceeded):
        done(catalog, break_off)
    assert (10, []) == (store(catalog, "d/a", 10).total_size, seen(catalog, list_quotas))


def test_quotas_of_one_transaction_hold_for_those_behind(catalog: Database) -> None:
    """Writes are gathered: one that comes with a quota in one transaction is held to it."""
    planned = plan(catalog, "d/a", 10)
    [none, refusal] = catalog.write(
        [
            partial(set_quota, prefix="d/", max_bytes=9, max_files=None),
            lambda connection: rename_into(connection, planned.generation),
        ]
    )
    assert (None, QuotaExceeded) == (none, type(refusal))


def rename_into(connection: Connection, generation: int) -> None:
    """Commit a plan inside somebody's transaction."""
    from filefly.catalog.commits import Commit, StoredReplicas, commit_plan
    from tests.catalog.catalogs import MODIFIED, SUM

    commit_plan(connection, Commit(generation, [StoredReplicas(SUM, (1,))] * 2, MODIFIED), DUE)


def test_too_many_quotas_are_refused(catalog: Database) -> None:
    """Each name is held against all of them; one that is there can still be changed."""

    def fill(connection: Connection) -> None:
        for number in range(MAX_QUOTAS):
            set_quota(connection, f"{number}/", 1, None)

    done(catalog, fill)
    with pytest.raises(BadRequest, match=rf"^there are {MAX_QUOTAS} quotas already"):
        limit(catalog, max_bytes=1)
    limit(catalog, max_bytes=2, prefix="7/")


def test_a_prefix_that_is_longer_than_any_name_is_refused(catalog: Database) -> None:
    """It would begin none."""
    with pytest.raises(BadRequest, match=r"^prefix is longer than 1024 bytes$"):
        limit(catalog, max_bytes=1, prefix="ä" * 513)


def test_without_quotas_nothing_is_looked_up(catalog: Database) -> None:
    """A plan and its commit run no statement about quotas once it is known that there are none."""
    store(catalog, "d/a", 10)
    prefixes = catalog._engine.get_execution_options()[OPTION]
    assert set() == prefixes._known
    done(catalog, lambda connection: connection.exec_driver_sql("DROP TABLE quotas") and None)
    store(catalog, "d/a", 10)
    done(catalog, rename_file, "d/a", "d/b", DUE)
    done(catalog, delete_file, "d/b", DUE)
    done(catalog, undelete_file, "d/b")
