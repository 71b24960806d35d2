"""Reading a block: an open file and the part of it that somebody wants. Blocking calls; knows no network."""

import threading
from contextlib import suppress

from attrs import define, field
from crc32c import crc32c

from filefly.data.disk import Disk, as_filefly_errors
from filefly.errors import Internal, Unavailable
from filefly.units import MIB
from filefly.wire.codec import crc32c_hex

_READ_BYTES = MIB


@define(eq=False)
class BlockRange:
    """An open block and the range of it that somebody wants; stays readable when the block is replaced or deleted."""

    _disk: Disk
    _descriptor: int | None
    size: int
    offset: int
    end: int
    inode: int
    _lock: threading.Lock = field(factory=threading.Lock)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor is None

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; raises FileFlyError if the file has become shorter."""
        with self._lock, as_filefly_errors("read the block"):
            if self._descriptor is None:
                raise Internal("the block is closed")
            data = self._disk.read(self._descriptor, size, offset)
        if len(data) < size:
            raise Unavailable("the block was cut short while it was read")
        return data

    def fileno(self) -> int:
        """Return the descriptor; only until `close`."""
        if self._descriptor is None:
            raise Internal("the block is closed")
        return self._descriptor

    def drop_cached(self) -> None:
        """Have what is read from now on come from the disk itself, not from the system's memory."""
        with self._lock, as_filefly_errors("read the block"):
            if self._descriptor is not None:
                self._disk.drop_cached(self._descriptor)

    def sync(self) -> None:
        """Put the block's bytes on stable storage: whoever put it there by hand may not have."""
        with self._lock, as_filefly_errors("store the block"):
            if self._descriptor is not None:
                self._disk.fsync(self._descriptor)

    def sums(self) -> tuple[str, str]:
        """Read the whole block and return its checksum and that of the range alone."""
        whole = part = 0
        outside, inside = False, True
        for begin, end, where in (
            (0, self.offset, outside),
            (self.offset, self.end, inside),
            (self.end, self.size, outside),
        ):
            for at in range(begin, end, _READ_BYTES):
                data = self.read(at, min(_READ_BYTES, end - at))
                whole = crc32c(data, whole)
                if where is inside:
                    part = crc32c(data, part)
        return crc32c_hex(whole), crc32c_hex(part)

    def close(self) -> None:
        """Close the file; waits for a read that is under way."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                with suppress(OSError):  # closing what was only read tells nothing
                    self._disk.close(descriptor)
