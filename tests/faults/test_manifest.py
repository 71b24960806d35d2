"""The judgement of what readers saw: each kind of loss is one that it finds."""

import json
import math
from pathlib import Path

import pytest

from tests.faults.manifest import (
    ABSENT,
    Change,
    Manifest,
    Reading,
    begun,
    content,
    ended,
    manifests,
    read_journal,
    version_of,
)


def stored(begin: float, end: float, version: str, certain: bool = True) -> Change:
    return Change(begin, end, version, certain)


def deleted(begin: float, end: float, certain: bool = True) -> Change:
    return Change(begin, end, ABSENT, certain)


FINAL: list[tuple[str, list[Change], set[str | None]]] = [
    ("nothing was done", [], {ABSENT}),
    ("stored", [stored(1, 2, "a")], {"a"}),
    ("replaced", [stored(1, 2, "a"), stored(3, 4, "b")], {"b"}),
    ("deleted", [stored(1, 2, "a"), deleted(3, 4)], {ABSENT}),
    ("stored again", [stored(1, 2, "a"), deleted(3, 4), stored(5, 6, "b")], {"b"}),
    ("at once", [stored(1, 4, "a"), stored(2, 3, "b")], {"a", "b"}),
    ("perhaps stored", [stored(1, 2, "a", certain=False)], {ABSENT, "a"}),
    ("perhaps replaced", [stored(1, 2, "a"), stored(3, 4, "b", certain=False)], {"a", "b"}),
    ("perhaps deleted", [stored(1, 2, "a"), deleted(3, 4, certain=False)], {"a", ABSENT}),
    ("failed before", [stored(1, 2, "a", certain=False), stored(3, 4, "b")], {"b"}),
    ("still to come", [stored(1, math.inf, "a", certain=False), stored(3, 4, "b")], {"a", "b"}),
]


@pytest.mark.parametrize(("_case", "changes", "allowed"), FINAL, ids=[case for case, _changes, _allowed in FINAL])
def test_what_may_be_there_in_the_end(_case: str, changes: list[Change], allowed: set[str | None]) -> None:
    """Only what no certain change has surely replaced."""
    manifest = Manifest(changes)
    assert allowed == {version for version in (ABSENT, "a", "b", "c") if manifest.finally_may_be(version)}


def test_a_reader_sees_what_there_is_while_it_reads() -> None:
    """What was replaced before it began is wrong, and so is what was begun after it ended."""
    changes = [stored(1, 2, "a"), stored(5, 6, "b")]
    fine = [
        Reading(0, 0.5, ABSENT),
        Reading(0, 1.5, "a"),
        Reading(3, 4, "a"),
        Reading(4, 5.5, "b"),
        Reading(5.5, 7, "a"),
    ]
    wrong = [Reading(3, 4, ABSENT), Reading(3, 4, "b"), Reading(7, 8, "a"), Reading(7, 8, "c")]
    assert wrong == Manifest(changes, [*fine, *wrong]).wrong_readings()


def test_bytes_tell_their_version() -> None:
    """A bit, a byte too few or another file's bytes are none."""
    data = content("file", "0.1")
    damaged = bytes([*data[:-1], data[-1] ^ 1])
    assert ["0.1", None, None] == [version_of("file", each) for each in (data, damaged, data[:-1])]
    assert version_of("other", data) is None


def test_a_journal_is_read_back(tmp_path: Path) -> None:
    """An operation without an end may still happen; a line that was cut off is none."""
    first, second = begun("store", "file", "0.1", 1.0), begun("delete", "file", None, 3.0)
    lines = [first, ended(first, "ok", 2.0), second]
    (tmp_path / "journal").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"operation"')
    found = manifests(read_journal(tmp_path / "journal"))
    assert {"file": Manifest([stored(1, 2, "0.1"), deleted(3, math.inf, certain=False)])} == found
