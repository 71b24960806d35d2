import errno
from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure

from filefly.catalog.endings import delete_file, forget_trash, let_go
from filefly.catalog.inventory import forget_data_server, resume, suspend
from filefly.catalog.repairs import Place
from filefly.catalog.replicas import mark, settle_repair
from filefly.catalog.schema import trash
from filefly.errors import BadRequest, Conflict, FileFlyError, Internal, Unavailable
from tests.catalog.catalogs import done
from tests.meta.healing import DOWN, Healing, healing, once, raising
from tests.on_reactor import next_turn, on_reactor

DATA = b"precious"  # two blocks
SECOND = "a-1"


async def hinted(run: Healing) -> None:
    """Wait until all hints were looked into."""
    while run.checker._hints:
        await next_turn()


@on_reactor
async def test_a_good_replica_is_fine(reactor: Any, tmp_path: Path) -> None:
    """Nothing is noted."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        assert await run.checker.check(run.block(stored, 1), 2) is None
        assert [] == run.queue()


@on_reactor
async def test_a_missing_replica_is_marked_and_noted(reactor: Any, tmp_path: Path) -> None:
    """For repair at once; nothing is moved."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.lose(2, SECOND)
        assert "missing" == await run.checker.check(run.block(stored, 1), 2)
        assert {2: "missing"} == run.block(stored, 1).bad
        assert [(stored.generation, 1, 1, 0)] == run.queue()
        assert [] == run.cluster.quarantined


@pytest.mark.parametrize("data", [b"t", b"", b"ss", b"r"])
@on_reactor
async def test_a_corrupt_replica_is_moved_away_marked_and_noted(reactor: Any, tmp_path: Path, data: bytes) -> None:
    """Whether it was changed, cut short or has become longer."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.blocks[2][SECOND] = data
        assert "corrupt" == await run.checker.check(run.block(stored, 1), 2)
        assert {2: "corrupt"} == run.block(stored, 1).bad
        assert [(stored.generation, 1, 1, 0)] == run.queue()
        assert [(2, SECOND)] == run.cluster.quarantined
        assert [1] == run.holders(SECOND)


@on_reactor
async def test_what_is_known_to_be_bad_is_noted_again(reactor: Any, tmp_path: Path) -> None:
    """It may have been out of the queue, while its file was deleted, say."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.lose(2, SECOND)
        for _ in range(2):
            assert "missing" == await run.checker.check(run.block(stored, 1), 2)
            assert [(stored.generation, 1, 1, 0)] == run.queue()
            done(run.database, settle_repair, Place(stored.generation, 1), run.block(stored, 1))


@on_reactor
async def test_a_replica_that_is_good_again_is_said_to_be(reactor: Any, tmp_path: Path) -> None:
    """Somebody has put the block file back."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        done(run.database, mark, Place(stored.generation, 1), 2, "missing")
        assert await run.checker.check(run.block(stored, 1), 2) is None
        assert {} == run.block(stored, 1).bad


@on_reactor
async def test_a_look_without_reading_finds_what_is_missing_or_cut_short(reactor: Any, tmp_path: Path) -> None:
    """But neither flipped bits, nor does it clear what a reading has found."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        first, second = run.block(stored, 0), run.block(stored, 1)
        run.flip(2, "a-0")
        assert await run.checker.check(first, 2, verify=False) is None
        run.cluster.blocks[2][SECOND] = b""
        assert "corrupt" == await run.checker.check(second, 2, verify=False)
        done(run.database, mark, first.place, 2, "corrupt")
        assert await run.checker.check(run.block(stored, 0), 2, verify=False) is None
        assert {2: "corrupt"} == run.block(stored, 0).bad


@on_reactor
async def test_who_cannot_be_asked_has_nothing_held_against_him(reactor: Any, tmp_path: Path) -> None:
    """It may have the block all the same."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.become(s2=DOWN)
        with pytest.raises(Unavailable):
            await run.checker.check(run.block(stored, 1), 2)
        assert {} == run.block(stored, 1).bad


@on_reactor
async def test_a_block_that_the_disk_cannot_read_is_corrupt(reactor: Any, tmp_path: Path) -> None:
    """A bad sector is an error of the data server, and the commonest damage there is."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        unreadable = raising(Internal(f"cannot read the block: {errno.EIO}"), 2, SECOND)

        async def move(server: int, block_id: str) -> None:
            run.flip(server, block_id)

        run.cluster.before = {"find": unreadable, "quarantine": move}
        assert "corrupt" == await run.checker.check(run.block(stored, 1), 2)
        assert {2: "corrupt"} == run.block(stored, 1).bad
        assert [(2, SECOND)] == run.cluster.quarantined


@on_reactor
async def test_what_can_neither_be_read_nor_moved_is_corrupt_too(reactor: Any, tmp_path: Path) -> None:
    """After such errors a file system is often read-only."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        broken = raising(Internal("cannot do that"), 2, SECOND)
        run.cluster.before = {"find": broken, "quarantine": broken}
        assert "corrupt" == await run.checker.check(run.block(stored, 1), 2)
        assert {2: "corrupt"} == run.block(stored, 1).bad


@on_reactor
async def test_a_failure_that_has_passed_is_none(reactor: Any, tmp_path: Path) -> None:
    """The data server looks again before it moves anything."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.cluster.before["find"] = raising(Internal("cannot read the block"))
        assert await run.checker.check(run.block(stored, 1), 2) is None
        assert {} == run.block(stored, 1).bad
        assert [1, 2] == run.holders(SECOND)


@on_reactor
async def test_a_block_that_disappears_before_it_is_moved_is_missing(reactor: Any, tmp_path: Path) -> None:
    """Somebody deleted it by hand just then."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.flip(2, SECOND)
        run.cluster.before["quarantine"] = once(lambda: run.lose(2, SECOND))
        assert "missing" == await run.checker.check(run.block(stored, 1), 2)


@on_reactor
async def test_a_new_files_block_of_the_same_id_is_left_alone(reactor: Any, tmp_path: Path) -> None:
    """While one looks, the file may be deleted for good and its short ids be given to a new one."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        block = run.block(stored, 1)

        def replace() -> None:
            done(run.database, delete_file, "a", 0)
            done(run.database, let_go, 1, 100)
            keys = [row[0] for row in run.database.read(lambda c: c.execute(trash.select()).all())]
            done(run.database, forget_trash, keys)
            again = run.store("a", b"PRECIOUS", (1, 2))
            assert SECOND == again.blocks[1].id

        run.cluster.before["find"] = once(replace)
        await run.checker.check(block, 2)
        assert [] == run.cluster.quarantined
        assert [1, 2] == run.holders(SECOND)


@on_reactor
async def test_a_replica_that_was_given_up_meanwhile_is_not_missed(reactor: Any, tmp_path: Path) -> None:
    """Nothing is noted of it."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))

        def delete() -> None:
            done(run.database, delete_file, "a", 0)
            run.lose(2, SECOND)

        run.cluster.before["find"] = once(delete)
        assert await run.checker.check(run.block(stored, 1), 2) is None
        assert [] == run.queue()


@on_reactor
async def test_a_data_server_that_was_retired_meanwhile_cannot_be_asked(reactor: Any, tmp_path: Path) -> None:
    """What was read before it was is still looked at."""
    async with healing(reactor, tmp_path) as run:
        block = run.block(run.store("a", DATA, (1, 2)), 1)
        run.cluster.take(done(run.database, forget_data_server, 2))
        with pytest.raises(Unavailable, match="not known any more"):
            await run.checker.check(block, 2)


@on_reactor
async def test_what_an_older_catalog_does_not_know_is_not_moved(reactor: Any, tmp_path: Path) -> None:
    """A block of another content may be that of a newer file with the same short ids."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.flip(2, SECOND)
        done(run.database, suspend, "it is old", 1000)
        with pytest.raises(Conflict, match="older than its data: nothing is moved"):
            await run.checker.check(run.block(stored, 1), 2)
        assert ([], [], {}) == (run.cluster.quarantined, run.queue(), run.block(stored, 1).bad)
        done(run.database, resume)
        assert "corrupt" == await run.checker.check(run.block(stored, 1), 2)


# Hints


@on_reactor
async def test_a_hint_is_looked_into(reactor: Any, tmp_path: Path) -> None:
    """What is found is noted: what is corrupt, not what was hinted at."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))
        run.flip(2, SECOND)
        run.checker.hint(SECOND, "localhost:9002")
        await hinted(run)
        assert {2: "corrupt"} == run.block(stored, 1).bad
        assert [(stored.generation, 1, 1, 0)] == run.queue()


@pytest.mark.parametrize(
    ("block_id", "told"),
    [
        (SECOND, "localhost:9001"),  # a good one
        (SECOND, "localhost:9003"),  # a data server that does not have it
        (SECOND, "localhost:9009"),  # one that is not known
        (SECOND, ""),
        ("a-7", "localhost:9002"),
        ("b-0", "localhost:9002"),
        ("what?", "localhost:9002"),
    ],
)
@on_reactor
async def test_wrong_hints_change_nothing(reactor: Any, tmp_path: Path, block_id: str, told: str) -> None:
    """Whatever they name."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", DATA, (1, 2))
        run.checker.hint(block_id, told)
        await hinted(run)
        assert [] == run.queue()
        assert [] == run.cluster.quarantined
        assert [1, 2] == run.holders(SECOND)


@on_reactor
async def test_a_hint_about_a_block_that_nobody_has_asks_nobody(reactor: Any, tmp_path: Path) -> None:
    """It costs a look into the catalog, and for an unknown address not even that."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", DATA, (1,))
        for block_id, told in [("a-7", "localhost:9001"), (SECOND, "localhost:9002"), (SECOND, "far:1")]:
            run.checker.hint(block_id, told)
        await hinted(run)
        assert [] == run.cluster.asked


@pytest.mark.parametrize("block_id", ["", "a" * 1025, "a\n-0", "../a-0"])
@on_reactor
async def test_a_hint_about_no_block_id_is_refused(reactor: Any, tmp_path: Path, block_id: str) -> None:
    """It would only take memory."""
    async with healing(reactor, tmp_path) as run:
        with pytest.raises(BadRequest, match="block_id"):
            run.checker.hint(block_id, "localhost:9001")
        assert {} == run.checker._hints


@on_reactor
async def test_hints_are_few_at_once_and_each_is_looked_into_once(reactor: Any, tmp_path: Path) -> None:
    """However many come: each may cost a data server the reading of a whole block."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", b"1234567" * 300, (1, 2, 3))
        under_way, most = set[str](), list[int]()

        async def begun(_server: int, block_id: str) -> None:
            under_way.add(block_id)
            most.append(len(under_way))
            for _ in range(5):
                await next_turn()

        async def ended(_server: int, block_id: str) -> None:
            under_way.discard(block_id)

        run.cluster.before["find"], run.cluster.after["find"] = begun, ended
        for _ in range(2):
            for position in range(300):
                run.checker.hint(f"a-{position}", "localhost:9001")
        await hinted(run)
        assert 300 == len(run.cluster.asked)
        assert 1 < max(most) <= 4


@on_reactor
async def test_too_many_hints_are_forgotten(reactor: Any, tmp_path: Path) -> None:
    """They are only hints."""
    async with healing(reactor, tmp_path) as run:
        for position in range(2000):
            run.checker.hint(f"a-{position}", "localhost:9001")
        assert 1000 == len(run.checker._hints)
        await hinted(run)


@pytest.mark.parametrize("error", [Unavailable("gone"), FileFlyError("a newer server's error")])
@on_reactor
async def test_a_hint_that_cannot_be_looked_into_is_let_go(reactor: Any, tmp_path: Path, error: FileFlyError) -> None:
    """The scrub comes by later."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", DATA, (1, 2))
        run.cluster.before["find"] = raising(error)
        run.checker.hint(SECOND, "localhost:9002")
        await hinted(run)
        assert [] == run.queue()


@on_reactor
async def test_hints_are_given_up_at_the_end_without_a_word(reactor: Any, tmp_path: Path) -> None:
    """Those that are being looked into, and those that wait; the log has no failure."""
    async with healing(reactor, tmp_path) as run:
        run.store("a", b"1234567" * 20, (1, 2))
        for position in range(20):
            run.checker.hint(f"a-{position}", "localhost:9001")
        while not run.cluster.asked:
            await next_turn()
        run.checker.stop()
        assert {} == run.checker._hints


@on_reactor
async def test_a_failing_hint_is_logged(reactor: Any, tmp_path: Path, logged_failures: list[Failure]) -> None:
    """What should not happen is told, and the next hint is looked into."""
    async with healing(reactor, tmp_path) as run:
        stored = run.store("a", DATA, (1, 2))

        def fail() -> None:
            raise ZeroDivisionError

        run.cluster.before["find"] = once(fail)
        for _ in range(2):
            run.lose(2, SECOND) if SECOND in run.cluster.blocks[2] else None
            run.checker.hint(SECOND, "localhost:9002")
            await hinted(run)
        assert [ZeroDivisionError] == [failure.type for failure in logged_failures]
        assert {2: "missing"} == run.block(stored, 1).bad
        logged_failures.clear()
