from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, let_go, undelete_file
from filefly.catalog.plans import Plan
from filefly.catalog.repairs import FIRST, Place, due_repairs
from filefly.catalog.replicas import copied, forget_replicas, give_up, mark, places_on, plan_copy, trashed_on
from filefly.catalog.schema import replicas, trash
from filefly.errors import Conflict
from tests.catalog.catalogs import done, opened, seen, store, trashed
from tests.catalog.replica_rows import block_of, displaced, queue

LAST = Place(10**6, 0)
TRASH_DUE = 5000
NOW = 1000


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path, servers=5) as database:
        yield database


# Copies


def test_a_copy_counts_once_it_is_there(catalog: Database) -> None:
    """Until then it is missing, so that it goes with its file whatever happens."""
    stored = store(catalog, "a", 3, (2,))
    block = block_of(catalog, stored)
    done(catalog, plan_copy, block, 4, NOW)
    planned = block_of(catalog, stored)
    assert ((2, 4), (2,)) == (planned.servers, planned.good)
    done(catalog, copied, block, 4, [], TRASH_DUE)
    assert (2, 4) == block_of(catalog, stored).good
    assert [] == seen(catalog, trashed)


def test_a_planned_copy_is_deleted_with_its_file(catalog: Database) -> None:
    """The metadata server may have been stopped before it knew of the copy's end."""
    block = block_of(catalog, store(catalog, "a", 3, (2,)))
    done(catalog, plan_copy, block, 4, NOW)
    done(catalog, delete_file, "a", 0)
    done(catalog, let_go, 1, 100)
    assert [("a-0", 2), ("a-0", 4)] == seen(catalog, trashed)


def test_planning_a_copy_again_is_fine(catalog: Database) -> None:
    """Never are two replicas on one data server; a damaged one keeps its place."""
    stored = store(catalog, "a", 3, (2, 3))
    done(catalog, mark, Place(stored.generation, 0), 2, "corrupt")
    block = block_of(catalog, stored)
    for target in (2, 4, 4):
        done(catalog, plan_copy, block, target, NOW)
    found = block_of(catalog, stored)
    assert ((2, 3, 4), {2: "corrupt", 4: "missing"}) == (found.servers, found.bad)
    done(catalog, copied, block, 2, [], TRASH_DUE)
    assert (2, 3) == block_of(catalog, stored).good


def test_a_copy_is_ranked_last_wherever_there_are_gaps(catalog: Database) -> None:
    """Earlier replicas may have been given up."""
    stored = store(catalog, "a", 3, (1, 2, 3), replicas=1)
    block = block_of(catalog, stored)
    done(catalog, give_up, block, 2, [1, 3], [1, 3], TRASH_DUE)
    done(catalog, plan_copy, block, 5, NOW)
    assert (1, 3, 5) == block_of(catalog, stored).servers


def test_a_copy_of_a_block_without_replicas_is_the_first(catalog: Database) -> None:
    """All were lost, and one turned up again."""
    stored = store(catalog, "a", 3, (1,))
    done(catalog, forget_replicas, 1, 10)
    done(catalog, plan_copy, block_of(catalog, stored), 2, NOW)
    assert (2,) == block_of(catalog, stored).servers


def test_no_copy_goes_where_an_older_one_is_being_deleted(catalog: Database) -> None:
    """The delete that is on its way would hit the copy."""
    stored = store(catalog, "a", 3, (1, 2), replicas=1)
    block = block_of(catalog, stored)
    done(catalog, give_up, block, 2, [1], [1], NOW)
    assert {2} == seen(catalog, trashed_on, "a-0", NOW)
    with pytest.raises(Conflict, match="older copy of a-0 is still to go"):
        done(catalog, plan_copy, block, 2, NOW)
    assert (1,) == block_of(catalog, stored).servers


def test_a_copy_may_go_where_an_older_one_is_only_waiting(catalog: Database) -> None:
    """No delete was sent yet, and none will be: that trash is taken back in the same transaction."""
    stored = store(catalog, "a", 3, (1, 2), replicas=1)
    block = block_of(catalog, stored)
    done(catalog, give_up, block, 2, [1], [1], NOW + 1)
    assert set() == seen(catalog, trashed_on, "a-0", NOW)
    done(catalog, plan_copy, block, 2, NOW)
    assert [] == seen(catalog, trashed)
    done(catalog, copied, block, 2, [], TRASH_DUE)
    assert (1, 2) == block_of(catalog, stored).good


def test_a_copy_that_is_about_to_be_deleted_does_not_count(catalog: Database) -> None:
    """Somebody had it got rid of while it was made."""
    stored = store(catalog, "a", 3, (1,))
    block = block_of(catalog, stored)
    done(catalog, plan_copy, block, 2, NOW)
    row = {"block_id": "a-0", "server": 2, "due": 0}
    done(catalog, lambda connection: connection.execute(insert(trash).values(row)) and None)
    with pytest.raises(Conflict):
        done(catalog, copied, block, 2, [], TRASH_DUE)
    assert (1,) == block_of(catalog, stored).good


def test_no_copy_is_planned_of_a_file_that_is_gone(catalog: Database) -> None:
    """Deleted or replaced."""
    block = block_of(catalog, store(catalog, "a", 3, (1,)))
    store(catalog, "a", 3, (1,))
    with pytest.raises(Conflict, match="file is not there any more"):
        done(catalog, plan_copy, block, 2, NOW)


def test_a_copy_of_a_file_that_was_deleted_meanwhile_goes_and_comes_with_it(catalog: Database) -> None:
    """No delete is sent for it that would hit it after the file was brought back."""
    stored = store(catalog, "a", 3, (1,))
    block = block_of(catalog, stored)
    done(catalog, plan_copy, block, 2, NOW)
    done(catalog, delete_file, "a", TRASH_DUE)
    done(catalog, copied, block, 2, [], TRASH_DUE)
    assert [] == seen(catalog, trashed)
    done(catalog, undelete_file, "a")
    assert (1, 2) == block_of(catalog, stored).good


def test_a_copy_of_a_file_that_is_gone_for_good_is_trash(catalog: Database) -> None:
    """It may have come after the delete that was sent; until it is gone its short id is not given again."""
    block = block_of(catalog, store(catalog, "a", 3, (1,)))
    done(catalog, plan_copy, block, 2, NOW)
    done(catalog, delete_file, "a", 0)
    done(catalog, let_go, 1, 100)
    done(catalog, lambda connection: connection.execute(trash.delete()) and None)
    done(catalog, copied, block, 2, [], TRASH_DUE)
    query = select(trash.c.block_id, trash.c.server, trash.c.stem, trash.c.due)
    assert [("a-0", 2, "a", TRASH_DUE)] == seen(catalog, lambda connection: connection.execute(query).all())


def test_a_copy_that_was_given_up_meanwhile_does_not_count(catalog: Database) -> None:
    """Its data server was retired."""
    stored = store(catalog, "a", 3, (1,))
    block = block_of(catalog, stored)
    done(catalog, plan_copy, block, 2, NOW)
    done(catalog, forget_replicas, 2, 10)
    with pytest.raises(Conflict, match="given up while it was made"):
        done(catalog, copied, block, 2, [], TRASH_DUE)
    assert (1,) == block_of(catalog, stored).servers


def test_servers_whose_replicas_were_replaced_are_remembered(catalog: Database) -> None:
    """Those that are away and have the block: when one is back there is one too many."""
    block = block_of(catalog, store(catalog, "a", 3, (1, 2)))
    done(catalog, plan_copy, block, 3, NOW)
    done(catalog, copied, block, 3, [2, 4], TRASH_DUE)
    assert [2] == displaced(catalog)


# Giving up


def kept(catalog: Database, stored: Plan) -> tuple[int, ...]:
    return block_of(catalog, stored).servers


def test_what_is_given_up_becomes_trash(catalog: Database) -> None:
    """In the same transaction, with its time and its stem."""
    stored = store(catalog, "a", 3, (1, 2, 3), replicas=2)
    done(catalog, give_up, block_of(catalog, stored), 1, [2, 3], [1, 2, 3], TRASH_DUE)
    assert (2, 3) == kept(catalog, stored)
    query = select(trash.c.block_id, trash.c.server, trash.c.stem, trash.c.due)
    assert [("a-0", 1, "a", TRASH_DUE)] == seen(catalog, lambda connection: connection.execute(query).all())


@pytest.mark.parametrize(
    ("verified", "usable"),
    [
        ((2,), (1, 2, 3)),  # one of the others was not verified
        ((2, 3), (1, 2)),  # one of the others is down, or is drained too
        ((1, 2), (1, 2, 3)),  # the replica itself does not count
        ((2, 4), (1, 2, 3, 4)),  # one verified is no replica
        ((), (1, 2, 3)),
        ((2, 3), ()),
        ((2, 2), (1, 2, 3)),
    ],
)
def test_nothing_is_given_up_unless_enough_others_remain(
    catalog: Database, verified: tuple[int, ...], usable: tuple[int, ...]
) -> None:
    """Each of them verified, and usable."""
    stored = store(catalog, "a", 3, (1, 2, 3), replicas=2)
    with pytest.raises(Conflict, match="too few"):
        done(catalog, give_up, block_of(catalog, stored), 1, verified, usable, TRASH_DUE)
    assert (1, 2, 3) == kept(catalog, stored)
    assert [] == seen(catalog, trashed)


def test_what_was_found_bad_since_does_not_count(catalog: Database) -> None:
    """The rows decide as they are in the transaction, not as they were."""
    stored = store(catalog, "a", 3, (1, 2, 3), replicas=2)
    before = block_of(catalog, stored)
    done(catalog, mark, before.place, 3, "corrupt")
    with pytest.raises(Conflict):
        done(catalog, give_up, before, 1, [2, 3], [1, 2, 3], TRASH_DUE)
    assert (1, 2, 3) == kept(catalog, stored)


def test_what_was_given_up_since_does_not_count(catalog: Database) -> None:
    """Two decisions on the same rows cannot both be carried out."""
    stored = store(catalog, "a", 3, (1, 2, 3), replicas=2)
    before = block_of(catalog, stored)
    done(catalog, give_up, before, 1, [2, 3], [1, 2, 3], TRASH_DUE)
    for server, others in [(2, [1, 3]), (1, [2, 3])]:
        with pytest.raises(Conflict):
            done(catalog, give_up, before, server, others, [1, 2, 3], TRASH_DUE)
    assert (2, 3) == kept(catalog, stored)


def test_what_is_about_to_be_deleted_does_not_count(catalog: Database) -> None:
    """A replica on a data server that is to get rid of the block will not be there for long."""
    stored = store(catalog, "a", 3, (1, 2), replicas=1)
    row = {"block_id": "a-0", "server": 2, "due": 0}
    done(catalog, lambda connection: connection.execute(insert(trash).values(row)) and None)
    with pytest.raises(Conflict):
        done(catalog, give_up, block_of(catalog, stored), 1, [2], [1, 2], TRASH_DUE)


@pytest.mark.parametrize("gone", ["deleted", "replaced"])
def test_nothing_is_given_up_of_a_file_that_is_gone(catalog: Database, gone: str) -> None:
    """It may come back, with all that it had."""
    before = block_of(catalog, store(catalog, "a", 3, (1, 2), replicas=1))
    if gone == "deleted":
        done(catalog, delete_file, "a", TRASH_DUE)
    else:
        store(catalog, "a", 3, (1, 2))
    with pytest.raises(Conflict, match="not there any more"):
        done(catalog, give_up, before, 1, [2], [1, 2], TRASH_DUE)
    rows = select(replicas.c.server).where(replicas.c.generation == before.place.generation)
    assert [1, 2] == seen(catalog, lambda connection: connection.execute(rows).scalars().all())


# Losing a data server


def test_a_lost_data_servers_replicas_are_forgotten_and_noted(catalog: Database) -> None:
    """Some at a time, those with nothing left to come first."""
    two, one = store(catalog, "a", 14, (1, 2)), store(catalog, "b", 3, (1,))
    assert [2, 1, 0] == [done(catalog, forget_replicas, 1, 2) for _ in range(3)]
    assert [] == seen(catalog, places_on, 1, FIRST, 10)
    assert [
        (Place(two.generation, 0), 1, 0),
        (Place(two.generation, 1), 1, 0),
        (Place(one.generation, 0), 0, 0),
    ] == queue(catalog)
    assert Place(one.generation, 0) == seen(catalog, due_repairs, 0, 1)[0]
