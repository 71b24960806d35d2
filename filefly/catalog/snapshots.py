"""Consistent copies of an SQLite catalog, made while it is in use. Blocking calls for any thread; knows no Twisted.

A copy is made in a file beside the catalog, for that is where there is room for one. It has lost its name by the time
it is handed out: whatever happens to whoever reads it, nothing stays behind.
"""

import glob
import gzip
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from attrs import define
from sqlalchemy import Connection

from filefly.catalog.inventory import SKIPPED_GENERATIONS
from filefly.errors import Conflict, DiskFull, FileFlyError, Internal, Unavailable
from filefly.units import MIB

_PAGES_AT_ONCE = 4096
_RESTORED = (
    "the catalog was restored from a backup of {time}: "
    "nothing is deleted or expires until filefly-client catalog accept"
)

_DATA_SERVERS = "SELECT key, storage_id, address, advertised, registered, draining FROM data_servers ORDER BY key"
_FILES = """SELECT p.generation, p.name,
    (SELECT group_concat(r.position || ':' || r.server) FROM replicas r WHERE r.generation = p.generation)
    FROM plans p WHERE p.state = 'committed' AND substr(p.name, 1, length(?1)) <> ?1 ORDER BY p.generation"""

_QUOTAS = "SELECT prefix, max_bytes, max_files FROM quotas ORDER BY prefix"
_REVOKED_TOKENS = "SELECT token_id FROM revoked_tokens ORDER BY token_id"


def catalog_file(connection: Connection) -> Path | None:
    """Return the file of an SQLite catalog; None for one that another database server keeps."""
    if connection.dialect.name != "sqlite":
        return None
    files = {name: file for _number, name, file in connection.exec_driver_sql("PRAGMA database_list")}
    return Path(files["main"])


@define(eq=False)
class Snapshots:
    """Makes copies of the catalog in `path`. What `ignored_prefix` begins the name of does not count as content."""

    path: Path | None
    ignored_prefix: str
    _stopping: bool = False

    def clear(self) -> None:
        """Remove what a crash has left."""
        if self.path is not None:
            _remove_all(self.path.parent, f"{self.path.name}.snapshot-")

    def stop(self) -> None:
        """Let copies under way fail with Unavailable."""
        self._stopping = True

    def digest(self) -> str:
        """Return a digest of what a backup is for: files, their names and places, quotas, tokens that are void.

        Raises as `take` does.
        """
        digest = hashlib.sha256()
        with self._refusals() as path, closing(_connect(path)) as source:
            source.execute("BEGIN")  # all queries read one state
            files = (_FILES, (self.ignored_prefix,))
            for query, values in ((_DATA_SERVERS, ()), files, (_QUOTAS, ()), (_REVOKED_TOKENS, ())):
                for row in source.execute(query, values):
                    self._check_running()
                    digest.update(repr(row).encode())
        return digest.hexdigest()

    def take(self, time: str) -> BinaryIO:
        """Return a copy of the catalog as it is now, at `time` in RFC 3339, as an open file without a name.

        Whoever starts with it finds it suspended, and its generations far ahead: what came after it is not known to it,
        and must neither be deleted nor overwritten. Writers are not kept waiting. Raises Conflict if the catalog is not
        an SQLite file, else DiskFull or Internal.
        """
        with self._refusals() as path, self._temporary(path) as copy:
            with closing(_connect(path)) as source, closing(_connect(copy)) as target:
                source.execute("BEGIN")
                source.execute("SELECT 1 FROM catalog")  # SQLite begins anew when what is copied changes, but not this
                target.execute("PRAGMA synchronous=OFF")
                source.backup(target, pages=_PAGES_AT_ONCE, progress=self._check_running)
                target.execute("UPDATE catalog SET suspended = ?", (_RESTORED.format(time=time),))
                target.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'plans'", (SKIPPED_GENERATIONS,))
                target.execute("PRAGMA journal_mode=DELETE")  # one file, that needs no other beside it
            return copy.open("rb")

    def compress(self, file: BinaryIO) -> BinaryIO:
        """Return the rest of a file in the form of gzip, as an open file without a name; raises as `take` does."""
        with self._refusals() as path, self._temporary(path) as copy:
            with copy.open("wb") as target, gzip.GzipFile("", "wb", 6, target, mtime=0) as packed:
                while chunk := file.read(MIB):
                    self._check_running()
                    packed.write(chunk)
            return copy.open("rb")

    def _check_running(self, *_progress: int) -> None:
        if self._stopping:
            raise Unavailable("shutting down")

    @contextmanager
    def _temporary(self, path: Path) -> Iterator[Path]:
        """Have a file beside the catalog, which loses its name in the end."""
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.snapshot-", dir=path.parent)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            _remove_all(path.parent, Path(name).name)

    @contextmanager
    def _refusals(self) -> Iterator[Path]:
        """Hand out the catalog's path, and turn what goes wrong into the FileFlyError that tells of it."""
        if self.path is None:
            raise Conflict("the catalog is kept by a database server of its own: back it up with pg_dump")
        try:
            yield self.path
        except (sqlite3.Error, OSError) as error:
            raise _filefly_error(error) from error


def _remove_all(folder: Path, prefix: str) -> None:
    """Remove files whose names begin so: SQLite has some of its own beside a database."""
    for leftover in folder.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            leftover.unlink()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)


def _filefly_error(error: Exception) -> FileFlyError:
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    if "disk is full" in reason or "No space left" in reason:
        return DiskFull("there is no room for a copy of the catalog beside it; free some space")
    return Internal(f"the catalog cannot be copied: {reason}")
