"""Running coroutines as tests on pytest-twisted's reactor."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

P = ParamSpec("P")

_HUNG_SECONDS = 60


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def on_reactor(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Deferred[None]]:
    """Make an `async def` a test; pytest-twisted waits for the Deferred. A hung one fails where it hangs."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> Deferred[None]:
        return Deferred.fromCoroutine(test(*args, **kwargs)).addTimeout(_HUNG_SECONDS, _reactor())

    return run


def next_turn() -> Deferred[None]:
    """Fire once the reactor has seen to everything else that is due."""
    return deferLater(_reactor(), 0, lambda: None)


async def quiet() -> None:
    """Wait until both ends of closed connections have noticed."""
    for _ in range(10):
        await next_turn()
