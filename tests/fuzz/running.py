"""Runs targets: counts the inputs, ends one that hangs, tells an input that fails, and looks at the memory."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define

_LONGEST_SECONDS = 30
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Hung(BaseException):
    """An input takes too long; no `except Exception` may swallow that."""


class Failed(AssertionError):
    """An input that a target does not pass."""


@define
class Runner:
    """Runs a target, again and again; `where` names it and, if there is one, the seed."""

    where: str
    run: Callable[[bytes], None]
    count: int = 0

    def __call__(self, data: bytes) -> None:
        """Run it once; raises Failed with the input as Python spells it."""
        self.count += 1
        try:
            self.run(data)
        except (Exception, Hung) as error:
            reason = f"{type(error).__name__}: {error}"
            raise Failed(f"{self.where}, input {self.count}:\n{data!r}\n{reason}") from error


@contextmanager
def watched() -> Iterator[Callable[[], None]]:
    """Raise Hung in what takes longer than it may between two calls of what is yielded."""

    def hang(_signal: int, _frame: Any) -> None:
        raise Hung(f"still at work after {_LONGEST_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hang)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, _LONGEST_SECONDS) and None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@define
class Memory:
    """Compares what the process has after a quarter of the inputs with what it has in the end."""

    inputs: int
    most_growth: int
    _first: int = 0

    def look(self, count: int) -> None:
        """Look, after so many inputs; raises AssertionError if memory is not flat."""
        if count == max(1, self.inputs // 4):
            self._first = resident_bytes()
        elif count == self.inputs:
            growth = resident_bytes() - self._first
            assert growth <= self.most_growth, f"memory grew by {growth} bytes"


def resident_bytes() -> int:
    """Return how much memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Have a folder where nothing waits for a disk, if there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)
