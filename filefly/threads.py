"""Named thread pools for what blocks: one for disk, one for SQL, never the reactor's own.

To wake up a thread costs more than many a job (60 us for a hop to one of twisted's pools and back), and two threads
that are awake take the interpreter's lock from each other at each system call. So while jobs are quick, those that are
asked for in one turn of the reactor are handed over together at its end, to a single thread, which tells the reactor
when it has done all that are there. Jobs that take their time, as those do that wait for a disk, have a thread each.
But threads that take the lock from each other make quick jobs look slow, so from time to time it is tried anew.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from time import perf_counter
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from filefly.errors import FileFlyError, Unavailable

T = TypeVar("T")
Job = Callable[[], None]
OnResult = Callable[[bool, Any], None]
"""Hears of what a job returned, or of its Failure."""

_QUICK_SECONDS = 0.0005
_SLOW_IN_A_ROW = 64
"""After so many jobs that had a thread each, what comes next counts as quick until it shows that it is not."""
_MOST_COUNTED_SECONDS = 0.004  # of one job: a single one that had to wait says little of the others
_PATIENCE_SECONDS = 0.002
"""How long quick jobs wait for a thread that is at work on others, and the reactor for results that are there."""


class InThread(Protocol):
    """Runs a blocking function on some thread pool."""

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
        """Return what `function` returns. Cancelling the result does not stop the function."""


class ThreadPool:
    """At most `maxthreads` threads, each started when there is work for it; use it from the thread of `reactor`."""

    def __init__(self, reactor: Any, maxthreads: int, name: str) -> None:
        self._reactor = reactor
        self._most = maxthreads
        self._name = name
        self._threads: list[Thread] = []
        self._work: SimpleQueue[Job | None] = SimpleQueue()
        self._job_seconds = 0.0  # what a job takes, on average
        self._slow = 0  # how many in a row had a thread each
        self._unfinished = 0
        self._asked: list[Job] = []  # quick ones, in this turn of the reactor
        self._together = 0  # how many there were in the last turn that had some
        self._turn_end: Any = None  # delayed calls
        self._helping: Any = None
        self._lock = Lock()
        self._quick: deque[Job] = deque()  # under the lock, as is whether a thread sees to them
        self._begun = 0  # how many of them were
        self._seen_to = False
        self._results: deque[tuple[OnResult, bool, Any]] = deque()
        self._told = False  # whether the reactor is going to look at them

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Wait, blocking, until all that was asked for is done; its results are heard of after that."""
        self._hand_over()
        for call in (self._turn_end, self._helping):
            if call is not None and call.active():
                call.cancel()
        threads, self._threads = self._threads, []
        for _ in threads:
            self._work.put(None)
        for thread in threads:
            thread.join()

    def callInThreadWithCallback(  # noqa: N802 - as twisted's pool has it
        self, on_result: OnResult, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Have a thread call `function`; `on_result` hears of it in the reactor's thread."""
        job = partial(self._do_thd, on_result, function, args, kwargs)
        self._unfinished += 1
        alone = self._unfinished == 1 and self._together < 2
        if alone or self._are_slow():
            self._put(job)
            return
        if not self._asked:
            self._turn_end = self._reactor.callLater(0, self._hand_over)
        self._asked.append(job)

    def _are_slow(self) -> bool:
        if self._job_seconds <= _QUICK_SECONDS:
            return False
        self._slow += 1
        if self._slow < _SLOW_IN_A_ROW:
            return True
        self._slow = 0
        self._job_seconds = 0.0
        return False

    def _put(self, work: Job) -> None:
        self._work.put(work)
        if len(self._threads) < self._most:
            thread = Thread(target=self._work_thd, name=f"{self._name}-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def _hand_over(self) -> None:
        jobs, self._asked = self._asked, []
        self._together = len(jobs)
        with self._lock:
            self._quick.extend(jobs)
            seen_to, self._seen_to = self._seen_to, self._seen_to or bool(jobs)
        if jobs and not seen_to:
            self._put(self._see_to_quick_thd)
        if self._quick and (self._helping is None or not self._helping.active()):
            self._help_later(self._most)

    def _help_later(self, most: int) -> None:
        self._helping = self._reactor.callLater(_PATIENCE_SECONDS, self._help, most, self._begun)

    def _help(self, most: int, begun: int) -> None:
        """Have one more thread see to the quick jobs, and `most` in time, if none was begun meanwhile: not quick."""
        if self._quick and most:
            if self._begun == begun:
                self._put(self._see_to_quick_thd)
                most -= 1
            self._help_later(most)

    def _work_thd(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # what it was given may be large, and the next may be long in coming
            self._tell_thd()

    def _see_to_quick_thd(self) -> None:
        told = perf_counter()
        while True:
            with self._lock:
                if not self._quick:
                    self._seen_to = False
                    return
                job = self._quick.popleft()
                self._begun += 1
            job()
            if perf_counter() - told > _PATIENCE_SECONDS:
                told = perf_counter()
                self._tell_thd()

    def _do_thd(self, on_result: OnResult, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        begun = perf_counter()
        try:
            result = function(*args, **kwargs)
        except BaseException:  # whatever it is, who waits for the result must hear of it
            self._results.append((on_result, False, Failure()))
        else:
            self._results.append((on_result, True, result))
        seconds = min(perf_counter() - begun, _MOST_COUNTED_SECONDS)
        self._job_seconds += (seconds - self._job_seconds) / 16

    def _tell_thd(self) -> None:
        if not self._told:
            self._told = True
            self._reactor.callFromThread(self._hear)

    def _hear(self) -> None:
        self._told = False  # first: what comes from now on may not be seen below
        while self._results:
            on_result, success, result = self._results.popleft()
            self._unfinished -= 1
            on_result(success, result)


class WorkerPool:
    """An InThread with a pool of its own, which grows to `size` threads as they are needed.

    `reactor` is an IReactorFromThreads and an IReactorTime; `pool` may be handed in where threads are simulated. Use it
    from the reactor's thread.
    """

    def __init__(self, reactor: Any, name: str, size: int, pool: Any = None) -> None:
        self._pool = pool or ThreadPool(reactor, maxthreads=size, name=name)
        self._running = False

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
        self._pool.callInThreadWithCallback(partial(_pass_on, result), function, *args, **kwargs)
        return result


def _pass_on(waiting: Deferred[Any], success: bool, result: Any) -> None:
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
