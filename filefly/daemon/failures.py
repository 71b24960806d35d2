"""Wrong tokens and proofs, counted by the address that they come from: who shows many waits, then is told to stop.

A right token or proof never waits and is never refused, wherever it comes from: behind one address there may be many
clients (a NAT, a machine's loopback), of which one is broken, and the others must not suffer for it. Nothing is lost by
that: to look at a token takes less time than to refuse it, and nobody guesses 256 bits.
"""

from collections import OrderedDict
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any

from attrs import define, field
from twisted.internet.task import deferLater

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
"""How many answers wait: each takes memory, though its client may have left."""


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
    _waiting: int = field(default=0, init=False)

    @classmethod
    def of(cls, clock: Any, options: Mapping[str, Any]) -> "Failures":
        """Return the one that the options of FAILURE_PARAMETERS say."""
        return cls(clock, options["free-auth-failures"], options["max-auth-failures"])

    async def note(self, host: str) -> None:
        """Count a failure of `host`, and return when it may hear of it; raises Busy where it should stop."""
        count = self._count(_counted_as(host))
        if count > self.free and self._waiting < _MOST_WAITING:
            self._waiting += 1
            delay = min(LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(count - self.free - 1, 30))
            await deferLater(self._clock, delay)
            self._waiting -= 1
        if count > self.most:
            raise Busy(
                f"more than {self.most} wrong tokens or proofs came from {host} (--max-auth-failures); show the right"
                f" one, or try again after {FORGOTTEN_SECONDS:g} seconds"
            )

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


def _counted_as(host: str) -> str:
    """Return what stands for `host`: of IPv6 the first 64 bits, as one customer has at least so many addresses."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))
