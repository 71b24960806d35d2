"""Named thread pools for what blocks: one for disk, one for SQL, never the reactor's own."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from filefly.errors import FileFlyError, Unavailable

T = TypeVar("T")


class InThread(Protocol):
    """Runs a blocking function on some thread pool."""

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
        """Return what `function` returns. Cancelling the result does not stop the function."""


class WorkerPool:
    """An InThread with a pool of its own, which grows to `size` threads as they are needed.

    `reactor` is an IReactorFromThreads; `pool` may be handed in where threads are simulated.
    """

    def __init__(self, reactor: Any, name: str, size: int, pool: Any = None) -> None:
        self._reactor = reactor
        self._pool = pool or ThreadPool(minthreads=0, maxthreads=size, name=name)
        self._running = False

    def start(self) -> None:
        """Take work; after twistd has forked."""
        self._running = True
        self._pool.start()

    def stop(self) -> None:
        """Wait, blocking, for the work that was taken, and refuse more (a stopped pool swallows it). Again is fine."""
        if self._running:
            self._running = False
            self._pool.stop()

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
        """See InThread; fails with Unavailable when the pool is not running."""
        if not self._running:
            return fail(Unavailable("shutting down"))
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs).addErrback(_without_frames)


def _without_frames(failure: Failure) -> Failure:
    """Let go of an expected error's frames: the pool's own holds the failure that holds it, and all that was given."""
    if failure.check(FileFlyError):
        failure.tb = None
        error = failure.value
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__
    return failure
