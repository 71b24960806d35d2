"""Who only adds a file ends nobody else's work: others' uploads, and files that nobody has read yet."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from filefly.catalog.plans import Plan, committed_plan
from filefly.errors import Conflict, FileFlyError, Incomplete, Unavailable
from filefly.meta.commits import Committer
from filefly.security.keys import Keyring
from filefly.security.tokens import Role, Token, issue_token
from filefly.wire.batches import FileToComplete
from filefly.wire.messages import CompleteFile, Replica, StoredBlock
from tests.catalog.catalogs import MODIFIED, open_plans, seen
from tests.fuzz.running import quick_folder
from tests.meta.bench import DAY_SECONDS, Bench, on_a_bench, parts_of
from tests.meta.running import sum_of
from tests.on_reactor import on_reactor
from tests.rights.closed import ClosedCluster
from tests.rights.talking import KEY, Server, Talk

FIRST, SECOND, THIRD = b"0123456789", b"abcdefghij", b"ABCDEFGHIJ"


@define(eq=False)
class Adding:
    """A metadata server's parts, what commits plans among them."""

    bench: Bench
    committer: Committer

    def by_hand(self, data: bytes = FIRST, adds: bool = False, lacks: int | None = None, server: int = 1) -> Plan:
        """Plan `a`, and put its blocks on a data server: all, or all but the one that it `lacks`."""
        planned = self.bench.plan("a", data, (server,), explicit=False, if_generation=0 if adds else None)
        if lacks is not None:
            self.bench.node(server).block(planned.blocks[lacks].id).unlink()
        return planned

    def by_program(self, **fields: Any) -> Plan:
        """Upload `a`, but for its completion."""
        return self.bench.plan("a", SECOND, (2,), **{"if_generation": 0, **fields})

    async def complete(self, planned: Plan, **fields: Any) -> Plan:
        return await self.committer.complete(CompleteFile(generation=planned.generation, **fields))

    def file(self) -> int:
        """Return the generation that readers of `a` see."""
        return seen(self.bench.database, committed_plan, "a").generation

    def reports(self, planned: Plan) -> list[StoredBlock]:
        """Say where the blocks of an upload are."""
        places = [Replica(self.bench.cluster.servers[2].told)]
        parts = zip(planned.blocks, parts_of(SECOND), strict=True)
        return [StoredBlock(block.id, sum_of(part), places) for block, part in parts]


@asynccontextmanager
async def adding(reactor: Any, folder: Path) -> AsyncIterator[Adding]:
    """Run them, with two data servers, until the end of the block."""
    async with on_a_bench(reactor, folder) as bench:
        due = bench.trash.due
        yield Adding(bench, Committer(bench.transactions, bench.cluster, bench.time, lambda: MODIFIED, due))


# What was stored by hand, and not read yet


@pytest.mark.parametrize("reported", [False, True])
@pytest.mark.parametrize("asked", ["with the plan", "with the commit"])
@on_reactor
async def test_what_was_stored_by_hand_is_not_replaced(
    reactor: Any, tmp_path: Path, asked: str, reported: bool
) -> None:
    """It is a file, though nobody has read it: any look would have committed it."""
    async with adding(reactor, tmp_path) as here:
        hand = here.by_hand()
        with_plan = asked == "with the plan"
        upload = here.by_program(if_generation=0 if with_plan else None)
        blocks = here.reports(upload) if reported else []
        with pytest.raises(Conflict, match=rf"^the file has generation {hand.generation}, not 0$"):
            await here.complete(upload, blocks=blocks, if_generation=None if with_plan else 0)
        assert hand.generation == here.file()


@on_reactor
async def test_of_a_batch_none_replaces_what_was_stored_by_hand(reactor: Any, tmp_path: Path) -> None:
    """Each file of it is looked at."""
    async with adding(reactor, tmp_path) as here:
        hand, upload = here.by_hand(), here.by_program()
        file = FileToComplete(upload.generation, "a", here.reports(upload))
        assert [Conflict] == [type(outcome) for outcome in await here.committer.complete_each([file])]
        assert hand.generation == here.file()


@on_reactor
async def test_who_may_replace_a_file_does(reactor: Any, tmp_path: Path) -> None:
    """What was stored by hand before it is over."""
    async with adding(reactor, tmp_path) as here:
        here.by_hand()
        upload = here.by_program(if_generation=None)
        await here.complete(upload, blocks=here.reports(upload))
        assert (upload.generation, []) == (here.file(), seen(here.bench.database, open_plans, "a"))


@on_reactor
async def test_what_was_begun_by_hand_holds_nobody_up(reactor: Any, tmp_path: Path) -> None:
    """It is no file; later ones do not matter, either."""
    async with adding(reactor, tmp_path) as here:
        here.by_hand(lacks=1)
        upload = here.by_program()
        newer = here.by_hand(THIRD)
        await here.complete(upload, blocks=here.reports(upload))
        assert (upload.generation, [newer]) == (here.file(), seen(here.bench.database, open_plans, "a"))


@on_reactor
async def test_what_cannot_be_asked_about_is_not_replaced(reactor: Any, tmp_path: Path) -> None:
    """It may be complete; the upload can be completed later."""
    async with adding(reactor, tmp_path) as here:
        here.by_hand()
        upload = here.by_program()
        await here.bench.node(1).stop()
        with pytest.raises(Unavailable):
            await here.complete(upload, blocks=here.reports(upload))
        assert upload in seen(here.bench.database, open_plans, "a")


# Plans that commit themselves


@pytest.mark.parametrize(
    ("plans", "becomes"),
    [
        ([(False, True), (True, True)], 0),
        ([(True, True), (True, True)], 0),
        ([(True, True), (False, True)], 1),
        ([(False, False), (True, True)], 1),
        ([(True, False), (True, True), (True, True)], 1),
        ([(False, True), (True, True), (False, True), (True, True)], 2),
        ([(False, False), (True, False)], None),
    ],
    ids=str,
)
@on_reactor
async def test_the_oldest_that_only_adds_comes_last(
    reactor: Any, tmp_path: Path, plans: list[tuple[bool, bool]], becomes: int | None
) -> None:
    """Each is one that only adds or not, and complete or not: of those that may replace a file the newest wins."""
    async with adding(reactor, tmp_path) as here:
        made = [here.by_hand(adds=adds, lacks=None if complete else 0) for adds, complete in plans]
        found = await here.committer.look_up("a")
        assert (made[-1 if becomes is None else becomes].generation, becomes is not None) == (
            found.generation,
            found.committed,
        )


@on_reactor
async def test_what_only_adds_waits_until_others_can_be_asked_about(reactor: Any, tmp_path: Path) -> None:
    """Until then what is there is shown as open."""
    async with adding(reactor, tmp_path) as here:
        hand = here.by_hand()
        added = here.by_hand(SECOND, adds=True, server=2)
        await here.bench.node(1).stop()
        assert (added.generation, "pending") == ((found := await here.committer.look_up("a")).generation, found.state)
        with pytest.raises(Unavailable):
            await here.committer.settle(added.generation)
        here.bench.node(1).start()
        assert hand.generation == (await here.committer.look_up("a")).generation


@on_reactor
async def test_what_only_adds_replaces_nothing_at_its_end(reactor: Any, tmp_path: Path) -> None:
    """When nobody has looked for a day, what was stored first is the file, though it had a sign of life since."""
    async with adding(reactor, tmp_path) as here:
        hand = here.by_hand(lacks=1)
        added = here.by_hand(SECOND, adds=True)
        here.bench.monotonic.now += DAY_SECONDS - 1
        with pytest.raises(Incomplete):
            await here.complete(hand)
        here.bench.node(1).put(hand.blocks[1].id, FIRST[7:])
        here.bench.monotonic.now += 1
        await here.bench.trash.round()
        assert (hand.generation, []) == (here.file(), seen(here.bench.database, open_plans, "a"))
        with pytest.raises(FileFlyError, match=rf"^plan {added.generation} is not open"):
            await here.committer.settle(added.generation)


# Others' uploads


@define(eq=False)
class Door:
    """The metadata server of a closed cluster."""

    server: Server

    def holder(self, token_id: str, role: Role) -> Talk:
        """Return the conversation of a token's holder."""
        talk = self.server.connect()
        talk.ask(command="auth", token=issue_token(Keyring([KEY]), Token(token_id, role)))
        return talk


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with quick_folder() as folder:
        cluster = ClosedCluster(folder, {"health-interval": 10**6, "catalog-backup-interval": 0})
        yield Door(Server(cluster.factory, None, lambda until: cluster.simulation.run(900, until)))
        cluster.stop()


def resume(talk: Talk, name: str) -> Any:
    reply, _behind = talk.ask(command="store_file", file_name=name, file_size=5, explicit=True, resume=True)
    assert "ok" == reply["status"], reply
    return reply


def test_who_only_adds_resumes_uploads_of_its_own(door: Door) -> None:
    """Whoever's is the newest: the commit of a resumed upload ends the one that it resumes."""
    own, another, writer = (
        door.holder("t-1", Role.APPEND),
        door.holder("t-2", Role.APPEND),
        door.holder("t-3", Role.WRITE),
    )
    first = resume(own, "a")["metadata"]["generation"]
    assert "resumes" not in resume(another, "a")
    resume(writer, "a")
    assert first == resume(own, "a")["resumes"]["generation"]


def test_who_may_replace_a_file_resumes_all_uploads(door: Door) -> None:
    """Whoever has begun them."""
    begun = resume(door.holder("t-1", Role.APPEND), "b")["metadata"]["generation"]
    assert begun == resume(door.holder("t-3", Role.WRITE), "b")["resumes"]["generation"]
