"""What the block store asks of the operating system, in one small object, so that tests can hand in faults."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from filefly.errors import DiskFull, FileFlyError, Internal, Unavailable
from filefly.units import Chunks, write_all

T = TypeVar("T")

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Disk:
    """The real disk: blocking calls on paths and file descriptors; all raise OSError."""

    def create(self, path: bytes) -> int:
        """Create the file `path`, which must not exist, and return its descriptor for writing.

        Its folder must not be a symbolic link.
        """
        return _in_folder_of(path, lambda name, folder: os.open(name, _NEW_FILE, 0o640, dir_fd=folder))

    def open(self, path: bytes) -> int:
        """Return a descriptor for reading the file `path`; does not follow a symbolic link."""
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

    def write(self, descriptor: int, chunks: Chunks) -> None:
        """Write all of `chunks` at the descriptor's position."""
        write_all(lambda pieces, _offset: os.writev(descriptor, pieces), chunks)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        """Return `size` bytes from `offset`, fewer only at the end of the file."""
        return os.pread(descriptor, size, offset)

    def read_in_memory(self, path: bytes, most: int) -> bytes | None:
        """Return the file `path` if it has at most `most` bytes and all of them are in the system's memory, else None.

        Never waits for the disk; what is wrong with a file `open` and `read` tell.
        """
        return None  # nobody knows what is in memory

    def drop_cached(self, descriptor: int) -> None:
        """Have the file read from the disk itself, not from the system's memory, as far as the system lets go of it."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def begin_sync(self, descriptor: int) -> None:
        """Have the system begin to write the file, so that `fsync` waits less; what goes wrong `fsync` tells."""

    def fsync(self, descriptor: int) -> None:
        """Put the file on stable storage."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""
        os.close(descriptor)

    def rename(self, source: bytes, target: bytes) -> None:
        """Rename, replacing `target`."""
        os.rename(source, target)

    def link(self, source: bytes, target: bytes) -> None:
        """Give the file `source` a second name, which must not exist, and whose folder must not be a symbolic link."""
        _in_folder_of(target, lambda name, folder: os.link(source, name, dst_dir_fd=folder, follow_symlinks=False))

    def mkdir(self, path: bytes) -> None:
        """Create the directory `path`, which must not exist."""
        os.mkdir(path, 0o750)

    def unlink(self, path: bytes) -> None:
        """Remove the file `path`."""
        os.unlink(path)

    def fsync_directory(self, path: bytes) -> None:
        """Put the entries of the directory `path` on stable storage."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def stat(self, path: bytes) -> os.stat_result:
        """Return what is known of `path` itself, a symbolic link not followed."""
        return os.stat(path, follow_symlinks=False)

    def scan(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        """Yield the entries of the directory `path`, in no order."""
        with os.scandir(path) as entries:
            yield from entries

    def space(self, path: bytes) -> tuple[int, int]:
        """Return the bytes that may still be written to the file system of `path`, and those that it has in all."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _in_folder_of(path: bytes, make: Callable[[bytes, int], T]) -> T:
    """Return what `make` returns, which gets the name of `path` and a descriptor of its folder, no link followed."""
    folder, _slash, name = path.rpartition(b"/")
    descriptor = os.open(folder, _FOLDER)
    try:
        return make(name, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def as_filefly_errors(doing: str) -> Iterator[None]:
    """Turn an OSError into the FileFlyError that tells of it; `doing` is what cannot be done."""
    try:
        yield
    except OSError as error:
        raise _filefly_error(doing, error) from error


def _filefly_error(doing: str, error: OSError) -> FileFlyError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk is full; free some space or add a data server")
    if error.errno == errno.ENOENT:
        return Unavailable(f"cannot {doing}: a folder of the storage directory is gone; is its disk mounted?")
    if error.errno == errno.ENOTDIR:
        return Unavailable(f"cannot {doing}: a folder of the storage directory is none any more; remove what is there")
    return Internal(f"cannot {doing}: {error.strerror}")
