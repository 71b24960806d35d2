"""When more may be sent: a transport tells whoever produces, and who waits for it is told here."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer

from filefly.units import KIB, Chunks

SLICE_BYTES = 128 * KIB
"""How much a transport is given at a time of what its peer does not take at once."""


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
    """What a TCP transport has still to send, slice by slice; opens the gate once all of it is sent.

    `moved` hears how many bytes are left whenever the transport has sent what it was given. Without it the transport
    is given all at once: then others may write to it behind that.
    """

    def __init__(
        self, transport: Any, gate: SendingGate, pieces: Chunks, moved: Callable[[int], None] | None = None
    ) -> None:
        self._transport, self._gate, self._moved = transport, gate, moved
        self._slices = slices_of(pieces)
        self._left = sum(map(len, pieces))
        gate.pauseProducing()
        transport.registerProducer(self, False)  # which asks at once for more
        if moved is None:
            self.hand_over()

    def resumeProducing(self) -> None:
        """Give the transport more, or note that all is sent."""
        if self._moved is not None:
            self._moved(self._left)
        if self._left:
            self._write(next(self._slices))
        else:
            self._slices = iter(())  # it holds what it was made of
            self._transport.unregisterProducer()  # a half-close would wait for a producer
            self._gate.resumeProducing()

    def add(self, pieces: Chunks) -> None:
        """Send `pieces`, too, behind the others."""
        self._slices = chain(self._slices, slices_of(pieces))
        self._left += sum(map(len, pieces))

    def hand_over(self) -> None:
        """Give the transport all that is left: nobody is going to ask for it."""
        for piece in self._slices:
            self._write(piece)

    def _write(self, piece: bytes) -> None:
        self._left -= len(piece)
        self._transport.write(piece)

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost, and will hear of it."""


def slices_of(pieces: Chunks) -> Iterator[bytes]:
    """Yield the bytes of `pieces` in order, no more than a slice at a time."""
    left = deque(pieces)
    while left:
        piece = left.popleft()  # what was sent is let go of
        for begin in range(0, len(piece), SLICE_BYTES):
            yield bytes(piece[begin : begin + SLICE_BYTES])
