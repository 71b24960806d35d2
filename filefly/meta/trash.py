"""Ends what is over: plans without a sign of life, deleted files after their grace, and then their blocks, surely."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from filefly.catalog.commits import end_open_plan
from filefly.catalog.endings import (
    TrashRow,
    anything_over,
    due_trash,
    expire_plans,
    forget_trash,
    let_go,
    mark_going,
    silent_implicit_plans,
)
from filefly.catalog.inventory import save_running_seconds
from filefly.catalog.planning import touch_plan
from filefly.catalog.plans import Plan
from filefly.client.transfer import run_all
from filefly.errors import Conflict, FileFlyError, Incomplete, QuotaExceeded
from filefly.meta.cluster import AT_ONCE, CANNOT_BE_ASKED, Cluster
from filefly.meta.health import Health
from filefly.meta.rounds import Rounds
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions

_ROUND_SECONDS = 1.0
_SAVE_SECONDS = 60
_BATCH = 1000
_REST_SECONDS = 30
_RETRY_SECONDS = 60


class TrashCollector:
    """Once a second deletes what is due, on each data server that is up, until each has confirmed.

    `grace_seconds` is for how long deleted files can come back, `pending_ttl_seconds` after how long without a sign of
    life an open plan ends; both in running time. An implicit plan may be complete though nobody has read it: `settle`
    commits it if it is. While the catalog is suspended nothing ends and nothing is deleted.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        transactions: Transactions,
        cluster: Cluster,
        health: Health,
        time: RunningTime,
        grace_seconds: int,
        pending_ttl_seconds: int,
        settle: Callable[[int], Coroutine[Any, Any, Plan]],
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._health = health
        self._time = time
        self._grace_seconds = grace_seconds
        self._pending_ttl_seconds = pending_ttl_seconds
        self._settle = settle
        self._saved = time.seconds()
        self._resting: dict[int, int] = {}  # server that failed: running time until which it is left alone
        self._refused: dict[int, int] = {}  # trash that its data server could not delete: until when it is left alone
        self._rounds = Rounds(clock, self.round, _ROUND_SECONDS, "collecting the trash")

    def due(self) -> int:
        """Return when what is given up now may be deleted, in running time."""
        return self._time.seconds() + self._grace_seconds

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> Any:
        """End after the round that is under way, and save the running time."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._rounds.stop()
        await self._transactions.write(save_running_seconds, self._time.seconds())

    async def round(self) -> None:
        """End what is over, and delete what is due."""
        now = self._time.seconds()
        if now - self._saved >= _SAVE_SECONDS:
            await self._transactions.write(save_running_seconds, now)
            self._saved = now
        up = self._cluster.up()
        if self._health.suspended is not None or not up:
            return  # only a data server that was heard from can tell that the catalog is older than its data
        silent_since = now - self._pending_ttl_seconds
        if await self._transactions.read(anything_over, silent_since, now):
            await self._transactions.write(expire_plans, silent_since, self.due())
            for generation in await self._transactions.read(silent_implicit_plans, silent_since):
                await self._settle_or_end(generation, retry=silent_since + _RETRY_SECONDS)
            await self._transactions.write(let_go, now, _BATCH)
        self._resting = {server: until for server, until in self._resting.items() if until > now}
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        await run_all((partial(self._delete_due, server, now) for server in up), len(up))

    async def _settle_or_end(self, generation: int, retry: int) -> None:
        try:
            await self._settle(generation)
        except (Incomplete, Conflict, QuotaExceeded):
            await self._transactions.write(end_open_plan, generation, self.due())
        except FileFlyError as error:
            told = "cannot say yet whether plan {generation} is complete: {error}"
            self.log.info(told, generation=generation, error=error)
            await self._transactions.write(touch_plan, generation, retry)

    async def _delete_due(self, server: int, now: int) -> None:
        if server in self._resting:
            return
        rows = await self._transactions.read(due_trash, server, now, _BATCH + len(self._refused))
        rows = [row for row in rows if row.key not in self._refused]
        if not rows:
            return
        rows = await self._transactions.write(mark_going, rows)
        confirmed: list[int] = []
        await run_all((partial(self._delete, row, confirmed) for row in rows), AT_ONCE)
        if confirmed:
            await self._transactions.write(forget_trash, confirmed, server)

    async def _delete(self, row: TrashRow, confirmed: list[int]) -> None:
        if row.server in self._resting:
            return
        get_rid = self._cluster.set_aside if row.aside else self._cluster.delete
        try:
            await get_rid(row.server, row.block_id)
        except FileFlyError as error:
            until = self._time.seconds() + _REST_SECONDS
            if isinstance(error, CANNOT_BE_ASKED):
                self._resting[row.server] = until
            else:
                self._refused[row.key] = until
            self.log.info("cannot delete {block_id} yet: {error}", block_id=row.block_id, error=error)
        else:
            confirmed.append(row.key)
