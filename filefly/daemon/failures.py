"""Wrong tokens and proofs, counted by the address that they come from: who shows many waits, then is told to stop.

A right token or proof never waits and is never refused, wherever it comes from: behind one address there may be many
clients (a NAT, a machine's loopback), of which one is broken, and the others must not suffer for it. Nothing is lost by
that: to look at a token takes less time than to refuse it, and nobody guesses 256 bits.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet.task import deferLater

from filefly.daemon.limits import counted_as
from filefly.errors import Busy

DEFAULT_FREE = 5
DEFAULT_MOST = 50
FORGOTTEN_SECONDS = 600.0
"""So long after its last failure an address begins anew."""
_FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 4.0
_MOST_ADDRESSES = 10_000
"""How many are remembered; of more, those whose last failure is longest ago are forgotten."""
_MOST_WAITING = 1000
_MOST_WAITING_OF_ONE = 100
"""How many answers wait, in all and for one address: each takes memory, though its client may have left."""


class TooManyWait(Busy):
    """Of one more answer nobody waits: who is told so is not heard any more."""


@define
class _Record:
    """How often an address failed, and when it did last."""

    count: int = 0
    last: float = 0.0


@define(eq=False)
class Failures:
    """Counts failures; the first `free` cost nothing, then each answer waits, and after `most` it is Busy."""

    _clock: Any
    free: int = DEFAULT_FREE
    most: int = DEFAULT_MOST
    _records: OrderedDict[str, _Record] = field(factory=OrderedDict, init=False)
    _waiting: Counter[str] = field(factory=Counter, init=False)

    @classmethod
    def of(cls, clock: Any, options: Mapping[str, Any]) -> "Failures":
        """Return the one that the options of FAILURE_PARAMETERS say."""
        return cls(clock, options["free-auth-failures"], options["max-auth-failures"])

    async def note(self, host: str) -> None:
        """Count a failure of `host`, and return when it may hear of it; raises Busy where it should stop."""
        address = counted_as(host)
        count = self._count(address)
        if count > self.free:
            if self._waiting.total() >= _MOST_WAITING or self._waiting[address] >= _MOST_WAITING_OF_ONE:
                raise TooManyWait("too many wrong tokens or proofs wait for their answers; try again later")
            await self._wait(
                address, min(LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(count - self.free - 1, 30))
            )
        if count > self.most:
            raise Busy(
                f"more than {self.most} wrong tokens or proofs came from {host} (--max-auth-failures); show the right"
                f" one, or try again after {FORGOTTEN_SECONDS:g} seconds"
            )

    async def _wait(self, address: str, seconds: float) -> None:
        self._waiting[address] += 1
        try:
            await deferLater(self._clock, seconds)
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    def _count(self, address: str) -> int:
        now = self._clock.seconds()
        record = self._records.pop(address, None)
        if record is None or now - record.last >= FORGOTTEN_SECONDS:
            record = _Record()
        record.count += 1
        record.last = now
        self._records[address] = record
        if len(self._records) > _MOST_ADDRESSES:
            self._records.popitem(last=False)
        return record.count
