from collections.abc import Iterator
from pathlib import Path

import pytest

from filefly.catalog.database import Database
from filefly.catalog.endings import (
    anything_over,
    delete_file,
    due_trash,
    expire_plans,
    forget_trash,
    let_go,
    rename_file,
    silent_implicit_plans,
    undelete_file,
)
from filefly.catalog.planning import touch_plan
from filefly.catalog.plans import committed_plan, plan_of_generation
from filefly.catalog.schema import blocks, plans, repairs, replicas
from filefly.catalog.undeletion import bring_back
from filefly.errors import Conflict, NotFound
from tests.catalog.catalogs import (
    DUE,
    commit,
    count_rows,
    done,
    ended,
    found_on,
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

MANY = 1_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


# Deleting


def test_a_deleted_file_is_not_found(database: Database) -> None:
    """Its blocks are not trash yet: it may come back."""
    file = store(database, "a", 10, (2,))
    done(database, delete_file, "a", DUE)
    with pytest.raises(NotFound):
        seen(database, committed_plan, "a")
    assert None is seen(database, plan_of_generation, file.generation)
    assert ([file.generation], []) == (seen(database, ended), seen(database, trashed))


def test_a_deletion_ends_every_plan(database: Database) -> None:
    """Implicit and explicit ones, also where there is no file."""
    both = [plan(database, "a").generation, plan(database, "a", explicit=False).generation]
    done(database, delete_file, "a", DUE)
    assert [] == seen(database, open_plans, "a")
    assert both == seen(database, ended)


def test_a_deletion_ends_no_other_file(database: Database) -> None:
    """Not one whose name begins alike either."""
    other = store(database, "ab")
    store(database, "a")
    done(database, delete_file, "a", DUE)
    assert other == seen(database, committed_plan, "ab")


def test_nothing_cannot_be_deleted(database: Database) -> None:
    """Once deleted, it is not found."""
    store(database, "a")
    done(database, delete_file, "a", DUE)
    with pytest.raises(NotFound, match=r"^file not found$"):
        done(database, delete_file, "a", DUE)


# Renaming


def test_a_renamed_file_keeps_its_blocks(database: Database) -> None:
    """No byte moves."""
    before = store(database, "a")
    done(database, rename_file, "a", "b", DUE)
    after = seen(database, committed_plan, "b")
    assert (before.generation, before.blocks) == (after.generation, after.blocks)
    assert [] == seen(database, ended)
    with pytest.raises(NotFound):
        seen(database, committed_plan, "a")


def test_a_rename_replaces(database: Database) -> None:
    """What had the new name becomes trash, when it is over."""
    moved, replaced = store(database, "a", 1), store(database, "b", 1)
    done(database, rename_file, "a", "b", DUE)
    assert moved.generation == seen(database, committed_plan, "b").generation
    assert [replaced.generation] == seen(database, ended)
    done(database, let_all_go)
    assert [("b-0", 1)] == seen(database, trashed)


def test_a_rename_to_the_same_name_does_nothing(database: Database) -> None:
    """It must not become its own trash."""
    before = store(database, "a")
    done(database, rename_file, "a", "a", DUE)
    assert before == seen(database, committed_plan, "a")
    assert [] == seen(database, ended)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_plan_cannot_be_renamed(database: Database, name: str) -> None:
    """Only what readers see has a name to change."""
    plan(database, "a")
    with pytest.raises(NotFound):
        done(database, rename_file, name, "c", DUE)


def test_open_plans_stay_at_the_old_name(database: Database) -> None:
    """A rename concerns the file, not the uploads under way."""
    store(database, "a")
    upload = plan(database, "a")
    done(database, rename_file, "a", "b", DUE)
    assert [upload] == seen(database, open_plans, "a")


# Bringing back


def test_a_deleted_file_comes_back(database: Database) -> None:
    """As it was; it is not over any more, however late it gets."""
    before = store(database, "a", 10, (1, 2), attributes={"mode": "0644"})
    done(database, delete_file, "a", DUE)
    assert before == done(database, undelete_file, "a")
    done(database, let_all_go, 10 * DUE)
    assert before == seen(database, committed_plan, "a")
    assert [] == seen(database, trashed)


def test_what_was_deleted_last_comes_back(database: Database) -> None:
    """Of several files that had the name."""
    for due in (DUE, DUE + 1, DUE + 2):
        last = store(database, "a")
        done(database, delete_file, "a", due)
    assert last == done(database, undelete_file, "a")


def test_the_order_of_deletion_counts_not_that_of_the_plans(database: Database) -> None:
    """An older upload may have been completed, and deleted, after a newer one."""
    older, newer = plan(database, "a"), plan(database, "a")
    commit(database, newer)
    done(database, delete_file, "a", DUE)
    # The deletion has ended the older plan too, which nobody has ever seen as a file.
    again = plan(database, "a")
    assert newer.generation == done(database, undelete_file, "a").generation
    commit(database, again)
    done(database, delete_file, "a", DUE + 1)
    assert again.generation == done(database, undelete_file, "a").generation
    assert older.generation in seen(database, ended)


def test_a_replaced_file_comes_back_once_its_name_is_free(database: Database) -> None:
    """Nothing is overwritten by bringing something back."""
    first, second = store(database, "a"), store(database, "a")
    with pytest.raises(Conflict, match=r"^a exists; rename or delete it first$"):
        done(database, undelete_file, "a")
    assert second == seen(database, committed_plan, "a")
    done(database, rename_file, "a", "b", DUE)
    assert first == done(database, undelete_file, "a")


def test_a_renamed_file_comes_back_under_the_name_that_it_had_last(database: Database) -> None:
    """It is what was deleted."""
    file = store(database, "a")
    done(database, rename_file, "a", "b", DUE)
    done(database, delete_file, "b", DUE)
    with pytest.raises(NotFound):
        done(database, undelete_file, "a")
    assert file.generation == done(database, undelete_file, "b").generation


def test_an_upload_that_was_never_a_file_does_not_come_back(database: Database) -> None:
    """Its blocks may not be there."""
    plan(database, "a")
    done(database, delete_file, "a", DUE)
    with pytest.raises(NotFound, match=r"^nothing of this name can be brought back"):
        done(database, undelete_file, "a")


def test_what_is_going_does_not_come_back(database: Database) -> None:
    """Deletes may have been sent: nothing half there is ever shown."""
    store(database, "a")
    done(database, delete_file, "a", DUE)
    done(database, let_go, DUE, MANY)
    with pytest.raises(NotFound, match=r"^nothing of this name can be brought back"):
        done(database, undelete_file, "a")


def test_a_file_that_was_brought_back_is_looked_at(database: Database) -> None:
    """Each of its blocks once: nobody cared for them meanwhile."""
    file = store(database, "a", 10, (1, 2))
    done(database, delete_file, "a", DUE)
    assert file == done(database, bring_back, "a")
    done(database, delete_file, "a", DUE)
    assert file == done(database, bring_back, "a")
    assert [(file.generation, 0, 2), (file.generation, 1, 2)] == seen(database, noted)


# Signs of life


def test_a_silent_plan_expires(database: Database) -> None:
    """With `touched` at the last moment that counts as silence, and not a second later."""
    silent = plan(database, "a", touched=50)
    alive = plan(database, "a", touched=51)
    assert 1 == done(database, expire_plans, 50, DUE)
    assert [alive] == seen(database, open_plans, "a")
    assert [silent.generation] == seen(database, ended)
    with pytest.raises(Conflict):
        commit(database, silent)


def test_silent_implicit_plans_come_in_the_order_in_which_they_were_made(database: Database) -> None:
    """Whenever their clients fell silent; explicit ones are not among them, nor those that are alive."""
    first = plan(database, "a", explicit=False, touched=50)
    second = plan(database, "a", explicit=False, touched=49)
    plan(database, "a", explicit=False, touched=51)
    plan(database, "a", touched=50)
    assert [first.generation, second.generation] == seen(database, silent_implicit_plans, 50)


def test_a_sign_of_life_keeps_a_plan(database: Database) -> None:
    """However old it is."""
    planned = plan(database, "a", touched=0)
    done(database, touch_plan, planned.generation, 51)
    assert 0 == done(database, expire_plans, 50, DUE)
    assert [planned] == seen(database, open_plans, "a")


def test_a_file_does_not_expire(database: Database) -> None:
    """Only uploads do."""
    file = store(database, "a", touched=0)
    assert 0 == done(database, expire_plans, MANY, DUE)
    assert file == seen(database, committed_plan, "a")


@pytest.mark.parametrize("how", ["committed", "deleted", "unknown"])
def test_what_is_not_open_gives_no_sign_of_life(database: Database, how: str) -> None:
    """Its client is told that it works for nothing."""
    planned = plan(database, "a")
    if how == "committed":
        commit(database, planned)
    if how == "deleted":
        done(database, delete_file, "a", DUE)
    generation = planned.generation + (how == "unknown")
    with pytest.raises(Conflict, match=rf"^plan {generation} is not open: it was ended, replaced or deleted$"):
        done(database, touch_plan, generation, 51)


# Letting go


def test_nothing_goes_before_it_is_due(database: Database) -> None:
    """Not a second earlier."""
    file = store(database, "a")
    done(database, delete_file, "a", DUE)
    assert 0 == done(database, let_go, DUE - 1, MANY)
    assert file == done(database, undelete_file, "a")


def test_what_is_due_becomes_trash(database: Database) -> None:
    """All its replicas, at once due, and nothing is left of the plan, nor of what was noted about it."""
    store(database, "a", 10, (1, 2))
    done(database, delete_file, "a", DUE)
    done(database, bring_back, "a")
    done(database, delete_file, "a", DUE)
    assert 1 == done(database, let_go, DUE, MANY)
    assert [("a-0", 1), ("a-0", 2), ("a-1", 1), ("a-1", 2)] == sorted(seen(database, trashed))
    assert 2 == len(seen(database, due_trash, 1, 0, 100))
    assert [0, 0, 0, 0] == [seen(database, count_rows, table) for table in (plans, blocks, replicas, repairs)]


def test_an_upload_that_was_given_up_becomes_trash(database: Database) -> None:
    """Its blocks may be there, or turn up late."""
    plan(database, "a", 10, (1, 3))
    done(database, expire_plans, MANY, DUE)
    assert 1 == done(database, let_go, DUE, MANY)
    assert [("a-0", 1), ("a-0", 3), ("a-1", 1), ("a-1", 3)] == sorted(seen(database, trashed))


def test_only_what_is_over_goes(database: Database) -> None:
    """Files and uploads stay."""
    file, upload = store(database, "a"), plan(database, "b")
    store(database, "c")
    done(database, delete_file, "c", DUE)
    done(database, let_all_go)
    assert ["c-0", "c-1"] == [block_id for block_id, _server in seen(database, trashed)]
    assert file == seen(database, committed_plan, "a")
    assert [upload] == seen(database, open_plans, "b")


def test_a_transaction_takes_so_many_blocks(database: Database) -> None:
    """What was over first goes first; the rest goes with the next one."""
    for number, name in enumerate("abc"):
        store(database, name, 14)
        done(database, delete_file, name, DUE - number)
    assert 2 == done(database, let_go, DUE, 3)
    assert ["c-0", "c-1", "b-0", "b-1"] == [block_id for block_id, _server in seen(database, trashed)]
    assert 1 == done(database, let_go, DUE, 3)
    assert 0 == done(database, let_go, DUE, 3)


def test_whether_anything_is_over(database: Database) -> None:
    """A silent upload, or a deleted file whose time is over."""
    store(database, "a")
    upload = plan(database, "b", touched=50)
    assert [False, True] == [seen(database, anything_over, since, 0) for since in (49, 50)]
    commit(database, upload)
    done(database, delete_file, "a", DUE)
    assert [False, True] == [seen(database, anything_over, MANY, now) for now in (DUE - 1, DUE)]


# Trash


@pytest.fixture
def trashy(database: Database) -> Database:
    """Make trash on servers 1 and 2: x since second 10, y since second 20, z to come at second 30."""
    for name, now in (("x", 10), ("y", 20)):
        store(database, name, 1, (1, 2))
        done(database, delete_file, name, now)
        done(database, let_go, now, MANY)
    planned = plan(database, "z", 1, (1, 2, 3))
    commit(database, planned, 30, stored=[found_on(3)])
    return database


def due_on(database: Database, server: int, now: int, limit: int = 100) -> list[str]:
    return [row.block_id for row in seen(database, due_trash, server, now, limit)]


def test_trash_is_due_after_its_grace_period(trashy: Database) -> None:
    """Not a second earlier; what comes of an ended file has had its grace already."""
    assert ["x-0", "y-0"] == due_on(trashy, 1, 29)
    assert ["x-0", "y-0", "z-0"] == due_on(trashy, 1, 30)


def test_the_oldest_trash_comes_first(trashy: Database) -> None:
    """As much as is asked for."""
    assert ["x-0", "y-0"] == due_on(trashy, 2, 99, 2)


def test_each_data_server_has_its_own_trash(trashy: Database) -> None:
    """One that is away does not stand in the way of the others'."""
    assert [] == due_on(trashy, 3, 99)
    done(trashy, forget_trash, [row.key for row in seen(trashy, due_trash, 1, 99, 100)])
    assert ([], ["x-0", "y-0", "z-0"]) == (due_on(trashy, 1, 99), due_on(trashy, 2, 99))


def test_confirmed_trash_is_forgotten(trashy: Database) -> None:
    """And no other."""
    first, *_others = seen(trashy, due_trash, 1, 99, 100)
    done(trashy, forget_trash, [first.key])
    assert [("x-0", 2), ("y-0", 1), ("y-0", 2), ("z-0", 1), ("z-0", 2)] == seen(trashy, trashed)


def test_trash_is_deleted_not_set_aside(trashy: Database) -> None:
    """Only what nobody has planned is."""
    assert {False} == {row.aside for row in seen(trashy, due_trash, 1, 99, 100)}


def test_an_id_of_trash_is_not_given_again(trashy: Database) -> None:
    """A late delete must never meet a new block."""
    again = plan(trashy, "x", 1)
    assert [f"x-0.{again.generation}"] == ids_of(again)
