from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from filefly.catalog.database import Database
from filefly.catalog.inventory import forget_data_server, suspend
from filefly.catalog.repairs import FIRST, Place
from filefly.catalog.replicas import forget_replicas
from filefly.catalog.scrub_passes import ScrubPass, scrub_passes
from filefly.errors import FileFlyError, Internal, TimedOut, Unavailable
from tests.catalog.catalogs import done, plan, seen
from tests.meta.healing import DOWN, SCRUB_PERIOD, UP, Healing, healing, once, raising
from tests.on_reactor import next_turn, on_reactor

DATA = b"a block"
SPREAD = int(0.9 * SCRUB_PERIOD)
"""A pass ends a little before its time."""


def passes(database: Database) -> dict[int, ScrubPass]:
    return seen(database, scrub_passes)


def read(run: Healing) -> list[tuple[int, str]]:
    """Return what was read since this was last asked, in order."""
    found = [(args[0], args[1]) for question, *args in run.cluster.asked if question == "find"]
    run.cluster.asked.clear()
    return found


async def scrub_after(run: Healing, seconds: int) -> list[tuple[int, str]]:
    """Let time pass, the scrub go round once, and return what was read."""
    run.now += seconds
    await run.scrub()
    return read(run)


@on_reactor
async def test_a_pass_is_spread_over_its_period(reactor: Any, tmp_path: Path) -> None:
    """Ten blocks are read one by one; all within the period, in order."""
    async with healing(reactor, tmp_path, servers=1) as run:
        stored = run.store("a", DATA * 10, (1,))
        assert [] == await scrub_after(run, 0)
        found = [await scrub_after(run, SPREAD // 10) for _ in range(10)]
        assert [[(1, block.id)] for block in stored.blocks] == found


@on_reactor
async def test_every_data_servers_replicas_are_read(reactor: Any, tmp_path: Path) -> None:
    """Each has a pass of its own."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", DATA * 2, (1, 2))
        run.store("b", DATA, (3,))
        await run.scrub()
        found = await scrub_after(run, SCRUB_PERIOD)
        assert [(1, "a-0"), (1, "a-1"), (2, "a-0"), (2, "a-1"), (3, "b-0")] == sorted(found)
        assert [(2, 2), (2, 2), (1, 1)] == [(each.checked, each.total) for each in passes(run.database).values()]
        assert None not in [each.finished for each in passes(run.database).values()]


@on_reactor
async def test_when_the_period_is_over_the_next_pass_begins(reactor: Any, tmp_path: Path) -> None:
    """Not earlier; then all is read again."""
    async with healing(reactor, tmp_path, servers=1) as run:
        run.store("a", DATA, (1,))
        begun = int(run.now)
        await run.scrub()
        assert [(1, "a-0")] == await scrub_after(run, SPREAD)
        assert [] == await scrub_after(run, SCRUB_PERIOD - SPREAD - 1)
        assert begun == passes(run.database)[1].begun
        await scrub_after(run, 1)
        assert begun + SCRUB_PERIOD == passes(run.database)[1].begun
        assert [(1, "a-0")] == await scrub_after(run, SPREAD)


@on_reactor
async def test_it_goes_on_where_it_was_after_a_restart(reactor: Any, tmp_path: Path) -> None:
    """Nothing is read twice, and nothing left out."""
    async with healing(reactor, tmp_path, servers=1) as run:
        stored = run.store("a", DATA * 10, (1,))
        await run.scrub()
        found = await scrub_after(run, SPREAD // 2)
        run.stop()
        run.start()
        found += await scrub_after(run, SPREAD // 2)
        assert [(1, block.id) for block in stored.blocks] == found


@on_reactor
async def test_who_was_down_catches_up(reactor: Any, tmp_path: Path) -> None:
    """Within the period, if it is back in time."""
    async with healing(reactor, tmp_path, servers=1) as run:
        run.store("a", DATA * 10, (1,))
        await run.scrub()
        run.cluster.become(s1=DOWN)
        assert [] == await scrub_after(run, SPREAD // 2)
        run.cluster.become(s1=UP)
        assert 5 == len(await scrub_after(run, 0))


@on_reactor
async def test_a_pass_that_began_with_few_blocks_is_spread_all_the_same(reactor: Any, tmp_path: Path) -> None:
    """A new data server is filled in days; its blocks are not all read at the end, at once."""
    async with healing(reactor, tmp_path, servers=1) as run:
        await run.scrub()
        assert 0 == passes(run.database)[1].total
        run.store("a", DATA * 100, (1,))
        found = [len(await scrub_after(run, SPREAD // 100)) for _ in range(100)]
        assert 100 == sum(found)
        assert max(found) <= 3


@on_reactor
async def test_what_was_added_behind_is_read_too(reactor: Any, tmp_path: Path) -> None:
    """A pass ends when there is nothing more, and tells how much it was."""
    async with healing(reactor, tmp_path, servers=1) as run:
        run.store("a", DATA, (1,))
        await run.scrub()
        await scrub_after(run, SPREAD // 2)
        run.store("b", DATA * 2, (1,))
        assert [(1, "b-0"), (1, "b-1")] == await scrub_after(run, SPREAD)
        assert (3, 3) == (passes(run.database)[1].checked, passes(run.database)[1].total)


@on_reactor
async def test_open_plans_are_passed_by(reactor: Any, tmp_path: Path) -> None:
    """Nobody knows yet what their blocks should be."""
    async with healing(reactor, tmp_path, servers=1) as run:
        plan(run.database, "a", 70, (1,))
        run.store("b", DATA, (1,))
        await run.scrub()
        assert [(1, "b-0")] == await scrub_after(run, SCRUB_PERIOD)


@on_reactor
async def test_every_flipped_bit_is_found(reactor: Any, tmp_path: Path) -> None:
    """And what is missing, or too short; all of it is moved away, noted, and shown."""
    async with healing(reactor, tmp_path, servers=2) as run:
        stored = run.store("a", DATA * 50, (1, 2))
        for position in range(0, 50, 2):
            run.flip(1 + position % 4 // 2, f"a-{position}")
        run.lose(1, "a-1")
        run.cluster.blocks[2]["a-3"] = DATA[:-1]
        await run.scrub()
        await scrub_after(run, SCRUB_PERIOD)
        assert {"a-3", *(f"a-{position}" for position in range(0, 50, 2))} == {b for _, b in run.cluster.quarantined}
        assert [*range(0, 50, 2), 1, 3] == sorted(
            (position for _, position, _, _ in run.queue()), key=lambda position: (position in (1, 3), position)
        )
        assert {1: "missing"} == run.block(stored, 1).bad
        assert [14, 13] == [passes(run.database)[server].bad for server in (1, 2)]


@on_reactor
async def test_what_is_found_is_repaired(reactor: Any, tmp_path: Path) -> None:
    """The next pass finds nothing."""
    async with healing(reactor, tmp_path, servers=2) as run:
        run.store("a", DATA * 20, (1, 2))
        for position in range(20):
            run.flip(1 + position % 2, f"a-{position}")
        await run.scrub()
        await scrub_after(run, SCRUB_PERIOD)
        await run.heal()
        assert [{f"a-{position}": DATA for position in range(20)}] * 2 == [run.cluster.blocks[key] for key in (1, 2)]
        await run.scrub()
        await scrub_after(run, SCRUB_PERIOD)
        assert [0, 0] == [each.bad for each in passes(run.database).values()]


@on_reactor
async def test_a_block_that_cannot_be_read_does_not_hold_it_up(reactor: Any, tmp_path: Path) -> None:
    """It is bad, and the pass goes on."""
    async with healing(reactor, tmp_path, servers=1) as run:
        run.store("a", DATA * 3, (1,))
        broken = raising(Internal("cannot read the block"), 1, "a-1")
        run.cluster.before = {"find": broken, "quarantine": broken}
        await run.scrub()
        await scrub_after(run, SCRUB_PERIOD)
        assert (3, 1) == (passes(run.database)[1].checked, passes(run.database)[1].bad)


@on_reactor
async def test_what_differs_from_an_older_catalog_does_not_hold_it_up(reactor: Any, tmp_path: Path) -> None:
    """It is left alone, and what is missing behind it is found."""
    async with healing(reactor, tmp_path, servers=1) as run:
        stored = run.store("a", DATA * 3, (1,))
        run.flip(1, "a-0")
        run.lose(1, "a-2")
        done(run.database, suspend, "it is old", 1000)
        await run.scrub()
        await scrub_after(run, SCRUB_PERIOD)
        assert (3, 2) == (passes(run.database)[1].checked, passes(run.database)[1].bad)
        assert [{}, {1: "missing"}] == [run.block(stored, position).bad for position in (0, 2)]
        assert [] == run.cluster.quarantined


@pytest.mark.parametrize("error", [Unavailable("gone"), TimedOut()])
@on_reactor
async def test_a_data_server_that_cannot_be_asked_is_waited_for(
    reactor: Any, tmp_path: Path, error: FileFlyError
) -> None:
    """Nothing is said of its blocks, none of them is passed by, and other data servers go on."""
    async with healing(reactor, tmp_path, servers=2) as run:
        run.store("a", DATA * 3, (1, 2))
        run.cluster.before["find"] = raising(error, 1, "a-1")
        await run.scrub()
        await scrub_after(run, SCRUB_PERIOD)
        assert ScrubPass(begun=1000, total=3) == passes(run.database)[1]
        assert passes(run.database)[2].finished
        del run.cluster.before["find"]
        assert [(1, "a-0"), (1, "a-1"), (1, "a-2")] == await scrub_after(run, 0)
        assert [] == run.queue()


# Now


@on_reactor
async def test_a_hurried_pass_reads_everything_at_once(reactor: Any, tmp_path: Path) -> None:
    """It begins anew, of that data server alone; the one after it takes its time."""
    async with healing(reactor, tmp_path, servers=2) as run:
        stored = run.store("a", DATA * 200, (1, 2))
        await run.scrub()
        assert 200 == len(await scrub_after(run, SPREAD // 2))
        await run.scrubber.hurry(2)
        assert [(2, block.id) for block in stored.blocks] == await scrub_after(run, 0)
        assert passes(run.database)[2].finished
        assert [] == await scrub_after(run, 0)


@on_reactor
async def test_a_hurry_begins_in_the_middle_of_a_pass(reactor: Any, tmp_path: Path) -> None:
    """Also when some blocks are being read; what they were found to be counts for the earlier pass."""
    async with healing(reactor, tmp_path, servers=1) as run:
        run.store("a", DATA * 3, (1,))
        await run.scrub()
        hurried: list[Deferred[None]] = []
        run.cluster.before["find"] = once(lambda: hurried.append(Deferred.fromCoroutine(run.scrubber.hurry(1))))
        await scrub_after(run, SCRUB_PERIOD)
        await hurried[0]
        assert ScrubPass(begun=int(run.now), hurry=True, place=FIRST, total=3) == passes(run.database)[1]
        assert 3 == len(await scrub_after(run, 0))


@on_reactor
async def test_a_hurry_on_one_data_server_does_not_keep_others_waiting(reactor: Any, tmp_path: Path) -> None:
    """A round lasts for about a second."""
    async with healing(reactor, tmp_path, servers=2) as run:
        run.store("a", DATA * 1000, (1,))
        run.store("b", DATA, (2,))

        async def slow(_server: int, _block_id: str) -> None:
            run.clock.advance(0.1)

        run.cluster.before["find"] = slow
        await run.scrubber.hurry(1)
        assert 64 == len(await scrub_after(run, 0))
        await run.scrubber.hurry(2)
        assert (2, "b-0") in await scrub_after(run, 0)


@on_reactor
async def test_a_data_server_that_is_silent_keeps_no_other_waiting(reactor: Any, tmp_path: Path) -> None:
    """They go on while its answer is awaited, and it is asked nothing else meanwhile; its pass goes on with that."""
    async with healing(reactor, tmp_path, servers=2) as run:
        run.store("a", DATA * 3, (1, 2))
        answer: Deferred[None] = Deferred()

        async def silent(server: int, _block_id: str) -> None:
            if server == 1:
                await answer

        run.cluster.before["find"] = silent
        await run.scrubber.hurry(1)
        run.scrubber.start()
        while not run.cluster.asked:
            await next_turn()
        await run.scrubber.hurry(2)
        while not passes(run.database)[2].finished:
            run.clock.advance(1)
            await next_turn()
        assert [(1, "a-0"), (2, "a-0"), (2, "a-1"), (2, "a-2")] == read(run)
        answer.callback(None)
        while not passes(run.database)[1].finished:
            run.clock.advance(1)
            await next_turn()
        await run.scrubber.stop()
        assert [(1, "a-1"), (1, "a-2")] == read(run)


# Starting and stopping


@on_reactor
async def test_it_goes_round_every_second(reactor: Any, tmp_path: Path) -> None:
    """By itself, from `start` until `stop`."""
    async with healing(reactor, tmp_path, servers=1) as run:
        run.store("a", DATA, (1,))
        run.scrubber.start()
        await run.scrubber.hurry(1)
        while not passes(run.database)[1].finished:
            run.clock.advance(1)
            await next_turn()
        await run.scrubber.stop()
        assert [(1, "a-0")] == read(run)
        assert [] == run.clock.getDelayedCalls()


@on_reactor
async def test_it_stops_in_the_middle(reactor: Any, tmp_path: Path) -> None:
    """Without waiting for a data server that hangs, and without a word in the log."""
    async with healing(reactor, tmp_path, servers=2) as run:
        run.store("a", DATA * 3, (1, 2))
        hanging: list[Deferred[None]] = []

        async def hang(*_args: Any) -> None:
            hanging.append(Deferred())
            await hanging[-1]

        run.cluster.before["find"] = hang
        for server in (1, 2):
            await run.scrubber.hurry(server)
        run.scrubber.start()
        while len(hanging) < 2:
            await next_turn()
        await run.scrubber.stop()
        assert [] == run.clock.getDelayedCalls()
        assert [0, 0] == [each.checked for each in passes(run.database).values()]


@on_reactor
async def test_a_data_server_that_was_retired_meanwhile_is_done_with(reactor: Any, tmp_path: Path) -> None:
    """The round ends, and the next one does not look at it."""
    async with healing(reactor, tmp_path, servers=2) as run:
        run.store("a", DATA * 3, (1, 2))

        def retire() -> None:
            done(run.database, forget_replicas, 2, 10)
            run.cluster.take(done(run.database, forget_data_server, 2))

        await run.scrub()
        run.cluster.before["find"] = once(retire)
        await scrub_after(run, SCRUB_PERIOD)
        await scrub_after(run, 0)
        assert [1] == [*passes(run.database)]


@on_reactor
async def test_a_failing_round_is_logged_and_repeated(
    reactor: Any, tmp_path: Path, logged_failures: list[Failure]
) -> None:
    """What should not happen is told, and the scrub goes on."""
    async with healing(reactor, tmp_path, servers=1) as run:
        stored = run.store("a", DATA, (1,))

        def fail() -> None:
            raise ZeroDivisionError

        run.cluster.before["find"] = once(fail)
        await run.scrubber.hurry(1)
        run.scrubber.start()
        while not passes(run.database)[1].finished:
            run.clock.advance(1)
            await next_turn()
        await run.scrubber.stop()
        assert Place(stored.generation, 0) == passes(run.database)[1].place
        assert [ZeroDivisionError] == [failure.type for failure in logged_failures]
        logged_failures.clear()
