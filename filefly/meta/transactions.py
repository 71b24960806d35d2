"""The catalog for the reactor's thread: reads side by side, writes gathered into one transaction at a time."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from filefly.catalog.database import Change, Database
from filefly.errors import FileFlyError
from filefly.threads import WorkerPool

T = TypeVar("T")

_READ_THREADS = 2
_LARGEST_GROUP = 256


_Tell = Callable[[Deferred[Any], list[Any]], None]
_Asked = tuple[Sequence[Change], Deferred[Any], _Tell]
"""Changes that belong together, who waits for them, and how he is told of their outcomes."""


class Transactions:
    """Group commit: while one transaction is being made durable, the changes of the next gather."""

    def __init__(self, reactor: Any, database: Database) -> None:
        self._database = database
        self._readers = WorkerPool(reactor, "sql-read", _READ_THREADS)
        self._writer = WorkerPool(reactor, "sql-write", 1)
        self._gathering: list[_Asked] = []
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

        return cast("Deferred[T]", self._gather([bound], _tell_result))

    def write_each(self, changes: Sequence[Change]) -> Deferred[list[Any]]:
        """Carry out `changes`, each for itself, and fire with what each returned or the FileFlyError it raised."""
        return self._gather(changes, Deferred.callback)

    def _gather(self, changes: Sequence[Change], tell: _Tell) -> Deferred[Any]:
        outcome: Deferred[Any] = Deferred()
        self._gathering.append((changes, outcome, tell))
        if not self._writing:
            self._write_group()
        return outcome

    def _write_group(self) -> None:
        group, self._gathering = self._gathering[:_LARGEST_GROUP], self._gathering[_LARGEST_GROUP:]
        self._writing = bool(group)
        if group:
            changes = [change for changes, _outcome, _tell in group for change in changes]
            self._writer(self._database.write, changes).addBoth(self._written, group)

    def _written(self, results: list[Any] | Failure, group: Sequence[_Asked]) -> None:
        self._write_group()
        begin = 0
        for changes, outcome, tell in group:
            end = begin + len(changes)
            if outcome.called:
                pass  # nobody waits any more
            elif isinstance(results, Failure):
                outcome.errback(results)
            else:
                tell(outcome, results[begin:end])
            begin = end


def _tell_result(outcome: Deferred[Any], results: list[Any]) -> None:
    [result] = results
    if isinstance(result, FileFlyError):
        outcome.errback(result)
    else:
        outcome.callback(result)
