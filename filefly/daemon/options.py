"""Option values as both daemons take them. For use in `makeService`: each check ends the process with a sentence."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import Options, UsageError

from filefly.daemon.limits import DEFAULT_CONNECTIONS, DEFAULT_CONNECTIONS_PER_ADDRESS
from filefly.daemon.service import refuse
from filefly.units import parse_size
from filefly.wire.address import listening_endpoint


def positive(text: str) -> int:
    """Return a whole number above zero; raises ValueError with a sentence."""
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def size(text: str) -> int:
    """Return a positive number of bytes; raises ValueError with a sentence."""
    number = parse_size(text)
    if number < 1:
        raise ValueError("must be at least 1 byte")
    return number


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


def defaults_of(parameters: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return the values of options that nobody gave; as text they are written as one would give them."""
    defaults = {}
    for name, _short, default, _help, *convert in parameters:
        defaults[name] = convert[0](default) if convert and isinstance(default, str) else default
    return defaults


def _telling_its_name(
    name: str, short: str | None, default: Any, text: str, convert: Callable[[str], Any] = str
) -> Sequence[Any]:
    """Return a parameter whose errors begin with its name."""

    def converted(given: str) -> Any:
        try:
            return convert(given)
        except ValueError as error:
            raise UsageError(f"--{name}: {error}") from None

    return [name, short, default, text, converted]


class DaemonOptions(Options):
    """The command line of a daemon: its help shows defaults with their units, its errors name the option."""

    optParameters: ClassVar[Sequence[Sequence[Any]]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.optParameters = [_telling_its_name(*parameter) for parameter in cls.optParameters]

    def __init__(self) -> None:
        super().__init__()
        self.update(defaults_of(self.optParameters))


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
