"""A disk on which one operation fails, whichever that is: the others are real."""

import os
from collections.abc import Iterator

from attrs import frozen

from tests.data.disks import WatchedDisk

CLOSE_AFTER_READING = "close after reading"
"""Closing what was written may tell of lost bytes; closing what was only read tells nothing."""


@frozen
class Fault:
    """Which operation fails, counted from 0, and with what error."""

    number: int
    error: int


class NthDisk(WatchedDisk):
    """Counts what it is asked to do, from `watch` on, and lets one of these operations fail, once."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self._fault: Fault | None = None
        self._written: set[int] = set()

    def watch(self, fault: Fault | None = None) -> None:
        """Begin to count, and let an operation fail."""
        self.operations.clear()
        self._fault = fault

    def _do_before(self, operation: str) -> None:
        super()._do_before(operation)
        self.operations.append(operation)
        if self._fault is not None and len(self.operations) == self._fault.number + 1:
            raise OSError(self._fault.error, os.strerror(self._fault.error))

    def scan(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        self._do_before("scan")
        return super().scan(path)

    def create(self, path: bytes) -> int:
        descriptor = super().create(path)
        self._written.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        written = descriptor in self._written
        self._written.discard(descriptor)
        os.close(descriptor)
        self._note("close" if written else CLOSE_AFTER_READING)
