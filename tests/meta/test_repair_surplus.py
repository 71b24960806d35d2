"""What has too many replicas, or has them where they are not to stay."""

from pathlib import Path
from typing import Any

import pytest

from filefly.catalog.commits import Commit, StoredReplicas, commit_plan
from filefly.catalog.repairs import Place
from filefly.catalog.replicas import mark
from filefly.errors import DiskFull, Unavailable
from tests.catalog.catalogs import DUE, MODIFIED, done, ids_of, plan
from tests.meta.healing import AWAY, DOWN, FULL, UP, healing, once, raising
from tests.meta.running import sum_of
from tests.on_reactor import on_reactor

DATA = b"a block"
BLOCK = "a-0"


# Too many


@on_reactor
async def test_a_server_that_comes_back_makes_one_replica_too_many(reactor: Any, tmp_path: Path) -> None:
    """One goes, to the trash, after the others were read again."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        run.cluster.become(s2=UP)
        run.cluster.asked.clear()
        await run.heal()
        assert [(BLOCK, 3)] == run.trash()
        assert (1, 2) == run.block(stored).good
        assert {("find", 1, BLOCK), ("find", 2, BLOCK)} == {*run.cluster.asked}
        assert [] == run.displaced()
        assert [1, 2, 3] == run.holders(BLOCK)  # until the grace is over


@on_reactor
async def test_what_is_too_much_is_not_forgotten_while_the_others_do_not_answer(reactor: Any, tmp_path: Path) -> None:
    """A server comes back when nobody can verify the rest: its surplus goes once somebody can."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        run.cluster.become(s1=DOWN, s2=UP, s3=DOWN)
        await run.heal()
        assert [] == run.trash()
        run.cluster.become(s1=UP, s3=UP)
        await run.heal()
        assert 2 == len(run.block(stored).good)


@on_reactor
async def test_a_copy_in_the_trash_saves_a_block_whose_replicas_all_go_bad(reactor: Any, tmp_path: Path) -> None:
    """As long as its grace lasts, it is a replica again as soon as it is needed."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        run.cluster.become(s2=UP)
        await run.heal()
        assert [(BLOCK, 3)] == run.trash()
        for server, bad in ((1, "corrupt"), (2, "missing")):
            run.flip(server, BLOCK)
            done(run.database, mark, Place(stored.generation, 0), server, bad)
        await run.heal()
        assert (BLOCK, 3) not in run.trash()
        assert {3} < {*run.block(stored).good}
        assert 2 == len(run.block(stored).good)


@on_reactor
async def test_a_server_that_comes_back_with_a_bad_replica_keeps_the_copy(reactor: Any, tmp_path: Path) -> None:
    """It is found out before anything is given up."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        run.flip(2, BLOCK)
        run.cluster.become(s2=UP)
        await run.heal()
        assert (1, 3) == run.block(stored).good
        assert (1, 3) == run.block(stored).servers
        assert [(BLOCK, 2)] == run.trash()
        assert [(2, BLOCK)] == run.cluster.quarantined


@on_reactor
async def test_it_does_not_matter_who_is_bad_of_three(reactor: Any, tmp_path: Path) -> None:
    """Also when it is the one that was to remain."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=AWAY)
        await run.heal()
        run.lose(1, BLOCK)
        run.cluster.become(s2=UP)
        await run.heal()
        assert {2, 3} == {*run.block(stored).servers}


@on_reactor
async def test_nothing_is_given_up_while_the_others_cannot_be_read(reactor: Any, tmp_path: Path) -> None:
    """A data server that fails just then may be the one with the good replica."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2, 3), replicas=2)
        run.note(stored)
        run.cluster.before["find"] = raising(Unavailable("gone"), 1)
        await run.heal()
        assert [(stored.generation, 0, 3, int(run.now) + 30)] == run.queue()
        run.cluster.become(s1=DOWN)
        await run.heal()
        assert (1, 2, 3) == run.block(stored).good
        assert [] == run.trash()


@on_reactor
async def test_a_server_that_goes_while_replicas_are_read_is_not_counted(reactor: Any, tmp_path: Path) -> None:
    """It was verified, but a moment later it is down."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2, 3), replicas=2)
        run.note(stored)

        async def go(server: int, _block_id: str) -> None:
            if server == 2:
                run.cluster.become(s1=DOWN)

        run.cluster.after["find"] = go
        await run.heal(1)
        assert (1, 2, 3) == run.block(stored).good
        assert [] == run.trash()


@on_reactor
async def test_bad_replicas_that_are_not_needed_go(reactor: Any, tmp_path: Path) -> None:
    """Once as many good ones as wanted were read again."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2, 3), replicas=2)
        run.lose(2, BLOCK)
        done(run.database, mark, Place(stored.generation, 0), 2, "missing")
        await run.heal()
        assert (1, 3) == run.block(stored).servers
        assert [(BLOCK, 2)] == run.trash()


# Draining


@pytest.mark.parametrize("replicas", [1, 2])
@on_reactor
async def test_draining_moves_every_block_elsewhere(reactor: Any, tmp_path: Path, replicas: int) -> None:
    """Nothing names the data server then; what it had is trash."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA * 5, (2, 1)[:replicas])
        run.drain(2)
        await run.heal()
        blocks = [run.block(stored, position) for position in range(5)]
        assert [replicas] * 5 == [len(block.good) for block in blocks]
        assert [] == [block for block in blocks if 2 in block.servers]
        assert [(block_id, 2) for block_id in ids_of(stored)] == sorted(run.trash())


@on_reactor
async def test_the_last_good_replica_is_never_given_up(reactor: Any, tmp_path: Path) -> None:
    """Though its data server is drained, if nobody can take it."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1,))
        run.cluster.become(s2=DOWN, s3=FULL)
        run.drain(1)
        await run.heal()
        assert "no other data server can take a copy: each has one, is down, draining or full" == (
            await run.repairer.why_still_there(1)
        )
        assert (1,) == run.block(stored).good
        assert [] == run.trash()


@on_reactor
async def test_a_copy_that_rots_at_once_does_not_cost_the_last_good_replica(reactor: Any, tmp_path: Path) -> None:
    """It is read again before the draining server's is given up."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1,))
        run.drain(1)

        async def rot(_source: int, target: int, block_id: str) -> None:
            if not run.cluster.quarantined:
                run.flip(target, block_id)

        run.cluster.after["copy"] = rot
        await run.heal()
        assert 1 == len(run.cluster.quarantined)
        assert 1 == len(run.block(stored).good)
        assert DATA == run.cluster.blocks[run.block(stored).good[0]][BLOCK]


@on_reactor
async def test_what_is_committed_on_a_draining_server_later_moves_too(reactor: Any, tmp_path: Path) -> None:
    """Its plan was made before."""
    async with healing(reactor, tmp_path) as run:
        planned = plan(run.database, "a", 7, (1,))
        run.cluster.blocks[1] = {BLOCK: DATA}
        run.drain(1)
        await run.heal()
        assert ([], []) == (run.queue(), run.cluster.copies())
        commit = Commit(planned.generation, [StoredReplicas(sum_of(DATA), (1,))], MODIFIED)
        done(run.database, commit_plan, commit, DUE)
        await run.heal()
        assert 1 not in run.block(planned).servers


@on_reactor
async def test_a_drain_taken_back_leaves_things_as_wanted(reactor: Any, tmp_path: Path) -> None:
    """Also when that is in the middle of a copy."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1,))
        run.drain(1)
        run.cluster.after["copy"] = once(lambda: run.drain(1, draining=False))
        await run.heal()
        assert (1,) == run.block(stored).servers
        assert 1 == len(run.trash())


@on_reactor
async def test_two_servers_are_drained_at_once(reactor: Any, tmp_path: Path) -> None:
    """Neither gets what the other one has."""
    async with healing(reactor, tmp_path, servers=4) as run:
        stored = run.store("a", DATA * 4, (1, 2))
        for server in (1, 2):
            run.drain(server)
        await run.heal()
        assert [{3, 4}] * 4 == [{*run.block(stored, position).servers} for position in range(4)]


@on_reactor
async def test_it_is_told_why_a_drain_waits(reactor: Any, tmp_path: Path) -> None:
    """Of that data server's blocks, whatever else is stuck; and nothing is told while it goes on."""
    async with healing(reactor, tmp_path) as run:
        run.store("lost", DATA, (3,))
        run.store("a", DATA, (1,))
        run.cluster.become(s3=AWAY)
        run.drain(1)
        await run.repairer.round()
        assert await run.repairer.why_still_there(1) is None
        run.store("b", DATA, (1,))
        run.cluster.before["copy"] = raising(DiskFull("no room for that"))
        await run.heal()
        assert "no room for that" == await run.repairer.why_still_there(1)
