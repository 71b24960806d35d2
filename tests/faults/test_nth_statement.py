"""Every statement of the catalog's transactions fails once: an error, nothing half there, and the next try works."""

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen
from sqlalchemy import Connection, select

from filefly.catalog.commits import Commit, commit_plan
from filefly.catalog.completion import Completion, complete_plan
from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, expire_plans, forget_trash, let_go, rename_file
from filefly.catalog.inventory import register_data_server
from filefly.catalog.planning import newest_explicit_plan, plan_file, replace_replica, touch_plan
from filefly.catalog.plans import committed_plan
from filefly.catalog.repairs import Place
from filefly.catalog.replicas import StoredBlock, copied, give_up, mark, plan_copy, stored_block
from filefly.catalog.schema import metadata
from filefly.catalog.undeletion import bring_back
from filefly.errors import DiskFull, FileFlyError, Internal
from filefly.wire import messages
from tests.catalog.catalogs import (
    DUE,
    MODIFIED,
    SUM,
    commit,
    done,
    found_on,
    new_plan,
    open_plans,
    opened,
    plan,
    seen,
    store,
)
from tests.faults.nth_statement import COMMIT, Fault, Statements

ERRORS = [errno.EIO, errno.ENOSPC, errno.EACCES]
KINDS = {errno.EIO: Internal, errno.ENOSPC: DiskFull, errno.EACCES: Internal}
OFTEN = 1000

Dump = dict[str, list[Any]]
Change = Callable[[Connection], Any]

# What is in the catalog beforehand, by generation
REPLACED, KEPT, OPEN, SURPLUS = 1, 2, 4, 8


def fill(database: Database) -> None:
    """Put a file with two open plans of its name, another file, a deleted one and a silent upload into a catalog."""
    store(database, "a", 10, (1, 2))
    store(database, "b", 10, (1, 2))
    plan(database, "a", 10, (1, 2), explicit=False)
    plan(database, "a", 10, (1, 2))
    store(database, "c", 10, (1, 2))
    plan(database, "d", 10, (2, 3))
    done(database, delete_file, "c", DUE)
    gone = plan(database, "e", 10, (1, 2))
    commit(database, gone, stored=[found_on(2), found_on(2)])  # what was planned on 1 is trash
    store(database, "f", 10, (1, 2), replicas=1)


def block_of(connection: Connection, generation: int) -> StoredBlock:
    block = stored_block(connection, Place(generation, 0))
    assert block is not None
    return block


def commit_open(connection: Connection) -> Any:
    """Commit a plan in place of a file; one of its blocks is not where it was planned, and the sums are new."""
    return commit_plan(connection, Commit(OPEN, [found_on(1), found_on(1, 2)], MODIFIED), DUE)


def complete_open(connection: Connection) -> Any:
    """Commit the same plan as its client reports it."""
    reported = [
        messages.StoredBlock(block.id, SUM, [messages.Replica("two:1")])
        for block in open_plans(connection, "a")[0].blocks
    ]
    return complete_plan(connection, Completion(None, OPEN, (), reported, {2: "two:1"}, MODIFIED), DUE)


def replace(connection: Connection) -> Any:
    open_plan = newest_explicit_plan(connection, "a", 10, lambda _plan: True)
    assert open_plan is not None
    return replace_replica(connection, OPEN, open_plan.blocks[0].id, 1, [2, 3], DUE)


def copy(connection: Connection) -> Any:
    block = block_of(connection, KEPT)
    plan_copy(connection, block, 3, 0)
    return copied(connection, block, 3, [1], DUE)


CHANGES: dict[str, Change] = {
    "plan": lambda connection: plan_file(connection, new_plan("a", 10, (1, 2), if_generation=REPLACED), True),
    "commit": commit_open,
    "complete": complete_open,
    "delete": lambda connection: delete_file(connection, "a", DUE),
    "rename": lambda connection: rename_file(connection, "b", "a", DUE),
    "undelete": lambda connection: bring_back(connection, "c"),
    "replace replica": replace,
    "renew": lambda connection: touch_plan(connection, OPEN, 7),
    "expire": lambda connection: expire_plans(connection, 0, DUE),
    "let go": lambda connection: let_go(connection, DUE, 1000),
    "forget trash": lambda connection: forget_trash(connection, [1, 2]),
    "mark": lambda connection: mark(connection, Place(KEPT, 1), 2, "corrupt"),
    "copy": copy,
    "give up": lambda connection: give_up(connection, block_of(connection, SURPLUS), 2, [1], [1, 2, 3], DUE),
    "register": lambda connection: register_data_server(connection, "localhost:9009", None),
}


@define(eq=False)
class Catalog:
    """A catalog, and what was said to it in the last transaction."""

    database: Database
    statements: Statements
    path: Path
    _as_filled: sqlite3.Connection = field(factory=lambda: sqlite3.connect(":memory:"))
    said: list[str] = field(factory=list)

    def keep(self) -> None:
        """Remember all that is there."""
        with closing(sqlite3.connect(self.path)) as present:
            present.backup(self._as_filled)

    def restore(self) -> "Catalog":
        """Put back what was kept."""
        with closing(sqlite3.connect(self.path)) as present:
            present.execute("PRAGMA synchronous=OFF")
            self._as_filled.backup(present)
        return self

    def write(self, *changes: Change, fault: Fault | None = None) -> list[Any]:
        """Carry out changes while a statement fails."""
        self.statements.watch(fault)
        outcomes = self.database.write(changes)
        self.said = self.statements.said
        self.statements.watch()
        return outcomes

    def dump(self) -> Dump:
        """Return every row of every table."""

        def dump(connection: Connection) -> Dump:
            tables = metadata.tables.values()
            return {table.name: sorted(map(repr, connection.execute(select(table)))) for table in tables}

        return seen(self.database, dump)

    def good_run(self, *changes: Change) -> "GoodRun":
        """Carry out changes while nothing fails."""
        before = self.restore().dump()
        outcomes = self.write(*changes)
        assert not any(isinstance(outcome, Exception) for outcome in outcomes), outcomes
        return GoodRun(before, self.dump(), outcomes[0], self.said)


@frozen
class GoodRun:
    """What changes that go well are seen to do."""

    before: Dump
    after: Dump
    outcome: Any
    statements: list[str]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """Make the catalog that each trial begins with."""
    folder = tmp_path_factory.mktemp("catalog")
    with opened(folder) as database:
        fill(database)
        catalog = Catalog(database, Statements(database), folder / "catalog.sqlite")
        catalog.keep()
        yield catalog


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", CHANGES)
def test_a_statement_that_fails_once_leaves_all_as_it_was(catalog: Catalog, name: str, error: int) -> None:
    """Whichever it is, BEGIN and COMMIT included: an error, nothing half there, and the next try works."""
    change = CHANGES[name]
    good = catalog.good_run(change)
    assert COMMIT == good.statements[-1]
    for number, statement in enumerate(good.statements):
        catalog.restore()
        [outcome] = catalog.write(change, fault=Fault(number, error))
        assert isinstance(outcome, KINDS[error]), (statement, outcome)
        assert good.before == catalog.dump(), statement
        assert "a" == seen(catalog.database, committed_plan, "a").name
        [again] = catalog.write(change)
        assert good.outcome == again, statement
        assert good.after == catalog.dump(), statement


def others() -> tuple[Change, Change]:
    """Return what others want of the catalog in the same group: neither is in anybody's way."""
    return (
        lambda connection: plan_file(connection, new_plan("x", 10, (3,)), True).blocks,
        lambda connection: plan_file(connection, new_plan("y", 10, (3,)), True).blocks,
    )


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_fails_harms_no_other_of_its_group(catalog: Catalog, name: str, error: int) -> None:
    """Whichever of its statements fails, each time: the others are carried out, and nothing of it is."""
    first, last = others()
    without = catalog.good_run(first, last)
    alone = catalog.good_run(CHANGES[name])
    own = [each for each in alone.statements if not each.startswith(("BEGIN", "SAVEPOINT", "RELEASE", COMMIT))]
    for number, statement in enumerate(own):
        catalog.restore()
        failing = catalog.statements.only_in(CHANGES[name], Fault(number, error))
        before, outcome, after = catalog.write(first, failing, last)
        assert isinstance(outcome, KINDS[error]), (statement, outcome)
        assert not isinstance(before, Exception), statement
        assert not isinstance(after, Exception), statement
        assert without.after == catalog.dump(), statement


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_a_group_that_fails_once_is_carried_out(catalog: Catalog, error: int) -> None:
    """Whatever statement of the whole group's fails once, all of it is done in the end."""
    first, last = others()
    good = catalog.good_run(first, CHANGES["commit"], last)
    for number, statement in enumerate(good.statements):
        catalog.restore()
        outcomes = catalog.write(first, CHANGES["commit"], last, fault=Fault(number, error))
        assert not any(isinstance(outcome, Exception) for outcome in outcomes), (statement, outcomes)
        assert good.after == catalog.dump(), statement


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("at", [0, -1], ids=["BEGIN", "COMMIT"])
def test_a_group_that_cannot_be_written_is_an_error_for_each(catalog: Catalog, error: int, at: int) -> None:
    """While no transaction can begin or end, everybody hears so, and nothing is changed; later the next try works."""
    first, last = others()
    good = catalog.good_run(first, last)
    catalog.restore()
    outcomes = catalog.write(first, last, fault=Fault(range(len(good.statements))[at], error, OFTEN))
    assert [KINDS[error]] * 2 == [type(outcome) for outcome in outcomes]
    assert good.before == catalog.dump()
    catalog.write(first, last)
    assert good.after == catalog.dump()


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_a_failing_read_is_an_error_and_the_next_one_works(catalog: Catalog, error: int) -> None:
    """Whichever statement of looking a file up fails, it is an error once."""
    catalog.restore()
    catalog.statements.watch()
    wanted = seen(catalog.database, committed_plan, "a")
    statements = catalog.statements.said
    for number, statement in enumerate(statements):
        catalog.statements.watch(Fault(number, error))
        with pytest.raises(FileFlyError) as failed:
            seen(catalog.database, committed_plan, "a")
        assert KINDS[error] is type(failed.value), statement
        assert wanted == seen(catalog.database, committed_plan, "a")


def test_a_full_disk_is_told_by_small_statements(tmp_path: Path) -> None:
    """SQLite then takes the whole transaction back by itself; the answer is disk_full all the same."""

    def fill_up(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # as many as there are
        for number in range(10_000):
            plan_file(connection, new_plan(f"n{number}", 10, (1, 2)), True)

    with opened(tmp_path) as database:
        store(database, "a")
        [failed] = database.write([fill_up])
        assert isinstance(failed, DiskFull), failed
        assert "a" == seen(database, committed_plan, "a").name
