"""Descriptors of this process, counted: what was opened must be closed by somebody."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.on_reactor import next_turn

_MOST_TURNS = 1000
_RESERVED = "/dev/null"  # Twisted has one open for the day when there are too many


def _open() -> dict[str, str]:
    found = {}
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found[descriptor] = os.readlink(f"/proc/self/fd/{descriptor}")
    return found


@asynccontextmanager
async def none_left() -> AsyncIterator[None]:
    """Fail if, in the end, there are more descriptors than there were; connections have a few turns to end."""
    before = _open()
    yield
    for _ in range(_MOST_TURNS):
        left = {number: what for number, what in _open().items() if what not in (before.get(number), _RESERVED)}
        if not left:
            return
        await next_turn()
    assert {} == left, f"left open: {left}"
