"""Option values as both daemons take them. For use in `makeService`: each check ends the process with a sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IStreamServerEndpoint

from filefly.daemon.limits import DEFAULT_CONNECTIONS, DEFAULT_CONNECTIONS_PER_ADDRESS
from filefly.daemon.service import refuse
from filefly.units import parse_duration, parse_size
from filefly.wire.address import listening_endpoint


def positive(text: str) -> int:
    """Return a whole number above zero; raises ValueError with a sentence."""
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def size(text: str | int) -> int:
    """Return a positive number of bytes; raises ValueError with a sentence."""
    number = parse_size(str(text))
    if number < 1:
        raise ValueError("must be at least 1 byte")
    return number


def room(text: str | int) -> int:
    """Return a number of bytes, or 0; raises ValueError with a sentence."""
    return parse_size(str(text))


def duration(text: str | int) -> int:
    """Return a number of seconds; raises ValueError with a sentence."""
    return parse_duration(str(text))


def absolute(text: str) -> Path:
    """Return a path that still holds after a daemon has left the folder it was started in."""
    return Path(text).expanduser().absolute()


def bind(reactor: Any, daemon: str, address: str) -> IStreamServerEndpoint:
    """Bind `--addr` before the fork."""
    try:
        return listening_endpoint(reactor, address)
    except ValueError as error:
        refuse(daemon, f"--addr: {error}")
    except OSError as error:
        cause = str(error.strerror).partition(" (while ")[0]  # create_server repeats the address
        refuse(daemon, f"cannot listen on {address}: {cause}; stop what uses it, or name another --addr")


CONNECTION_PARAMETERS: Sequence[Sequence[Any]] = [
    ["max-connections", None, DEFAULT_CONNECTIONS, "Most connections at once.", positive],
    [
        "max-connections-per-address",
        None,
        DEFAULT_CONNECTIONS_PER_ADDRESS,
        "Most connections at once from one address.",
        positive,
    ],
]
"""What every form of a server takes."""
