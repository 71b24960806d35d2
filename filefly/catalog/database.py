"""The catalog's database: opened, locked, and its transactions. Blocking calls; knows no Twisted."""

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from attrs import define, field
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, SQLAlchemyError

from filefly.catalog.quotas import OPTION, QuotaPrefixes
from filefly.catalog.schema import CatalogUnusable, migrate
from filefly.catalog.statements import cursor_of
from filefly.errors import DiskFull, FileFlyError, Internal
from filefly.locks import lock_file

T = TypeVar("T")
Change = Callable[[Connection], Any]
"""Some statements of one request; runs in a savepoint, raises FileFlyError to take them back."""

_READING, _WRITING = "BEGIN", "BEGIN IMMEDIATE"


@define(eq=False)
class Database:
    """A catalog's database. `read` may be called from several threads at once, `write` from one at a time."""

    _engine: Engine
    _lock: int | None
    _idle: deque[Connection] = field(factory=deque)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Return what `query` reads from one snapshot."""
        try:
            with self._transaction(_READING) as connection:
                return query(connection)
        except (SQLAlchemyError, self._driver_error) as error:
            raise self._filefly_error(error) from error

    def write(self, changes: Sequence[Change]) -> list[Any]:
        """Carry out `changes` in one transaction and return for each its result or the FileFlyError it raised.

        On return all that succeeded is on stable storage. A change that breaks the transaction does not take others
        with it: they are tried again, each alone.
        """
        try:
            with self._transaction(_WRITING) as connection:
                return [_in_savepoint(connection, change) for change in changes]
        except Exception as error:
            if len(changes) == 1:
                return [self._filefly_error(error)]
        return [outcome for change in changes for outcome in self.write([change])]

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        """Have a connection in a transaction, which is committed in the end.

        SQLAlchemy has a part in it only where statements are run through it. After an error nobody knows what state a
        connection is in: it is closed for good, which takes the transaction back.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._engine.connect()
        try:
            driver: Any = connection.connection.dbapi_connection
            if connection.dialect.name == "sqlite":
                driver.execute(begin)  # the driver's own transactions lose updates
            yield connection
            (connection if connection.in_transaction() else driver).commit()
        except BaseException:
            connection.invalidate()
            connection.close()
            raise
        self._idle.append(connection)

    @property
    def _driver_error(self) -> type[Exception]:
        """What the driver raises where a statement is run on it directly."""
        kind: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return kind

    def _filefly_error(self, error: Exception) -> FileFlyError:
        if isinstance(error, FileFlyError):
            return error
        cause = self._first_cause(error)
        reason = cause.orig if isinstance(cause, DatabaseError) else cause
        if "disk is full" in str(reason):
            return DiskFull("the catalog's disk is full; free some space")
        failed = Internal(f"the catalog failed: {reason}")
        failed.__cause__ = error
        return failed

    def _first_cause(self, error: Exception) -> Exception:
        """Return the database's first error: on some SQLite ends the transaction, and then misses its savepoint."""
        found, earlier = error, error.__context__
        while earlier is not None:
            if isinstance(earlier, SQLAlchemyError | self._driver_error):
                found = earlier
            earlier = earlier.__context__
        return found

    def close(self) -> None:
        """Close all connections, and let another daemon take the catalog."""
        self.close_connections()
        if self._lock is not None:
            os.close(self._lock)

    def close_connections(self) -> None:
        """Close all connections and keep the lock: before a fork."""
        while self._idle:
            self._idle.pop().close()
        self._engine.dispose()

    def migrate(self, new_id: Callable[[], str]) -> None:
        """Bring the database to the newest schema; raises what SQLAlchemy does, or CatalogUnusable."""
        with self._transaction(_WRITING) as connection:
            migrate(connection, new_id)


def open_database(url: str, new_id: Callable[[], str]) -> Database:
    """Lock the database at the SQLAlchemy `url`, create it if need be, and bring it to the newest schema.

    Raises CatalogUnusable with a sentence that says what to do.
    """
    lock = None
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            lock = _lock_file(parsed.database)
        database = Database(_engine_of(parsed), lock)
        database.migrate(new_id)
    except (SQLAlchemyError, CatalogUnusable, ImportError, ValueError) as error:
        if lock is not None:
            os.close(lock)
        raise _unusable(url, error) from None
    return database


def _unusable(url: str, error: Exception) -> CatalogUnusable:
    if isinstance(error, CatalogUnusable):
        return error
    if isinstance(error, ArgumentError | NoSuchModuleError | ValueError):
        return CatalogUnusable(f"--catalog {url!r} is not a database URL; write sqlite:///catalog.sqlite")
    reason = error.orig if isinstance(error, DatabaseError) else error
    return CatalogUnusable(f"the catalog {url} cannot be opened: {reason}; check that the file is what it should be")


def _lock_file(database: str | None) -> int:
    """Lock an SQLite catalog by a file beside it: closing one descriptor of the database drops SQLite's own locks.

    A new catalog is made here, for no eyes but those of its owner and group: SQLite would let everybody read it.
    """
    if not database or database == ":memory:":
        raise CatalogUnusable("an SQLite catalog needs a file: write sqlite:///catalog.sqlite")
    try:
        lock = lock_file(f"{database}.lock")
    except BlockingIOError:
        raise CatalogUnusable(f"{database} is in use by another metadata server; stop that one first") from None
    except OSError as error:
        raise CatalogUnusable(f"cannot write beside the catalog {database}: {error.strerror}") from None
    with suppress(OSError):  # what is wrong SQLite is about to tell
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))
    if not os.path.exists(database) and os.path.islink(database):  # SQLite would follow it
        os.close(lock)
        raise CatalogUnusable(f"the catalog {database} is a link that leads nowhere; remove it, or name another file")
    return lock


def _engine_of(url: URL) -> Engine:
    engine = create_engine(url, pool_size=4, execution_options={OPTION: QuotaPrefixes()})
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up)
    return engine


def _set_up(dbapi_connection: sqlite3.Connection, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # transactions begin and end where Database says so
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _in_savepoint(connection: Connection, change: Change) -> Any:
    cursor = cursor_of(connection)
    cursor.execute("SAVEPOINT change")
    try:
        outcome = change(connection)
    except FileFlyError as error:
        cursor.execute("ROLLBACK TO SAVEPOINT change")
        outcome = error
    cursor.execute("RELEASE SAVEPOINT change")
    return outcome
