"""Sizes and numbers as people write them, and bytes as they come in pieces."""

import re
from collections.abc import Callable, Sequence

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

Chunks = Sequence[bytes | memoryview]
"""Bytes one piece behind the other; whoever is handed them must not keep a memoryview."""

MOST_CHUNKS = 1024
"""As many as the system writes at once (IOV_MAX)."""


def write_all(write: Callable[[Sequence[memoryview], int], int], chunks: Chunks) -> None:
    """Have all of `chunks` written by `write(pieces, offset)`, which returns how much it wrote and may write less.

    `offset` counts from 0 the bytes that were written before; there are at most MOST_CHUNKS pieces.
    """
    pending = [memoryview(chunk) for chunk in chunks if chunk]
    first = offset = 0
    while first < len(pending):
        written = write(pending[first : first + MOST_CHUNKS], offset)
        offset += written
        while first < len(pending) and written >= len(pending[first]):
            written -= len(pending[first])
            first += 1
        if written:
            pending[first] = pending[first][written:]


_UNITS = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 1024 * GIB}
_UNITS |= {"K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}
_SIZE = re.compile(r"(\d{1,16})\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Return the number of bytes that `8`, `64KiB` or `8MiB` stands for; units are powers of 1024.

    Raises ValueError with a sentence for anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write 8, 64KiB or 8MiB")
    return int(match[1]) * _UNITS[match[2].upper()]


_SECONDS = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86400}


def parse_duration(text: str) -> int:
    """Return the number of seconds that `30`, `30s`, `10m`, `24h` or `14d` stands for; raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in _SECONDS:
        raise ValueError(f"{text!r} is not a duration; write 30s, 10m, 24h or 14d")
    return int(match[1]) * _SECONDS[match[2].upper()]


def format_size(size: float) -> str:
    """Return `1.5 MiB` for 1572864: at most one digit after the point, units of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """Return `1 block`, `2,345 blocks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
