"""Where a download writes: a file that appears whole or not at all. Blocking calls for any thread; knows no network."""

import hashlib
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filefly.client.errors import SourceFailed
from filefly.client.files import give_attributes, mode_of
from filefly.errors import Busy, FileFlyError, NotFound
from filefly.locks import lock_file
from filefly.units import Chunks, write_all

_LONGEST_NAME = 255  # bytes; NAME_MAX

_temporary_numbers = itertools.count()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into the FileFlyError that tells of it, and names the file as its user knows it."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"the folder {path.parent} does not exist; create it first") from error
    except OSError as error:
        raise FileFlyError(f"cannot write {path}: {error.strerror}") from error


class TargetFile:
    """A file being written under a temporary name in the folder where it will appear, whole or not at all."""

    def __init__(self, path: str | os.PathLike[str], attributes: Mapping[str, Any]) -> None:
        """Touch no disk yet."""
        self.path = Path(path)
        self._attributes = attributes
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._temporary = self.path
        self._over = False

    def open(self) -> None:
        """Open the temporary file; raises NotFound if the folder does not exist. Does nothing after `abort`."""
        mode = mode_of(self._attributes)
        with self._lock, writing(self.path):
            if not self._over:
                # Nobody should read a private file while it is still under way.
                self._descriptor, self._temporary = self._create(0o666 if mode is None else mode | 0o600)

    def _create(self, mode: int) -> tuple[int, Path]:
        while True:
            temporary = self.path.with_name(f".filefly-{os.getpid()}-{next(_temporary_numbers)}.part")
            with suppress(FileExistsError):
                return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), temporary

    def write(self, offset: int, chunks: Chunks) -> None:
        """Write `chunks` one behind the other from `offset`."""

        def write(pieces: Sequence[memoryview], written: int) -> int:
            with self._lock, writing(self.path):
                return os.pwritev(self._opened(), pieces, offset + written)

        write_all(write, chunks)

    def finish(self, size: int) -> None:
        """Give the file, of which `size` bytes were written, its mode, its modification time and its name."""
        with self._lock, writing(self.path):
            descriptor = self._opened()
            os.ftruncate(descriptor, size)
            give_attributes(descriptor, self._attributes)
            os.close(os.dup(descriptor))  # some network file systems tell only then of what could not be written
            os.replace(self._temporary, self.path)
            self._close()

    def abort(self) -> None:
        """Leave nothing that is not to be kept; fine also after `finish`, and before `open`."""
        with self._lock:
            self._over = True
            if self._descriptor is not None:
                if not self._to_be_kept(self._descriptor):
                    with suppress(FileNotFoundError):
                        os.unlink(self._temporary)
                self._close()

    def _to_be_kept(self, _descriptor: int) -> bool:
        return False

    def _opened(self) -> int:
        if self._descriptor is None:
            raise FileFlyError("the download was given up")
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._opened(), None
        os.close(descriptor)


class ResumableFile(TargetFile):
    """A TargetFile whose temporary name depends on `path` alone: it outlives a download that fails, for the next one.

    What is in it may be anything, so nothing counts before it was read and compared. One download at a time has it.
    """

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; raises SourceFailed if they are not there."""
        with self._lock:
            try:
                data = os.pread(self._opened(), size, offset)
            except OSError as error:
                raise SourceFailed(f"cannot read {self._temporary}: {error.strerror}") from error
        if len(data) < size:
            raise SourceFailed(f"{self._temporary} ended early")
        return data

    def _create(self, mode: int) -> tuple[int, Path]:
        part = part_of(self.path)
        while True:
            os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode))
            try:
                descriptor = lock_file(part)
            except BlockingIOError:
                raise Busy(f"{self.path} is being downloaded already") from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(part, follow_symlinks=False)):
                    return descriptor, part
            os.close(descriptor)  # whoever had the lock has finished its download, or given up, just now

    def _to_be_kept(self, descriptor: int) -> bool:
        return os.fstat(descriptor).st_size > 0


def part_of(path: Path) -> Path:
    """Return where what is there of a resumable download of `path` is kept."""
    name = f".{path.name}.filefly-part"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.filefly-part"
    return path.with_name(name)
