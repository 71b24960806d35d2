import threading
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock

from filefly.errors import Unavailable
from filefly.threads import ThreadPool, WorkerPool
from tests.on_reactor import on_reactor
from tests.peer import now


@on_reactor
async def test_work_is_done_in_a_thread_of_the_named_pool(reactor: Any) -> None:
    """The reactor's thread stays free, and a stack dump shows whose thread it is."""
    pool = WorkerPool(reactor, "disk", 2)
    pool.start()
    thread = await pool(threading.current_thread)
    pool.stop()
    assert thread is not threading.current_thread()
    assert "disk" in thread.name


@on_reactor
async def test_a_failure_comes_back(reactor: Any) -> None:
    """What the function raises is raised where its result is awaited."""
    pool = WorkerPool(reactor, "disk", 2)
    pool.start()
    with pytest.raises(ValueError, match="invalid literal"):
        await pool(int, "x")
    pool.stop()


@on_reactor
async def test_as_many_calls_run_at_once_as_there_are_threads(reactor: Any) -> None:
    """Two blocks are read at the same time."""
    pool = WorkerPool(reactor, "disk", 2)
    pool.start()
    both_there = threading.Barrier(2)
    results = [pool(both_there.wait, timeout=30) for _ in range(2)]
    assert {0, 1} == {await result for result in results}
    pool.stop()


@pytest.mark.parametrize("started", [False, True])
def test_a_pool_that_does_not_run_refuses_work(reactor: Any, started: bool) -> None:
    """Work that would vanish in a stopped pool fails instead."""
    pool = WorkerPool(reactor, "disk", 2)
    if started:
        pool.start()
        pool.stop()
    with pytest.raises(Unavailable, match=r"^shutting down$"):
        now(pool(int))


@on_reactor
async def test_stopping_waits_for_work(reactor: Any) -> None:
    """What was taken is done when `stop` returns."""
    pool = WorkerPool(reactor, "disk", 1)
    pool.start()
    done: list[int] = []
    results = [pool(done.append, n) for n in range(5)]
    pool.stop()
    assert [0, 1, 2, 3, 4] == done
    for result in results:
        await result


@on_reactor
async def test_quick_jobs_that_are_asked_for_together_are_done_by_one_thread(reactor: Any) -> None:
    """Others are not woken up for them."""
    pool = WorkerPool(reactor, "disk", 4)
    pool.start()
    await pool(int)
    await gatherResults([pool(int) for _ in range(4)])  # now it knows that they come together
    threads = await gatherResults([pool(threading.get_ident) for _ in range(4)])
    pool.stop()
    assert 1 == len(set(threads))


@on_reactor
async def test_a_job_that_takes_long_does_not_hold_up_the_quick_ones_behind_it(reactor: Any) -> None:
    """Another thread helps."""
    pool = WorkerPool(reactor, "disk", 2)
    pool.start()
    await gatherResults([pool(int) for _ in range(4)])
    over = threading.Event()
    waited, quick = pool(over.wait, 30), pool(int)
    await pool(over.set)
    assert (True, 0) == (await waited, await quick)
    pool.stop()


class StoppedReactor(Clock):
    """A reactor that hears of nothing until it is told to."""

    def callFromThread(self, *_: Any) -> None:  # noqa: N802 - as twisted has it
        """Do nothing."""


def test_a_thread_that_gets_on_is_not_helped() -> None:
    """Two that take the interpreter's lock from each other are slower than one; one that is stuck is helped."""
    clock = StoppedReactor()
    pool = ThreadPool(clock, 4, "disk")
    begun, going = ([threading.Event() for _ in range(4)] for _ in range(2))

    def job(number: int) -> None:
        begun[number].set()
        going[number].wait(30)

    for number in range(4):  # the first one has a thread to itself
        pool.callInThreadWithCallback(lambda *_: None, job, number)
    clock.advance(0)
    going[1].set()
    assert begun[2].wait(30)
    clock.advance(0.002)
    threads = len(pool._threads)
    clock.advance(0.002)
    helped = begun[3].wait(30)
    for event in going:
        event.set()
    pool.stop()
    assert (2, True) == (threads, helped)


def test_what_looked_slow_is_tried_anew() -> None:
    """It may have waited for the interpreter's lock only."""
    pool = ThreadPool(StoppedReactor(), 1, "disk")
    over = threading.Event()
    pool.callInThreadWithCallback(lambda *_: None, over.wait, 30)
    pool._job_seconds = 1.0
    for _ in range(64):
        pool.callInThreadWithCallback(lambda *_: None, int)
    quick = len(pool._asked)
    over.set()
    pool.stop()
    assert 1 == quick


@on_reactor
async def test_slow_jobs_have_a_thread_each(reactor: Any) -> None:
    """As many as there are threads wait for the disk at the same time, whenever they were asked for."""
    pool = WorkerPool(reactor, "disk", 3)
    pool.start()
    pause = threading.Event()
    await gatherResults([pool(pause.wait, 0.01) for _ in range(40)])
    all_there = threading.Barrier(3)
    results = [pool(all_there.wait, timeout=30) for _ in range(3)]
    assert {0, 1, 2} == set(await gatherResults(results))
    pool.stop()


@on_reactor
async def test_a_job_may_ask_for_more_when_it_is_heard_of(reactor: Any) -> None:
    """The results of a turn are handed over one by one, whatever that leads to."""
    pool = WorkerPool(reactor, "disk", 2)
    pool.start()

    async def twice(number: int) -> int:
        return await pool(int, await pool(int, number))

    assert list(range(20)) == await gatherResults([Deferred.fromCoroutine(twice(n)) for n in range(20)])
    pool.stop()


@on_reactor
async def test_the_results_of_what_was_taken_come_after_the_stop(reactor: Any) -> None:
    """Failures, too."""
    pool = WorkerPool(reactor, "disk", 2)
    pool.start()
    good, bad = pool(int, "7"), pool(int, "x")
    pool.stop()
    assert 7 == await good
    with pytest.raises(ValueError, match="invalid literal"):
        await bad


@on_reactor
async def test_who_gives_up_is_not_told(reactor: Any) -> None:
    """The job is done all the same."""
    pool = WorkerPool(reactor, "disk", 1)
    pool.start()
    done: list[int] = []
    given_up = pool(done.append, 1)
    given_up.cancel()
    with pytest.raises(CancelledError):
        await given_up
    await pool(done.append, 2)
    pool.stop()
    assert [1, 2] == done
