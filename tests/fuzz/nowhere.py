"""A reactor without threads and without a network: what it calls comes when a test lets time pass."""

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

LONGEST_ANSWER_SECONDS = 900.0
"""How long anything may take."""


@implementer(IReactorPluggableNameResolver)
class Nowhere(Clock):
    """A reactor whose network has nobody in it."""

    @property
    def nameResolver(self) -> Any:  # noqa: N802 - Twisted's name
        """Return what resolves no name."""
        return self

    def installNameResolver(self, _resolver: Any) -> Any:  # noqa: N802
        """Keep this one."""
        return self

    def resolveHostName(self, receiver: Any, hostName: str, *_: Any, **__: Any) -> Any:  # noqa: N802, N803
        """Find nothing."""
        receiver.resolutionBegan(self)
        receiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """Nothing goes on."""

    def connectTCP(self, _host: str, _port: int, factory: Any, **_: Any) -> None:  # noqa: N802
        """Refuse."""
        factory.doStart()
        factory.clientConnectionFailed(None, Failure(Refused()))

    def connectUNIX(self, _path: str, factory: Any, **_: Any) -> None:  # noqa: N802
        """Refuse."""
        factory.doStart()
        factory.clientConnectionFailed(None, Failure(Refused()))

    def pass_time(self, until: Callable[[], bool]) -> None:
        """Let time pass."""
        end = self.seconds() + LONGEST_ANSWER_SECONDS
        while not until() and self.getDelayedCalls():
            due = max(self.seconds(), min(call.getTime() for call in self.getDelayedCalls()))
            if due > end:
                return
            self.advance(due - self.seconds())
