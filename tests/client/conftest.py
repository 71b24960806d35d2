"""What tests of the client library need."""

from collections.abc import Sequence
from pathlib import Path

import pytest

NAMES = ["a", "b", "c/d", "empty"]
"""What the small files are called."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: how long a client waits is a test of its own."""
    monkeypatch.setattr("filefly.client.retries.RETRY_DELAYS_SECONDS", (0, 0))


@pytest.fixture
def files_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let batches be full with few files, and return how many that are."""
    monkeypatch.setattr("filefly.client.batches.MOST_FILES", 4)
    return 4


@pytest.fixture
def files(tmp_path: Path) -> Sequence[tuple[str, Path]]:
    """Make small files; each has its name in it, but one is empty."""
    (tmp_path / "files" / "c").mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "files" / name).write_text("" if name == "empty" else name)
    return [(name, tmp_path / "files" / name) for name in NAMES]
