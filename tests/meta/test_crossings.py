"""What happens in the middle of something else: commits, copies, removals and deletes that cross each other."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from filefly.catalog.commits import StoredReplicas
from filefly.catalog.endings import delete_file, undelete_file
from filefly.catalog.inventory import forget_data_server
from filefly.catalog.plans import committed_plan
from filefly.catalog.repairs import Place
from filefly.catalog.replicas import copied, plan_copy, stored_block
from filefly.catalog.schema import trash
from filefly.errors import FileFlyError, TimedOut
from filefly.meta.administration import Administration
from filefly.wire.administration import RemoveDataServer
from tests.catalog.catalogs import commit, confirm_all, done, let_all_go, plan, seen, trashed
from tests.meta.bench import DAY_SECONDS, GRACE_SECONDS, Monotonic, on_a_bench
from tests.meta.healing import healing
from tests.meta.running import asking, bytes_of, pass_time, plan_of, push, put, sum_of
from tests.on_reactor import next_turn, on_reactor


@on_reactor
async def test_slow_uploader_of_an_ended_plan_overwrites_a_newer_file(reactor: Any, tmp_path: Path) -> None:
    """A uploads for longer than the grace; meanwhile B deletes the name and stores it anew."""
    async with asking(reactor, tmp_path, data_servers=1, monotonic=Monotonic()) as (cluster, caller):
        slow = await plan_of(caller, "a", 14, explicit=True)
        await push(cluster, slow, b"A" * 14, only=[0])
        assert {"status": "ok"} == await caller.ask(command="delete_file", file_name="a")
        await pass_time(cluster, GRACE_SECONDS + 1)
        await pass_time(cluster, 1)
        await put(cluster, caller, "a", b"B" * 14)  # acknowledged
        await push(cluster, slow, b"A" * 14, only=[1])  # the first uploader knows of nothing
        assert b"B" * 14 == await bytes_of(caller, "a")


@on_reactor
async def test_a_file_committed_while_expiry_looks_at_it_stays(reactor: Any, tmp_path: Path) -> None:
    """Its last block came, and complete_file was acknowledged, between the look and the end of a silent plan."""
    async with on_a_bench(reactor, tmp_path) as bench:
        planned = plan(bench.database, "a", 7, (1,), explicit=False)
        bench.monotonic.now += DAY_SECONDS + 1
        await bench.health.round()
        look = bench.cluster.find

        async def find(server: int, block_id: str, verify: bool) -> Any:
            found = await look(server, block_id, verify)
            bench.node(1).put(block_id, b"1234567")
            if found is None:
                commit(bench.database, planned, bench.trash.due(), stored=[StoredReplicas(sum_of(b"1234567"), (1,))])
            return found

        bench.cluster.find = find  # type: ignore[method-assign]
        await bench.trash.round()
        assert planned.generation == seen(bench.database, committed_plan, "a").generation


@on_reactor
async def test_a_renamed_file_is_not_replaced_by_what_was_stored_before(reactor: Any, tmp_path: Path) -> None:
    """B was stored by hand and not looked at yet; then a is renamed to b."""
    async with asking(reactor, tmp_path, data_servers=1) as (cluster, caller):
        await put(cluster, caller, "a", b"renamed")
        by_hand = await plan_of(caller, "b", 7)
        await push(cluster, by_hand, b"by hand")
        assert {"status": "ok"} == await caller.ask(command="rename_file", file_name="a", new_name="b")
        assert b"renamed" == await bytes_of(caller, "b")


@on_reactor
async def test_a_late_copy_does_not_doom_a_newer_files_block(reactor: Any, tmp_path: Path) -> None:
    """With a short grace: the file goes, and its name is stored anew, before a copy is heard of."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", b"a block", (1,), replicas=2)
        run.note(stored)
        targets: list[int] = []

        async def renew(_source: int, target: int, block_id: str) -> None:
            if targets:
                return
            targets.append(target)
            done(run.database, delete_file, "a", 0)
            done(run.database, let_all_go)
            for held in run.cluster.blocks.values():
                held.pop(block_id, None)
            done(run.database, confirm_all)
            assert [] == run.trash()
            run.store("a", b"another", (target,))

        run.cluster.after["copy"] = renew
        await run.heal()
        assert 1 == len(targets)
        assert [] == [(i, s) for i, s in run.trash() if (i, s) == ("a-0", targets[0])]


@on_reactor
async def test_a_copy_planned_in_the_middle_of_a_removal_does_not_count(reactor: Any, tmp_path: Path) -> None:
    """The data server is forgotten between the plan of a copy and the copy's end."""
    async with healing(reactor, tmp_path) as run:
        first = run.store("z", b"a block", (1,), replicas=2)
        run.note(first)
        removed: list[int] = []
        unused: Any = None
        administration = Administration(run.transactions, run.cluster, unused, run.repairer, unused, unused, unused)
        write = run.transactions.write

        # Which server will be the target?
        order = [2, 3]
        target = order[(first.generation + 0) % 2]

        def written(change: Any, *args: Any) -> Any:
            if change is forget_data_server:
                removed.append(args[0])
                run.clock.advance(1000)  # just now the pace lets the copy go on
            return write(change, *args)

        run.transactions.write = written  # type: ignore[method-assign]
        run.repairer._next_copy = run.clock.seconds() + 5  # copies before have used up the rate
        healing_ = Deferred.fromCoroutine(run.repairer.round())
        while not run.clock.getDelayedCalls():
            await next_turn()
        address = run.cluster.servers[target].address
        await administration._remove(RemoveDataServer(str(address), lost=False))
        while not healing_.called:
            run.clock.advance(1)
            await next_turn()
        await run.heal(5)
        assert removed == [target]
        block = run.block(first)
        known = set(run.cluster.servers)
        assert 2 == len(set(block.good) & known), (block, known, run.queue(), run.trash())


@on_reactor
async def test_what_cannot_be_deleted_does_not_keep_other_trash(reactor: Any, tmp_path: Path) -> None:
    """Eight names that cannot be unlinked (here: folders), and one block that can."""
    async with on_a_bench(reactor, tmp_path) as bench:
        for number in range(8):
            (bench.node(1).folder / f"bad-{number}").mkdir()
            row = {"block_id": f"bad-{number}", "server": 1, "due": 0}
            done(bench.database, lambda c, row=row: c.execute(trash.insert().values(row)) and None)
        bench.put("a", b"x", (1,))
        done(bench.database, delete_file, "a", bench.trash.due())
        for _ in range(50):
            bench.monotonic.now += GRACE_SECONDS
            await bench.trash.round()
        assert ("a-0", 1) not in seen(bench.database, trashed)


@on_reactor
async def test_one_block_that_cannot_be_read_in_time_does_not_end_the_scrub(reactor: Any, tmp_path: Path) -> None:
    """A dying sector: each try takes longer than one waits."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", b"a block", (1, 2))
        run.store("b", b"b block", (1, 2))
        run.flip(1, "b-0")

        async def slow(server: int, block_id: str, *_args: Any) -> None:
            if (server, block_id) == (1, "a-0"):
                raise TimedOut("no answer for 120 seconds")

        run.cluster.before["find"] = slow
        for _ in range(200):
            run.now += 100
            await run.scrub()
        assert [(1, "b-0")] == run.cluster.quarantined


@on_reactor
async def test_trash_that_is_being_deleted_is_not_taken_back(reactor: Any, tmp_path: Path) -> None:
    """It fell due, its delete was sent, and only then a copy that was decided a second before is planned."""
    async with on_a_bench(reactor, tmp_path) as bench:
        stored = bench.put("a", b"1234567", (1,), replicas=2)
        bench.node(2).put("a-0", b"1234567")
        block = seen(bench.database, stored_block, Place(stored.generation, 0))
        assert block is not None
        decided = bench.time.seconds()
        row = {"block_id": "a-0", "server": 2, "due": decided + 1}
        done(bench.database, lambda c: c.execute(trash.insert().values(row)) and None)
        delete = bench.cluster.delete

        async def late(server: int, block_id: str) -> None:
            try:
                done(bench.database, plan_copy, block, 2, decided)
                await bench.cluster.copy("a-0", block.crc32c, 1, 2)
                done(bench.database, copied, block, 2, [], 0)
            except FileFlyError:
                pass
            await delete(server, block_id)

        bench.cluster.delete = late  # type: ignore[method-assign]
        bench.monotonic.now += 1
        await bench.trash.round()
        now = seen(bench.database, stored_block, Place(stored.generation, 0))
        there = {n for n in (1, 2) if "a-0" in bench.node(n).block_ids()}
        assert now is not None
        assert set(now.good) <= there


@on_reactor
async def test_undelete_does_not_promise_what_is_gone(reactor: Any, tmp_path: Path) -> None:
    """Its only data server was removed, which deleted files do not keep from being."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", b"a block", (1,))
        done(run.database, delete_file, "a", 10**6)
        unused: Any = None
        administration = Administration(run.transactions, run.cluster, unused, run.repairer, unused, unused, unused)
        await administration._remove(RemoveDataServer(str(run.cluster.servers[1].address), lost=False))
        with pytest.raises(FileFlyError):
            done(run.database, undelete_file, "a")


@on_reactor
async def test_a_confirmation_forgets_nothing_but_what_was_confirmed(reactor: Any, tmp_path: Path) -> None:
    """Keys of trash are given again: while a delete is under way, its data server is removed and other trash comes."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.put("b", b"y", (1,))
        row = {"block_id": "a-0", "server": 2, "due": 0}
        done(bench.database, lambda c: c.execute(trash.insert().values(row)) and None)
        delete = bench.cluster.delete

        async def interrupted(server: int, block_id: str) -> None:
            await delete(server, block_id)
            if server == 2:
                done(bench.database, forget_data_server, 2)
                done(bench.database, delete_file, "b", 0)
                done(bench.database, let_all_go)
                assert [("b-0", 1)] == seen(bench.database, trashed)

        bench.cluster.delete = interrupted  # type: ignore[method-assign]
        await bench.trash.round()
        bench.cluster.delete = delete  # type: ignore[method-assign]
        bench.monotonic.now += 60
        await bench.trash.round()
        assert [] == bench.node(1).block_ids()
