"""Finds damage before readers do: re-reads every block, again and again, at a pace that spares the disks."""

import math
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from filefly.catalog.repairs import Place
from filefly.catalog.replicas import StoredBlock, count_on, places_on, stored_block
from filefly.catalog.scrub_passes import ScrubPass, begin_scrub_pass, next_scrub_pass, save_scrub_pass, scrub_passes
from filefly.errors import Conflict, FileFlyError, TimedOut
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster
from filefly.meta.rounds import Rounds
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.wire.times import rfc3339

_ROUND_SECONDS = 1.0
_BATCH = 64
_COUNTED_IN_A_PERIOD = 100
_PART_OF_PERIOD = 0.9
"""A pass aims to end a little before its time, to be there in time after a stop."""


class Scrubber:
    """Re-reads all blocks of each data server within `period_seconds` of running time, one at a time on each."""

    log = Logger()

    def __init__(
        self,
        clock: Any,
        transactions: Transactions,
        cluster: Cluster,
        checker: Checker,
        time: RunningTime,
        period_seconds: int,
    ) -> None:
        self._clock = clock
        self._transactions = transactions
        self._cluster = cluster
        self._checker = checker
        self._time = time
        self._period_seconds = period_seconds
        self._counted: dict[int, int] = {}  # when the blocks of each data server were last counted
        self._late: dict[int, Place] = {}  # the block of each data server that was not read in time
        self.under_way: dict[int, Deferred[None]] = {}
        """The data servers whose blocks are being read."""
        self._rounds = Rounds(clock, self.round, _ROUND_SECONDS, "scrubbing")

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> Any:
        """Give up the checks that are under way, and end."""
        ended = self._rounds.stop(give_up=True)
        for scrubbing in list(self.under_way.values()):
            scrubbing.cancel()
        return DeferredList([ended, *self.under_way.values()])

    async def hurry(self, server: int) -> None:
        """Begin a pass now, and do not spread it."""
        await self._transactions.write(begin_scrub_pass, server, self._time.seconds(), True)

    async def round(self) -> None:
        """Begin to check on each data server as many blocks as are due by now; who is silent keeps no other waiting."""
        idle = [server for server in self._cluster.up() if server not in self.under_way]
        passes = await self._transactions.read(scrub_passes)
        for server in idle:
            scrubbing = self.under_way[server] = Deferred.fromCoroutine(self._scrub(server, passes.get(server)))
            scrubbing.addErrback(self._failed).addCallback(self._ended, server)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # a background job logs and goes on
            self.log.failure("scrubbing failed; trying again", failure)

    def _ended(self, _result: None, server: int) -> None:
        del self.under_way[server]

    async def _scrub(self, server: int, scrub: ScrubPass | None) -> None:
        now = self._time.seconds()
        if scrub is None or (scrub.finished and now - scrub.begun >= self._period_seconds):
            scrub = await self._transactions.write(next_scrub_pass, server, scrub, now)
        scrub = await self._counted_again(server, scrub, now)
        end = self._clock.seconds() + _ROUND_SECONDS  # the next round may find a pass that was begun anew
        try:
            while not self._rounds.stopping and not scrub.finished and (due := self._due(scrub)):
                scrub = await self._check_some(server, scrub, due)
                if self._clock.seconds() >= end:
                    break
        except FileFlyError as error:
            self.log.info("scrubbing has to wait: {error}", error=error)

    async def _counted_again(self, server: int, scrub: ScrubPass, now: int) -> ScrubPass:
        """Count the blocks now and then: a pass that began with few is to be spread all the same."""
        if now < self._counted.get(server, 0) + self._period_seconds // _COUNTED_IN_A_PERIOD:
            return scrub
        self._counted[server] = now
        total = scrub.checked + await self._transactions.read(count_on, server, scrub.place)
        if total != scrub.total and not scrub.finished:
            scrub = evolve(scrub, total=total)
            await self._transactions.write(save_scrub_pass, server, scrub)
        return scrub

    def _due(self, scrub: ScrubPass) -> int:
        """Return how many blocks should be checked by now and are not, at most a batch of them."""
        part = (self._time.seconds() - scrub.begun) / max(_PART_OF_PERIOD * self._period_seconds, 1)
        if scrub.hurry or part >= 1:
            return _BATCH
        return max(0, min(_BATCH, math.ceil(part * scrub.total) - scrub.checked))

    async def _is_bad(self, block: StoredBlock, server: int) -> bool:
        """Check a block; one that cannot be read in time is tried again, and then left to the next pass."""
        try:
            return await self._checker.check(block, server) is not None
        except Conflict:  # it differs from an older catalog: left alone, but those behind it are not to wait for that
            return True
        except TimedOut:
            if self._late.get(server) != block.place:
                self._late[server] = block.place
                raise
            return False

    async def _check_some(self, server: int, scrub: ScrubPass, limit: int) -> ScrubPass:
        """Check the next blocks and write down how far that is; raises what keeps one from being checked."""
        places = await self._transactions.read(places_on, server, scrub.place, limit)
        bad = 0
        for place in places:
            block = await self._transactions.read(stored_block, place)
            if block is not None and server in block.servers:
                bad += await self._is_bad(block, server)
        if places:
            checked = scrub.checked + len(places)
            scrub = evolve(scrub, place=places[-1], checked=checked, bad=scrub.bad + bad)
        else:
            scrub = evolve(scrub, total=scrub.checked, finished=rfc3339(self._clock.seconds()))
        await self._transactions.write(save_scrub_pass, server, scrub)
        return scrub
