"""Deletes, late and surely, the replicas that the catalog has given up."""

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from filefly.client.transfer import run_all
from filefly.errors import FileFlyError
from filefly.meta.cluster import AT_ONCE, Cluster
from filefly.meta.inventory import TrashRow, due_trash, forget_trash, save_running_seconds
from filefly.meta.transactions import Transactions

_ROUND_SECONDS = 1.0
_SAVE_SECONDS = 60
_BATCH = 1000
_REST_SECONDS = 30


class RunningTime:
    """For how many seconds metadata servers have been running on a catalog: a clock that nobody can set.

    It adds up differences of `monotonic` to what was `saved` in the catalog, and loses at most a minute at a crash.
    """

    def __init__(self, monotonic: Callable[[], float], saved: int) -> None:
        self._monotonic = monotonic
        self._origin = monotonic() - saved

    def seconds(self) -> int:
        """Return the running time, rounded down."""
        return int(self._monotonic() - self._origin)


class TrashCollector:
    """Once a second deletes what is due, on each data server that answers, until each has confirmed."""

    log = Logger()

    def __init__(
        self, clock: Any, transactions: Transactions, cluster: Cluster, time: RunningTime, grace_seconds: int
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._time = time
        self._grace_seconds = grace_seconds
        self._saved = time.seconds()
        self._resting: dict[int, int] = {}  # server that failed: running time until which it is left alone
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._round_and_go_on()))
        self._loop.clock = clock
        self._ended: Deferred[Any] = Deferred()

    def due(self) -> int:
        """Return when a replica that is given up now may be deleted, in running time."""
        return self._time.seconds() + self._grace_seconds

    def start(self) -> None:
        """Begin."""
        self._ended = self._loop.start(_ROUND_SECONDS)

    def stop(self) -> Any:
        """End after the round that is under way, and save the running time."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._loop.stop()
        await self._ended
        await self._transactions.write(save_running_seconds, self._time.seconds())

    async def _round_and_go_on(self) -> None:
        try:
            await self.round()
        except Exception:  # a background loop logs and goes on
            self.log.failure("collecting the trash failed; trying again")

    async def round(self) -> None:
        """Delete what is due."""
        now = self._time.seconds()
        if now - self._saved >= _SAVE_SECONDS:
            await self._transactions.write(save_running_seconds, now)
            self._saved = now
        self._resting = {server: until for server, until in self._resting.items() if until > now}
        rows = await self._transactions.read(due_trash, now, list(self._resting), _BATCH)
        confirmed: list[int] = []
        await run_all((partial(self._delete, row, confirmed) for row in rows), AT_ONCE)
        if confirmed:
            await self._transactions.write(forget_trash, confirmed)

    async def _delete(self, row: TrashRow, confirmed: list[int]) -> None:
        if row.server in self._resting:
            return
        try:
            await self._cluster.delete(row.server, row.block_id)
        except FileFlyError as error:
            self._resting[row.server] = self._time.seconds() + _REST_SECONDS
            self.log.info("cannot delete {block_id} yet: {error}", block_id=row.block_id, error=error)
        else:
            confirmed.append(row.key)
