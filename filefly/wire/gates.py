"""When more may be sent: a transport tells whoever produces, and who waits for it is told here."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class SendingGate:
    """Is open while a transport, or another consumer, takes more; registered with it as its push producer."""

    def __init__(self) -> None:
        self.open = True
        self._waiting: list[Deferred[None]] = []

    def passed(self) -> Deferred[None]:
        """Fire once the transport takes more, or the connection is lost."""
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def pauseProducing(self) -> None:
        """Close."""
        self.open = False

    def resumeProducing(self) -> None:
        """Open, and let everybody pass who waits."""
        self.open = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    stopProducing = resumeProducing


@implementer(IPullProducer)
class Rest:
    """What a TCP transport has still to send; opens the gate once all of it is sent."""

    def __init__(self, transport: Any, gate: SendingGate, pieces: Sequence[bytes]) -> None:
        self._transport, self._gate = transport, gate
        self._registered = False
        gate.pauseProducing()
        for piece in pieces:
            transport.write(piece)
        transport.registerProducer(self, False)  # which asks at once for more

    def resumeProducing(self) -> None:
        """Note that all is sent."""
        if self._registered:
            self._transport.unregisterProducer()  # a half-close would wait for a producer
            self._gate.resumeProducing()
        self._registered = True

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost, and will hear of it."""
