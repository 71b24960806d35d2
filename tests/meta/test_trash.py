from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, due_trash, rename_file, undelete_file
from filefly.catalog.inventory import catalog_row
from filefly.catalog.planning import touch_plan
from filefly.catalog.plans import committed_plan
from filefly.catalog.quotas import set_quota
from filefly.catalog.schema import trash
from filefly.meta.running_time import RunningTime
from filefly.meta.trash import TrashCollector
from tests.catalog.catalogs import DUE, commit, count_rows, done, ended, found_on, open_plans, seen, store, trashed
from tests.meta.bench import DAY_SECONDS, GRACE_SECONDS, Bench, Monotonic, on_a_bench
from tests.meta.running import RunningCluster, put, running
from tests.on_reactor import next_turn, on_reactor


def give_up(bench: Bench, name: str) -> None:
    """Have a file on both data servers, and delete it."""
    bench.put(name, b"x", (1, 2))
    done(bench.database, delete_file, name, bench.trash.due())


async def round_after(bench: Bench, seconds: float) -> None:
    """Let time pass, and the collector look once."""
    bench.monotonic.now += seconds
    await bench.trash.round()


def there(bench: Bench) -> list[list[str]]:
    """Return what each data server holds."""
    return [node.block_ids() for node in bench.nodes]


# Files


@on_reactor
async def test_trash_waits_for_its_grace_period(reactor: Any, tmp_path: Path) -> None:
    """And is deleted after it, on every data server, and forgotten."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        await round_after(bench, GRACE_SECONDS - 1)
        assert [["a-0"], ["a-0"]] == there(bench)
        await round_after(bench, 1)
        assert [[], []] == there(bench)
        assert ([], []) == (seen(bench.database, trashed), seen(bench.database, ended))


@on_reactor
async def test_what_was_brought_back_is_not_deleted(reactor: Any, tmp_path: Path) -> None:
    """Up to the last second of its grace period."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        await round_after(bench, GRACE_SECONDS - 1)
        done(bench.database, undelete_file, "a")
        await round_after(bench, GRACE_SECONDS)
        assert [["a-0"], ["a-0"]] == there(bench)
        assert 1 == seen(bench.database, committed_plan, "a").total_size


@on_reactor
async def test_what_was_replaced_waits_like_what_was_deleted(reactor: Any, tmp_path: Path) -> None:
    """Who reads the old file gets to its end."""
    async with on_a_bench(reactor, tmp_path) as bench:
        planned = [bench.plan("a", b"x", (1,)), bench.plan("a", b"y", (2,))]
        for server, each in enumerate(planned, start=1):
            commit(bench.database, each, bench.trash.due(), stored=[found_on(server)])
        await round_after(bench, GRACE_SECONDS - 1)
        assert [["a-0"], ["a-0.2"]] == there(bench)
        await round_after(bench, 1)
        assert [[], ["a-0.2"]] == there(bench)


@on_reactor
async def test_only_trash_is_deleted(reactor: Any, tmp_path: Path) -> None:
    """Neither files nor blocks that nobody here planned."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        bench.put("b", b"x", (1,))
        bench.node(1).put("stranger-0", b"x")
        await round_after(bench, GRACE_SECONDS)
        assert [["b-0", "stranger-0"], []] == there(bench)


@on_reactor
async def test_what_nobody_planned_is_set_aside(reactor: Any, tmp_path: Path) -> None:
    """Where somebody has asked for that; it is kept."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.node(1).put("stranger-0", b"x")
        row = {"block_id": "stranger-0", "server": 1, "due": 0, "aside": True}
        done(bench.database, lambda connection: connection.execute(trash.insert().values(row)) and None)
        await round_after(bench, 0)
        assert ([], b"x") == (there(bench)[0], (bench.node(1).folder / ".unknown" / "stranger-0").read_bytes())
        assert [] == seen(bench.database, trashed)


@on_reactor
async def test_a_block_that_is_gone_already_is_confirmed(reactor: Any, tmp_path: Path) -> None:
    """Deleting by hand is allowed."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        bench.node(1).block("a-0").unlink()
        await round_after(bench, GRACE_SECONDS)
        assert [] == seen(bench.database, trashed)


# Uploads


@on_reactor
async def test_a_silent_upload_is_given_up(reactor: Any, tmp_path: Path) -> None:
    """A day after its client's last sign of life; its blocks then have their grace period."""
    async with on_a_bench(reactor, tmp_path) as bench:
        planned = bench.plan("a", b"x", (1,))
        await round_after(bench, DAY_SECONDS - 1)
        assert [planned] == seen(bench.database, open_plans, "a")
        done(bench.database, touch_plan, planned.generation, bench.time.seconds())
        await round_after(bench, DAY_SECONDS - 1)
        assert [planned] == seen(bench.database, open_plans, "a")
        await round_after(bench, 1)
        assert [] == seen(bench.database, open_plans, "a")
        await round_after(bench, GRACE_SECONDS - 1)
        assert [["a-0"], []] == there(bench)
        await round_after(bench, 1)
        assert [[], []] == there(bench)


@on_reactor
async def test_a_complete_upload_that_is_over_its_quota_is_given_up(reactor: Any, tmp_path: Path) -> None:
    """Stored by hand in place of a file that has another name by now: it is not asked about for ever."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.put("a", b"x", (1,))
        done(bench.database, set_quota, "", 1, None)
        bench.plan("a", b"y", (1,), explicit=False)
        done(bench.database, rename_file, "a", "b", bench.trash.due())
        await round_after(bench, DAY_SECONDS)
        assert [] == seen(bench.database, open_plans, "a")
        await round_after(bench, GRACE_SECONDS)
        assert [["a-0"], []] == there(bench)


# Data servers that do not answer


@on_reactor
async def test_a_data_server_that_is_not_up_does_not_hold_up_others(reactor: Any, tmp_path: Path) -> None:
    """Its trash is kept, and it is not even asked."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        await bench.down(1)
        await round_after(bench, GRACE_SECONDS)
        assert [["a-0"], []] == there(bench)
        assert [("a-0", 1)] == seen(bench.database, trashed)
        bench.node(1).start()
        await round_after(bench, GRACE_SECONDS)
        assert ["a-0"] == bench.node(1).block_ids()  # nobody has seen it yet
        await bench.health.round()
        await round_after(bench, 0)
        assert [[], []] == there(bench)


@on_reactor
async def test_a_data_server_that_failed_is_left_alone_for_a_while(reactor: Any, tmp_path: Path) -> None:
    """It is not asked again every second, while others are."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        await bench.node(1).stop()
        await round_after(bench, GRACE_SECONDS)
        bench.node(1).start()
        bench.put("b", b"x", (1, 2))
        done(bench.database, delete_file, "b", 0)
        await round_after(bench, 29)
        assert [["a-0", "b-0"], []] == there(bench)
        await round_after(bench, 1)
        assert [[], []] == there(bench)


@on_reactor
async def test_trash_is_retried_until_it_is_confirmed(reactor: Any, tmp_path: Path) -> None:
    """However often its data server does not answer: nothing comes back from the dead."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        await bench.node(1).stop()
        for _ in range(3):
            await round_after(bench, 40 * DAY_SECONDS)
        assert [("a-0", 1)] == seen(bench.database, trashed)
        bench.node(1).start()
        await round_after(bench, 31)
        assert [[], []] == there(bench)
        assert [] == seen(bench.database, trashed)


@on_reactor
async def test_nothing_is_deleted_before_anybody_was_heard_from(reactor: Any, tmp_path: Path) -> None:
    """The catalog may be older than its data: only a data server can tell."""
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        bench.monotonic.now += GRACE_SECONDS
        bench.stop()
        bench.start()
        bench.monotonic.now += GRACE_SECONDS
        await bench.trash.round()
        assert ([["a-0"], ["a-0"]], []) == (there(bench), seen(bench.database, trashed))
        await bench.health.round()
        await bench.trash.round()
        assert [[], []] == there(bench)


@on_reactor
async def test_much_trash_of_a_silent_server_does_not_starve_another(reactor: Any, tmp_path: Path) -> None:
    """Each data server has a queue of its own."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await bench.node(1).stop()
        store(bench.database, "large", 7 * 1500, (1,))
        done(bench.database, delete_file, "large", bench.trash.due())
        bench.monotonic.now += 1
        bench.put("b", b"x", (2,))
        done(bench.database, delete_file, "b", bench.trash.due())
        await round_after(bench, GRACE_SECONDS)
        await round_after(bench, 1)
        assert [[], []] == there(bench)
        assert 1500 == len(seen(bench.database, due_trash, 1, DUE, 10_000))


@on_reactor
async def test_what_cannot_be_deleted_does_not_starve_what_can(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of it has waited longest."""
    monkeypatch.setattr("filefly.meta.trash._BATCH", 1)
    async with on_a_bench(reactor, tmp_path) as bench:
        give_up(bench, "a")
        bench.node(1).block("a-0").unlink()
        bench.node(1).block("a-0").mkdir()
        await round_after(bench, 1)
        give_up(bench, "b")
        await round_after(bench, GRACE_SECONDS)
        await round_after(bench, 1)
        assert [["a-0"], []] == there(bench)


@on_reactor
async def test_a_great_deal_of_trash_goes_in_parts(reactor: Any, tmp_path: Path) -> None:
    """No transaction takes everything at once, but all goes, and in as many rounds."""
    async with on_a_bench(reactor, tmp_path) as bench:
        for name in "abc":
            store(bench.database, name, 7 * 800, (1,))
            done(bench.database, delete_file, name, 0)
        left = []
        for _ in range(4):
            await round_after(bench, 1)
            left.append((len(seen(bench.database, ended)), seen(bench.database, count_rows, trash)))
        assert [(1, 600), (0, 400), (0, 0), (0, 0)] == left


# Over restarts


async def delete(cluster: RunningCluster) -> None:
    """Store a file and delete it."""
    async with cluster.calling() as caller:
        await put(cluster, caller, "a", b"x")
        assert {"status": "ok"} == await caller.ask(command="delete_file", file_name="a")


@on_reactor
async def test_a_restart_goes_on(reactor: Any, tmp_path: Path) -> None:
    """With the part of the grace period that has passed, whatever the monotonic clock shows then."""
    monotonic = Monotonic()
    async with running(reactor, tmp_path, 1, monotonic=monotonic) as cluster:
        await delete(cluster)
        monotonic.now += GRACE_SECONDS - 100
        await cluster.stop_meta()
        monotonic.now = 3.0
        cluster.start_meta()
        monotonic.now += 99
        await cluster.collect_trash()
        assert ["a-0"] == cluster.block_ids()
        monotonic.now += 1
        await cluster.collect_trash()
        assert [] == cluster.block_ids()


@on_reactor
async def test_a_crash_costs_a_minute_of_waiting_at_most(reactor: Any, tmp_path: Path) -> None:
    """What was not saved is waited for again: never deleted early."""
    async with on_a_bench(reactor, tmp_path) as bench:
        for _ in range(10):
            await round_after(bench, 59)
            saved = seen(bench.database, catalog_row).running_seconds
            assert bench.time.seconds() - 60 < saved <= bench.time.seconds()


# Its loop


async def turn_until(clock: Clock, there: Any) -> None:
    """Let the seconds of `clock` pass, and the reactor work, until what is waited for is there."""
    while not there():
        clock.advance(1)
        await next_turn()


@on_reactor
async def test_the_loop_goes_round_every_second_and_saves_its_time(reactor: Any, tmp_path: Path) -> None:
    """From `start` until `stop`, which waits for the round under way."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.trash.start()
        give_up(bench, "a")
        bench.monotonic.now += GRACE_SECONDS
        await turn_until(bench.clock, lambda: [[], []] == there(bench))
        bench.monotonic.now += 5
        await bench.trash.stop()
        assert GRACE_SECONDS + 5 == seen(bench.database, catalog_row).running_seconds
        assert [] == bench.clock.getDelayedCalls()


@on_reactor
async def test_a_failing_round_is_logged_and_repeated(
    reactor: Any, tmp_path: Path, logged_failures: list[Failure]
) -> None:
    """The catalog may be out of order for a while."""
    async with on_a_bench(reactor, tmp_path) as bench:
        rename = "ALTER TABLE {} RENAME TO {}"
        statement(bench.database, rename.format("trash", "hidden"))
        bench.trash.start()
        await turn_until(bench.clock, lambda: bool(logged_failures))
        assert "no such table: trash" in logged_failures[0].getErrorMessage()
        statement(bench.database, rename.format("hidden", "trash"))
        give_up(bench, "a")
        bench.monotonic.now += GRACE_SECONDS
        await turn_until(bench.clock, lambda: [[], []] == there(bench))
        await bench.trash.stop()
        logged_failures.clear()


def statement(database: Database, text: str) -> None:
    done(database, lambda connection: connection.exec_driver_sql(text) and None)


@pytest.mark.parametrize("grace", [0, GRACE_SECONDS])
def test_trash_is_due_after_grace(grace: int) -> None:
    """In running time."""
    nothing: Any = None
    collector = TrashCollector(Clock(), nothing, nothing, nothing, RunningTime(Monotonic(), 42), grace, 0, nothing)
    assert 42 + grace == collector.due()
