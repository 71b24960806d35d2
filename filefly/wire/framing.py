"""JSON lines with raw payloads over a Twisted transport: the only code between bytes and messages.

A `Conversation` is one end of a connection, and both ends use it. It is *pulled*: nothing is parsed until somebody
asks for the next line or the next piece of a payload, and what arrives meanwhile stays with the kernel once a little
is buffered. So a request is answered before the next one is looked at, and memory stays bounded.

In:     `receive_line`, `begin_payload` + `receive_chunks` + `skip_payload`
Out:    `send`, which waits while the peer does not read
Ends:   `close` (after what was sent), `close_gently` (when the peer may still be sending), `abort`
States: receiving lines or a payload; input ended (half-closed) or not; lost or not
"""

from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from filefly.errors import PayloadEnded, TooLarge
from filefly.units import KIB, MIB

DEFAULT_MAX_LINE = 24 * MIB
PIECE_BYTES = MIB
"""How much of a payload moves at a time: large enough for one hop to a thread, small enough for many connections."""

_TRANSPORT_BUFFER_BYTES = 256 * KIB  # what one recv takes and what may wait unsent; 1.6 times faster than the default
_LINGER_SECONDS = 10


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


@implementer(IHalfCloseableProtocol)
class Conversation(LineReceiver):
    """One end of a connection; see the module's docstring. Use it from the reactor's thread, one task at a time."""

    delimiter = b"\n"
    paused = True  # LineReceiver's own flag: parse nothing until asked
    transport: Any

    def __init__(self, clock: Any, max_line: int = DEFAULT_MAX_LINE) -> None:
        """`clock` is an IReactorTime; a line of more than `max_line` bytes ends the conversation."""
        self.MAX_LENGTH = max_line
        self._clock = clock
        self._gate = SendingGate()
        self._gathered: list[bytes] = []  # input behind LineReceiver's buffer, not looked at yet
        self._gathered_size = 0
        self._transport_paused = False
        self._waiting: Deferred[bytes | None] | None = None
        self._payload_size = self._payload_left = 0
        self.input_ended = False
        """Whether the peer has closed its sending side."""
        self._discarding = False
        self._lingering: Any = None
        self.lost: Failure | None = None
        """Why the connection was lost, once it is."""

    # In

    def receive_line(self) -> Deferred[bytes | None]:
        """Return the next line that is not blank, without its line end; None at the end of input.

        Raises TooLarge for a line over the limit, after which only `close_gently` makes sense, and twisted's
        ConnectionLost or ConnectionDone when the connection is gone.
        """
        return self._receive()

    def begin_payload(self, size: int) -> None:
        """Take the next `size` bytes of input as a payload, not as lines."""
        self._payload_size = self._payload_left = size
        if size:
            self.setRawMode()

    @property
    def payload_ended(self) -> bool:
        """Whether the payload has been received to its last byte."""
        return not self._payload_left

    async def receive_chunks(self, at_least: int = PIECE_BYTES) -> list[bytes]:
        """Return the next `at_least` bytes of the payload or a little more, as they came; less or [] at its end.

        Raises PayloadEnded if the input ends inside the payload.
        """
        chunks: list[bytes] = []
        gathered = 0
        while gathered < at_least and self._payload_left:
            chunk = await self._receive() or b""
            chunks.append(chunk)
            gathered += len(chunk)
        return chunks

    async def skip_payload(self) -> None:
        """Read and drop what is left of the payload."""
        while await self.receive_chunks():
            pass

    def _receive(self) -> Deferred[bytes | None]:
        if self._waiting is not None:
            raise RuntimeError("one receiver at a time")
        waiting: Deferred[bytes | None] = Deferred(self._stop_waiting)
        self._waiting = waiting
        if self.lost is not None:
            self._deliver(self.lost)
        else:
            self._resume()
        return waiting

    def _stop_waiting(self, _cancelled: Deferred[bytes | None]) -> None:
        self._waiting = None
        self.paused = True

    def _resume(self) -> None:
        self.paused = False
        super().dataReceived(self._take_gathered())
        self._end_input_if_due()
        if not self.paused and self._transport_paused:
            self._transport_paused = False
            self.transport.resumeProducing()

    def _deliver(self, result: bytes | Failure | None) -> None:
        self.paused = True
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        if isinstance(result, Failure):
            waiting.errback(result)
        else:
            waiting.callback(result)

    def _take_gathered(self, data: bytes = b"") -> bytes:
        if not self._gathered:
            return data
        if data:
            self._gathered.append(data)
        data = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_size = 0
        return data

    def _end_input_if_due(self) -> None:
        if self.paused or self._busyReceiving or not self.input_ended:
            return
        if self._payload_left:
            got = self._payload_size - self._payload_left
            sentence = f"payload ended after {got} of {self._payload_size} bytes"
            self._payload_left = 0
            self.setLineMode()
            self._deliver(Failure(PayloadEnded(sentence)))
        else:
            self._deliver(_line_of(self.clearLineBuffer() + self._take_gathered()))

    # What LineReceiver and the transport call

    def connectionMade(self) -> None:
        """Set the transport up."""
        self.transport.bufferSize = _TRANSPORT_BUFFER_BYTES
        self.transport.registerProducer(self._gate, True)
        with suppress(AttributeError, OSError):  # not every transport is TCP
            self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        """Gather a long line's pieces and join them once: LineReceiver alone is quadratic (twisted#6357)."""
        if self._discarding:
            return
        if self.paused or (self.line_mode and b"\n" not in data):
            self._gathered.append(data)
            self._gathered_size += len(data)
            if self.paused:
                if self._gathered_size >= _TRANSPORT_BUFFER_BYTES and not self._transport_paused:
                    self._transport_paused = True
                    self.transport.pauseProducing()
            elif self._gathered_size + len(self._buffer) > self.MAX_LENGTH:
                self.lineLengthExceeded(b"")
            return
        if self._gathered and self.line_mode:
            self._end_gathered_line(data)
            return
        super().dataReceived(self._take_gathered(data))
        self._end_input_if_due()

    def _end_gathered_line(self, data: bytes) -> None:
        """Deliver a long line that ends in `data` without the copies that LineReceiver would make of it."""
        end = data.index(b"\n")
        if self._gathered_size + len(self._buffer) + end > self.MAX_LENGTH:
            self.lineLengthExceeded(b"")
            return
        self._gathered.insert(0, self.clearLineBuffer())
        self.lineReceived(self._take_gathered(data[:end]))
        if rest := data[end + 1 :]:
            self.dataReceived(rest)

    def lineReceived(self, line: bytes) -> None:
        """Hand the line to who waits for it."""
        if (text := _line_of(line)) is not None:
            self._deliver(text)

    def rawDataReceived(self, data: bytes) -> None:
        """Hand over what belongs to the payload; the rest is lines again."""
        chunk, rest = data[: self._payload_left], data[self._payload_left :]
        self._payload_left -= len(chunk)
        self.paused = True
        if not self._payload_left:
            self.setLineMode(rest)
        self._deliver(chunk)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Tell who waits for the line; nothing behind it can be understood."""
        self._discard_input()
        self._deliver(Failure(TooLarge(f"line is over the limit of {self.MAX_LENGTH} bytes (--max-line)")))

    def readConnectionLost(self) -> None:
        """Note the end of input; the peer may still be reading."""
        self.input_ended = True
        if self._discarding:
            self.transport.loseConnection()
        else:
            self._end_input_if_due()

    def writeConnectionLost(self) -> None:
        """Nothing to do: only we close our sending side."""

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        """Release whoever waits."""
        self.lost = reason
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        self._gate.resumeProducing()
        if self._waiting is not None:
            self._deliver(reason)

    # Out

    def send(self, *pieces: bytes) -> Deferred[None]:
        """Send `pieces`; the result waits until the transport takes more, and fails once the connection is lost."""
        if self.lost is not None:
            return fail(self.lost)
        for piece in pieces:
            self.transport.write(piece)
        return succeed(None) if self._gate.open else self._gate.passed()

    def close(self) -> None:
        """Close once everything is sent."""
        if self.lost is None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def close_gently(self) -> None:
        """Close once everything is sent, and drop what the peer still sends, so that our last reply reaches it."""
        if self.lost is not None:
            return
        self._discard_input()
        if self.input_ended or not hasattr(self.transport, "loseWriteConnection"):
            self.close()
            return
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        if self._transport_paused:
            self.transport.resumeProducing()
        self._lingering = self._clock.callLater(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """Close now, dropping what was not sent."""
        if self.lost is None:
            self.transport.unregisterProducer()
            self.transport.abortConnection()

    def _discard_input(self) -> None:
        self._discarding = True
        self.clearLineBuffer()
        self._take_gathered()


def _line_of(data: bytes) -> bytes | None:
    line = data.removesuffix(b"\r")
    return line if line.strip() else None
