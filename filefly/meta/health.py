"""Which data servers answer: each is pinged, again and again."""

from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from filefly.errors import FileFlyError
from filefly.meta.cluster import Cluster
from filefly.wire.messages import DataServerState
from filefly.wire.times import rfc3339


@define
class _Seen:
    """What is known of one data server's health; times in seconds of the wall clock."""

    last_pong: float | None = None
    last_checked: float | None = None
    error: str | None = None


@define(eq=False)
class Health:
    """Pings every data server each `interval_seconds`."""

    log = Logger()

    _clock: Any
    _cluster: Cluster
    _interval_seconds: float
    _seen: dict[int, _Seen] = field(factory=dict)
    _loop: LoopingCall | None = None
    _ended: Deferred[Any] | None = None

    def start(self) -> None:
        """Begin."""
        self._loop = LoopingCall(self._check_all)
        self._loop.clock = self._clock
        self._ended = self._loop.start(self._interval_seconds)

    def stop(self) -> Any:
        """End after the pings that are under way."""
        if self._loop is not None:
            self._loop.stop()
        return self._ended

    def _check_all(self) -> Deferred[Any]:
        return gatherResults([Deferred.fromCoroutine(self._check(server)) for server in self._cluster.servers])

    async def _check(self, server: int) -> None:
        seen = self._seen.setdefault(server, _Seen())
        try:
            await self._cluster.ping(server)
        except FileFlyError as error:
            seen.error = str(error)
        except Exception as error:  # a background loop logs and goes on
            self.log.failure("pinging failed; trying again")
            seen.error = str(error)
        else:
            seen.last_pong, seen.error = self._clock.seconds(), None
        seen.last_checked = self._clock.seconds()

    def states(self) -> list[DataServerState]:
        """Return every data server with what was last seen of it; before the first ping, it is not healthy."""
        return [self._state(server) for server in self._cluster.servers]

    def _state(self, server: int) -> DataServerState:
        row, seen = self._cluster.servers[server], self._seen.get(server, _Seen())
        return DataServerState(
            address=row.address,
            healthy=seen.last_pong is not None and seen.error is None,
            advertised_address=row.advertised,
            last_pong=None if seen.last_pong is None else rfc3339(seen.last_pong),
            last_checked=None if seen.last_checked is None else rfc3339(seen.last_checked),
            error=seen.error,
        )
