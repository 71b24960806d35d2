"""What differs from run to run, and how a document's examples are compared in spite of it.

Ports are mapped, both ways; a value under a volatile key counts as equal to any other of its type; times, speeds and
the like in plain text count as equal to others of their form. Everything else must be the same.
"""

import json
import random
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from attrs import frozen

VOLATILE_KEYS = frozenset(
    {
        "modified",
        "revoked",
        "last_pong",
        "last_checked",
        "mtime",
        "storage_id",
        "storage_ids",
        "free_bytes",
        "total_bytes",
        "catalog_id",
        "local_uid",
        "scrub",
        "version",
    }
)

_VOLATILE_TEXT = (
    re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?"),
    re.compile(r"\b[A-Z][a-z]{2} [ \d]\d \d\d:\d\d\b"),  # ls -l
    re.compile(r"[\d.]+ [KMG]?i?B/s"),
    re.compile(r"\b\d+(\.\d+)? (s|seconds)\b"),
    *(re.compile(rf'"{key}": ?("[^"]*"|\d+)') for key in sorted(VOLATILE_KEYS)),
)


def steady(value: Any) -> Any:
    """Return JSON data with what is volatile replaced by its type."""
    match value:
        case dict():
            return {key: type(each).__name__ if key in VOLATILE_KEYS else steady(each) for key, each in value.items()}
        case list():
            return [steady(each) for each in value]
    return value


def steady_line(text: str) -> Any:
    """Return a line of output with what is volatile replaced: JSON data if it is an object, else text."""
    if text.startswith("{"):
        try:
            return steady(json.loads(text))
        except ValueError:
            pass
    for pattern in _VOLATILE_TEXT:
        text = pattern.sub("*", text)
    return text.rstrip()


@frozen
class Ports:
    """Ports as a document names them, and the free ones that stand for them here."""

    real: Mapping[int, int]

    def in_use(self, text: str) -> str:
        """Put the real ports where the document's are."""
        return _replace_ports(text, self.real)

    def as_documented(self, text: str) -> str:
        """Put the document's ports where the real ones are."""
        return _replace_ports(text, {real: documented for documented, real in self.real.items()})


def _replace_ports(text: str, ports: Mapping[int, int]) -> str:
    alternatives = "|".join(map(str, ports))
    return re.sub(rf"(?<![\w.])({alternatives})(?![\w])", lambda match: str(ports[int(match[1])]), text)


def free_ports(*ranges: Sequence[int]) -> Ports:
    """Return free ports for ranges of documented ones, in a row where those are.

    They have four digits, as in the documents: columns and lengths stay the same.
    """
    real: dict[int, int] = {}
    while len(real) < sum(map(len, ranges)):
        wanted = next(each for each in ranges if each[0] not in real)
        first = random.randrange(6000, 8000)
        candidates = range(first, first + len(wanted))
        if {*candidates} & {*real.values()}:
            continue
        with ExitStack() as bound:
            try:
                for port in candidates:
                    bound.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
        real.update(zip(wanted, candidates, strict=True))
    return Ports(real)
