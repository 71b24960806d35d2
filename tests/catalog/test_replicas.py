from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, let_go
from filefly.catalog.repairs import (
    FIRST,
    Place,
    count_repairs,
    due_repairs,
    note_repairs,
    postpone_repair,
    wake_repairs,
)
from filefly.catalog.replicas import (
    StoredBlock,
    committed_on,
    count_on,
    forget_replicas,
    mark,
    place_of,
    places_on,
    settle_repair,
    shelve_repair,
    stored_block,
    stored_blocks,
)
from filefly.catalog.schema import plans
from tests.catalog.catalogs import SUM, done, opened, plan, seen, store
from tests.catalog.replica_rows import block_of, queue

LAST = Place(10**6, 0)
TRASH_DUE = 5000


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path, servers=5) as database:
        yield database


# Looking up


def test_a_block_is_found_with_all_that_repair_needs(catalog: Database) -> None:
    """Its file's name and wanted number, its own id, size and sum, and where it is, the preferred one first."""
    stored = store(catalog, "a", 10, (3, 1))
    place = Place(stored.generation, 1)
    assert StoredBlock(place, "a", "a-1", 3, SUM, 2, (3, 1), {}, "a") == seen(catalog, stored_block, place)


def test_a_block_without_replicas_is_found(catalog: Database) -> None:
    """Its file is still there, though nobody can read it."""
    stored = store(catalog, "a", 3, (1,))
    done(catalog, forget_replicas, 1, 10)
    assert () == block_of(catalog, stored).servers


def test_bad_replicas_are_told_apart(catalog: Database) -> None:
    """What is known against a replica is told, and it is not a good one."""
    stored = store(catalog, "a", 3, (1, 2, 3))
    done(catalog, mark, Place(stored.generation, 0), 2, "corrupt")
    found = block_of(catalog, stored)
    assert ((1, 2, 3), {2: "corrupt"}, (1, 3)) == (found.servers, found.bad, found.good)


def test_only_blocks_that_readers_see_are_found(catalog: Database) -> None:
    """Those of open plans and of deleted files are not."""
    kept, deleted, planned = store(catalog, "a", 3), store(catalog, "b", 3), plan(catalog, "c", 3)
    done(catalog, delete_file, "b", TRASH_DUE)
    places = [Place(each.generation, 0) for each in (planned, kept, deleted)]
    assert ["a-0"] == [block.id for block in seen(catalog, stored_blocks, places)]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_of_a_data_servers_blocks_join_without_gap(catalog: Database, limit: int) -> None:
    """By generation and then by position: numbers, so that 10 is behind 9."""
    first, second = store(catalog, "a", 7 * 11, (1, 2)), store(catalog, "b", 20, (2,))
    store(catalog, "c", 20, (3,))
    expected = [Place(first.generation, at) for at in range(11)] + [Place(second.generation, at) for at in range(3)]
    found: list[Place] = []
    while page := seen(catalog, places_on, 2, found[-1] if found else FIRST, limit):
        assert len(page) <= limit
        found += page
    assert expected == found


def test_a_data_servers_blocks_are_those_of_all_plans(catalog: Database) -> None:
    """Also of open plans and of deleted files: it has them."""
    stored, deleted, planned = store(catalog, "a", 3), store(catalog, "b", 3), plan(catalog, "c", 3)
    done(catalog, delete_file, "b", TRASH_DUE)
    expected = [Place(each.generation, 0) for each in (stored, deleted, planned)]
    assert expected == seen(catalog, places_on, 1, FIRST, 100)
    assert 3 == seen(catalog, count_on, 1)
    assert 1 == seen(catalog, count_on, 1, Place(deleted.generation, 0))


def test_a_stretch_of_a_data_servers_blocks_has_those_of_committed_files(catalog: Database) -> None:
    """Behind its beginning, up to its end."""
    stored = store(catalog, "a", 28, (1, 2))
    plan(catalog, "b", 20)
    places = [Place(stored.generation, at) for at in range(4)]
    assert places == seen(catalog, committed_on, 1, FIRST, LAST)
    assert places[1:3] == seen(catalog, committed_on, 1, places[0], places[2])


@pytest.mark.parametrize(("away", "short"), [((), 0), ((2,), 0), ((1,), 1), ((1, 2), 1), ((1, 3), 1)])
def test_blocks_with_too_few_replicas_elsewhere_are_found(catalog: Database, away: tuple[int, ...], short: int) -> None:
    """Replicas on servers that are away do not count, and neither do bad ones."""
    stored = store(catalog, "a", 3, (1, 3))
    store(catalog, "enough", 3, (1, 3, 4, 5), replicas=1)
    assert short == len(seen(catalog, committed_on, 1, FIRST, LAST, away))
    done(catalog, mark, Place(stored.generation, 0), 3, "missing")
    assert 1 == len(seen(catalog, committed_on, 1, FIRST, LAST, away))


# From an id to its block


@pytest.mark.parametrize(
    "name",
    ["a", "a-1", "a-1.2", "2026-10-04.tar", "a.b.c", "1", "1.1", "x-0.17", "-", "a/b-9", "é-1", "n" * 300],
)
def test_a_block_is_found_by_its_id(catalog: Database, name: str) -> None:
    """In the short and in the long form, whatever dots, dashes and digits the name has."""
    short, long = store(catalog, name, 80, (1,)), plan(catalog, name, 80)
    assert short.stem is not None
    assert long.stem is None
    for stored in (short, long):
        places = [Place(stored.generation, at) for at in range(12)]
        assert places == [seen(catalog, place_of, block.id) for block in stored.blocks]


def test_names_that_look_like_ids_are_told_apart(catalog: Database) -> None:
    """Each of these ids begins with another one."""
    names = ["a", "a-0", "a-0.1", "a-0.1-0", "a-0-0"]
    stored = [store(catalog, name, 3) for name in names]
    ids = [each.blocks[0].id for each in stored]
    assert [Place(each.generation, 0) for each in stored] == [seen(catalog, place_of, each) for each in ids]


def test_a_renamed_files_blocks_are_found(catalog: Database) -> None:
    """They keep their ids."""
    stored = store(catalog, "a", 3)
    done(catalog, lambda connection: connection.execute(update(plans).values(name="b")) and None)
    assert Place(stored.generation, 0) == seen(catalog, place_of, "a-0")


@pytest.mark.parametrize(
    "block_id",
    [
        "",
        "a",
        "a-",
        "a-0.",
        "a-.1",
        "a-x",
        "a-0.x",
        "a--0",
        "a-00",
        "a-+0",
        "a- 0",
        "a-0.01",
        "a-\u0660",
        "a-²",
        "a-1",
        "b-0",
        "a-0.2",
        "a-0.0.1",
        f"a-{10**30}",
        f"a-0.{10**30}",
        "-0",
        "a-0.999999999999999999",
        "a-999999999",
    ],
)
def test_what_is_no_id_of_a_block_is_no_place(catalog: Database, block_id: str) -> None:
    """Nor an error: ids come from anybody."""
    store(catalog, "a", 3)
    assert seen(catalog, place_of, block_id) is None


def test_a_block_is_looked_up_by_an_index(catalog: Database) -> None:
    """A hint must cost nothing, however many files there are."""
    for query in ("a-0", "a-0.7"):
        statements: list[str] = []

        def explained(connection: Connection, block_id: str, into: list[str]) -> None:
            class Explaining:
                def execute(self, statement: object, *_args: object) -> object:
                    compiled = statement.compile(  # type: ignore[attr-defined]
                        connection.engine, compile_kwargs={"literal_binds": True}
                    )
                    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
                    into.extend(row[3] for row in rows)
                    return connection.execute(statement)  # type: ignore[call-overload]

            place_of(Explaining(), block_id)  # type: ignore[arg-type]

        seen(catalog, explained, query, statements)
        assert statements
        assert [] == [line for line in statements if line.startswith("SCAN")]


# What was found


def test_a_marked_replica_is_noted_for_repair_at_once(catalog: Database) -> None:
    """With the number of those that remain."""
    place = Place(store(catalog, "a", 3, (1, 2, 3)).generation, 0)
    done(catalog, mark, place, 2, "corrupt")
    assert [(place, 2, 0)] == queue(catalog)


def test_a_replica_that_is_good_after_all_is_not(catalog: Database) -> None:
    """Nothing is known against it any more."""
    stored = store(catalog, "a", 3, (1, 2))
    place = Place(stored.generation, 0)
    done(catalog, mark, place, 2, "missing")
    done(catalog, settle_repair, place, block_of(catalog, stored))
    done(catalog, mark, place, 2, None)
    assert {} == block_of(catalog, stored).bad
    assert [] == queue(catalog)


def test_only_the_one_replica_is_marked(catalog: Database) -> None:
    """Not the block's others, nor the server's others."""
    first, second = store(catalog, "a", 14, (1, 2)), store(catalog, "b", 3, (1, 2))
    done(catalog, mark, Place(first.generation, 1), 2, "corrupt")
    assert {2: "corrupt"} == block_of(catalog, first, 1).bad
    assert [{}, {}] == [block_of(catalog, first, 0).bad, block_of(catalog, second).bad]


def test_a_diagnosis_forgets_no_replica(catalog: Database) -> None:
    """All of them may be bad, and are still known."""
    stored = store(catalog, "a", 3, (1, 2))
    for server in (1, 2):
        done(catalog, mark, Place(stored.generation, 0), server, "missing")
    assert (1, 2) == block_of(catalog, stored).servers


def test_a_new_diagnosis_wakes_a_block_that_waits(catalog: Database) -> None:
    """Also where replicas on servers that are away were left out of the count before: it has not become fewer."""
    place = Place(store(catalog, "a", 3, (1, 2, 3)).generation, 0)
    done(catalog, note_repairs, [place], [1])
    done(catalog, postpone_repair, place, 500)
    done(catalog, mark, place, 2, "corrupt")
    assert [(place, 2, 0)] == queue(catalog)


def test_marking_what_is_gone_meanwhile_harms_nothing(catalog: Database) -> None:
    """The file was replaced, its blocks are gone; what was noted is settled when it is looked at."""
    place = Place(store(catalog, "a", 3).generation, 0)
    done(catalog, delete_file, "a", 0)
    done(catalog, let_go, 1, 100)
    done(catalog, mark, place, 1, "missing")
    assert seen(catalog, stored_block, place) is None


# The queue


def test_fewest_replicas_come_first(catalog: Database) -> None:
    """Then those that are due longest, then in order."""
    stored = store(catalog, "a", 7 * 4, (1, 2, 3))
    places = [Place(stored.generation, at) for at in range(4)]
    done(catalog, note_repairs, places)
    for at, bad in [(2, 1), (2, 2), (3, 1)]:
        done(catalog, mark, places[at], bad, "missing")
    done(catalog, postpone_repair, places[0], 7)
    assert [places[2], places[3], places[1], places[0]] == seen(catalog, due_repairs, 7, 10)
    assert [places[2], places[3]] == seen(catalog, due_repairs, 7, 2)


def test_what_is_not_due_yet_waits(catalog: Database) -> None:
    """Until its time has come."""
    place = Place(store(catalog, "a", 3).generation, 0)
    done(catalog, note_repairs, [place])
    done(catalog, postpone_repair, place, 100)
    assert [[], [place]] == [seen(catalog, due_repairs, now, 10) for now in (99, 100)]
    assert [1, 0, 1] == [seen(catalog, count_repairs, now) for now in (None, 99, 100)]


def test_noting_again_does_not_wake(catalog: Database) -> None:
    """A walk over all blocks of a server that is away comes by again and again."""
    place = Place(store(catalog, "a", 3, (1, 2)).generation, 0)
    done(catalog, note_repairs, [place], [1])
    done(catalog, postpone_repair, place, 100)
    done(catalog, note_repairs, [place], [1])
    done(catalog, note_repairs, [place])
    assert [(place, 1, 100)] == queue(catalog)


def test_what_has_become_worse_is_woken(catalog: Database) -> None:
    """And comes before others."""
    place = Place(store(catalog, "a", 3, (1, 2)).generation, 0)
    done(catalog, note_repairs, [place], [1])
    done(catalog, postpone_repair, place, 100)
    done(catalog, note_repairs, [place], [1, 2])
    assert [(place, 0, 0)] == queue(catalog)


def test_all_that_waits_can_be_woken(catalog: Database) -> None:
    """What it waited for may have come."""
    stored = store(catalog, "a", 14)
    places = [Place(stored.generation, at) for at in range(2)]
    done(catalog, note_repairs, places)
    done(catalog, postpone_repair, places[0], 100)
    done(catalog, wake_repairs)
    assert places == seen(catalog, due_repairs, 0, 10)


def test_what_has_changed_since_it_was_looked_at_is_looked_at_again(catalog: Database) -> None:
    """A replica was found bad just then: it must not be forgotten, nor wait."""
    stored = store(catalog, "a", 3, (1, 2))
    before = block_of(catalog, stored)
    done(catalog, mark, before.place, 2, "corrupt")
    done(catalog, settle_repair, before.place, before)
    done(catalog, shelve_repair, before, 500)
    assert [(before.place, 1, 0)] == queue(catalog)
    done(catalog, shelve_repair, block_of(catalog, stored), 500)
    assert [(before.place, 1, 500)] == queue(catalog)


def test_a_file_brought_back_meanwhile_is_looked_at(catalog: Database) -> None:
    """It was not there when its block was looked at."""
    place = Place(store(catalog, "a", 3).generation, 0)
    done(catalog, note_repairs, [place])
    done(catalog, settle_repair, place, None)
    assert [(place, 1, 0)] == queue(catalog)


def test_a_settled_block_is_out_of_the_queue(catalog: Database) -> None:
    """It alone."""
    stored = store(catalog, "a", 14)
    places = [Place(stored.generation, at) for at in range(2)]
    done(catalog, note_repairs, places)
    done(catalog, settle_repair, places[0], block_of(catalog, stored))
    assert places[1:] == seen(catalog, due_repairs, 0, 10)
