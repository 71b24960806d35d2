"""Storing a block: written beside the others, and given its name once all of it is on stable storage."""

import errno
import threading
from contextlib import suppress
from typing import Protocol

from attrs import define, field
from crc32c import crc32c

from filefly.data.disk import Disk, as_filefly_errors
from filefly.errors import TooLarge
from filefly.units import Chunks
from filefly.wire.blocks import BlockSum
from filefly.wire.codec import check_sum, crc32c_hex

_NOT_LINKED = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.ENOENT}
"""Why a link cannot be made though a copy can; ENOENT: the file's own name was just deleted."""


class Publisher(Protocol):
    """What an IncomingBlock asks of the store that it belongs to."""

    max_block_size: int

    def check_room(self, size: int) -> None:
        """Raise DiskFull if `size` more bytes should not be written."""

    def publish(self, block: "IncomingBlock", stored: BlockSum) -> bool:
        """Give a written block its own name, unless it was doomed; durable after `sync_names`.

        Return whether that was necessary: it is not if a block that must stay has the bytes that were `stored`.
        """

    def sync_names(self) -> None:
        """Put the names of blocks on stable storage."""

    def forget(self, block: "IncomingBlock") -> None:
        """Drop a store that will not be committed."""


@define(eq=False)
class IncomingBlock:
    """A store under way: `write` as often as need be, then `commit` or `abort`; one thread at a time.

    Unless it `replaces` what is there, a block that is there stays: the same bytes are stored then, others refused.
    """

    _store: Publisher
    _disk: Disk
    block_id: str
    temporary: bytes
    announced: int = 0
    replaces: bool = True
    size: int = 0
    _checksum: int = 0
    _descriptor: int | None = None
    _created: bool = False
    _lock: threading.Lock = field(factory=threading.Lock)

    def write(self, chunks: Chunks) -> None:
        """Append `chunks`. After an error only `abort` makes sense."""
        self._append(chunks, more_follows=True)

    def _append(self, chunks: Chunks, more_follows: bool) -> None:
        self.size += sum(map(len, chunks))
        if self.size > self._store.max_block_size:
            raise TooLarge(f"block is over the limit of {self._store.max_block_size} bytes (--max-block-size)")
        for chunk in chunks:
            self._checksum = crc32c(chunk, self._checksum)
        with self._lock, as_filefly_errors("store the block"):
            descriptor = self._open()
            self._disk.write(descriptor, chunks)
            if more_follows:
                self._disk.begin_sync(descriptor)

    def commit(self, chunks: Chunks = (), expected: str | None = None) -> BlockSum:
        """Append `chunks` and put the block in place, durably; on return it is there, whatever happens next.

        Raises Corrupt unless its checksum is the `expected` one, and Conflict if a newer store or a delete came first,
        or a block with other bytes must stay.
        """
        self._append(chunks, more_follows=False)
        self.seal(expected)
        self.publish()
        self._store.sync_names()
        return self.sum

    @property
    def sum(self) -> BlockSum:
        """Return the size and the checksum of what was written."""
        return BlockSum(size=self.size, crc32c=crc32c_hex(self._checksum))

    def seal(self, expected: str | None = None) -> None:
        """Put the bytes on stable storage; nothing can be appended after this. Raises as `commit` does."""
        check_sum(expected, crc32c_hex(self._checksum))
        with self._lock, as_filefly_errors("store the block"):
            descriptor = self._open()
            self._disk.fsync(descriptor)
            self._descriptor = None
            self._disk.close(descriptor)

    def publish(self) -> None:
        """Give what was sealed the block's name, durable after the store's `sync_names`. Raises as `commit` does."""
        with self._lock, as_filefly_errors("store the block"):
            self._publish(self.sum)

    def _publish(self, stored: BlockSum) -> None:
        if not self._store.publish(self, stored):
            self._disk.unlink(self.temporary)
        self._created = False

    def abort(self) -> None:
        """Leave nothing of this store behind; fine also after `commit`. What the disk says to it helps nobody."""
        self._store.forget(self)
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            created, self._created = self._created, False
            if descriptor is not None:
                with suppress(OSError):
                    self._disk.close(descriptor)
            if created:
                with suppress(OSError):  # renamed already, or else removed at the next start
                    self._disk.unlink(self.temporary)

    def link(self, source: bytes, inode: int, linked: BlockSum) -> bool:
        """Commit the file `source` without copying it, if it is still the file `inode`; return whether that could be.

        It cannot be where the file system has no hard links, or no more of this file.
        """
        with self._lock, as_filefly_errors("store the block"):
            self._store.check_room(0)
            try:
                self._disk.link(source, self.temporary)
            except OSError as error:
                if error.errno in _NOT_LINKED:
                    return False
                raise
            self._created = True
            if self._disk.stat(self.temporary).st_ino != inode:
                self._disk.unlink(self.temporary)
                self._created = False
                return False
            self._publish(linked)
            self._store.sync_names()
            with suppress(OSError):  # a name of the same file was there: renaming to that does nothing, says POSIX
                self._disk.unlink(self.temporary)
        return True

    def _open(self) -> int:
        if self._descriptor is None:
            self._store.check_room(max(self.announced, self.size))
            self._descriptor = self._disk.create(self.temporary)
            self._created = True
        return self._descriptor
