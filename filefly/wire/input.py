"""What has come on a connection and is not used yet: lines, and the bytes of payloads. Knows no transport.

A long line is gathered in one place as it comes: neither its pieces nor a copy stand beside it.
"""

from collections import deque

from filefly.errors import TooLarge
from filefly.wire.codec import LONG_LINE_BYTES, Line


class Input:
    """Bytes in the order they came, handed over as lines or as chunks of a payload."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._beginning = bytearray()  # of a line whose end has not come
        self._next = b""  # what came behind it, used up to `_at`
        self._at = 0
        self._behind: deque[bytes] = deque()  # what came after that
        self.kept = 0
        """How many bytes are there."""

    def add(self, data: bytes) -> None:
        """Keep what has come."""
        if self.kept:
            self._behind.append(data)
        else:
            self._next, self._at = data, 0
        self.kept += len(data)

    def clear(self) -> None:
        """Drop all that is there."""
        self._beginning, self._next, self._at, self.kept = bytearray(), b"", 0, 0
        self._behind.clear()

    def take_line(self, ended: bool) -> Line | None:
        """Take the next line that is not blank, if all of it is there; where the input has ended its rest is a line.

        Raises TooLarge, with all dropped, for a line over the limit: nothing behind it can be understood.
        """
        while self.kept:
            line = self._cut_line()
            if (self.kept if line is None else len(line)) > self._max_line:
                self.clear()
                raise TooLarge(f"line is over the limit of {self._max_line} bytes (--max-line)")
            if line is None:
                if not ended:
                    return None
                line = self._beginning
                self.clear()
            if line.endswith(b"\r"):
                line = _without_its_last(line)
            if line and not line.isspace():
                return line
        return None

    def _cut_line(self) -> Line | None:
        """Take all up to the next line end; if there is none, make what is there the line's beginning."""
        while True:
            end = self._next.find(b"\n", self._at)
            if end >= 0 and not self._beginning:
                line = self._next[self._at : end]
                self._use(end + 1 - self._at)
                return line
            self._beginning += memoryview(self._next)[self._at : len(self._next) if end < 0 else end]
            if end >= 0:
                return self._end_line(end + 1)
            self._next, self._at = b"", 0
            if not self._behind:
                return None
            self._next = self._behind.popleft()

    def _end_line(self, at: int) -> Line:
        """Take the line whose beginning is all of it; the next one begins at `at`."""
        line, self._beginning = self._beginning, bytearray()
        self._at = at
        self.kept -= len(line) + 1
        self._use(0)
        return line if len(line) > LONG_LINE_BYTES else bytes(line)

    def take_chunk(self, most: int) -> bytes:
        """Take `most` bytes or less, as they came; at least one, if there is one."""
        if self._beginning:  # somebody had asked for a line
            self._behind.appendleft(self._next[self._at :])
            self._next, self._at, self._beginning = bytes(self._beginning), 0, bytearray()
        while self._at == len(self._next) and self._behind:
            self._next, self._at = self._behind.popleft(), 0
        chunk = self._next[self._at : self._at + most]
        self._use(len(chunk))
        return chunk

    def _use(self, size: int) -> None:
        self._at += size
        self.kept -= size
        if not self.kept:
            self._next, self._at = b"", 0  # it may have been large


def _without_its_last(line: Line) -> Line:
    if isinstance(line, bytearray):
        line.pop()  # in place
        return line
    return line[:-1]
