"""A catalog on which one statement fails, whichever that is: the others are real."""

import errno
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import frozen
from sqlalchemy import Connection, event

from filefly.catalog.database import Database

T = TypeVar("T")

COMMIT = "COMMIT"
"""What the driver does by itself: it is counted as a statement."""

_SENTENCES = {
    errno.EIO: "disk I/O error",
    errno.ENOSPC: "database or disk is full",
    errno.EACCES: "attempt to write a readonly database",
}
_ROLLS_BACK = {errno.EIO, errno.ENOSPC}
"""After these SQLite may have taken the whole transaction back by itself, with all savepoints in it."""


@frozen
class Fault:
    """Which statement fails, counted from 0, with what error, and how often it does when it is tried again."""

    number: int
    error: int
    times: int = 1


class Statements:
    """Counts what is said to a database, from `watch` on, and lets one statement fail."""

    def __init__(self, database: Database) -> None:
        self.said: list[str] = []
        self._fault: Fault | None = None
        self._failures = 0
        database.close_connections()  # the connections are made anew, and then are watched, and hurry
        event.listen(database._engine, "do_connect", self._connect)
        event.listen(database._engine, "connect", _hurry)

    def watch(self, fault: Fault | None = None) -> None:
        """Begin to count, and let a statement fail."""
        self.said = []
        self._fault = fault
        self._failures = 0

    def only_in(self, change: Callable[[Connection], T], fault: Fault) -> Callable[[Connection], T]:
        """Return a change whose own statements are those that are counted, and one of which fails each time."""

        def watched(connection: Connection) -> T:
            self.watch(fault)
            try:
                return change(connection)
            finally:
                self.watch()

        return watched

    def _connect(self, _dialect: Any, _record: Any, arguments: Any, options: Any) -> sqlite3.Connection:
        connection = sqlite3.connect(*arguments, **options, factory=_WatchedConnection)
        connection.statements = self
        return connection

    def before(self, connection: sqlite3.Connection, statement: str) -> None:
        """Count a statement, and raise the error with which it fails, if it does."""
        error = self._fails(statement)
        if error is not None:
            if error in _ROLLS_BACK and connection.in_transaction:
                sqlite3.Connection.rollback(connection)
            raise sqlite3.OperationalError(_SENTENCES[error])

    def _fails(self, statement: str) -> int | None:
        number = len(self.said)
        self.said.append(statement)
        fault = self._fault
        if fault is None or self._failures == fault.times:
            return None
        if number != fault.number and not (self._failures and statement == self.said[fault.number]):
            return None
        self._failures += 1
        return fault.error


def _hurry(connection: sqlite3.Connection, _record: Any) -> None:
    """Do not wait for stable storage: no power is cut here."""
    connection.execute("PRAGMA synchronous=OFF")


class _WatchedConnection(sqlite3.Connection):
    statements: Statements | None = None

    def cursor(self, *_factory: Any) -> Any:
        return super().cursor(_WatchedCursor)

    def commit(self) -> None:
        if self.statements is not None:
            self.statements.before(self, COMMIT)
        super().commit()


class _WatchedCursor(sqlite3.Cursor):
    def execute(self, statement: str, *values: Any) -> Any:
        self._before(statement)
        return super().execute(statement, *values)

    def executemany(self, statement: str, *values: Any) -> Any:
        self._before(statement)
        return super().executemany(statement, *values)

    def _before(self, statement: str) -> None:
        connection: Any = self.connection
        if connection.statements is not None and not statement.startswith("PRAGMA"):
            connection.statements.before(connection, statement)
