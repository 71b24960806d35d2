"""What the audit log hears of plans that commit themselves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred, gatherResults

from filefly.daemon.audit import Audited
from filefly.errors import Conflict, Incomplete
from filefly.meta.commits import Committer
from filefly.wire.messages import CompleteFile
from tests.catalog.catalogs import MODIFIED
from tests.daemon.test_audit import Told
from tests.meta.bench import Bench, on_a_bench
from tests.on_reactor import on_reactor

DATA = b"0123456789"


@define(eq=False)
class Noted:
    """What commits plans, and an audit log that hears of it."""

    bench: Bench
    committer: Committer
    log: Told

    def told(self) -> list[dict[str, Any]]:
        """Return the events so far."""
        return [dict(event["audit"]) for event in self.log.events]


@asynccontextmanager
async def noted(reactor: Any, folder: Path, audited: Audited = Audited.CHANGES) -> AsyncIterator[Noted]:
    """Run them, with two data servers, until the end of the block."""
    async with on_a_bench(reactor, folder) as bench:
        log = Told(closed=True, audited=audited)
        due = bench.trash.due
        committer = Committer(bench.transactions, bench.cluster, bench.time, lambda: MODIFIED, due, log.audit.note)
        yield Noted(bench, committer, log)


def event(name: str, generation: int) -> dict[str, Any]:
    return {
        "who": "daemon",
        "from": "this machine",
        "command": "complete_file",
        "file_name": name,
        "generation": generation,
        "result": "ok",
    }


@on_reactor
async def test_a_plan_that_commits_itself_is_told_once(reactor: Any, tmp_path: Path) -> None:
    """By who looks for its name, as nobody has asked for it; who looks later changes nothing."""
    async with noted(reactor, tmp_path) as here:
        plan = here.bench.plan("a", DATA, (1, 2), explicit=False)
        assert (await here.committer.look_up("a")).committed
        assert [event("a", plan.generation)] == here.told()
        await here.committer.look_up("a")
        assert 1 == len(here.told())


@on_reactor
async def test_of_many_who_look_at_once_one_is_told(reactor: Any, tmp_path: Path) -> None:
    """That which has committed it; the others find it committed."""
    async with noted(reactor, tmp_path) as here:
        plan = here.bench.plan("a", DATA, (1, 2), explicit=False)
        found = await gatherResults([Deferred.fromCoroutine(here.committer.settle(plan.generation)) for _ in range(8)])
        assert [(plan.generation, True)] * 8 == [(each.generation, each.committed) for each in found]
        assert [event("a", plan.generation)] == here.told()


@on_reactor
async def test_what_does_not_commit_itself_is_not_told(reactor: Any, tmp_path: Path) -> None:
    """Blocks are missing, something newer is there, or somebody else asks for it and is told of elsewhere."""
    async with noted(reactor, tmp_path) as here:
        half = here.bench.plan("half", DATA, explicit=False)
        here.bench.node(1).block("half-1").unlink()
        with pytest.raises(Incomplete):
            await here.committer.settle(half.generation)
        late = here.bench.plan("late", DATA, explicit=False)
        newer = here.bench.plan("late", DATA)
        await here.committer.complete(CompleteFile(generation=newer.generation))
        with pytest.raises(Conflict):
            await here.committer.settle(late.generation)
        assert [] == here.told()


@on_reactor
async def test_an_audit_log_that_is_off_is_silent(reactor: Any, tmp_path: Path) -> None:
    """The file is committed all the same."""
    async with noted(reactor, tmp_path, Audited.OFF) as here:
        here.bench.plan("a", DATA, explicit=False)
        assert (await here.committer.look_up("a")).committed
        assert [] == here.told()
