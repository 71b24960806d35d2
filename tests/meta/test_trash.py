from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from filefly.meta.catalog import delete_file
from filefly.meta.cluster import Cluster
from filefly.meta.database import Database
from filefly.meta.inventory import running_seconds, take_data_servers
from filefly.meta.transactions import Transactions
from filefly.meta.trash import RunningTime, TrashCollector
from filefly.threads import WorkerPool
from tests.meta.catalogs import done, open_catalog, seen, store, trashed
from tests.meta.running import DataNode
from tests.on_reactor import next_turn, on_reactor

GRACE = 600


@define
class Monotonic:
    """A monotonic clock that the test turns."""

    now: float = 5_000_000.0

    def __call__(self) -> float:
        return self.now


# RunningTime


def test_running_time_goes_on_from_what_was_saved() -> None:
    """Whatever the monotonic clock shows: it begins anywhere."""
    monotonic = Monotonic()
    running = RunningTime(monotonic, 1000)
    assert 1000 == running.seconds()
    monotonic.now += 2.9
    assert 1002 == running.seconds()


def test_running_time_stands_still_while_nothing_runs() -> None:
    """A night switched off is no grace period."""
    monotonic = Monotonic()
    running = RunningTime(monotonic, 0)
    monotonic.now += 30
    saved = running.seconds()
    monotonic.now = 17.0  # the machine was switched off and on
    assert 30 == RunningTime(monotonic, saved).seconds()


# TrashCollector


@define(eq=False)
class Collecting:
    """A catalog, two data servers that hold the file `a` of 10 bytes, and a collector of its trash."""

    reactor: Any
    folder: Path
    nodes: list[DataNode]
    monotonic: Monotonic = field(factory=Monotonic)
    clock: Clock = field(factory=Clock)
    collector: Any = None
    database: Any = None
    _parts: list[Any] = field(factory=list)

    def start(self) -> None:
        """Start all but the collector's own loop."""
        self.database = open_catalog(self.folder, servers=0)
        pool = WorkerPool(self.reactor, "compute", 1)
        transactions = Transactions(self.reactor, self.database)
        cluster = Cluster(self.reactor, pool)
        cluster.take(done(self.database, take_data_servers, {node.address: None for node in self.nodes}))
        running = RunningTime(self.monotonic, seen(self.database, running_seconds))
        self.collector = TrashCollector(self.clock, transactions, cluster, running, GRACE)
        self._parts = [pool, transactions, cluster]
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """Stop all but the collector's own loop."""
        for part in reversed(self._parts):
            part.stop()

    def give_up(self, name: str) -> None:
        """Have a file on both data servers, and delete it."""
        store(self.database, name, 1, (1, 2))
        for node in self.nodes:
            node.put(f"{name}-0", b"x")
        done(self.database, delete_file, name, self.collector.due())

    async def round_after(self, seconds: float) -> None:
        """Let time pass, and the collector look once."""
        self.monotonic.now += seconds
        await self.collector.round()

    @property
    def there(self) -> list[list[str]]:
        """What each data server holds."""
        return [node.block_ids() for node in self.nodes]


@asynccontextmanager
async def collecting(reactor: Any, folder: Path) -> AsyncIterator[Collecting]:
    nodes = [DataNode(reactor, folder / f"data{number}").start() for number in (1, 2)]
    running = Collecting(reactor, folder, nodes)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        for node in nodes:
            await node.stop()


@on_reactor
async def test_trash_waits_for_its_grace_period(reactor: Any, tmp_path: Path) -> None:
    """And is deleted after it, on every data server, and forgotten."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        await running.round_after(GRACE - 1)
        assert [["a-0"], ["a-0"]] == running.there
        await running.round_after(1)
        assert [[], []] == running.there
        assert [] == seen(running.database, trashed)


@on_reactor
async def test_only_trash_is_deleted(reactor: Any, tmp_path: Path) -> None:
    """Neither files nor blocks that nobody here planned."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        store(running.database, "b", 1, (1,))
        running.nodes[0].put("b-0", b"x")
        running.nodes[0].put("stranger-0", b"x")
        await running.round_after(GRACE)
        assert [["b-0", "stranger-0"], []] == running.there


@on_reactor
async def test_a_block_that_is_gone_already_is_confirmed(reactor: Any, tmp_path: Path) -> None:
    """Deleting by hand is allowed."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        running.nodes[0].block("a-0").unlink()
        await running.round_after(GRACE)
        assert [] == seen(running.database, trashed)


@on_reactor
async def test_a_data_server_that_is_down_does_not_hold_up_others(reactor: Any, tmp_path: Path) -> None:
    """Its trash is kept."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        await running.nodes[0].stop()
        await running.round_after(GRACE)
        assert [["a-0"], []] == running.there
        assert [("a-0", 1)] == seen(running.database, trashed)


@on_reactor
async def test_a_data_server_that_failed_is_left_alone_for_a_while(reactor: Any, tmp_path: Path) -> None:
    """It is not asked again every second, while others are."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        await running.nodes[0].stop()
        await running.round_after(GRACE)
        running.nodes[0].start()
        running.give_up("b")
        await running.round_after(29)
        assert ["a-0", "b-0"] == running.nodes[0].block_ids()
        await running.round_after(GRACE)
        assert [[], []] == running.there


@on_reactor
async def test_trash_is_retried_until_it_is_confirmed(reactor: Any, tmp_path: Path) -> None:
    """However often its data server does not answer."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        await running.nodes[0].stop()
        for _ in range(3):
            await running.round_after(GRACE)
        assert [("a-0", 1)] == seen(running.database, trashed)
        running.nodes[0].start()
        await running.round_after(31)
        assert [[], []] == running.there
        assert [] == seen(running.database, trashed)


@on_reactor
async def test_much_trash_of_a_silent_server_does_not_starve_another(reactor: Any, tmp_path: Path) -> None:
    """The older trash of one that is down fills a round; the next round looks past it."""
    async with collecting(reactor, tmp_path) as running:
        await running.nodes[0].stop()
        store(running.database, "large", 7 * 1500, (1,))
        done(running.database, delete_file, "large", running.collector.due())
        running.monotonic.now += 1
        store(running.database, "b", 1, (2,))
        running.nodes[1].put("b-0", b"x")
        done(running.database, delete_file, "b", running.collector.due())
        await running.round_after(GRACE)
        await running.round_after(1)
        assert [[], []] == running.there


@on_reactor
async def test_a_restart_goes_on(reactor: Any, tmp_path: Path) -> None:
    """With the trash that there was, and the part of the grace period that has passed."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        await running.round_after(GRACE - 100)  # a round now and then saves the running time
        running.stop()
        running.monotonic.now = 3.0
        running.start()
        await running.round_after(99)
        assert [["a-0"], ["a-0"]] == running.there
        await running.round_after(1)
        assert [[], []] == running.there


@on_reactor
async def test_a_crash_costs_a_minute_of_waiting_at_most(reactor: Any, tmp_path: Path) -> None:
    """What was not saved is waited for again: never deleted early."""
    async with collecting(reactor, tmp_path) as running:
        running.give_up("a")
        for _ in range(10):
            await running.round_after(59)
        running.stop()
        running.start()
        assert 10 * 59 - 60 <= running.collector._time.seconds() <= 10 * 59


@on_reactor
async def test_the_loop_goes_round_every_second_and_saves_its_time(reactor: Any, tmp_path: Path) -> None:
    """From `start` until `stop`, which waits for the round under way."""
    async with collecting(reactor, tmp_path) as running:
        running.collector.start()
        running.give_up("a")
        running.monotonic.now += GRACE
        await turn_until(running.clock, lambda: [[], []] == running.there)
        running.monotonic.now += 5
        await running.collector.stop()
        assert GRACE + 5 == seen(running.database, running_seconds)
        assert [] == running.clock.getDelayedCalls()


@on_reactor
async def test_a_failing_round_is_logged_and_repeated(
    reactor: Any, tmp_path: Path, logged_failures: list[Failure]
) -> None:
    """The catalog may be out of order for a while."""
    async with collecting(reactor, tmp_path) as running:
        rename = "ALTER TABLE {} RENAME TO {}"
        statement(running.database, rename.format("trash", "hidden"))
        running.collector.start()
        await turn_until(running.clock, lambda: bool(logged_failures))
        assert "no such table: trash" in logged_failures[0].getErrorMessage()
        statement(running.database, rename.format("hidden", "trash"))
        running.give_up("a")
        running.monotonic.now += GRACE
        await turn_until(running.clock, lambda: [[], []] == running.there)
        await running.collector.stop()
        logged_failures.clear()


def statement(database: Database, text: str) -> None:
    done(database, lambda connection: connection.exec_driver_sql(text) and None)


async def turn_until(clock: Clock, there: Any) -> None:
    """Let the seconds of `clock` pass, and the reactor work, until what is waited for is there."""
    while not there():
        clock.advance(1)
        await next_turn()


@pytest.mark.parametrize("grace", [0, GRACE])
def test_trash_is_due_after_grace(grace: int) -> None:
    """In running time."""
    running = RunningTime(Monotonic(), 42)
    nothing: Any = None
    assert 42 + grace == TrashCollector(Clock(), nothing, nothing, running, grace).due()
