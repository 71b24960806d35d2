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
from contextlib import suppress

from attrs import frozen

from filefly.data.directories import Directories
from filefly.data.disk import Disk, as_filefly_errors
from filefly.data.identity import IdentityFile
from filefly.data.incoming import IncomingBlock
from filefly.data.ranges import BlockRange
from filefly.data.storage import INCOMING, Storage
from filefly.errors import BadRange, Conflict, DiskFull, Internal, NotFound, Unavailable
from filefly.units import KIB, MIB, format_size
from filefly.wire.blocks import BlockSum, ListedBlock
from filefly.wire.codec import check_sum
from filefly.wire.messages import MAX_BLOCK_SIZE
from filefly.wire.names import check_block_id, id_of_name_on_disk, name_on_disk

CORRUPT, UNKNOWN = b".corrupt", b".unknown"
_SMALL_BYTES = 64 * KIB
_UNREADABLE = {errno.EIO, errno.ENODATA, errno.EBADMSG, errno.EUCLEAN}
"""What Linux says of bytes that are lost: a device, a medium, a checksum of the file system, its structure."""


class BlockStore:
    """The blocks of one storage directory.

    All methods but `begin` and `read_in_memory` may wait for the disk; they raise FileFlyError, never OSError. What is
    deleted by hand is simply not there any more; but nothing is said to be missing while the storage's own identity is.
    """

    def __init__(
        self, storage: Storage, disk: Disk, max_block_size: int = MAX_BLOCK_SIZE, reserve_bytes: int = 0
    ) -> None:
        self.storage = storage
        self.max_block_size = max_block_size
        self.reserve_bytes = reserve_bytes
        self._disk = disk
        self._directories = Directories(disk)
        self.identity = IdentityFile(disk, self._directories, storage.root, storage.storage_id)
        self._naming = threading.Lock()  # held while a block's name is given, moved or taken away
        self._order = threading.Lock()  # never held while the disk works: `begin` may run in the reactor's thread
        self._latest: dict[str, IncomingBlock] = {}
        self._temporary_names = itertools.count()

    def begin(self, block_id: str, size: int = 0, replaces: bool = True) -> IncomingBlock:
        """Begin a store of `block_id`, of `size` bytes if that is known, and doom those before it; touches no disk.

        Unless it `replaces` what is there, it never takes the place of another block; see IncomingBlock.
        """
        check_block_id(block_id)
        self._directories.check_writable()
        with self._order:
            name = os.path.join(self.storage.root, INCOMING, b"%d" % next(self._temporary_names))
            block = self._latest[block_id] = IncomingBlock(self, self._disk, block_id, name, size, replaces)
        return block

    def open(self, block_id: str, offset: int = 0, length: int | None = None) -> BlockRange:
        """Open a range of a block for reading; its end is clipped. Raises NotFound, BadRange."""
        check_block_id(block_id)
        with as_filefly_errors("read the block"):
            try:
                descriptor = self._disk.open(self._path(block_id))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                    self.identity.read()  # a disk that is not mounted has lost no block
                    raise NotFound("block not found") from None
                raise
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise NotFound("block not found")
                if offset > found.st_size:
                    raise BadRange(f"offset {offset} is beyond the block's {found.st_size} bytes")
                end = found.st_size if length is None else min(found.st_size, offset + length)
                return BlockRange(self._disk, descriptor, found.st_size, offset, end, found.st_ino)
            except BaseException:
                with suppress(OSError):
                    self._disk.close(descriptor)
                raise

    def read_in_memory(self, block_id: str) -> bytes | None:
        """Return a small block if that takes no wait for the disk, so that it may be asked for in any thread.

        None says nothing about the block: `open` does. Raises BadRequest.
        """
        check_block_id(block_id)
        return self._disk.read_in_memory(self._path(block_id), _SMALL_BYTES)

    def stat(self, block_id: str, verify: bool = False) -> BlockSum:
        """Return a block's size and, with `verify`, the checksum of its bytes as they are on disk now."""
        block = self.open(block_id)
        try:
            if verify:
                block.drop_cached()
            return BlockSum(size=block.size, crc32c=block.sums()[0] if verify else None)
        finally:
            block.close()

    def link(self, block_id: str, source_block_id: str, expected: str, replaces: bool = True) -> BlockSum:
        """Give the block `source_block_id` a second id, durably, if its bytes have the checksum `expected`.

        Raises NotFound, Corrupt, and what a store may raise.
        """
        source = self.open(source_block_id)
        try:
            check_sum(expected, source.sums()[0])
            source.sync()
            linked = BlockSum(size=source.size, crc32c=expected)
            incoming = self.begin(block_id, source.size, replaces)
            try:
                if incoming.link(self._path(source_block_id), source.inode, linked):
                    return linked
                for at in range(0, source.size, MIB):
                    incoming.write([source.read(at, min(MIB, source.size - at))])
                return incoming.commit(expected=expected)
            except BaseException:
                incoming.abort()
                raise
        finally:
            source.close()

    def quarantine(self, block_id: str, expected: str) -> bool:
        """Move a block whose bytes do not have the checksum `expected` into `.corrupt/`; return whether it was.

        A store that publishes this id meanwhile is seen, and judged by its own bytes. Raises NotFound.
        """
        self.identity.read()
        while True:
            block = self.open(block_id)
            try:
                if _sum_on_disk(block) == expected:
                    return False
                if self._move_away(block_id, CORRUPT, block.inode):
                    return True  # the block was open until then, so that no other file could have its number
            finally:
                block.close()

    def set_aside(self, block_id: str) -> None:
        """Move a block that no catalog knows into `.unknown/`, if it is there; raises Conflict while it is stored."""
        check_block_id(block_id)
        self.identity.read()
        with suppress(NotFound):
            self._move_away(block_id, UNKNOWN, None)

    def _move_away(self, block_id: str, folder: bytes, inode: int | None) -> bool:
        """Move a block's file into `folder`, durably, if it still is the file `inode`; return whether it was.

        Without `inode`, any file that is no store's: raises Conflict while one is under way, and NotFound.
        """
        target = os.path.join(self.storage.root, folder)
        with as_filefly_errors("move the block"), self._naming:
            self._directories.check_writable()
            if inode is None and block_id in self._latest:
                raise Conflict("this block is being stored")
            found = self._found(block_id)
            if inode not in (None, found.st_ino):
                return False
            with suppress(FileExistsError):
                self._disk.mkdir(target)
                self._directories.sync(self.storage.root)
            if not stat.S_ISDIR(self._disk.stat(target).st_mode):
                raise Unavailable(f"{os.fsdecode(folder)} in the storage directory is not a folder; remove it")
            self._disk.rename(self._path(block_id), self._free_path(target, name_on_disk(block_id)))
        self._directories.sync(target)
        self._directories.sync(self.storage.root)
        return True

    def _found(self, block_id: str) -> os.stat_result:
        try:
            found = self._disk.stat(self._path(block_id))
        except FileNotFoundError:
            raise NotFound("block not found") from None
        if not stat.S_ISREG(found.st_mode):
            raise NotFound("block not found")
        return found

    def _free_path(self, folder: bytes, name: bytes) -> bytes:
        path = os.path.join(folder, name)
        for number in itertools.count(1):
            try:
                self._disk.stat(path)
            except FileNotFoundError:
                break
            path = os.path.join(folder, b"%b~%d" % (name[:240], number))
        return path

    def delete(self, block_id: str) -> None:
        """Delete a block for good, if it is there, and doom the stores of it that are under way."""
        check_block_id(block_id)
        self.identity.read()  # what is deleted where no disk is mounted would be back with the disk
        with as_filefly_errors("delete the block"), self._naming:
            self._directories.check_writable()
            with self._order:
                self._latest.pop(block_id, None)
            with suppress(FileNotFoundError):
                self._disk.unlink(self._path(block_id))
        self._directories.sync(self.storage.root)

    def list(self, after: str, limit: int) -> "BlockPage":
        """Return the `limit` blocks that follow `after` in byte order, and whether there are more."""
        self.identity.read()
        last = after.encode()
        ids = (block_id.encode() for block_id, _entry in self._scan())
        page = heapq.nsmallest(limit + 1, (block_id for block_id in ids if block_id > last))
        listed = []
        for each in page[:limit]:
            block_id = each.decode()
            with as_filefly_errors("list the blocks"):
                try:
                    listed.append(ListedBlock(block_id, self._disk.stat(self._path(block_id)).st_size))
                except FileNotFoundError:
                    continue
        return BlockPage(listed, page[limit - 1].decode() if len(page) > limit else None)

    def usage(self) -> "Usage":
        """Count the blocks and their bytes, and ask the file system for its free space."""
        self.identity.read()
        count = used = 0
        for _block_id, entry in self._scan():
            try:
                used += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            count += 1
        with as_filefly_errors("list the blocks"):
            return Usage(count, used, self._disk.space(self.storage.root)[0])

    def check_writable(self) -> None:
        """Raise Unavailable once a directory could not be synced: nothing more is stored then."""
        self._directories.check_writable()

    def _path(self, block_id: str) -> bytes:
        return os.path.join(self.storage.root, name_on_disk(block_id))

    def _scan(self) -> "Iterator[tuple[str, os.DirEntry[bytes]]]":
        with as_filefly_errors("list the blocks"):
            for entry in self._disk.scan(self.storage.root):
                block_id = id_of_name_on_disk(entry.name)
                if block_id is not None and entry.is_file(follow_symlinks=False):
                    yield block_id, entry

    def space(self) -> "Space":
        """Ask the file system for its room."""
        with as_filefly_errors("ask for free space"):
            free, total = self._disk.space(self.storage.root)
        return Space(free, total, self.reserve_bytes)

    # What an IncomingBlock asks for, and nobody else

    def check_room(self, size: int) -> None:
        """Raise DiskFull if `size` more bytes would leave less than the reserve."""
        if self.reserve_bytes and self._disk.space(self.storage.root)[0] - size < self.reserve_bytes:
            raise DiskFull(f"less than {format_size(self.reserve_bytes)} would be left free (--reserve)")

    def publish(self, block: IncomingBlock, stored: BlockSum) -> bool:
        """Give a written block its own name, unless it was doomed; see Publisher. Raises Conflict."""
        while not self._give_name(block):
            with suppress(NotFound):  # it has gone again
                if not self._has(block.block_id, stored):
                    raise Conflict("this block is stored already, with other bytes; plan the file again")
                self.forget(block)
                return False
        return True

    def _give_name(self, block: IncomingBlock) -> bool:
        """Give a written block its own name; return whether it has it now: not if another block that is to stay has."""
        with self._naming:
            self._directories.check_writable()
            with self._order:
                if self._latest.get(block.block_id) is not block:
                    raise Conflict("a newer store or a delete of this block came first")
            if not block.replaces:
                with suppress(NotFound):
                    self._found(block.block_id)
                    return False
            self._disk.rename(block.temporary, self._path(block.block_id))
            self.forget(block)
        return True

    def _has(self, block_id: str, wanted: BlockSum) -> bool:
        """Return whether a block has the `wanted` bytes, and if so, see that they are on stable storage."""
        block = self.open(block_id)
        try:
            if block.size != wanted.size or block.sums()[0] != wanted.crc32c:
                return False
            block.sync()
            return True
        finally:
            block.close()

    def sync_names(self) -> None:
        """Put the names of blocks on stable storage."""
        self._directories.sync(self.storage.root)

    def forget(self, block: IncomingBlock) -> None:
        """Drop a store that will not be committed."""
        with self._order:
            if self._latest.get(block.block_id) is block:
                del self._latest[block.block_id]


def _sum_on_disk(block: BlockRange) -> str | None:
    """Return the checksum of a block's bytes on disk, None if they cannot be read; raises what may pass."""
    try:
        block.drop_cached()
        return block.sums()[0]
    except Unavailable:  # cut short
        return None
    except Internal as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _UNREADABLE:
            return None
        raise


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


@frozen
class Space:
    """A file system's room in bytes; below `reserve_bytes` free nothing is stored."""

    free_bytes: int
    total_bytes: int
    reserve_bytes: int
