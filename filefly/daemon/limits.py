"""What a server takes from everybody, in all and from one address: nobody uses up what others need."""

import ctypes
import resource
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Any

from attrs import define, field

from filefly.errors import Busy
from filefly.units import KIB
from filefly.wire.budget import DEFAULT_MAX_BUFFERED, DEFAULT_MAX_UNSENT

_M_MMAP_THRESHOLD = -3  # of malloc.h
_LARGE_BYTES = 512 * KIB
DEFAULT_CONNECTIONS = 4096
DEFAULT_CONNECTIONS_PER_ADDRESS = 1024


@define(eq=False)
class ConnectionLimits:
    """Counts the connections that are open, by the address they come from; and says what they may do together.

    See filefly.wire.budget for `max_buffered` and `max_unsent`, filefly.daemon.patience for the times.
    """

    most: int = DEFAULT_CONNECTIONS
    most_per_address: int = DEFAULT_CONNECTIONS_PER_ADDRESS
    max_buffered: int = DEFAULT_MAX_BUFFERED
    max_unsent: int = DEFAULT_MAX_UNSENT
    idle_seconds: int = 0
    peer_seconds: int = 0
    _open: Counter[str] = field(factory=Counter, init=False)
    _total: int = field(default=0, init=False)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "ConnectionLimits":
        """Return the limits that the options CONNECTION_PARAMETERS and LIMIT_PARAMETERS of this room say."""
        return cls(
            options["max-connections"],
            options["max-connections-per-address"],
            options["max-buffered"],
            options["max-unsent"],
            options["idle-timeout"],
            options["peer-timeout"],
        )

    def check(self, host: str) -> None:
        """Raise Busy, with a sentence that names the limit, unless `host` may have one more connection."""
        if self._total >= self.most:
            raise Busy(f"the server has its limit of {self.most} connections (--max-connections); try again later")
        if self._open[counted_as(host)] >= self.most_per_address:
            limit = self.most_per_address
            raise Busy(f"{host} has its limit of {limit} connections (--max-connections-per-address); close some")

    def enter(self, host: str) -> None:
        """Count a connection."""
        self._open[counted_as(host)] += 1
        self._total += 1

    def leave(self, host: str) -> None:
        """Count it no more."""
        address = counted_as(host)
        self._open[address] -= 1
        self._total -= 1
        if not self._open[address]:
            del self._open[address]


def counted_as(host: str) -> str:
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


def give_memory_back() -> None:
    """Have what was large given back to the system as soon as it is free, where the C library can be told so.

    Of itself glibc keeps it for the next time, in each thread, once something large was free.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def allow_many_files() -> None:
    """Let the process have as many open files, connections among them, as the system lets it ask for."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # then it has what it has
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
