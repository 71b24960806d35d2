"""How the data servers are: each is pinged, again and again, and asked who it is.

| state | when |
| --- | --- |
| up | the last ping was answered, by the right storage, within the deadline |
| suspect | it was not, but less than `--down-after` ago one was |
| down | for longer; or another storage than the right one answers |

What the pings say of identities is reconciled once a round; see filefly.meta.identity.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.logger import Logger

from filefly.catalog.inventory import (
    SKIPPED_GENERATIONS,
    accept_storage,
    catalog_row,
    highest_generation,
    identify,
    named_data_server,
    resume,
    suspend,
)
from filefly.errors import Conflict, FileFlyError, NotFound, TimedOut, Unauthorized
from filefly.meta.cluster import Cluster, Condition
from filefly.meta.identity import OF_ANOTHER_CATALOG, Identity, reconcile, right_catalog
from filefly.meta.rounds import Rounds
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.wire.messages import Pong
from filefly.wire.times import rfc3339

T = TypeVar("T")

_LONGEST_PING_SECONDS = 10.0
_NAMELESS = "does not tell who it is; is it a FileFly data server, of this version, and with this --secret-file?"


@define
class Seen:
    """What was last seen of one data server; wall clock times in seconds."""

    answered: int
    last_pong: float | None = None
    last_checked: float | None = None
    error: str | None = None
    refused: bool = False
    pong: Pong = field(factory=Pong)


@define(eq=False)
class Health:
    """Pings every data server each `interval_seconds`, and keeps the cluster's conditions.

    A data server is down after `down_after_seconds` without an answer, and after `repair_delay_seconds` without one its
    replicas do not count any more. One that has not `room_bytes`, those of a block, above its reserve is full.
    """

    log = Logger()

    _clock: Any
    _transactions: Transactions
    _cluster: Cluster
    _time: RunningTime
    _interval_seconds: float
    _down_after_seconds: float
    _repair_delay_seconds: float
    _room_bytes: int = 0
    suspended: str | None = None
    """Why nothing is deleted or expires, if so."""
    _seen: dict[int, Seen] = field(factory=dict)
    _told: dict[int, int] = field(factory=dict)  # the generation that each data server was told last
    _one_at_a_time: DeferredLock = field(factory=DeferredLock)  # answers are judged by the rows that were asked
    _rounds: Rounds = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the rounds."""
        self._rounds = Rounds(self._clock, self.round, self._interval_seconds, "checking the data servers")

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> Any:
        """End after the pings that are under way."""
        return self._rounds.stop()

    def seen(self, server: int) -> Seen:
        """Return what was last seen of a data server."""
        if server not in self._seen:
            self._seen[server] = Seen(answered=self._time.seconds())
        return self._seen[server]

    async def round(self) -> None:
        """Ping every data server and draw the conclusions."""
        async with self._one_at_a_time:
            await self._round()

    async def _round(self) -> None:
        asked = [server for server, row in self._cluster.servers.items() if row.address is not None]
        pongs: dict[int, Pong] = {}
        await gatherResults([Deferred.fromCoroutine(self._ping(server, pongs)) for server in asked])
        await self._reconcile({key: pong for key, pong in pongs.items() if key in self._cluster.servers})
        self._judge()

    async def _ping(self, server: int, pongs: dict[int, Pong]) -> None:
        seen = self.seen(server)
        try:
            pongs[server] = await self._in_time(self._cluster.ping(server))
        except Unauthorized as error:
            self._refuse(server, str(error), str(error))  # it names the address
        except FileFlyError as error:
            seen.error, seen.refused = str(error), False
        except Exception as error:  # a background loop logs and goes on
            self.log.failure("pinging failed; trying again")
            seen.error = str(error)
        seen.last_checked = self._clock.seconds()

    def _in_time(self, asking: Coroutine[Any, Any, T]) -> Deferred[T]:
        seconds = min(_LONGEST_PING_SECONDS, max(self._interval_seconds, 1.0))

        def fail(_result: Any, _timeout: float) -> Any:
            raise TimedOut(f"no answer for {seconds:g} seconds")

        return Deferred.fromCoroutine(asking).addTimeout(seconds, self._clock, fail)

    async def _reconcile(self, pongs: dict[int, Pong]) -> None:
        about = await self._transactions.read(catalog_row)
        identities = {key: _identity(pong) for key, pong in pongs.items()}
        rows = list(self._cluster.servers.values())
        found = reconcile(rows, {key: it for key, it in identities.items() if it}, about.catalog_id)
        if found.moved or found.new:
            self._cluster.take(await self._transactions.write(identify, found.moved, found.new))
            for storage, at in found.moved.items():
                self.log.info("a storage has moved to {address}", address=self._cluster.servers[storage].address)
                self._answered(storage, pongs[at])
        for server in (*found.ours, *found.new):
            self._answered(server, pongs[server])
        for server, identity in identities.items():
            if identity is None:
                found.refused[server] = _NAMELESS
        for server, why in found.refused.items():
            self._refuse(server, why, f"{self._cluster.servers[server].address} {why}")
        present = [*found.ours, *found.new, *found.moved]
        generations = [pong.generation or 0 for key, pong in pongs.items() if key not in found.refused]
        await self._compare(max(generations, default=0), about.suspended)
        await self._tell(present, {*found.unadopted, *found.new}, about.catalog_id)

    def _refuse(self, server: int, why: str, sentence: str) -> None:
        """Have nothing to do with a data server that answers, and say so once."""
        seen = self.seen(server)
        if seen.error != why:
            self.log.warn("data server {sentence}", sentence=sentence)
        seen.error, seen.refused = why, True

    def _answered(self, server: int, pong: Pong) -> None:
        seen = self.seen(server)
        seen.answered, seen.last_pong = self._time.seconds(), self._clock.seconds()
        seen.last_checked, seen.error, seen.refused, seen.pong = seen.last_pong, None, False, pong

    async def _compare(self, seen_generation: int, suspended: str | None) -> None:
        """Suspend deletions if the data servers have seen more than the catalog knows of: it comes from a backup."""
        highest = await self._transactions.read(highest_generation)
        if seen_generation > highest:
            suspended = (
                f"the catalog is older than its data (generation {highest}, data servers have seen "
                f"{seen_generation}): nothing is deleted or expires until filefly-client catalog accept"
            )
            await self._transactions.write(suspend, suspended, seen_generation + SKIPPED_GENERATIONS)
            self.log.warn("{sentence}", sentence=suspended)
        self.suspended = suspended

    async def _tell(self, servers: list[int], unadopted: set[int], catalog_id: str) -> None:
        """Tell data servers whose they are, and the highest generation if there is a new one."""
        highest = await self._transactions.read(highest_generation)

        async def tell(server: int) -> None:
            try:
                await self._in_time(self._cluster.adopt(server, catalog_id, highest))
                self._told[server] = highest
            except FileFlyError as error:
                self.seen(server).error = str(error)

        lagging = [server for server in servers if server in unadopted or self._told.get(server) != highest]
        await gatherResults([Deferred.fromCoroutine(tell(server)) for server in lagging])

    def _judge(self) -> None:
        """Say of every data server how it is."""
        now = self._time.seconds()
        conditions = {}
        for server, row in self._cluster.servers.items():
            seen = self.seen(server)
            silent = now - seen.answered
            too_long = seen.error is not None and silent >= self._down_after_seconds
            down = seen.refused or row.address is None or too_long
            state = "down" if down else "suspect" if seen.error or seen.last_pong is None else "up"
            away = state == "down" and silent >= self._repair_delay_seconds
            conditions[server] = Condition(state, _is_full(seen.pong, self._room_bytes), away)
        self._cluster.conditions = conditions

    # What somebody who looks after the cluster decides

    async def accept(self, name: str, take_over: bool = False) -> None:
        """Take the storage that is now at a data server's address for what it is.

        Raises NotFound, and Conflict for a storage of another catalog, unless it is to be taken over.
        """
        async with self._one_at_a_time:
            await self._accept(name, take_over)
            await self._round()

    async def _accept(self, name: str, take_over: bool) -> None:
        row = await self._transactions.read(named_data_server, name)
        if row.address is None:
            raise NotFound(f"{name} is seen at no address; name the address where it is now")
        address = row.address
        found = _identity(await self._cluster.ping_address(address))
        if found is None:
            raise Conflict(f"{address} {_NAMELESS}")
        about = await self._transactions.read(catalog_row)
        if found.catalog_id not in (None, about.catalog_id) and not take_over:
            raise Conflict(f"{address} {OF_ANOTHER_CATALOG}; {right_catalog(address)}")
        self._cluster.take(await self._transactions.write(accept_storage, address, found.storage_id))
        highest = await self._transactions.read(highest_generation)
        [key] = [each.key for each in self._cluster.servers.values() if each.storage_id == found.storage_id]
        await self._cluster.adopt(key, about.catalog_id, highest, force=take_over)

    async def accept_catalog(self) -> None:
        """Go on with a catalog that is older than its data."""
        await self._transactions.write(resume)
        self.suspended = None

    def told_times(self, server: int) -> tuple[str | None, str | None]:
        """Return when a data server last answered, and when it was last asked, in RFC 3339."""
        seen = self.seen(server)
        return _time(seen.last_pong), _time(seen.last_checked)


def _identity(pong: Pong) -> Identity | None:
    return None if pong.storage_id is None else Identity(pong.storage_id, pong.catalog_id, pong.generation or 0)


def _is_full(pong: Pong, room_bytes: int) -> bool:
    """Whether a data server has no room for `room_bytes` above its reserve."""
    return pong.free_bytes is not None and pong.free_bytes < (pong.reserve_bytes or 0) + max(room_bytes, 1)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)
