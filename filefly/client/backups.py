"""BackupFile: a copy of the catalog on its way to a local path. Blocking calls for any thread; knows no network."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from crc32c import crc32c

from filefly.client.targets import TargetFile, writing
from filefly.errors import Corrupt
from filefly.units import Chunks
from filefly.wire.codec import crc32c_hex


class BackupFile(TargetFile):
    """A TargetFile that gets its bytes in order, and its name once they are verified and on stable storage.

    Only its owner may read it: the catalog tells all names.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, {"mode": "0600"})
        self._size = self._checksum = 0

    def append(self, chunks: Chunks) -> None:
        """Write `chunks` behind what was written."""
        self.write(self._size, chunks)
        for chunk in chunks:
            self._size += len(chunk)
            self._checksum = crc32c(chunk, self._checksum)

    def finish_verified(self, size: int, checksum: str | None) -> None:
        """Give the file its name; raises Corrupt unless it has this size and checksum, and is a sound database."""
        if self._size != size:
            raise Corrupt(f"the backup is not usable: {self._size} of {size} bytes came; try again")
        if checksum not in (None, found := crc32c_hex(self._checksum)):
            raise Corrupt(f"the backup is not usable: its crc32c is {found}, expected {checksum}; try again")
        _check_database(self._temporary)
        with self._lock, writing(self.path):
            os.fsync(self._opened())
        self.finish(size)
        with writing(self.path):
            _sync_folder(self.path.parent)


def _check_database(path: Path) -> None:
    """Raise Corrupt unless the file is an SQLite database without damage."""
    # Without `immutable`, SQLite would want to write beside a database that is in WAL mode.
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            [found] = database.execute("PRAGMA quick_check(1)").fetchone()
            [tables] = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        found, tables = str(error), 1
    if found != "ok" or not tables:
        why = " ".join(found.split()) if tables else "it is empty"
        raise Corrupt(f"the backup is not usable: {why}; try again")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
