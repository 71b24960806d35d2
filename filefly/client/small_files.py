"""Small files of the local disk, each read or written whole in one go. Blocking calls for any thread."""

import errno
import itertools
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import field, frozen
from crc32c import crc32c

from filefly.client.batches import MOST_BYTES, SMALL_BYTES
from filefly.client.files import attributes_of, give_attributes, mode_of
from filefly.client.targets import part_of
from filefly.errors import FileFlyError
from filefly.wire.codec import crc32c_hex
from filefly.wire.messages import Attributes

Local = str | os.PathLike[str]
NamedPath = tuple[str, Local]
"""A file's name in the catalog, and where it is."""


@frozen
class SmallFile:
    """A small file as it was at one moment."""

    name: str
    path: Local
    data: bytes
    crc32c: str
    attributes: Attributes


@frozen
class SmallFiles:
    """Small files that were read, `others` that have to be uploaded alone, and the `rest` that was not looked at."""

    read: list[SmallFile] = field(factory=list)
    others: list[NamedPath] = field(factory=list)
    rest: Sequence[NamedPath] = ()


def read_small_files(files: Sequence[NamedPath]) -> SmallFiles:
    """Read the first of `files`, as many as make a batch.

    One that is large, changes meanwhile, or cannot be read, is left to the one who reads it alone, and tells why.
    """
    read, others, size = list[SmallFile](), list[NamedPath](), 0
    for number, (name, path) in enumerate(files):
        if size >= MOST_BYTES:
            return SmallFiles(read, others, files[number:])
        if (found := _read_whole(path)) is None:
            others.append((name, path))
        else:
            data, state = found
            read.append(SmallFile(name, path, data, crc32c_hex(crc32c(data)), attributes_of(state)))
            size += len(data)
    return SmallFiles(read, others)


def _read_whole(path: Local) -> tuple[bytes, os.stat_result] | None:
    """Return what is in a small file, and its size, time and mode, which were the same before and after; else None."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode) or before.st_size > SMALL_BYTES:
            return None
        data = os.read(descriptor, before.st_size + 1)
        after = os.fstat(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    unchanged = (before.st_size, before.st_mtime_ns, before.st_mode) == (len(data), after.st_mtime_ns, after.st_mode)
    return (data, before) if unchanged else None


_temporary_numbers = itertools.count()


class SmallTargets:
    """Writes files, each of which appears whole or not at all, with its mode and its modification time."""

    def __init__(self, folders: set[str]) -> None:
        """`folders` are known to be there, and get those that are made."""
        self._folders = folders
        self._lock = threading.Lock()
        self._over = False

    def write(self, path: Local, attributes: Mapping[str, Any], data: bytes | memoryview) -> None:
        """Write one file, and the folders above it; raises OSError, or FileFlyError after `abort`."""
        target = os.fspath(path)
        with self._lock:
            if self._over:
                raise FileFlyError("the download was given up")
            folder = os.path.dirname(target)
            if folder and folder not in self._folders:
                os.makedirs(folder, exist_ok=True)
                self._folders.add(folder)
            _write_whole(folder, target, attributes, data)

    def abort(self) -> None:
        """Write no more; returns once no write is under way."""
        with self._lock:
            self._over = True


def make_folder(path: Local) -> None:
    """Create the folder of `path` and those above it; raises FileFlyError."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder or os.curdir, exist_ok=True)
    except OSError as error:
        raise FileFlyError(f"cannot create the folder {folder}: {error.strerror}") from None


def is_begun(path: Local) -> bool:
    """Whether there is anything of a file, or of a download of it that can be resumed."""
    return os.path.lexists(path) or os.path.lexists(part_of(Path(path)))


def _write_whole(folder: str, target: str, attributes: Mapping[str, Any], data: bytes | memoryview) -> None:
    mode = mode_of(attributes)
    temporary = os.path.join(folder, f".filefly-{os.getpid()}-small-{next(_temporary_numbers)}.part")
    # Nobody should read a private file while it is still under way.
    permissions = 0o666 if mode is None else mode | 0o600
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, permissions)
    try:
        try:
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            give_attributes(descriptor, attributes)
        finally:
            os.close(descriptor)  # some network file systems tell only then of what could not be written
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
