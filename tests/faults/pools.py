"""Simulated threads: what a process's WorkerPools run on instead of twisted's ThreadPool."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define
from twisted.python.failure import Failure

from filefly.errors import Unavailable

if TYPE_CHECKING:
    from tests.faults.simulation import Process


class ProcessIsDead(Unavailable):
    """Nothing works any more in a process that has died."""


class Died(BaseException):
    """The machine lost its power in the middle of a job of a thread."""


@define(eq=False)
class Job:
    on_result: Callable[[bool, Any], None]
    function: Callable[[], Any]
    result: tuple[bool, Any] | None = None


class Pool:
    """Some simulated threads: a job is taken in its turn, runs at one moment, and its result is heard of later."""

    def __init__(self, process: "Process", size: int, name: str) -> None:
        self._process = process
        self._name = name
        self._idle = size
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, None] = {}

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Finish, now, what was taken: a real pool's `stop` blocks until it has."""
        while self._waiting:
            self._running[self._waiting.popleft()] = None
        for job in list(self._running):
            try:
                self._run(job)
            except Died:
                self._process.callLater(0, self._process.machine.crash, True)
                return
            self._finish(job)

    def callInThreadWithCallback(  # noqa: N802
        self, on_result: Callable[[bool, Any], None], function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """Take a job."""
        job = Job(on_result, lambda: function(*args, **kwargs))
        if not self._process.alive:
            self._fail(job)
            return
        self._waiting.append(job)
        self._go_on()

    def fail_all(self) -> None:
        """Have everything fail that is under way."""
        jobs = [*self._running, *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for job in jobs:
            self._fail(job)

    def _fail(self, job: Job) -> None:
        job.on_result(False, Failure(ProcessIsDead()))

    def _go_on(self) -> None:
        while self._idle and self._waiting:
            self._idle -= 1
            job = self._waiting.popleft()
            self._running[job] = None
            stuck = max(0.0, self._process.stuck_until - self._process.seconds())
            self._process.callLater(stuck + self._process.simulation.lag(), self._run_and_finish, job)

    def _run_and_finish(self, job: Job) -> None:
        try:
            self._run(job)
        except Died:
            self._process.machine.crash(power=True)
            return
        outcome = "ok" if job.result is not None and job.result[0] else "failed"
        self._process.simulation.note(self._process.machine.address, self._name, outcome)
        countdown = self._process.jobs_until_crash
        if countdown is not None:
            self._process.jobs_until_crash = countdown - 1
            if countdown <= 1:
                self._process.machine.crash(power=self._process.simulation.random.random() < 0.5)
                return
        self._process.callLater(self._process.simulation.lag(), self._finish, job)

    def _run(self, job: Job) -> None:
        if job.result is None:
            try:
                job.result = True, job.function()
            except Died:
                raise
            except BaseException:
                job.result = False, Failure()

    def _finish(self, job: Job) -> None:
        if job in self._running:
            del self._running[job]
            self._idle += 1
            assert job.result is not None
            job.on_result(*job.result)
            self._go_on()
