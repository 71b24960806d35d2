"""What a daemon does in the background: one round after the other, whatever goes wrong in one of them."""

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class Rounds:
    """Carries out `work` again and again, `seconds` apart, one at a time, until it is stopped.

    A round that fails is logged as `doing` that, and the next one comes all the same.
    """

    log = Logger()

    def __init__(self, clock: Any, work: Callable[[], Coroutine[Any, Any, None]], seconds: float, doing: str) -> None:
        self._work = work
        self._seconds = seconds
        self._doing = doing
        self._under_way: Deferred[None] = succeed(None)
        self._loop = LoopingCall(self._begin)
        self._loop.clock = clock
        self._ended: Deferred[Any] = succeed(None)
        self.stopping = False
        """Whether a round that is under way should come to its end."""

    def start(self) -> None:
        """Begin with a round at once."""
        self._ended = self._loop.start(self._seconds)

    def stop(self, give_up: bool = False) -> Deferred[Any]:
        """End after the round that is under way, or at once if that may be given up."""
        self.stopping = True
        if self._loop.running:
            self._loop.stop()
        if give_up:
            self._under_way.cancel()
        return self._ended

    def _begin(self) -> Deferred[None]:
        self._under_way = Deferred.fromCoroutine(self._round())
        return self._under_way

    async def _round(self) -> None:
        try:
            await self._work()
        except CancelledError:
            pass
        except Exception:  # a background loop logs and goes on
            self.log.failure("{doing} failed; trying again", doing=self._doing)
