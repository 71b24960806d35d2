"""Heals by itself: copies what has too few good replicas, and gives up those that are not needed."""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from sqlalchemy import Connection
from twisted.internet.task import deferLater
from twisted.logger import Logger

from filefly.catalog.inventory import set_displaced
from filefly.catalog.repairs import (
    FIRST,
    Place,
    count_repairs,
    due_repairs,
    note_repairs,
    postpone_repair,
    wake_repairs,
)
from filefly.catalog.replicas import (
    Situation,
    StoredBlock,
    committed_on,
    copied,
    give_up,
    places_on,
    plan_copy,
    settle_repair,
    shelve_repair,
    situation,
    stored_block,
    stored_blocks,
)
from filefly.client.transfer import run_all
from filefly.errors import Conflict, DiskFull, FileFlyError, TimedOut, Unavailable, WrongStorage
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster
from filefly.meta.placement import CopyBlock, GiveUp, Servers, Settled, Step, Stuck, TakeBack, next_step
from filefly.meta.rounds import Rounds
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.wire.messages import MAX_BLOCK_SIZE

_ROUND_SECONDS = 1.0
_AT_ONCE = 16
_BATCH = 64
_WALKED_AT_ONCE = 1000
_LONGEST_QUEUE = 20_000
_MOST_STEPS = 32
_ASKED_ABOUT = 100
_STUCK_SECONDS = 600
_STUCK_A_SECOND = 20
"""So many stuck blocks are looked at again each second at most, however many there are."""
_FAILED_SECONDS = 30


class Repairer:
    """Once a second looks at what is due for repair; copies at most `rate_bytes` a second, directly between servers.

    What is to be looked at is noted where a replica is found bad, and by walking over the blocks of data servers that
    are away, draining, or back. `trash_due` tells when what is given up may be deleted.
    """

    log = Logger()

    def __init__(
        self,
        clock: Any,
        transactions: Transactions,
        cluster: Cluster,
        checker: Checker,
        time: RunningTime,
        trash_due: Callable[[], int],
        rate_bytes: int,
    ) -> None:
        self._clock = clock
        self._transactions = transactions
        self._cluster = cluster
        self._checker = checker
        self._time = time
        self._trash_due = trash_due
        self._rate_bytes = rate_bytes
        self._refusal: FileFlyError | None = None  # why the last copy could not be made
        self._waiting = 0
        self._next_copy = 0.0
        self._walks: dict[tuple[int, str], Place | None] = {}  # how far each is, None if to the end in this round
        self._servers: Servers | None = None
        self._rounds = Rounds(clock, self.round, _ROUND_SECONDS, "repairing")

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> Any:
        """Give up the steps that are under way, and end; the catalog knows of a copy that nobody waits for any more."""
        return self._rounds.stop(give_up=True)

    async def round(self) -> None:
        """Walk a little further and look at some of what is due, again and again until nothing is."""
        self._waiting = await self._transactions.read(count_repairs)
        self._walk_again()
        while not self._rounds.stopping:
            servers = self._as_they_are()
            if servers != self._servers:  # what was stuck may not be any more
                self._servers = servers
                self._walk_again()
                await self._transactions.write(wake_repairs)
            await self._walk(servers)
            places = await self._transactions.read(due_repairs, self._time.seconds(), _BATCH)
            await run_all((partial(self._mend, place) for place in places), _AT_ONCE)
            if len(places) < _BATCH:
                return

    def _as_they_are(self) -> Servers:
        rows = self._cluster.servers.values()
        return Servers(
            answering=frozenset(self._cluster.up()),
            placing=tuple(self._cluster.placing()),
            away=frozenset(row.key for row in rows if self._cluster.condition(row.key).away),
            draining=frozenset(row.key for row in rows if row.draining),
        )

    async def why_still_there(self, server: int) -> str | None:
        """Return what keeps the first blocks of a data server where they are, if something does."""
        places = await self._transactions.read(places_on, server, FIRST, _ASKED_ABOUT)
        for seen in await self._transactions.read(_situations, places, self._time.seconds()):
            step = self._next_step(seen)
            if isinstance(step, Stuck):
                return step.why
        return None if self._refusal is None else str(self._refusal)

    # Finding what is to be looked at

    async def _walk(self, servers: Servers) -> None:
        """Note some blocks of each data server that is away, draining, or back after copies were made elsewhere."""
        displaced = {row.key for row in self._cluster.servers.values() if row.displaced}
        wanted = {
            *((server, "away") for server in servers.away),
            *((server, "draining") for server in servers.draining),
            *((server, "back") for server in servers.answering & displaced),
        }
        self._walks = {walk: self._walks.get(walk, FIRST) for walk in wanted}
        due = await self._transactions.read(count_repairs, self._time.seconds(), _LONGEST_QUEUE + 1)
        if due > _LONGEST_QUEUE:
            return
        for (server, why), after in list(self._walks.items()):
            if after is None:
                continue
            places = await self._transactions.read(places_on, server, after, _WALKED_AT_ONCE)
            if places:
                await self._note(servers, server, why, after, places[-1])
                self._walks[server, why] = places[-1]
            elif why == "back":
                self._cluster.take(await self._transactions.write(set_displaced, server, False))
            else:
                self._walks[server, why] = None

    def _walk_again(self) -> None:
        """Begin anew where all was walked over: what was planned there, or deleted, may be committed by now."""
        self._walks = {walk: after or FIRST for walk, after in self._walks.items()}

    async def _note(self, servers: Servers, server: int, why: str, after: Place, last: Place) -> None:
        """Note those of a stretch of blocks for which something can be done; the others are walked over again.

        But who is back is walked over once: there everything is noted that is not as it should be.
        """
        uncounted = servers.away | servers.draining
        wanting = uncounted if why == "away" else None
        found = await self._transactions.read(committed_on, server, after, last, wanting)
        blocks = await self._transactions.read(stored_blocks, found)
        steps = {block.place: next_step(block, servers) for block in blocks}
        left = Settled if why == "back" else Settled | Stuck
        places = [place for place, step in steps.items() if not isinstance(step, left)]
        if places:
            await self._transactions.write(note_repairs, places, uncounted)

    # Doing it

    async def _mend(self, place: Place) -> None:
        """Take step after step until a block is as it should be, or cannot be mended now."""
        refused: dict[int, FileFlyError] = {}  # data servers that could not take a copy, and why
        try:
            for _ in range(_MOST_STEPS):
                if self._rounds.stopping:
                    return
                seen = await self._transactions.read(situation, place, self._time.seconds())
                if seen is None:
                    await self._transactions.write(settle_repair, place, None)
                    return
                block, step = seen.block, self._next_step(seen, refused.keys())
                if isinstance(step, Settled):
                    await self._transactions.write(settle_repair, place, block)
                    return
                if isinstance(step, Stuck):
                    wait = _FAILED_SECONDS if refused else max(_STUCK_SECONDS, self._waiting // _STUCK_A_SECOND)
                    await self._transactions.write(shelve_repair, block, self._time.seconds() + wait)
                    return
                if isinstance(step, GiveUp):
                    await self._give_up(block, step)
                elif isinstance(step, TakeBack):
                    await self._take_back(block, step.server)
                else:
                    await self._copy_to(block, step, refused)
        except FileFlyError as error:
            self.log.info("cannot repair a block yet: {error}", error=error)
        await self._transactions.write(postpone_repair, place, self._time.seconds() + _FAILED_SECONDS)

    def _next_step(self, seen: Situation, refused: Collection[int] = ()) -> Step:
        return next_step(seen.block, self._as_they_are(), {*seen.going, *refused}, seen.waiting)

    async def _take_back(self, block: StoredBlock, server: int) -> None:
        """Make a replica of what is trash and waits, and see whether it is good."""
        await self._transactions.write(plan_copy, block, server, self._time.seconds())
        planned = await self._transactions.read(stored_block, block.place)
        if planned is not None:
            await self._checker.check(planned, server)

    async def _copy_to(self, block: StoredBlock, step: CopyBlock, refused: dict[int, FileFlyError]) -> None:
        """Put a copy on the step's target; if that cannot be, note why it `refused`."""
        await self._pace(block.size)
        try:
            await self._transactions.write(plan_copy, block, step.target, self._time.seconds())
            if not await self._copy(block, step):
                return  # what was thought to be good is not: the next step is another one
            away = self._as_they_are().away
            rows = await self._transactions.write(copied, block, step.target, away, self._trash_due())
        except FileFlyError as error:
            self.log.info("cannot copy {block_id}: {error}", block_id=block.id, error=error)
            refused[step.target] = self._refusal = error
        else:
            self._refusal = None
            self._cluster.take(rows)
            told = next((row.told for row in rows if row.key == step.target), "")
            self.log.info("block {block_id} was copied to {told}", block_id=block.id, told=told)

    async def _copy(self, block: StoredBlock, step: CopyBlock) -> bool:
        """Copy from the first source that can; return whether one could, raise if not though all are good."""
        failed: FileFlyError | None = None
        for source in step.sources:
            try:
                await self._cluster.copy(block.id, block.crc32c, source, step.target)
            except (Conflict, DiskFull, WrongStorage):
                raise  # the target's refusal, whatever the source
            except (Unavailable, TimedOut) as error:
                failed = error
            except FileFlyError as error:
                if await self._checker.check(block, source) is None:
                    failed = error
            else:
                return True
        if failed is not None:
            raise failed
        return False

    async def _pace(self, size: int) -> None:
        """Wait until as many bytes may be copied."""
        now = self._clock.seconds()
        seconds = size / self._rate_bytes
        most = _AT_ONCE * MAX_BLOCK_SIZE / self._rate_bytes  # more only if the clock was set back
        wait = min(max(self._next_copy - now, 0), most)
        self._next_copy = now + wait + seconds
        if wait:
            await deferLater(self._clock, wait)

    async def _give_up(self, block: StoredBlock, step: GiveUp) -> None:
        """Verify what is to remain, and only then turn a replica into trash."""
        verified = [server for server in step.keep if await self._checker.check(block, server) is None]
        if len(verified) < block.wanted:
            return  # what was thought to be good is not: the next step is another one
        now = self._as_they_are()
        usable = now.answering - now.draining
        await self._transactions.write(give_up, block, step.server, verified, usable, self._trash_due())


def _situations(connection: Connection, places: Iterable[Place], now: int) -> list[Situation]:
    return [seen for place in places if (seen := situation(connection, place, now)) is not None]
