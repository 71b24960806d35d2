"""What happens meanwhile: to files and data servers, to the pace, and to the metadata server."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from filefly.catalog.endings import delete_file
from filefly.catalog.inventory import forget_data_server
from filefly.catalog.repairs import Place, note_repairs
from filefly.catalog.replicas import forget_replicas, mark, plan_copy
from filefly.meta.placement import next_step
from filefly.meta.repair import _AT_ONCE
from filefly.wire.messages import MAX_BLOCK_SIZE
from tests.catalog.catalogs import done, store
from tests.meta.healing import AWAY, RATE, UP, healing, once
from tests.on_reactor import next_turn, on_reactor

DATA = b"a block"
BLOCK = "a-0"


# Meanwhile


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@on_reactor
async def test_a_file_that_goes_in_the_middle_takes_its_copy_along(reactor: Any, tmp_path: Path, how: str) -> None:
    """Nothing of it is left, and nothing is done for it any more."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)

        def go() -> None:
            if how == "deleted":
                done(run.database, delete_file, "a", 0)
            else:
                run.store("a", DATA, (1, 3))

        run.cluster.before["copy"] = once(go)
        await run.heal(1)
        assert [] == [row for row in run.queue() if row[0] == stored.generation]
        assert [] == run.trash()
        assert [1, 3] == [server for server in run.holders(BLOCK) if server != 2]


@on_reactor
async def test_a_replica_found_bad_in_the_last_moment_is_not_forgotten(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was decided that all is well, and a moment later it is not."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.note(stored)
        decided = 0

        def decide(*args: Any) -> Any:
            nonlocal decided
            decided += 1
            if decided == 1:
                run.lose(2, BLOCK)
                done(run.database, mark, Place(stored.generation, 0), 2, "missing")
            return next_step(*args)

        monkeypatch.setattr("filefly.meta.repair.next_step", decide)
        await run.heal()
        assert [1, 2] == run.holders(BLOCK)
        assert {} == run.block(stored).bad


@on_reactor
async def test_no_copy_goes_to_where_the_block_is_being_deleted(reactor: Any, tmp_path: Path) -> None:
    """Not until the data server has confirmed."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1,), replicas=2)
        run.put_trash(BLOCK, 2)
        run.note(stored)
        await run.heal()
        assert [(1, 3, BLOCK)] == run.cluster.copies()


@on_reactor
async def test_a_copy_whose_deletion_is_asked_for_meanwhile_does_not_count(reactor: Any, tmp_path: Path) -> None:
    """Somebody took it for a block that nobody knows."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1,), replicas=2)
        run.note(stored)
        targets: list[int] = []

        async def doom(_source: int, target: int, _block_id: str) -> None:
            if not targets:
                targets.append(target)
                run.put_trash(BLOCK, target)

        run.cluster.after["copy"] = doom
        await run.heal()
        assert 2 == len(run.block(stored).good)
        assert targets[0] not in run.block(stored).servers


@on_reactor
async def test_a_data_server_retired_meanwhile_is_done_without(reactor: Any, tmp_path: Path) -> None:
    """The target of a copy; another one takes it."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1,), replicas=2)
        run.note(stored)
        targets: list[int] = []

        async def retire(_source: int, target: int, _block_id: str) -> None:
            if not targets:
                targets.append(target)
                done(run.database, forget_replicas, target, 10)
                run.cluster.take(done(run.database, forget_data_server, target))

        run.cluster.after["copy"] = retire
        await run.heal()
        assert {1, 2, 3} - {*targets} == {*run.block(stored).good}


@on_reactor
async def test_a_replica_restored_by_hand_meanwhile_is_not_one_too_many(reactor: Any, tmp_path: Path) -> None:
    """It was marked as missing, and is found good."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        done(run.database, mark, Place(stored.generation, 0), 2, "missing")
        run.cluster.before["copy"] = once(lambda: done(run.database, mark, Place(stored.generation, 0), 2, None))
        await run.heal()
        assert (1, 2) == run.block(stored).good
        assert [1, 2] == run.holders(BLOCK)


# Its pace


@on_reactor
async def test_copies_keep_to_the_rate(reactor: Any, tmp_path: Path) -> None:
    """A block a second here, whatever is done at once."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", DATA * 20, (1, 2))
        run.cluster.become(s2=AWAY)
        when: list[float] = []

        async def note(*_args: Any) -> None:
            when.append(run.clock.seconds())

        run.cluster.before["copy"] = note
        await run.heal(1)
        assert 20 == len(when)
        assert all(bytes_by <= RATE * (at + 1) for at, bytes_by in zip(when, range(7, 141, 7), strict=True))


@on_reactor
async def test_small_blocks_do_not_make_large_ones_faster(reactor: Any, tmp_path: Path) -> None:
    """What was allowed for stays used up."""
    async with healing(reactor, tmp_path) as run:
        for number in range(10):
            run.store(f"a{number}", DATA + b"x", (1, 2))  # a whole block and one of a byte
        run.cluster.become(s2=AWAY)
        sizes: list[tuple[float, int]] = []

        async def note(source: int, _target: int, block_id: str) -> None:
            sizes.append((run.clock.seconds(), len(run.cluster.blocks[source][block_id])))

        run.cluster.before["copy"] = note
        await run.heal(1)
        assert 20 == len(sizes)
        assert [] == [
            (at, size) for at, size in sizes if sum(each for when, each in sizes if when <= at) > RATE * at + 7.001
        ]


@on_reactor
async def test_a_clock_that_was_set_back_does_not_stop_repair(reactor: Any, tmp_path: Path) -> None:
    """It waits for as long as the largest blocks under way could take."""
    async with healing(reactor, tmp_path) as run:
        run.repairer._next_copy = 10.0**9
        paced = Deferred.fromCoroutine(run.repairer._pace(7))
        assert not paced.called
        run.clock.advance(_AT_ONCE * MAX_BLOCK_SIZE / RATE)
        assert paced.called


# Starting and stopping


@on_reactor
async def test_it_goes_round_every_second(reactor: Any, tmp_path: Path) -> None:
    """By itself, from `start` until `stop`."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.repairer.start()
        run.lose(2, BLOCK)
        done(run.database, mark, Place(stored.generation, 0), 2, "missing")
        while run.queue():
            run.clock.advance(1)
            await next_turn()
        await run.repairer.stop()
        assert [1, 2] == run.holders(BLOCK)
        assert [] == run.clock.getDelayedCalls()


@pytest.mark.parametrize("question", ["copy", "find"])
@on_reactor
async def test_it_stops_in_the_middle(reactor: Any, tmp_path: Path, question: str) -> None:
    """Without waiting for a data server that hangs, and without a word in the log."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA * 9, (1, 2, 3), replicas=2)
        store(run.database, "b", 7 * 9, (1,))
        done(run.database, note_repairs, [Place(stored.generation, position) for position in range(9)])
        run.drain(3) if question == "find" else run.cluster.become(s2=AWAY, s3=AWAY)
        hanging: list[Any] = []

        async def hang(*_args: Any) -> None:
            hanging.append(Deferred())
            await hanging[-1]

        run.cluster.before[question] = hang
        if question == "copy":
            run.cluster.become(s3=UP)
            done(run.database, mark, Place(stored.generation, 0), 3, "missing")
        run.repairer.start()
        while not hanging:
            run.clock.advance(0.1)
            await next_turn()
        await run.repairer.stop()
        assert [] == run.clock.getDelayedCalls()


@on_reactor
async def test_it_stops_while_it_waits_for_its_pace(reactor: Any, tmp_path: Path) -> None:
    """At a low rate that is long."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", DATA * 9, (1, 2))
        run.cluster.become(s2=AWAY)
        run.repairer.start()
        while not run.cluster.copies():
            await next_turn()
        await run.repairer.stop()
        assert [] == run.clock.getDelayedCalls()


@on_reactor
async def test_a_restart_in_the_middle_of_a_copy_goes_on(reactor: Any, tmp_path: Path) -> None:
    """What was planned is what is done, and nothing is left that the catalog does not know."""
    async with healing(reactor, tmp_path, servers=4) as run:
        stored = run.store("a", DATA, (1,), replicas=2)
        run.note(stored)
        block = run.block(stored)
        done(run.database, plan_copy, block, 4, 0)
        run.cluster.blocks[4] = {BLOCK: DATA}  # it had come that far
        run.stop()
        run.start()
        await run.heal()
        assert (1, 4) == run.block(stored).good
        assert [1, 4] == run.holders(BLOCK)


@on_reactor
async def test_a_failing_round_is_logged_and_repeated(
    reactor: Any, tmp_path: Path, logged_failures: list[Failure]
) -> None:
    """What should not happen is told, and repair goes on."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1,), replicas=2)
        run.note(stored)

        def fail() -> None:
            raise ZeroDivisionError

        run.cluster.before["copy"] = once(fail)
        run.repairer.start()
        while len(run.holders(BLOCK)) < 2 or run.queue():
            run.clock.advance(1)
            await next_turn()
        await run.repairer.stop()
        assert [ZeroDivisionError] == [failure.type for failure in logged_failures]
        logged_failures.clear()
