"""Whose replicas a storage directory holds: `.filefly.json`, written durably. Blocking calls; knows no network.

| field | what it is |
| --- | --- |
| `storage_id` | made once; replicas belong to it, wherever the folder is moved |
| `catalog_id` | the catalog that has taken it; absent until one has |
| `generation` | the highest generation that the catalog has told; a catalog below it is older than its data |
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from filefly.data.directories import Directories
from filefly.data.disk import Disk, as_filefly_errors
from filefly.errors import Unavailable, WrongStorage

IDENTITY = b".filefly.json"
_INCOMING_IDENTITY = os.path.join(b".incoming", b"identity")
_MOST_BYTES = 64 * 1024

SyncDirectory = Callable[[bytes], None]


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `.filefly.json` holds."""

    storage_id: str
    catalog_id: str | None = None
    generation: int = 0


def read_identity(disk: Disk, root: bytes, afresh: bool = False) -> Identity:
    """Return the identity in the folder `root`; `afresh` asks the disk itself, not the system's memory.

    Raises FileNotFoundError, other OSErrors, msgspec.DecodeError, UnicodeDecodeError.
    """
    descriptor = disk.open(os.path.join(root, IDENTITY))
    try:
        if afresh:
            disk.drop_cached(descriptor)
        return msgspec.json.decode(disk.read(descriptor, _MOST_BYTES, 0), type=Identity)
    finally:
        with suppress(OSError):  # closing what was only read tells nothing
            disk.close(descriptor)


def write_identity(disk: Disk, root: bytes, identity: Identity, sync_directory: SyncDirectory) -> None:
    """Put an identity into the folder `root`: durable on return, the old one or the new one at any time."""
    temporary = os.path.join(root, _INCOMING_IDENTITY)
    with suppress(FileNotFoundError):  # one that could not be removed when it failed
        disk.unlink(temporary)
    try:
        descriptor = disk.create(temporary)
        try:
            disk.write(descriptor, [msgspec.json.encode(identity) + b"\n"])
            disk.fsync(descriptor)
        finally:
            disk.close(descriptor)
        disk.rename(temporary, os.path.join(root, IDENTITY))
    except OSError:
        with suppress(OSError):
            disk.unlink(temporary)
        raise
    sync_directory(root)


class IdentityFile:
    """The identity of a storage that this daemon has locked, read anew each time: its disk may be gone by now."""

    def __init__(self, disk: Disk, directories: Directories, root: bytes, storage_id: str) -> None:
        self._disk = disk
        self._directories = directories
        self._root = root
        self._lock = threading.Lock()
        self.storage_id = storage_id

    def check(self, storage_id: str | None) -> None:
        """Raise WrongStorage if another storage than this one is meant; touches no disk."""
        if storage_id not in (None, self.storage_id):
            raise WrongStorage(f"this is another storage, not {storage_id}")  # which one is not for everybody

    def read(self, afresh: bool = False) -> Identity:
        """Return what is on disk now; raises Unavailable if it is not there, WrongStorage if it is another's."""
        try:
            identity = read_identity(self._disk, self._root, afresh)
        except FileNotFoundError:
            raise Unavailable("the storage directory has lost its .filefly.json; is its disk mounted?") from None
        except OSError as error:
            raise Unavailable(f"cannot read the storage directory's .filefly.json: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unavailable("the storage directory's .filefly.json is damaged; restore it from a copy") from None
        if identity.storage_id != self.storage_id:
            raise WrongStorage(
                "the storage directory holds another storage now; mount the right disk, or restart the data server"
            )
        return identity

    def adopt(self, catalog_id: str, generation: int, force: bool) -> None:
        """Make this storage one of a catalog's, durably, and keep the highest generation that it told.

        Raises WrongStorage if it is another catalog's, unless `force` takes it from there.
        """
        with self._lock:
            self._directories.check_writable()
            before = self.read()
            if before.catalog_id in (None, catalog_id):
                generation = max(generation, before.generation)
            elif not force:
                raise WrongStorage(f"this storage belongs to catalog {before.catalog_id}, not {catalog_id}")
            after = Identity(before.storage_id, catalog_id, generation)
            if after != before:
                with as_filefly_errors("write the storage's identity"):
                    write_identity(self._disk, self._root, after, self._directories.sync)
