"""Disks for tests: real files, with faults and without the wait for stable storage."""

import os
from collections.abc import Callable
from pathlib import Path

from filefly.data.blocks import BlockStore
from filefly.data.disk import Disk
from filefly.data.storage import Storage, open_storage
from filefly.units import Chunks
from filefly.wire.messages import MAX_BLOCK_SIZE


class QuickDisk(Disk):
    """The real disk, but what would wait for stable storage does not."""

    def fsync(self, descriptor: int) -> None:
        pass

    def fsync_directory(self, path: bytes) -> None:
        pass


class WatchedDisk(QuickDisk):
    """Notes what it is asked to do, and does something before it where it is told to.

    `before` has what to do before an operation, by its name: raising an OSError makes the operation fail.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.begun_syncs: list[int] = []
        """What was begun to be written: whether it was is a matter of speed."""
        self.before: dict[str, Callable[[], None]] = {}
        self.free: int | None = None
        """How many bytes are said to be free, if not what is true."""

    def fail(self, operation: str, error: int) -> None:
        """Let `operation` fail from now on."""

        def raise_error() -> None:
            raise OSError(error, os.strerror(error))

        self.before[operation] = raise_error

    def mend(self) -> None:
        """Let nothing fail any more."""
        self.before.clear()

    def _note(self, operation: str) -> None:
        self.calls.append(operation)
        self._do_before(operation)

    def _do_before(self, operation: str) -> None:
        if operation in self.before:
            self.before[operation]()

    def create(self, path: bytes) -> int:
        self._note("create")
        return super().create(path)

    def open(self, path: bytes) -> int:
        self._note("open")
        return super().open(path)

    def write(self, descriptor: int, chunks: Chunks) -> None:
        try:
            self._note("write")
        except OSError:  # a full disk takes a part of what it is given
            super().write(descriptor, [chunk[: len(chunk) // 2] for chunk in chunks])
            raise
        super().write(descriptor, chunks)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        self._note("read")
        return super().read(descriptor, size, offset)

    def begin_sync(self, descriptor: int) -> None:
        self.begun_syncs.append(descriptor)

    def fsync(self, descriptor: int) -> None:
        self._note("fsync")

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._note("close")

    def rename(self, source: bytes, target: bytes) -> None:
        self._note("rename")
        super().rename(source, target)

    def link(self, source: bytes, target: bytes) -> None:
        self._note("link")
        super().link(source, target)

    def mkdir(self, path: bytes) -> None:
        self._note("mkdir")
        super().mkdir(path)

    def unlink(self, path: bytes) -> None:
        self._note("unlink")
        super().unlink(path)

    def drop_cached(self, descriptor: int) -> None:
        self._note("drop_cached")
        super().drop_cached(descriptor)

    def stat(self, path: bytes) -> os.stat_result:
        self._do_before("stat")
        return super().stat(path)

    def space(self, path: bytes) -> tuple[int, int]:
        self._do_before("space")
        free, total = super().space(path)
        return free if self.free is None else self.free, total

    def fsync_directory(self, path: bytes) -> None:
        self._note("fsync_directory")


def take(folder: Path, disk: Disk | None = None) -> Storage:
    """Open `folder` as a storage directory named after it."""
    return open_storage(folder, lambda: f"id of {folder.name}", disk or QuickDisk())


def open_store(
    folder: Path, disk: Disk | None = None, max_block_size: int = MAX_BLOCK_SIZE, reserve_bytes: int = 0
) -> BlockStore:
    """Open `folder` as a block store; faults of `disk` may be there from the start."""
    return BlockStore(take(folder), disk or QuickDisk(), max_block_size, reserve_bytes)


def files(folder: Path) -> dict[str, bytes]:
    """Return all blocks below a storage directory: those in place, under way, or moved away."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in {".filefly.json", ".lock"}}
