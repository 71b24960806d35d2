from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults

from filefly.catalog.database import Change
from filefly.catalog.endings import delete_file
from filefly.catalog.planning import plan_file
from filefly.errors import Internal, NotFound, Unavailable
from filefly.meta.transactions import Transactions
from tests.catalog.catalogs import DUE, new_plan, open_catalog, open_plans
from tests.on_reactor import on_reactor


class WatchedDatabase:
    """A real database that counts its transactions."""

    def __init__(self, folder: Path) -> None:
        self.database = open_catalog(folder)
        self.groups: list[int] = []

    def write(self, changes: list[Change]) -> list[Any]:
        self.groups.append(len(changes))
        return self.database.write(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.database, name)


@asynccontextmanager
async def transacting(reactor: Any, folder: Path) -> AsyncIterator[tuple[Transactions, WatchedDatabase]]:
    database: Any = WatchedDatabase(folder)
    transactions = Transactions(reactor, database)
    transactions.start()
    try:
        yield transactions, database
    finally:
        transactions.stop()


@on_reactor
async def test_changes_share_transactions(reactor: Any, tmp_path: Path) -> None:
    """While one is being made durable, the next ones gather; each is told its own result."""
    async with transacting(reactor, tmp_path) as (transactions, database):
        writing = [transactions.write(plan_file, new_plan(f"f{number}"), True) for number in range(50)]
        plans = await gatherResults(writing)
        assert [f"f{number}" for number in range(50)] == [plan.name for plan in plans]
        assert [1, 49] == database.groups


@on_reactor
async def test_a_group_has_its_limit(reactor: Any, tmp_path: Path) -> None:
    """Nobody waits for thousands of others."""
    async with transacting(reactor, tmp_path) as (transactions, database):
        await gatherResults([transactions.write(open_plans, "a") for _ in range(300)])
        assert [1, 256, 43] == database.groups


@on_reactor
async def test_each_hears_of_its_own_failure(reactor: Any, tmp_path: Path) -> None:
    """Whoever was in the same transaction hears nothing of it."""

    def break_it(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO data_servers (key) VALUES (1)")

    async with transacting(reactor, tmp_path) as (transactions, _database):
        writing: list[Deferred[Any]] = [
            transactions.write(plan_file, new_plan("a"), True),
            transactions.write(plan_file, new_plan("b"), True),
            transactions.write(delete_file, "missing", DUE),
            transactions.write(break_it),
            transactions.write(plan_file, new_plan("c"), True),
        ]
        outcomes = await DeferredList(writing, consumeErrors=True)
        assert [True, True, False, False, True] == [went_well for went_well, _outcome in outcomes]
        failures: list[Any] = [outcome for went_well, outcome in outcomes if not went_well]
        assert [NotFound, Internal] == [failure.type for failure in failures]
        for name in "abc":
            assert 1 == len(await transactions.read(open_plans, name))


@on_reactor
async def test_what_was_written_is_read(reactor: Any, tmp_path: Path) -> None:
    """As soon as the write is acknowledged."""
    async with transacting(reactor, tmp_path) as (transactions, _database):
        for number in range(20):
            plan = await transactions.write(plan_file, new_plan(f"f{number}"), True)
            assert [plan] == await transactions.read(open_plans, f"f{number}")


@on_reactor
async def test_a_cancelled_write_disturbs_no_other(reactor: Any, tmp_path: Path) -> None:
    """Its change is made or not; the others' results stay theirs."""
    async with transacting(reactor, tmp_path) as (transactions, _database):
        first, second, third = (transactions.write(plan_file, new_plan(name), True) for name in "abc")
        second.cancel()
        with pytest.raises(CancelledError):
            await second
        assert ["a", "c"] == [plan.name for plan in await gatherResults([first, third])]


@on_reactor
async def test_after_the_stop_work_is_refused(reactor: Any, tmp_path: Path) -> None:
    """It would never be done; whoever asked must hear of it."""
    async with transacting(reactor, tmp_path) as (transactions, _database):
        pass
    for asked in (transactions.read(open_plans, "a"), transactions.write(open_plans, "a")):
        with pytest.raises(Unavailable, match=r"^shutting down$"):
            await asked


@on_reactor
async def test_writes_that_were_taken_are_done_before_the_stop(reactor: Any, tmp_path: Path) -> None:
    """The next process finds them."""
    async with transacting(reactor, tmp_path) as (transactions, _database):
        await transactions.write(plan_file, new_plan("a"), True)
    async with transacting(reactor, tmp_path) as (transactions, _database):
        assert 1 == len(await transactions.read(open_plans, "a"))
