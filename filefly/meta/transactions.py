"""The catalog for the reactor's thread: reads side by side, writes gathered into one transaction at a time."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from filefly.catalog.database import Change, Database
from filefly.errors import FileFlyError
from filefly.threads import WorkerPool

T = TypeVar("T")

_READ_THREADS = 2
_LARGEST_GROUP = 256


class Transactions:
    """Group commit: while one transaction is being made durable, the changes of the next gather."""

    def __init__(self, reactor: Any, database: Database) -> None:
        self._database = database
        self._readers = WorkerPool(reactor, "sql-read", _READ_THREADS)
        self._writer = WorkerPool(reactor, "sql-write", 1)
        self._gathering: list[tuple[Change, Deferred[Any]]] = []
        self._writing = False

    def start(self) -> None:
        """Take work; after twistd has forked."""
        self._readers.start()
        self._writer.start()

    def stop(self) -> None:
        """Wait for the work that was taken and close the database."""
        self._readers.stop()
        self._writer.stop()
        self._database.close()

    def read(self, query: Callable[..., T], *args: Any) -> Deferred[T]:
        """Return what `query(connection, *args)` reads from one snapshot."""
        return self._readers(self._database.read, lambda connection: query(connection, *args))

    def write(self, change: Callable[..., T], *args: Any) -> Deferred[T]:
        """Carry out `change(connection, *args)` and fire with its result once it is on stable storage."""

        def bound(connection: Connection) -> T:
            return change(connection, *args)

        outcome: Deferred[Any] = Deferred()
        self._gathering.append((bound, outcome))
        if not self._writing:
            self._write_group()
        return cast("Deferred[T]", outcome)

    def _write_group(self) -> None:
        group, self._gathering = self._gathering[:_LARGEST_GROUP], self._gathering[_LARGEST_GROUP:]
        self._writing = bool(group)
        if group:
            outcomes = [outcome for _change, outcome in group]
            written = self._writer(self._database.write, [change for change, _outcome in group])
            written.addErrback(lambda failure: [failure] * len(outcomes))
            written.addCallback(self._written, outcomes)

    def _written(self, results: list[Any], outcomes: list[Deferred[Any]]) -> None:
        self._write_group()
        for result, outcome in zip(results, outcomes, strict=True):
            if outcome.called:
                continue
            if isinstance(result, FileFlyError):
                outcome.errback(result)
            else:
                outcome.callback(result)
