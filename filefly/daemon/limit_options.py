"""The options that bound what a server does for its peers, and how long it waits for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.python.usage import UsageError

from filefly.daemon.options import size
from filefly.units import format_size, parse_duration
from filefly.wire.budget import LINE_FACTOR

LIMIT_PARAMETERS: Sequence[Sequence[Any]] = [
    [
        "max-buffered",
        None,
        "64MiB",
        "Most memory for request lines over 64KiB, in all; a line takes twice its length. More of them wait.",
        size,
    ],
    [
        "max-unsent",
        None,
        "24MiB",
        "Replies that wait to be read, in all; above it large ones wait, and those are lost who do not read.",
        size,
    ],
    [
        "idle-timeout",
        None,
        "1h",
        "A connection without a request for so long is closed: 10m, 24h; 0: never.",
        parse_duration,
    ],
    [
        "peer-timeout",
        None,
        "60s",
        "A peer that begins to send or to receive and does not go on for so long is lost; 0: never.",
        parse_duration,
    ],
]
"""What every form of a server takes; see filefly.daemon.limits.ConnectionLimits.of."""


def check_limits(options: Mapping[str, Any]) -> None:
    """Raise UsageError for limits that contradict each other."""
    most, longest = options["max-buffered"], options["max-line"]
    if LINE_FACTOR * longest > most:
        raise UsageError(
            f"--max-buffered must be at least {LINE_FACTOR} times --max-line, so {format_size(LINE_FACTOR * longest)}:"
            " the longest line takes as much"
        )
