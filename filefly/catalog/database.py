"""The catalog's database: opened, locked, and its transactions. Blocking calls; knows no Twisted."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import define
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, SQLAlchemyError

from filefly.catalog.schema import CatalogUnusable, migrate
from filefly.errors import DiskFull, FileFlyError, Internal
from filefly.locks import lock_file

T = TypeVar("T")
Change = Callable[[Connection], Any]
"""Some statements of one request; runs in a savepoint, raises FileFlyError to take them back."""

_READING = "filefly_reading"


@define(eq=False)
class Database:
    """A catalog's database. `read` may be called from several threads at once, `write` from one at a time."""

    _engine: Engine
    _lock: int | None

    def read(self, query: Callable[[Connection], T]) -> T:
        """Return what `query` reads from one snapshot."""
        try:
            with self._engine.connect().execution_options(**{_READING: True}) as connection:
                return query(connection)
        except SQLAlchemyError as error:
            raise _filefly_error(error) from error

    def write(self, changes: Sequence[Change]) -> list[Any]:
        """Carry out `changes` in one transaction and return for each its result or the FileFlyError it raised.

        On return all that succeeded is on stable storage. A change that breaks the transaction does not take others
        with it: they are tried again, each alone.
        """
        try:
            with self._engine.begin() as connection:
                return [_in_savepoint(connection, change) for change in changes]
        except Exception as error:
            if len(changes) == 1:
                return [_filefly_error(error)]
        return [outcome for change in changes for outcome in self.write([change])]

    def close(self) -> None:
        """Close all connections, and let another daemon take the catalog."""
        self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)

    def close_connections(self) -> None:
        """Close all connections and keep the lock: before a fork."""
        self._engine.dispose()


def open_database(url: str, new_id: Callable[[], str]) -> Database:
    """Lock the database at the SQLAlchemy `url`, create it if need be, and bring it to the newest schema.

    Raises CatalogUnusable with a sentence that says what to do.
    """
    lock = None
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            lock = _lock_file(parsed.database)
        engine = create_engine(parsed, pool_size=4)
        _prepare(engine)
        with engine.begin() as connection:
            migrate(connection, new_id)
    except (SQLAlchemyError, CatalogUnusable, ImportError, ValueError) as error:
        if lock is not None:
            os.close(lock)
        raise _unusable(url, error) from None
    return Database(engine, lock)


def _unusable(url: str, error: Exception) -> CatalogUnusable:
    if isinstance(error, CatalogUnusable):
        return error
    if isinstance(error, ArgumentError | NoSuchModuleError | ValueError):
        return CatalogUnusable(f"--catalog {url!r} is not a database URL; write sqlite:///catalog.sqlite")
    reason = error.orig if isinstance(error, DatabaseError) else error
    return CatalogUnusable(f"the catalog {url} cannot be opened: {reason}; check that the file is what it should be")


def _lock_file(database: str | None) -> int:
    """Lock an SQLite catalog by a file beside it: closing one descriptor of the database drops SQLite's own locks."""
    if not database or database == ":memory:":
        raise CatalogUnusable("an SQLite catalog needs a file: write sqlite:///catalog.sqlite")
    try:
        return lock_file(f"{database}.lock")
    except BlockingIOError:
        raise CatalogUnusable(f"{database} is in use by another metadata server; stop that one first") from None
    except OSError as error:
        raise CatalogUnusable(f"cannot write beside the catalog {database}: {error.strerror}") from None


def _prepare(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _connected(dbapi_connection: sqlite3.Connection, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # the driver's own transactions lose updates
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
            dbapi_connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        reading = connection.get_execution_options().get(_READING)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _in_savepoint(connection: Connection, change: Change) -> Any:
    try:
        with connection.begin_nested():
            return change(connection)
    except FileFlyError as error:
        return error


def _filefly_error(error: Exception) -> FileFlyError:
    if isinstance(error, FileFlyError):
        return error
    cause = _first_cause(error)
    reason = cause.orig if isinstance(cause, DatabaseError) else cause
    if "disk is full" in str(reason):
        return DiskFull("the catalog's disk is full; free some space")
    failed = Internal(f"the catalog failed: {reason}")
    failed.__cause__ = error
    return failed


def _first_cause(error: Exception) -> Exception:
    """Return the first of the database's errors: on some SQLite ends the transaction, and then misses its savepoint."""
    found, earlier = error, error.__context__
    while earlier is not None:
        if isinstance(earlier, SQLAlchemyError):
            found = earlier
        earlier = earlier.__context__
    return found
