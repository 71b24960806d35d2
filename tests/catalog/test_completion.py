from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from filefly.catalog import plans as catalog_of_plans
from filefly.catalog.commits import StoredReplicas
from filefly.catalog.completion import Completion, Known, Outstanding, complete_plan, known
from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.planning import newest_explicit_plan
from filefly.catalog.plans import Plan, PlanBlock, blocks_of_plan, committed_plan
from filefly.errors import BadRequest, Conflict, Corrupt, FileFlyError, NotFound
from filefly.wire.messages import Replica, StoredBlock
from tests.catalog.catalogs import (
    DUE,
    MODIFIED,
    SUM,
    done,
    found_on,
    ids_of,
    noted,
    open_plans,
    opened,
    plan,
    seen,
    store,
    trashed,
)

TOLD = {1: "one:1", 2: "two:1", 3: "", 4: "far:1"}
"""What clients are told of the data servers; the third is seen nowhere."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


def report(block_id: str, *told: str, crc32c: str | None = SUM) -> StoredBlock:
    return StoredBlock(block_id, crc32c, [Replica(address) for address in told])


def reports(planned: Plan) -> list[StoredBlock]:
    return [report(block.id, *(TOLD[server] for server in block.servers)) for block in planned.blocks]


def complete(database: Database, reported: Sequence[StoredBlock] = (), **fields: Any) -> Plan | Outstanding:
    asked: dict[str, Any] = {"name": None, "generation": None, "ids": ()}
    completion = Completion(**{**asked, **fields}, reported=reported, told=TOLD, modified=MODIFIED)
    return done(database, complete_plan, completion, DUE)


# Which plan is meant


def test_a_plan_is_named_by_its_generation(database: Database) -> None:
    """With its file's name or without."""
    for name in (None, "a"):
        planned = plan(database, "a")
        complete(database, reports(planned), generation=planned.generation, name=name)
        assert planned.generation == seen(database, committed_plan, "a").generation


def test_a_plan_is_named_by_its_blocks(database: Database) -> None:
    """By some of them; the newest plan with such blocks is meant."""
    first, _second = plan(database, "a"), plan(database, "a")
    complete(database, reports(first), name="a", ids=ids_of(first)[:1])
    assert first.generation == seen(database, committed_plan, "a").generation


def test_blocks_of_a_renamed_file_are_those_of_its_plan(database: Database) -> None:
    """Their ids begin with the name that it had; those of an upload of its new name are others."""
    committed = store(database, "a")
    done(database, rename_file, "a", "b", DUE)
    upload = plan(database, "b")
    assert replace(committed, name="b") == complete(database, name="b", ids=ids_of(committed))
    complete(database, reports(upload), name="b", ids=ids_of(upload))
    assert upload.generation == seen(database, committed_plan, "b").generation


def test_blocks_of_different_plans_mean_none(database: Database) -> None:
    """Nor do those of another name, of a plan that is over, or what is no block's id."""
    first, second, other = plan(database, "a"), plan(database, "a"), plan(database, "b")
    for ids in ([ids_of(first)[0], ids_of(second)[1]], ids_of(other), ["a-0.99"], ["a-2"], ["a"], ["a-0.2", "a"]):
        over = "no open plan has these blocks: it was ended, replaced or deleted"
        refused(database, Conflict, over, name="a", ids=ids)


def test_of_many_plans_of_a_name_one_is_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blocks they have: only those of the plan that is meant are read."""
    planned = [plan(database, "a", 7 * 100) for _ in range(20)]
    read: list[int] = []

    def blocks_read(connection: Connection, generation: int) -> Sequence[PlanBlock]:
        read.append(generation)
        return blocks_of_plan(connection, generation)

    monkeypatch.setattr(catalog_of_plans, "blocks_of_plan", blocks_read)
    complete(database, name="a", ids=ids_of(planned[7])[:1])
    refused(database, Conflict, "20 plans of this file are open; name one by its generation", name="a")
    assert Known(None, []) == seen(database, known, "a")
    assert planned[-1] == seen(database, newest_explicit_plan, "a", 700, lambda _plan: True)
    assert [planned[7].generation, planned[-1].generation] == read


def test_the_only_open_plan_of_a_name_is_meant(database: Database) -> None:
    """Whatever is committed."""
    store(database, "a")
    planned = plan(database, "a")
    complete(database, reports(planned), name="a")
    assert planned.generation == seen(database, committed_plan, "a").generation


def test_what_is_committed_may_be_completed_again(database: Database) -> None:
    """A reply that was lost costs nothing, and nothing is changed."""
    committed = store(database, "a")
    for fields in ({"generation": committed.generation}, {"name": "a"}, {"name": "a", "ids": ids_of(committed)}):
        assert committed == complete(database, **fields)


def refused(database: Database, error: type[FileFlyError], sentence: str, *args: Any, **fields: Any) -> None:
    with pytest.raises(error) as caught:
        complete(database, *args, **fields)
    assert sentence == str(caught.value)


def test_a_plan_that_is_not_there_is_refused(database: Database) -> None:
    """Ended, another name's, unknown; one of several; of no name at all."""
    ended, other = plan(database, "ended"), plan(database, "other")
    done(database, delete_file, "ended", DUE)
    for generation in (ended.generation, other.generation, 99):
        over = f"plan {generation} is not open: it was ended, replaced or deleted"
        refused(database, Conflict, over, generation=generation, name="a")
    refused(database, NotFound, "file not found", name="a")
    refused(database, BadRequest, "missing file_name")
    refused(database, BadRequest, "missing file_name", name="", generation=99)
    store(database, "a")
    over = "no open plan has these blocks: it was ended, replaced or deleted"
    refused(database, Conflict, over, name="a", ids=["b-0"])
    for _ in range(2):
        plan(database, "a")
    refused(database, Conflict, "2 plans of this file are open; name one by its generation", name="a")


# What is believed


def test_a_plan_of_which_all_is_believed_is_committed(database: Database) -> None:
    """Checksums and places are those that were reported; what is missing is noted for repair, what is left is trash."""
    planned = plan(database, "a", 10, (1, 2))
    first, second = ids_of(planned)
    committed = complete(database, [report(first, "two:1"), report(second, "two:1", "one:1")], name="a")
    assert isinstance(committed, Plan)
    assert [(SUM, (2,)), (SUM, (2, 1))] == [(block.crc32c, block.servers) for block in committed.blocks]
    assert committed == seen(database, committed_plan, "a")
    assert [(planned.generation, 0, 1)] == seen(database, noted)
    assert [("a-0", 1)] == seen(database, trashed)


def test_an_empty_file_has_nothing_to_believe(database: Database) -> None:
    """It is committed at once."""
    assert complete(database, generation=plan(database, "a", 0).generation) == seen(database, committed_plan, "a")


@pytest.mark.parametrize(
    "second", [None, report("a-1"), report("a-1", "one:1", crc32c=None)], ids=["unsaid", "placeless", "without a sum"]
)
def test_what_is_not_believed_is_outstanding(database: Database, second: StoredBlock | None) -> None:
    """The plan stays open; what is believed of its blocks need not be looked at."""
    planned = plan(database, "a")
    outcome = complete(database, [report("a-0", "one:1"), *([second] if second else [])], name="a")
    assert Outstanding(planned, {0: found_on(1)}, only_adds=False) == outcome
    assert [planned] == seen(database, open_plans, "a")


@pytest.mark.parametrize("told", ["three:1", "", "far:1", "elsewhere:1"])
def test_a_report_of_another_place_is_refused(database: Database, told: str) -> None:
    """Of a storage that is seen nowhere, of one that the block is not planned for, of an unknown one."""
    plan(database, "a", 1, (1, 3))
    refused(
        database,
        BadRequest,
        f"block a-0 is not planned for data server {told}",
        [report("a-0", "one:1", told)],
        name="a",
    )


def test_a_place_that_is_reported_twice_counts_once(database: Database) -> None:
    """However often it is said."""
    plan(database, "a", 1, (1, 2))
    complete(database, [report("a-0", "one:1", "one:1")], name="a")
    assert StoredReplicas(SUM, (1,)).servers == seen(database, committed_plan, "a").blocks[0].servers


def test_a_block_of_another_file_is_refused(database: Database) -> None:
    """Nothing is committed then."""
    planned = plan(database, "a")
    sentence = f"block b-0 is not of plan {planned.generation}"
    refused(database, BadRequest, sentence, [*reports(planned), report("b-0", "one:1")], name="a")
    assert [planned] == seen(database, open_plans, "a")


def test_another_sum_than_that_of_the_data_is_refused(database: Database) -> None:
    """The plan was made with the data's own."""
    planned = plan(database, "a", 1, sums=["ffffffff"])
    sentence = f"block a-0 was stored with crc32c {SUM}, not ffffffff"
    refused(database, Corrupt, sentence, reports(planned), name="a")


def test_the_generation_that_was_asked_for_decides(database: Database) -> None:
    """At the commit, too."""
    before = store(database, "a")
    planned = plan(database, "a")
    sentence = f"the file has generation {before.generation}, not 0"
    refused(database, Conflict, sentence, reports(planned), generation=planned.generation, if_generation=0)
    complete(database, reports(planned), generation=planned.generation, if_generation=before.generation)
    assert planned.generation == seen(database, committed_plan, "a").generation
