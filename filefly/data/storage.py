"""A storage directory: taken by one daemon, marked with its identity, and fit to hold blocks.

| entry | what it is |
| --- | --- |
| `hello.txt-0` | a block: its bytes and nothing else (see `filefly.wire.names` for the spelling) |
| `.filefly.json` | whose replicas these are, wherever the folder is moved (see `filefly.data.identity`) |
| `.corrupt/`, `.unknown/` | block files that were moved out of the way |
| `.incoming/` | stores under way; emptied at start |
| `.lock` | held by the running daemon |
"""

import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from attrs import frozen

from filefly.data.disk import Disk
from filefly.data.identity import IDENTITY, Identity, read_identity, write_identity
from filefly.locks import lock_file

INCOMING = b".incoming"


class StorageUnusable(Exception):
    """The storage directory cannot be used."""


@frozen
class Storage:
    """A storage directory that this process has locked; the lock lasts until `release` or the process's end."""

    root: bytes
    storage_id: str
    _lock: int

    def release(self) -> None:
        """Let another daemon take the directory."""
        os.close(self._lock)


def open_storage(path: Path, new_id: Callable[[], str], disk: Disk) -> Storage:
    """Create `path` if its parent exists, lock it, read or write its identity, and clear what crashed stores left.

    `new_id` names a new storage. Raises StorageUnusable with a sentence that says what to do.
    """
    try:
        path.mkdir(mode=0o750)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise StorageUnusable(f"{path.parent} does not exist; create it, or name another --storage-dir") from None
    except OSError as error:
        raise StorageUnusable(f"cannot create {path}: {error.strerror}") from None
    if not path.is_dir():
        raise StorageUnusable(f"{path} is not a folder; name another --storage-dir")
    lock = _lock(path)
    try:
        _make_empty(path / os.fsdecode(INCOMING))
        _check_names_survive(path)
        identity = _read_or_write_identity(path, new_id, disk)
        disk.fsync_directory(os.fsencode(path.parent))
    except OSError as error:
        os.close(lock)
        raise StorageUnusable(f"cannot write to {path}: {error.strerror}; check its owner and its mount") from None
    except StorageUnusable:
        os.close(lock)
        raise
    return Storage(os.fsencode(path), identity.storage_id, lock)


def _lock(path: Path) -> int:
    try:
        return lock_file(path / ".lock")
    except BlockingIOError:
        raise StorageUnusable(f"{path} is in use by another data server; stop that one first") from None
    except OSError as error:
        raise StorageUnusable(f"cannot write to {path}: {error.strerror}; check its owner and its mount") from None


def _make_empty(folder: Path) -> None:
    """Create `folder`, or delete the files in it; a link is not followed to those of somebody else."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o750)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:  # so says Linux of a link, too
        raise StorageUnusable(f"{folder} is not a folder; remove it") from None
    try:
        for leftover in os.listdir(descriptor):
            os.unlink(leftover, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _check_names_survive(path: Path) -> None:
    """Refuse a file system on which two block ids could name one file."""
    probe = path / os.fsdecode(INCOMING) / "probe-é"
    probe.touch(exist_ok=False)
    try:
        if probe.with_name("PROBE-É").exists():
            raise StorageUnusable(f"the file system of {path} takes upper and lower case for the same; use another")
        if probe.with_name(unicodedata.normalize("NFD", probe.name)).exists():
            raise StorageUnusable(f"the file system of {path} changes Unicode names; use another")
    finally:
        probe.unlink()


def _read_or_write_identity(path: Path, new_id: Callable[[], str], disk: Disk) -> Identity:
    root = os.fsencode(path)
    try:
        return read_identity(disk, root)
    except FileNotFoundError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError):
        file = path / os.fsdecode(IDENTITY)
        raise StorageUnusable(
            f"{file} is damaged; restore it from a copy, or delete it to make this a new storage"
        ) from None
    identity = Identity(new_id())
    write_identity(disk, root, identity, disk.fsync_directory)
    return identity
