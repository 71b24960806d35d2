"""What has too few replicas, on simulated data servers; on real ones see test_self_healing."""

from pathlib import Path
from typing import Any

import pytest

from filefly.catalog.commits import Commit, StoredReplicas, commit_plan
from filefly.catalog.endings import delete_file, undelete_file
from filefly.catalog.repairs import FIRST, Place
from filefly.catalog.replicas import forget_replicas, mark, places_on
from filefly.errors import Busy, Conflict, Corrupt, DiskFull, FileFlyError, Internal, TimedOut, Unavailable
from filefly.meta.repair import _AT_ONCE
from tests.catalog.catalogs import DUE, MODIFIED, done, ids_of, plan
from tests.meta.healing import AWAY, DOWN, FULL, SUSPECT, UP, healing, raising
from tests.meta.running import sum_of
from tests.on_reactor import on_reactor

DATA = b"a block"
BLOCK = "a-0"


# Too few


@pytest.mark.parametrize("bad", ["missing", "corrupt"])
@on_reactor
async def test_a_bad_replica_is_copied_again_where_it_was(reactor: Any, tmp_path: Path, bad: str) -> None:
    """From a good one; then nothing is left to do."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 3))
        run.lose(3, BLOCK)
        done(run.database, mark, Place(stored.generation, 0), 3, bad)
        await run.heal()
        assert [(1, 3, BLOCK)] == run.cluster.copies()
        assert ((1, 3), {}) == (run.block(stored).servers, run.block(stored).bad)
        assert [] == run.queue()


@on_reactor
async def test_what_was_stored_too_seldom_is_copied(reactor: Any, tmp_path: Path) -> None:
    """A data server failed during the upload."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 3), stored=(1,))
        await run.heal()
        assert 2 == len(run.block(stored).good)
        assert [(BLOCK, 3)] == run.trash()  # what may still turn up there
        assert [1, 2] == run.holders(BLOCK)


@on_reactor
async def test_the_blocks_of_a_server_that_is_away_are_copied_elsewhere(reactor: Any, tmp_path: Path) -> None:
    """Only once it is away, not while it is suspect or down."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA * 3, (1, 2))
        for state in (SUSPECT, DOWN):
            run.cluster.become(s2=state)
            await run.heal()
            assert [] == run.cluster.copies()
        run.cluster.become(s2=AWAY)
        await run.heal()
        assert [(1, 3, block_id) for block_id in ids_of(stored)] == sorted(run.cluster.copies())
        assert [2] == run.displaced()
        assert [] == run.queue()
        assert (1, 2, 3) == run.block(stored).servers


@on_reactor
async def test_a_file_committed_after_its_server_was_walked_over_is_repaired(reactor: Any, tmp_path: Path) -> None:
    """An upload that began before the server went away ends long after it."""
    async with healing(reactor, tmp_path) as run:
        planned = plan(run.database, "a", 7, (1, 2))
        run.cluster.blocks[1] = {BLOCK: DATA}
        run.cluster.become(s2=AWAY)
        await run.heal()
        assert [] == run.queue()
        commit = Commit(planned.generation, [StoredReplicas(sum_of(DATA), (1, 2))], MODIFIED)
        done(run.database, commit_plan, commit, DUE)
        await run.heal()
        assert [1, 3] == run.holders(BLOCK)


@on_reactor
async def test_a_file_brought_back_after_its_server_was_walked_over_is_repaired(reactor: Any, tmp_path: Path) -> None:
    """It was deleted when its server went away."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        done(run.database, delete_file, "a", DUE)
        run.cluster.become(s2=AWAY)
        await run.heal()
        done(run.database, undelete_file, "a")
        await run.heal()
        assert (1, 2, 3) == run.block(stored).good


@on_reactor
async def test_walking_over_a_dead_servers_blocks_again_costs_nothing(reactor: Any, tmp_path: Path) -> None:
    """Those that have enough replicas elsewhere are not noted again, nor asked for."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", DATA * 3, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        run.cluster.asked.clear()
        await run.heal(5)
        assert [] == run.cluster.asked


@on_reactor
async def test_a_dead_servers_blocks_are_walked_over_once_a_round(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches of them are repaired in it."""
    monkeypatch.setattr("filefly.meta.repair._WALKED_AT_ONCE", 10)
    monkeypatch.setattr("filefly.meta.repair._BATCH", 2)
    walked: list[Place] = []

    def noting(connection: Any, server: int, after: Place, limit: int) -> list[Place]:
        walked.append(after)
        return places_on(connection, server, after, limit)

    monkeypatch.setattr("filefly.meta.repair.places_on", noting)
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA * 20, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal(1)
        assert 20 == len(run.cluster.copies())
        assert [FIRST, *(Place(stored.generation, position) for position in (9, 19))] == walked


@on_reactor
async def test_fewest_remaining_replicas_come_first(reactor: Any, tmp_path: Path) -> None:
    """In whatever order they were noted: it is among the first, which are begun at once."""
    async with healing(reactor, tmp_path) as run:
        two = run.store("two", DATA * 40, (1, 2), replicas=3)
        one = run.store("one", DATA, (1, 2), replicas=3)
        for position in range(40):
            run.note(two, position)
        run.lose(2, "one-0")
        done(run.database, mark, Place(one.generation, 0), 2, "missing")
        await run.heal()
        copied = [block_id for _, _, block_id in run.cluster.copies()]
        assert 42 == len(copied)
        assert copied.index("one-0") < _AT_ONCE


@on_reactor
async def test_a_second_loss_is_noticed_during_a_long_repair(reactor: Any, tmp_path: Path) -> None:
    """What has only one replica left is not kept waiting by all those that still have two."""
    async with healing(reactor, tmp_path, servers=5) as run:
        stored = run.store("a", DATA * 100, (1, 2, 3))
        worse = run.store("worse", DATA, (1, 4))
        run.cluster.become(s3=AWAY, s4=FULL)

        async def lose_another(*_args: Any) -> None:
            if len(run.cluster.copies()) == 10:
                run.cluster.become(s4=AWAY)

        run.cluster.before["copy"] = lose_another
        await run.heal(1)
        copied = [block_id for _, _, block_id in run.cluster.copies()]
        assert 101 == len(copied)
        assert copied.index("worse-0") < 64 + _AT_ONCE
        assert [4, 3] == [len(run.block(each).good) for each in (stored, worse)]


@on_reactor
async def test_copies_are_spread_over_the_data_servers(reactor: Any, tmp_path: Path) -> None:
    """All that are left share what a dead one had."""
    async with healing(reactor, tmp_path, servers=4) as run:
        run.store("a", DATA * 20, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        assert {3: 10, 4: 10} == {server: len(run.cluster.blocks[server]) for server in (3, 4)}


# What cannot be


@on_reactor
async def test_what_nobody_can_take_waits_until_that_changes(reactor: Any, tmp_path: Path) -> None:
    """For a data server that comes up, say; it is not asked for again and again until then."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.lose(2, BLOCK)
        run.cluster.become(s2=FULL, s3=DOWN)
        done(run.database, mark, Place(stored.generation, 0), 2, "missing")
        await run.heal()
        assert [(stored.generation, 0, 1, int(run.now) + 600)] == run.queue()
        run.cluster.become(s3=UP)
        await run.heal()
        assert [1, 3] == run.holders(BLOCK)


@on_reactor
async def test_a_lost_block_waits_for_a_good_replica(reactor: Any, tmp_path: Path) -> None:
    """Its rows are kept; the server that went away with the last one may come back."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.lose(1, BLOCK)
        done(run.database, mark, Place(stored.generation, 0), 1, "missing")
        run.cluster.become(s2=AWAY)
        await run.heal()
        assert [] == run.cluster.copies()
        run.cluster.become(s2=UP)
        await run.heal()
        assert [1, 2] == run.holders(BLOCK)
        assert [] == run.queue()


@on_reactor
async def test_what_is_stuck_keeps_nothing_else_from_being_repaired(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it is."""
    monkeypatch.setattr("filefly.meta.repair._LONGEST_QUEUE", 10)
    async with healing(reactor, tmp_path, servers=4) as run:
        run.store("many", DATA * 50, (1, 2, 3, 4))  # nowhere else to go
        lost = run.store("lost", DATA * 50, (1, 3, 4))
        for position in range(50):
            for server in (1, 3, 4):
                done(run.database, mark, Place(lost.generation, position), server, "missing")
        await run.heal()
        assert 50 == len(run.queue())
        run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        assert ["a-0"] == [block_id for _, _, block_id in run.cluster.copies()]
        assert 50 == len(run.queue())


@on_reactor
async def test_many_that_are_stuck_are_looked_at_seldom(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many a second at most."""
    monkeypatch.setattr("filefly.meta.repair._STUCK_SECONDS", 1)
    async with healing(reactor, tmp_path, servers=2) as run:
        run.store("a", DATA * 100, (1, 2))
        assert 100 == done(run.database, forget_replicas, 2, 1000)
        run.cluster.become(s2=DOWN)
        await run.heal(1)
        assert {int(run.now) + 100 // 20} == {due for _, _, _, due in run.queue()}


@pytest.mark.parametrize(
    "error", [DiskFull(), Unavailable("takes nothing"), Internal("failed"), TimedOut(), Busy(), Conflict("doomed")]
)
@on_reactor
async def test_another_data_server_takes_what_one_refuses(reactor: Any, tmp_path: Path, error: FileFlyError) -> None:
    """Though that seems to be well; the place that was planned there is given up again."""
    async with healing(reactor, tmp_path, servers=4) as run:
        stored = run.store("a", DATA, (1, 3))
        run.lose(3, BLOCK)
        done(run.database, mark, Place(stored.generation, 0), 3, "missing")
        run.cluster.before["copy"] = raising(error, 1, 3)
        await run.heal()
        [first, *others] = run.block(stored).good
        assert 1 == first
        assert 1 == len(others)
        assert {2, 4} >= {*others}
        assert [] == run.queue()
        assert [(BLOCK, 3)] == run.trash()


@on_reactor
async def test_a_failure_everywhere_is_tried_again(reactor: Any, tmp_path: Path) -> None:
    """Half a minute later; what was planned on the way does not count."""
    async with healing(reactor, tmp_path, servers=4) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)
        run.cluster.before["copy"] = raising(Unavailable("the network is down"))
        await run.heal()
        assert (1, 2) == run.block(stored).good
        assert [(stored.generation, 0, 1, int(run.now) + 30)] == run.queue()
        del run.cluster.before["copy"]
        run.now += 30
        await run.heal()
        assert 3 == len(run.block(stored).good)
        assert 2 == len(run.holders(BLOCK)) - run.holders(BLOCK).count(2)
        assert [] == run.queue()


@pytest.mark.parametrize("error", [Unavailable("unreachable from there"), TimedOut()])
@on_reactor
async def test_another_source_serves_where_one_cannot_be_reached(
    reactor: Any, tmp_path: Path, error: FileFlyError
) -> None:
    """The network may be cut between two data servers only."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2), replicas=3)
        run.note(stored)
        run.cluster.before["copy"] = raising(error, 1)
        await run.heal()
        assert [(1, 3, BLOCK), (2, 3, BLOCK)] == run.cluster.copies()
        assert (1, 2, 3) == run.block(stored).good


@pytest.mark.parametrize("damage", ["flip", "lose"])
@on_reactor
async def test_a_source_that_turns_out_to_be_bad_is_marked_and_another_taken(
    reactor: Any, tmp_path: Path, damage: str
) -> None:
    """Then it is repaired too."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2), replicas=3)
        run.note(stored)
        getattr(run, damage)(1, BLOCK)
        await run.heal()
        assert [1, 2, 3] == run.holders(BLOCK)
        assert [DATA] * 3 == [run.cluster.blocks[server][BLOCK] for server in (1, 2, 3)]
        assert {1, 2, 3} == {*run.block(stored).good}


@on_reactor
async def test_a_source_that_cannot_be_read_is_found_out(reactor: Any, tmp_path: Path) -> None:
    """The disk's error comes back through the data server that was to copy."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2), replicas=3)
        run.note(stored)
        unreadable = Internal("cannot read the block")
        run.cluster.before = {"copy": raising(unreadable, 1), "find": raising(unreadable, 1)}

        async def move(server: int, block_id: str) -> None:
            run.flip(server, block_id)

        run.cluster.before["quarantine"] = move
        await run.heal(1)
        assert [(1, BLOCK)] == run.cluster.quarantined
        assert 2 in run.block(stored).good
        assert 3 in run.block(stored).good


@on_reactor
async def test_when_every_replica_is_bad_none_is_forgotten(reactor: Any, tmp_path: Path) -> None:
    """All are in `.corrupt/`, where somebody may still save something."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2), replicas=3)
        run.note(stored)
        for server in (1, 2):
            run.flip(server, BLOCK)
        await run.heal()
        assert [(1, BLOCK), (2, BLOCK)] == sorted(run.cluster.quarantined)
        assert {1: "corrupt", 2: "corrupt"} == {s: b for s, b in run.block(stored).bad.items() if s != 3}
        assert [] == run.trash()


@on_reactor
async def test_a_copy_that_says_corrupt_though_the_source_is_good_is_tried_elsewhere(
    reactor: Any, tmp_path: Path
) -> None:
    """The network or the target has spoilt it."""
    async with healing(reactor, tmp_path, servers=4) as run:
        stored = run.store("a", DATA, (1,), replicas=2)
        run.note(stored)
        run.cluster.before["copy"] = raising(Corrupt(), 1, 3)
        await run.heal()
        assert 2 == len(run.block(stored).good)
        assert [] == run.cluster.quarantined
