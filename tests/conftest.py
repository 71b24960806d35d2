"""What every test needs: the reactor, and a check that nothing was left behind on it."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer


@pytest.fixture(autouse=True, scope="module")
def _quick_collections() -> None:
    """Exempt what was there before a module's tests from the collection after each of them, which is then quick."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def reactor() -> Any:
    """Hand in the reactor that pytest-twisted runs."""
    from twisted.internet import reactor

    return reactor


@pytest.fixture(autouse=True)
def logged_failures(reactor: Any) -> Iterator[list[Failure]]:
    """Fail a test that logs a failure or leaves calls or sockets behind: pytest-twisted notices none of these."""
    failures: list[Failure] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure") or event.get("failure")  # Logger, log.err
        if failure is not None:
            failures.append(failure)

    def sockets() -> set[object]:
        return {*reactor.getReaders(), *reactor.getWriters()}.difference(reactor._internalReaders)

    calls_before, sockets_before = set(reactor.getDelayedCalls()), sockets()
    globalLogPublisher.addObserver(observe)
    yield failures  # a test that expects a failure checks it and clears the list
    gc.collect()  # dropped Deferreds report when collected
    globalLogPublisher.removeObserver(observe)
    calls = set(reactor.getDelayedCalls()) - calls_before
    leaked = sockets() - sockets_before
    for call in calls:
        call.cancel()
    assert [] == failures
    assert set() == calls
    assert set() == leaked
