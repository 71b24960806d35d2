"""Syncing directories, and what it means that one could not be. Blocking calls for any thread; knows no network."""

from filefly.data.disk import Disk
from filefly.errors import Unavailable


class Directories:
    """The directories of one storage.

    What the kernel could not write once it may forget: after a sync that failed nothing can be promised any more, and
    nothing is to be written.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._failed: str | None = None

    def check_writable(self) -> None:
        """Raise Unavailable if a sync has failed; touches no disk."""
        if self._failed is not None:
            raise Unavailable(self._failed)

    def sync(self, path: bytes) -> None:
        """Put the entries of the directory `path` on stable storage; raises Unavailable."""
        try:
            self._disk.fsync_directory(path)
        except OSError as error:
            self._failed = f"the storage directory cannot be synced ({error.strerror}); check the disk, then restart"
            raise Unavailable(self._failed) from None
        self.check_writable()  # another sync failed meanwhile: this one may not have seen what that one lost
