"""JSON lines with raw payloads over a Twisted transport: the only code between bytes and messages.

A `Conversation` is one end of a connection, and both ends use it. It is *pulled*: nothing is parsed until somebody
asks for the next line or the next piece of a payload, and what arrives meanwhile stays with the kernel once a little
is buffered. So a request is answered before the next one is looked at, and memory stays bounded.

In:     `receive_line`, `line_at_hand`, `begin_payload` + `receive_chunks` + `skip_payload`
Out:    `send`, which waits while the peer does not read
Ends:   `close` (after what was sent), `close_gently` (when the peer may still be sending), `abort`
States: receiving lines or a payload; input ended (half-closed) or not; lost or not
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from filefly.errors import PayloadEnded, TooLarge
from filefly.units import KIB, MIB
from filefly.wire.gates import Rest, SendingGate
from filefly.wire.lending import LentSocket, can_be_lent

DEFAULT_MAX_LINE = 24 * MIB
PIECE_BYTES = MIB
"""How much of a payload moves at a time: large enough for one hop to a thread, small enough for many connections."""

_TRANSPORT_BUFFER_BYTES = 256 * KIB  # what one recv takes and what may wait unsent; 1.6 times faster than the default
_LINGER_SECONDS = 10
_SMALL_BYTES = 64 * KIB  # pieces of so little in all are cheaper to copy than to send one by one


@implementer(IHalfCloseableProtocol)
class Conversation(LineReceiver):
    """One end of a connection; see the module's docstring. Use it from the reactor's thread, one task at a time.

    A LineReceiver with a buffer of its own: twisted's copies all that is behind a line for each line, and a long line
    for each of its pieces (twisted#6357).
    """

    delimiter = b"\n"
    transport: Any

    def __init__(self, clock: Any, max_line: int = DEFAULT_MAX_LINE) -> None:
        """`clock` is an IReactorTime; a line of more than `max_line` bytes ends the conversation."""
        self.MAX_LENGTH = max_line
        self._clock = clock
        self._gate = SendingGate()
        self._direct = False  # whether the gate is open exactly while the transport has nothing left to send
        self._input = b""  # used up to `_at`
        self._at = 0
        self._behind: deque[bytes] = deque()  # what came after that
        self._kept = 0  # bytes that are not used yet
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

    def line_at_hand(self) -> bytes | None:
        """Return the next line if it has come already, else None: what `receive_line` waits for. Raises TooLarge."""
        return self._take_line() if self.lost is None else None

    def begin_payload(self, size: int) -> None:
        """Take the next `size` bytes of input as a payload, not as lines."""
        self._payload_size = self._payload_left = size

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
            at_hand = self._kept and self.lost is None
            chunk = self._take_chunk() if at_hand else await self._receive() or b""
            chunks.append(chunk)
            gathered += len(chunk)
        return chunks

    @property
    def payload_left(self) -> int:
        """How many bytes of the payload are still to be received."""
        return self._payload_left

    def lend_input(self) -> LentSocket | None:
        """Receive nothing, and let a thread receive what is left of the payload, until `take_back`; None if it cannot.

        All that came before must have been received.
        """
        if self._kept or self.input_ended or self.lost is not None or not can_be_lent(self.transport):
            return None
        self._pause_transport()
        return LentSocket.of(self.transport)

    def take_back(self, lent: LentSocket) -> None:
        """Go on behind what the thread has received; if it is still at work, nobody knows where that is: abort."""
        if not lent.give_back():
            self.abort()
        self._payload_left -= lent.received

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
            self._serve()
        if self._waiting is waiting and self._transport_paused:
            self._transport_paused = False
            self.transport.resumeProducing()
        return waiting

    def _pause_transport(self) -> None:
        if not self._transport_paused:
            self._transport_paused = True
            self.transport.pauseProducing()

    def _stop_waiting(self, _cancelled: Deferred[bytes | None]) -> None:
        self._waiting = None

    def _serve(self) -> None:
        """Hand over what is waited for, if it is there."""
        if self._payload_left:
            if self._kept:
                self.rawDataReceived(self._take_chunk())
            elif self.input_ended:
                got, self._payload_left = self._payload_size - self._payload_left, 0
                sentence = f"payload ended after {got} of {self._payload_size} bytes"
                self._deliver(Failure(PayloadEnded(sentence)))
            return
        try:
            line = self._take_line()
        except TooLarge as error:
            self._deliver(Failure(error))
        else:
            if line is not None:
                self.lineReceived(line)
            elif self.input_ended:
                self._deliver(None)

    def _deliver(self, result: bytes | Failure | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        if isinstance(result, Failure):
            waiting.errback(result)
        else:
            waiting.callback(result)

    def _take_line(self) -> bytes | None:
        """Take the next line that is not blank, if all of it is there; raises TooLarge."""
        while self._kept:
            line = self._cut_line()
            if (self._kept if line is None else len(line)) > self.MAX_LENGTH:
                raise self._line_too_long()
            if line is None:
                if not self.input_ended:
                    return None
                line = self._input[self._at :]
                self._use(len(line))
            line = line.removesuffix(b"\r")
            if line.strip():
                return line
        return None

    def _cut_line(self) -> bytes | None:
        """Take all up to the next line end; if there is none, make what is there one piece."""
        begin = self._at
        end = self._input.find(b"\n", begin)
        if end >= 0:
            line = self._input[begin:end]
            self._use(end + 1 - begin)
            return line
        pieces = [self._input[begin:]]
        while self._behind:
            piece = self._behind.popleft()
            end = piece.find(b"\n")
            if end >= 0:
                self._kept -= sum(map(len, pieces))
                self._input, self._at = piece, 0
                self._use(end + 1)
                return b"".join([*pieces, piece[:end]])
            pieces.append(piece)
        self._input, self._at = b"".join(pieces), 0
        return None

    def _take_chunk(self) -> bytes:
        """Take as much of the payload as is there in one piece; something is."""
        if self._at == len(self._input):
            self._input, self._at = self._behind.popleft(), 0
        chunk = self._input[self._at : self._at + self._payload_left]
        self._use(len(chunk))
        self._payload_left -= len(chunk)
        return chunk

    def _use(self, size: int) -> None:
        self._at += size
        self._kept -= size
        if not self._kept:
            self._input, self._at = b"", 0  # it may have been large

    def _line_too_long(self) -> TooLarge:
        """Return what tells who waits for the line; nothing behind it can be understood."""
        self._discard_input()
        return TooLarge(f"line is over the limit of {self.MAX_LENGTH} bytes (--max-line)")

    # What the transport calls, and what LineReceiver calls lines and raw data

    def connectionMade(self) -> None:
        """Set the transport up."""
        self.transport.bufferSize = _TRANSPORT_BUFFER_BYTES
        self._direct = can_be_lent(self.transport)
        if not self._direct:
            self.transport.registerProducer(self._gate, True)
        with suppress(AttributeError, OSError):  # not every transport is TCP
            self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        """Keep `data` until it is asked for; a long line's pieces are looked at, and joined, once."""
        if self._discarding:
            return
        if self._kept:
            self._behind.append(data)
        else:
            self._input, self._at = data, 0
        self._kept += len(data)
        if self._waiting is None:
            if self._kept >= _TRANSPORT_BUFFER_BYTES:
                self._pause_transport()
        elif self._payload_left or b"\n" in data:
            self._serve()
        elif self._kept > self.MAX_LENGTH:
            self._deliver(Failure(self._line_too_long()))

    def lineReceived(self, line: bytes) -> None:
        """Hand the line to who waits for it."""
        self._deliver(line)

    def rawDataReceived(self, data: bytes) -> None:
        """Hand a chunk of a payload to who waits for it."""
        self._deliver(data)

    def readConnectionLost(self) -> None:
        """Note the end of input; the peer may still be reading."""
        self.input_ended = True
        if self._discarding:
            self.transport.loseConnection()
        elif self._waiting is not None:
            self._serve()

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
        if self._direct and self._gate.open:
            self._send_at_once(pieces)
        else:
            for piece in pieces:
                self.transport.write(piece)
        return self.flushed()

    def _send_at_once(self, pieces: Sequence[bytes]) -> None:
        """Send what the system takes, without a turn of the reactor, and leave the rest to the transport."""
        if len(pieces) > 1 and sum(map(len, pieces)) <= _SMALL_BYTES:
            pieces = [b"".join(pieces)]
        for place, piece in enumerate(pieces):
            unsent = memoryview(piece)
            while unsent:
                sent = self.transport.writeSomeData(unsent)
                if sent == 0 or isinstance(sent, Exception):  # full; or lost, as the transport will find out itself
                    Rest(self.transport, self._gate, [bytes(unsent), *pieces[place + 1 :]])
                    return
                unsent = unsent[sent:]

    async def lend_output(self) -> LentSocket | None:
        """Once everything is sent, let a thread send, until it is given back; None if it cannot."""
        if self.lost is not None or not self._direct:
            return None
        await self.flushed()
        return LentSocket.of(self.transport) if self.lost is None else None

    def flushed(self) -> Deferred[None]:
        """Fire once the transport takes more (TCP: has nothing left to send), or the connection is lost."""
        return succeed(None) if self._gate.open else self._gate.passed()

    def close(self) -> None:
        """Close once everything is sent."""
        if self.lost is None:
            self._stop_sending()
            self.transport.loseConnection()

    def close_gently(self) -> None:
        """Close once everything is sent, and drop what the peer still sends, so that our last reply reaches it."""
        if self.lost is not None:
            return
        self._discard_input()
        if self.input_ended or not hasattr(self.transport, "loseWriteConnection"):
            self.close()
            return
        self._stop_sending()
        self.transport.loseWriteConnection()
        if self._transport_paused:
            self.transport.resumeProducing()
        self._lingering = self._clock.callLater(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """Close now, dropping what was not sent."""
        if self.lost is None:
            self._stop_sending()
            self.transport.abortConnection()

    def _stop_sending(self) -> None:
        self._direct = False
        self.transport.unregisterProducer()

    def _discard_input(self) -> None:
        self._discarding = True
        self._input, self._at, self._kept = b"", 0, 0
        self._behind.clear()
