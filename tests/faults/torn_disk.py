"""A disk that forgets: real files, and a log of what would not survive a power loss.

| not synced yet | after a power loss |
| --- | --- |
| a file's bytes (`fsync`) | all there, cut short, or with a stretch of zeros |
| a directory's entries (`fsync_directory`) | each name as it was, or as it had become at any time since |

A program that merely dies loses nothing. Beyond that a disk can fill up, fail with EIO, and do what disks promise not
to do: flip bits and lose files. Entries of `.incoming/` are not followed: a data server clears it when it starts.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from attrs import define, field

from filefly.data.disk import Disk
from filefly.data.storage import INCOMING
from filefly.units import Chunks

PLENTY = 2**40


@define(eq=False)
class Medium:
    """What a machine's storage directory `root` lies on, whichever process uses it; `kept` is a folder for the log."""

    root: Path
    kept: Path
    random: Random
    free: int | None = None
    """How many more bytes can be written, if that matters."""
    failing: float = 0.0
    """How likely an operation is to fail with EIO."""
    failed: bool = False
    """Whether an operation has failed with EIO."""
    operations_until_crash: int | None = None
    _unsynced: set[int] = field(factory=set)  # inodes
    _before: dict[bytes, list[bytes | None]] = field(factory=dict)  # name: what it was, oldest first; None: nothing
    _number: int = 0

    def __attrs_post_init__(self) -> None:
        """Make the folder for the log."""
        self.kept.mkdir()

    # What the disk notes

    def note_written(self, inode: int) -> None:
        """Note that a file's bytes are not safe."""
        self._unsynced.add(inode)

    def note_synced(self, inode: int) -> None:
        """Note that a file's bytes are safe."""
        self._unsynced.discard(inode)

    def note_entry(self, path: bytes) -> None:
        """Keep what a name stands for now, which is about to change."""
        if os.path.basename(os.path.dirname(path)) == INCOMING:
            return
        kept = None
        if os.path.lexists(path):
            self._number += 1
            kept = os.path.join(os.fsencode(self.kept), b"%d" % self._number)
            os.link(path, kept, follow_symlinks=False)
        self._before.setdefault(path, []).append(kept)

    def note_directory_synced(self, directory: bytes) -> None:
        """Forget what the names of a directory once stood for."""
        for path in [path for path in self._before if os.path.dirname(path) == directory]:
            self._forget(path)

    def _forget(self, path: bytes) -> None:
        for kept in self._before.pop(path):
            if kept is not None:
                os.unlink(kept)

    # What happens to it

    def lose_power(self) -> None:
        """Undo, tear or keep what was not synced."""
        for path, states in list(self._before.items()):
            chosen = self.random.randint(0, len(states))
            if chosen < len(states):
                if os.path.lexists(path):
                    os.unlink(path)
                kept = states[chosen]
                if kept is not None:
                    os.link(kept, path)
            self._forget(path)
        for directory in (self.root, *sorted(path for path in self.root.glob(".*") if path.is_dir())):
            for file in sorted(directory.iterdir()):
                if file.is_file() and file.stat().st_ino in self._unsynced:
                    self._tear(file)
        self._unsynced.clear()

    def _tear(self, file: Path) -> None:
        data = file.read_bytes()
        cut = self.random.randint(0, len(data))
        file.write_bytes(self.random.choice((data, data[:cut], data[:cut] + bytes(len(data) - cut))))

    def blocks(self) -> list[str]:
        """Return the names of the block files, in order."""
        return sorted(file.name for file in self.root.iterdir() if file.is_file() and not file.name.startswith("."))

    def flip(self, block: str) -> None:
        """Flip a bit of a block file."""
        file = self.root / block
        data = bytearray(file.read_bytes())
        if data:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            with file.open("r+b") as opened:
                opened.write(data)

    def lose(self, block: str) -> None:
        """Lose a block file."""
        (self.root / block).unlink()


class TornDisk(Disk):
    """A Medium as one process uses it. `die` is called in the middle of an operation; it must raise."""

    def __init__(self, medium: Medium, die: Callable[[], None]) -> None:
        self._medium = medium
        self._die = die
        self._open: set[int] = set()

    def abandon(self) -> None:
        """Close what a dead process had open."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def _may_fail(self) -> None:
        medium = self._medium
        if medium.operations_until_crash is not None:
            medium.operations_until_crash -= 1
            if medium.operations_until_crash < 0:
                self._die()
        if medium.failing and medium.random.random() < medium.failing:
            medium.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def create(self, path: bytes) -> int:
        self._may_fail()
        if self._medium.free == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._medium.note_entry(path)
        descriptor = super().create(path)
        self._open.add(descriptor)
        self._medium.note_written(os.fstat(descriptor).st_ino)
        return descriptor

    def open(self, path: bytes) -> int:
        self._may_fail()
        descriptor = super().open(path)
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.discard(descriptor)
            super().close(descriptor)

    def write(self, descriptor: int, chunks: Chunks) -> None:
        self._may_fail()
        self._medium.note_written(os.fstat(descriptor).st_ino)
        data = b"".join(chunks)
        free = self._medium.free
        if free is not None:
            fits = data[:free]
            self._medium.free = free - len(fits)
            super().write(descriptor, [fits])
            if len(fits) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            super().write(descriptor, [data])

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        self._may_fail()
        return super().read(descriptor, size, offset)

    def fsync(self, descriptor: int) -> None:
        self._may_fail()
        self._medium.note_synced(os.fstat(descriptor).st_ino)

    def rename(self, source: bytes, target: bytes) -> None:
        self._may_fail()
        self._medium.note_entry(source)
        self._medium.note_entry(target)
        super().rename(source, target)

    def link(self, source: bytes, target: bytes) -> None:
        self._may_fail()
        self._medium.note_entry(target)
        super().link(source, target)

    def mkdir(self, path: bytes) -> None:
        self._may_fail()
        super().mkdir(path)

    def unlink(self, path: bytes) -> None:
        self._may_fail()
        found = os.lstat(path)
        self._medium.note_entry(path)
        super().unlink(path)
        if self._medium.free is not None:
            self._medium.free += found.st_size

    def fsync_directory(self, path: bytes) -> None:
        self._may_fail()
        self._medium.note_directory_synced(path)

    def stat(self, path: bytes) -> os.stat_result:
        self._may_fail()
        return super().stat(path)

    def scan(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        self._may_fail()
        yield from sorted(super().scan(path), key=lambda entry: entry.name)

    def space(self, path: bytes) -> tuple[int, int]:
        self._may_fail()
        return PLENTY if self._medium.free is None else self._medium.free, PLENTY
