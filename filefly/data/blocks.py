"""BlockStore: blocks as plain files in one directory. Blocking calls for any thread; knows no network.

A store goes through `.incoming/`: written, fsynced, renamed to the block's own name, the directory fsynced, and only
then acknowledged (the order of restic's local backend). Per block id the last store begun wins: a newer one, or a
delete, dooms those before it.
"""

import errno
import heapq
import itertools
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from attrs import define, field, frozen
from crc32c import crc32c

from filefly.data.disk import Disk
from filefly.data.storage import INCOMING, Storage
from filefly.errors import BadRange, Conflict, DiskFull, FileFlyError, Internal, NotFound, TooLarge, Unavailable
from filefly.units import MIB
from filefly.wire.codec import check_sum, crc32c_hex
from filefly.wire.messages import MAX_BLOCK_SIZE, BlockSum, ListedBlock
from filefly.wire.names import check_block_id, id_of_name_on_disk, name_on_disk

_READ_BYTES = MIB


class BlockStore:
    """The blocks of one storage directory.

    All methods but `begin` touch the disk; they raise FileFlyError, never OSError. What is deleted by hand is simply
    not there any more.
    """

    def __init__(self, storage: Storage, disk: Disk, max_block_size: int = MAX_BLOCK_SIZE) -> None:
        self.storage = storage
        self.max_block_size = max_block_size
        self._disk = disk
        self._lock = threading.Lock()
        self._latest: dict[str, IncomingBlock] = {}
        self._temporary_names = itertools.count()
        self._failed: str | None = None

    def begin(self, block_id: str) -> "IncomingBlock":
        """Begin a store of `block_id` and doom those begun before it; touches no disk."""
        check_block_id(block_id)
        with self._lock:
            self._check_writable()
            name = os.path.join(self.storage.root, INCOMING, b"%d" % next(self._temporary_names))
            block = self._latest[block_id] = IncomingBlock(self, self._disk, block_id, name)
        return block

    def open(self, block_id: str, offset: int = 0, length: int | None = None) -> "BlockRange":
        """Open a range of a block for reading; its end is clipped. Raises NotFound, BadRange."""
        check_block_id(block_id)
        with _as_filefly_errors("read"):
            try:
                descriptor = self._disk.open(self._path(block_id))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                    raise NotFound("block not found") from None
                raise
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise NotFound("block not found")
                if offset > found.st_size:
                    raise BadRange(f"offset {offset} is beyond the block's {found.st_size} bytes")
                end = found.st_size if length is None else min(found.st_size, offset + length)
                return BlockRange(self._disk, descriptor, found.st_size, offset, end)
            except BaseException:
                self._disk.close(descriptor)
                raise

    def stat(self, block_id: str, verify: bool = False) -> BlockSum:
        """Return a block's size and, with `verify`, the checksum of its bytes as they are on disk now."""
        block = self.open(block_id)
        try:
            return BlockSum(size=block.size, crc32c=block.sums()[0] if verify else None)
        finally:
            block.close()

    def delete(self, block_id: str) -> None:
        """Delete a block for good, if it is there, and doom the stores of it that are under way."""
        check_block_id(block_id)
        with _as_filefly_errors("delete"), self._lock:
            self._check_writable()
            self._latest.pop(block_id, None)
            with suppress(FileNotFoundError):
                self._disk.unlink(self._path(block_id))
        self._fsync_directory()

    def list(self, after: str, limit: int) -> "BlockPage":
        """Return the `limit` blocks that follow `after` in byte order, and whether there are more."""
        last = after.encode()
        ids = (block_id.encode() for block_id, _entry in self._scan())
        page = heapq.nsmallest(limit + 1, (block_id for block_id in ids if block_id > last))
        listed = []
        for each in page[:limit]:
            block_id = each.decode()
            with _as_filefly_errors("list"):
                try:
                    listed.append(ListedBlock(block_id, self._disk.stat(self._path(block_id)).st_size))
                except FileNotFoundError:
                    continue
        return BlockPage(listed, page[limit - 1].decode() if len(page) > limit else None)

    def usage(self) -> "Usage":
        """Count the blocks and their bytes, and ask the file system for its free space."""
        count = used = 0
        for _block_id, entry in self._scan():
            try:
                used += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            count += 1
        with _as_filefly_errors("list"):
            return Usage(count, used, self._disk.space(self.storage.root))

    def _path(self, block_id: str) -> bytes:
        return os.path.join(self.storage.root, name_on_disk(block_id))

    def _scan(self) -> "Iterator[tuple[str, os.DirEntry[bytes]]]":
        with _as_filefly_errors("list"):
            for entry in self._disk.scan(self.storage.root):
                block_id = id_of_name_on_disk(entry.name)
                if block_id is not None and entry.is_file(follow_symlinks=False):
                    yield block_id, entry

    # What an IncomingBlock asks for, and nobody else

    def _check_writable(self) -> None:
        if self._failed is not None:
            raise Unavailable(self._failed)

    def publish(self, block: "IncomingBlock") -> None:
        """Give a written block its own name, unless it was doomed."""
        with self._lock:
            self._check_writable()
            if self._latest.get(block.block_id) is not block:
                raise Conflict("a newer store or a delete of this block came first")
            self._disk.rename(block.temporary, self._path(block.block_id))
            del self._latest[block.block_id]
        self._fsync_directory()

    def forget(self, block: "IncomingBlock") -> None:
        """Drop a store that will not be committed."""
        with self._lock:
            if self._latest.get(block.block_id) is block:
                del self._latest[block.block_id]

    def _fsync_directory(self) -> None:
        try:
            self._disk.fsync_directory(self.storage.root)
        except OSError as error:
            # What the kernel could not write once it may forget: nothing here can be promised any more.
            self._failed = f"the storage directory cannot be synced ({error.strerror}); check the disk, then restart"
            raise Unavailable(self._failed) from None
        self._check_writable()  # another sync failed meanwhile: this one may not have seen what that one lost


@define(eq=False)
class IncomingBlock:
    """A store under way: `write` as often as need be, then `commit` or `abort`; one thread at a time."""

    _store: BlockStore
    _disk: Disk
    block_id: str
    temporary: bytes
    size: int = 0
    _checksum: int = 0
    _descriptor: int | None = None
    _created: bool = False
    _lock: threading.Lock = field(factory=threading.Lock)

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`. After an error only `abort` makes sense."""
        self.size += sum(map(len, chunks))
        if self.size > self._store.max_block_size:
            raise TooLarge(f"block is over the limit of {self._store.max_block_size} bytes (--max-block-size)")
        for chunk in chunks:
            self._checksum = crc32c(chunk, self._checksum)
        with self._lock, _as_filefly_errors("store"):
            self._disk.write(self._open(), chunks)

    def commit(self, chunks: Sequence[bytes] = (), expected: str | None = None) -> BlockSum:
        """Append `chunks` and put the block in place, durably; on return it is there, whatever happens next.

        Raises Corrupt unless its checksum is the `expected` one, and Conflict if a newer store or a delete came first.
        """
        self.write(chunks)
        found = crc32c_hex(self._checksum)
        check_sum(expected, found)
        with self._lock, _as_filefly_errors("store"):
            descriptor = self._open()
            self._disk.fsync(descriptor)
            self._descriptor = None
            self._disk.close(descriptor)
            self._store.publish(self)
            self._created = False
        return BlockSum(size=self.size, crc32c=found)

    def abort(self) -> None:
        """Leave nothing of this store behind; fine also after `commit`."""
        self._store.forget(self)
        with self._lock, _as_filefly_errors("store"):
            descriptor, self._descriptor = self._descriptor, None
            created, self._created = self._created, False
            if descriptor is not None:
                self._disk.close(descriptor)
            if created:
                with suppress(FileNotFoundError):  # renamed already: only the directory's fsync failed
                    self._disk.unlink(self.temporary)

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = self._disk.create(self.temporary)
            self._created = True
        return self._descriptor


@define(eq=False)
class BlockRange:
    """An open block and the range of it that somebody wants; stays readable when the block is replaced or deleted."""

    _disk: Disk
    _descriptor: int | None
    size: int
    offset: int
    end: int
    _lock: threading.Lock = field(factory=threading.Lock)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._descriptor is None

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; raises FileFlyError if the file has become shorter."""
        with self._lock, _as_filefly_errors("read"):
            if self._descriptor is None:
                raise Internal("the block is closed")
            data = self._disk.read(self._descriptor, size, offset)
        if len(data) < size:
            raise Unavailable("the block was cut short while it was read")
        return data

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
                self._disk.close(descriptor)


@frozen
class BlockPage:
    """Some blocks, and the id to go on after if there are more."""

    blocks: Sequence[ListedBlock]
    next: str | None


@frozen
class Usage:
    """What a storage directory holds, in blocks and bytes."""

    block_count: int
    used_bytes: int
    free_bytes: int


@contextmanager
def _as_filefly_errors(doing: str) -> Iterator[None]:
    """Turn an OSError into the FileFlyError that tells of it."""
    try:
        yield
    except OSError as error:
        raise _filefly_error(doing, error) from error


def _filefly_error(doing: str, error: OSError) -> FileFlyError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk is full; free some space or add a data server")
    return Internal(f"cannot {doing} the block: {error.strerror}")
