import threading
from typing import Any

import pytest

from filefly.errors import Unavailable
from filefly.threads import WorkerPool
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
