"""What clients did while daemons were killed, and whether what readers saw is what it may have come to.

Every version's bytes are its own, so that a reader can tell which one it has, and whether all of it is right. A change
that ended in an error may have been carried out or not, but not after the client has heard of the error.
"""

import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from filefly.units import KIB

BLOCK = 4 * KIB
_MOST_BLOCKS = 5

ABSENT = None
"""The version that a file has that is not there."""


def content(name: str, version: str) -> bytes:
    """Return the bytes of a version of a file; its first line says which it is."""
    source = random.Random(f"{name} {version}")
    size = source.choice([100, BLOCK, source.randrange(100, _MOST_BLOCKS * BLOCK)])
    line = f"{version}\n".encode()
    return line + source.randbytes(size - len(line))


def version_of(name: str, data: bytes) -> str | None:
    """Return which version of a file these bytes are, None if they are none."""
    version = data.partition(b"\n")[0].decode(errors="replace")
    return version if data == content(name, version) else None


@frozen
class Change:
    """A store of a version, or a delete; not `certain` if its outcome is unknown."""

    begin: float
    end: float
    version: str | None
    certain: bool


@frozen
class Reading:
    """What a reader saw of a file."""

    begin: float
    end: float
    version: str | None


@frozen
class Manifest:
    """All that was done with one file."""

    changes: list[Change] = field(factory=list)
    readings: list[Reading] = field(factory=list)

    def may_be(self, reading: Reading) -> bool:
        """Whether a reader may have seen this: a version that had begun, and was not surely replaced or deleted."""
        absent_at_first = Change(-math.inf, -math.inf, ABSENT, True)
        candidates = [
            change
            for change in (absent_at_first, *self.changes)
            if change.version == reading.version and change.begin < reading.end
        ]
        return any(not self._surely_over(change, reading) for change in candidates)

    def _surely_over(self, change: Change, reading: Reading) -> bool:
        return any(later.certain and later.begin > change.end and later.end < reading.begin for later in self.changes)

    def wrong_readings(self) -> list[Reading]:
        """Return what no reader should have seen."""
        return [reading for reading in self.readings if not self.may_be(reading)]

    def finally_may_be(self, version: str | None) -> bool:
        """Whether a version may be what there is when all is over."""
        return self.may_be(Reading(math.inf, math.inf, version))


# Journals: of each operation a line when it begins, another one when it ends


def begun(operation: str, name: str, version: str | None, now: float) -> dict[str, Any]:
    """Return the line of a beginning; `operation` is store, delete or read."""
    return {"operation": operation, "name": name, "version": version, "begin": now}


def ended(line: dict[str, Any], outcome: str, now: float, **more: Any) -> dict[str, Any]:
    """Return the line of an end.

    The outcome is ok, absent (there was no such file), error, late (it may still happen) or wrong (bytes that are no
    version).
    """
    return {**line, "end": now, "outcome": outcome, **more}


def read_journal(journal: Path) -> list[dict[str, Any]]:
    """Return the operations of a journal; one without an end may still happen."""
    operations: dict[float, dict[str, Any]] = {}
    for line in journal.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            entry = json.loads(line)
            operations[entry["begin"]] = entry
    return list(operations.values())


def manifests(operations: Iterable[dict[str, Any]]) -> dict[str, Manifest]:
    """Return the manifest of each file."""
    found: dict[str, Manifest] = {}
    for each in operations:
        manifest = found.setdefault(each["name"], Manifest())
        outcome, begin, version = each.get("outcome", "late"), each["begin"], each["version"]
        end = math.inf if outcome == "late" else each["end"]
        if outcome == "absent":  # there was nothing to read, or to delete
            manifest.readings.append(Reading(begin, end, ABSENT))
        elif each["operation"] != "read":
            manifest.changes.append(Change(begin, end, version, outcome == "ok"))
        elif outcome == "ok":
            manifest.readings.append(Reading(begin, end, version))
    return found


def wrong_bytes(operations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the reads whose bytes were no version's."""
    return [each for each in operations if each.get("outcome") == "wrong"]
