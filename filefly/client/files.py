"""Where an upload reads, and what is kept of a file beside its bytes. Blocking calls for any thread."""

import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol

from attrs import define, field
from crc32c import crc32c

from filefly.client.errors import SourceChanged, SourceFailed
from filefly.errors import FileFlyError, NotFound
from filefly.units import MIB
from filefly.wire.codec import crc32c_hex
from filefly.wire.messages import Attributes

ReadAt = Callable[[int, int], bytes]
"""Returns so many bytes from an offset, or raises SourceFailed."""


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError into the FileFlyError that tells of it, and names the file as its user knows it."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{os.fspath(path)} does not exist") from error
    except OSError as error:
        raise SourceFailed(f"cannot read {os.fspath(path)}: {error.strerror}") from error


class Source(Protocol):
    """Bytes of known size that can be read from any place, by several threads."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    @property
    def attributes(self) -> Attributes:
        """What is worth keeping of the source beside its bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; raises SourceFailed, SourceChanged if they are not there any more."""

    def check_unchanged(self) -> None:
        """Raise SourceChanged if what was read cannot be trusted to be one state of the source."""

    def close(self) -> None:
        """Let the source go; waits for a read that is under way."""


@define(eq=False)
class BytesSource:
    """Bytes in memory."""

    data: bytes
    attributes: Attributes = field(factory=dict)

    @property
    def size(self) -> int:
        """See Source."""
        return len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        """See Source."""
        return self.data[offset : offset + size]

    def check_unchanged(self) -> None:
        """Bytes never change."""

    def close(self) -> None:
        """Nothing to let go."""


class PathSource:
    """A file on disk, with its modification time and mode as attributes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with _readable(self.path):
            # Without O_NONBLOCK, opening a pipe would wait for somebody to write.
            self._descriptor: int | None = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._lock = threading.Lock()
        self._found = os.fstat(self._descriptor)
        if not stat.S_ISREG(self._found.st_mode):
            self.close()
            raise FileFlyError(f"{self.path} is not a regular file, so its size is not known; pipe it into upload -")
        self.size = self._found.st_size
        self.attributes = attributes_of(self._found)

    def read(self, offset: int, size: int) -> bytes:
        """See Source."""
        with self._lock, _readable(self.path):
            if self._descriptor is None:
                raise SourceChanged("the upload was given up")
            data = os.pread(self._descriptor, size, offset)
        if len(data) < size:
            raise SourceChanged(f"{self.path} became shorter while it was uploaded; upload it again")
        return data

    def check_unchanged(self) -> None:
        """See Source."""
        with _readable(self.path):
            now = os.stat(self.path)
        if (now.st_size, now.st_mtime_ns) != (self._found.st_size, self._found.st_mtime_ns):
            raise SourceChanged(f"{self.path} changed while it was uploaded; upload it again")

    def close(self) -> None:
        """See Source."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)


class FileObjectSource:
    """The first `size` bytes of an open binary file that can seek; the file stays the caller's to close."""

    def __init__(self, file: BinaryIO, size: int | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = file.seek(0, os.SEEK_END) if size is None else size
        self.attributes: Attributes = {}

    def read(self, offset: int, size: int) -> bytes:
        """See Source."""
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(size)
        if len(data) < size:
            raise SourceChanged(f"the file ended before its {self.size} bytes")
        return data

    def check_unchanged(self) -> None:
        """Nobody can tell."""

    def close(self) -> None:
        """Leave the file to its owner."""


def sum_of(read_at: ReadAt, offset: int, size: int) -> str:
    """Return the CRC32C of `size` bytes from `offset`; raises as `read_at` does."""
    checksum, end = 0, offset + size
    while offset < end:
        piece = read_at(offset, min(MIB, end - offset))
        checksum, offset = crc32c(piece, checksum), offset + len(piece)
    return crc32c_hex(checksum)


def attributes_of(found: os.stat_result) -> Attributes:
    """Return a file's modification time (RFC 3339, nanoseconds) and mode (octal) as its attributes."""
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return {"mtime": f"{whole}.{nanoseconds:09}Z", "mode": f"{found.st_mode & 0o777:04o}"}


_RFC3339 = re.compile(r"(?P<whole>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.(?P<fraction>\d+))?(?P<zone>Z|[+-]\d\d:\d\d)")


def mtime_ns_of(attributes: Mapping[str, Any]) -> int | None:
    """Return the modification time in `attributes` in nanoseconds, or None if there is none that makes sense."""
    match = _RFC3339.fullmatch(str(attributes.get("mtime")))
    if match is None:
        return None
    try:
        seconds = int(datetime.fromisoformat(match["whole"] + match["zone"]).timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * 10**9 + int((match["fraction"] or "").ljust(9, "0")[:9])


def mode_of(attributes: Mapping[str, Any]) -> int | None:
    """Return the permission bits in `attributes`, or None if there are none that make sense."""
    try:
        return int(str(attributes["mode"]), 8) & 0o777
    except (KeyError, ValueError):
        return None


def give_attributes(file: int | str | os.PathLike[str], attributes: Mapping[str, Any]) -> None:
    """Give a file, or what a descriptor stands for, the mode and the modification time in `attributes`."""
    if (mode := mode_of(attributes)) is not None:
        os.chmod(file, mode)
    if (mtime := mtime_ns_of(attributes)) is not None:
        os.utime(file, ns=(mtime, mtime))
