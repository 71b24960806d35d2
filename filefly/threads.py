"""Named thread pools for what blocks: one for disk, one for SQL, never the reactor's own.

A hop to one of Twisted's pools and back costs 60 us, most of it for waking threads up. Here a job is one entry of a
queue, and results that come while the reactor is at work wake it up once.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from filefly.errors import FileFlyError, Unavailable

T = TypeVar("T")
OnResult = Callable[[bool, Any], None]
"""Hears, in the thread, of what a job returned, or of its Failure."""


class InThread(Protocol):
    """Runs a blocking function on some thread pool."""

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
        """Return what `function` returns. Cancelling the result does not stop the function."""


class ThreadPool:
    """At most `maxthreads` threads, each started when there is work for it; use it from one thread."""

    def __init__(self, maxthreads: int, name: str) -> None:
        self._name = name
        self._most = maxthreads
        self._threads: list[Thread] = []
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Wait, blocking, until all that was asked for is done."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def callInThreadWithCallback(  # noqa: N802 - as twisted's pool has it
        self, on_result: OnResult, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Have a thread call `function`, and then `on_result`."""
        self._jobs.put(partial(_do, on_result, function, args, kwargs))
        if len(self._threads) < self._most:
            thread = Thread(target=self._work, name=f"{self._name}-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it was given may be large, and the next one may be long in coming


def _do(on_result: OnResult, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    try:
        result = function(*args, **kwargs)
    except BaseException:  # whatever it is, who waits for the result must hear of it
        on_result(False, Failure())
    else:
        on_result(True, result)


class WorkerPool:
    """An InThread with a pool of its own, which grows to `size` threads as they are needed.

    `reactor` is an IReactorFromThreads; `pool` may be handed in where threads are simulated. Use it from the reactor's
    thread.
    """

    def __init__(self, reactor: Any, name: str, size: int, pool: Any = None) -> None:
        self._reactor = reactor
        self._pool = pool or ThreadPool(maxthreads=size, name=name)
        self._running = False
        self._results: deque[tuple[Deferred[Any], bool, Any]] = deque()
        self._told = False  # whether the reactor is going to look at them

    def start(self) -> None:
        """Take work; after twistd has forked."""
        self._running = True
        self._pool.start()

    def stop(self) -> None:
        """Wait, blocking, for the work that was taken, and refuse more. Again is fine."""
        if self._running:
            self._running = False
            self._pool.stop()

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
        """See InThread; fails with Unavailable when the pool is not running."""
        if not self._running:
            return fail(Unavailable("shutting down"))
        result: Deferred[T] = Deferred()
        self._pool.callInThreadWithCallback(partial(self._take_thd, result), function, *args, **kwargs)
        return result

    def _take_thd(self, waiting: Deferred[Any], success: bool, result: Any) -> None:
        self._results.append((waiting, success, result))
        if not self._told:
            self._told = True
            self._reactor.callFromThread(self._hand_over)

    def _hand_over(self) -> None:
        self._told = False  # first: what comes from now on may not be seen below
        while self._results:
            waiting, success, result = self._results.popleft()
            if success:
                waiting.callback(result)
            else:
                waiting.errback(_without_frames(result))


def _without_frames(failure: Failure) -> Failure:
    """Let go of an expected error's frames: the pool's own holds the failure that holds it, and all that was given."""
    if failure.check(FileFlyError):
        failure.tb = None
        error = failure.value
        while error is not None:
            error.__traceback__ = None
            error = error.__cause__ or error.__context__
    return failure
