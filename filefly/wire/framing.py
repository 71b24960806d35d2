"""JSON lines with raw payloads over a Twisted transport: the only code between bytes and messages.

A `Conversation` is one end of a connection, and both ends use it. It is *pulled*: nothing is parsed until somebody
asks for the next line or the next piece of a payload, and what arrives meanwhile stays with the kernel once a little
is buffered. So a request is answered before the next one is looked at, and memory stays bounded.

In:     `receive_line`, `line_at_hand`, `begin_payload` + `receive_chunks` + `skip_payload`
Out:    `send`, which waits while the peer does not read
Ends:   `close` (after what was sent), `close_gently` (when the peer may still be sending), `abort`
States: receiving lines or a payload; input ended (half-closed) or not; lost or not
Peer:   `standing` says what only the peer can do now, and whether it does
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from filefly.errors import PayloadEnded, TooLarge
from filefly.units import KIB, MIB, MOST_CHUNKS
from filefly.wire.awaited import Awaited
from filefly.wire.budget import LINE_FACTOR, STEP_BYTES, LineBudget, UnsentReplies
from filefly.wire.codec import LONG_LINE_BYTES, Line
from filefly.wire.input import Input
from filefly.wire.lending import LentSocket, can_be_lent
from filefly.wire.output import Output

DEFAULT_MAX_LINE = 24 * MIB
PIECE_BYTES = MIB
"""How much of a payload moves at a time: large enough for one hop to a thread, small enough for many connections."""

_TRANSPORT_BUFFER_BYTES = 256 * KIB  # what one recv takes and what may wait unsent; 1.6 times faster than the default
_LINGER_SECONDS = 10


@implementer(IHalfCloseableProtocol)
class Conversation(LineReceiver):
    """One end of a connection; see the module's docstring. Use it from the reactor's thread, one task at a time.

    A LineReceiver with a buffer of its own: twisted's copies all that is behind a line for each line, and a long line
    for each of its pieces (twisted#6357).
    """

    delimiter = b"\n"
    transport: Any

    def __init__(
        self,
        clock: Any,
        max_line: int = DEFAULT_MAX_LINE,
        budget: Callable[[], LineBudget] | None = None,
        unsent: UnsentReplies | None = None,
    ) -> None:
        """`clock` is an IReactorTime; a line of more than `max_line` bytes ends the conversation.

        Of a long line no more is read than has room in the budget that `budget` returns when there is one, or it raises
        TooLarge; who gets the line gives the room back.
        """
        self._clock = clock
        self._budget_of_line = budget
        self._budget: LineBudget | None = None  # in which room is taken, or waited for
        self._line_room = LONG_LINE_BYTES  # how much of a line may be read
        self.long_lines = 0
        """How many lines have had room in a budget, and have given it back."""
        self._output = Output(self, unsent)
        self._input = Input(max_line)
        self._most_unseen = min(LONG_LINE_BYTES, max_line)
        self._transport_paused = False
        self._waiting: Deferred[Any] | None = None
        self._came = 0  # how often something came
        self._payload_size = self._payload_left = 0
        self.input_ended = False
        """Whether the peer has closed its sending side."""
        self._discarding = False
        self._lingering: Any = None
        self.lost: Failure | None = None
        """Why the connection was lost, once it is."""

    # In

    def receive_line(self) -> Deferred[Line | None]:
        """Return the next line that is not blank, without its line end; None at the end of input.

        Raises TooLarge for a line over the limit, after which only `close_gently` makes sense, and twisted's
        ConnectionLost or ConnectionDone when the connection is gone.
        """
        return self._receive()

    def line_at_hand(self) -> Line | None:
        """Return the next line if it has come already, else None: what `receive_line` waits for. Raises TooLarge."""
        return self._input.take_line(self.input_ended) if self.lost is None else None

    def begin_payload(self, size: int) -> None:
        """Take the next `size` bytes of input as a payload, not as lines."""
        self._payload_size = self._payload_left = size

    @property
    def payload_ended(self) -> bool:
        """Whether the payload has been received to its last byte."""
        return not self._payload_left

    async def receive_chunks(self, at_least: int = PIECE_BYTES) -> list[bytes]:
        """Return the next `at_least` bytes of the payload or a little more, as they came; less or [] at its end.

        Of what came in tiny pieces it is less, too: MOST_CHUNKS of them.
        Raises PayloadEnded if the input ends inside the payload.
        """
        chunks: list[bytes] = []
        gathered = 0
        while gathered < at_least and len(chunks) < MOST_CHUNKS and self._payload_left:
            at_hand = self._input.kept and self.lost is None
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
        if self._input.kept or self.input_ended or self.lost is not None or not can_be_lent(self.transport):
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

    def _receive(self) -> Deferred[Any]:
        if self._waiting is not None:
            raise RuntimeError("one receiver at a time")
        waiting: Deferred[Any] = Deferred(self._stop_waiting)
        self._waiting = waiting
        if self.lost is not None:
            self._deliver(self.lost)
        else:
            self._serve()
        if self._waiting is waiting:
            self._resume_transport()
        return waiting

    def _pause_transport(self) -> None:
        if not self._transport_paused:
            self._transport_paused = True
            self.transport.pauseProducing()

    def _resume_transport(self) -> None:
        if self._transport_paused:
            self._transport_paused = False
            self.transport.resumeProducing()

    def _stop_waiting(self, _cancelled: Deferred[Any]) -> None:
        self._waiting = None

    def _serve(self) -> None:
        """Hand over what is waited for, if it is there."""
        if self._payload_left:
            if self._input.kept:
                self.rawDataReceived(self._take_chunk())
            elif self.input_ended:
                got, self._payload_left = self._payload_size - self._payload_left, 0
                sentence = f"payload ended after {got} of {self._payload_size} bytes"
                self._deliver(Failure(PayloadEnded(sentence)))
            return
        try:
            line = self._input.take_line(self.input_ended)
            if line is None and not self.input_ended:
                self._take_room()
                return
        except TooLarge as error:
            self._discarding = True
            self._deliver(Failure(error))
        else:
            if line is not None:
                self.lineReceived(line)
            else:
                self._deliver(None)

    def _take_room(self) -> None:
        """Read on once there is room for more of a long line; raises TooLarge if there is none for such lines."""
        if self._input.kept > self._line_room and self._budget_of_line is not None:
            step = self._input.kept // STEP_BYTES * STEP_BYTES + STEP_BYTES
            room = self.room_for(step)
            self._pause_transport()  # goes on at once if there is room
            room.addCallbacks(lambda _: self._have_room(step), _given_up)
        elif self._input.kept <= LONG_LINE_BYTES:
            self.give_room_back()  # what was long was blank

    def _have_room(self, size: int) -> None:
        self._line_room = size
        self._resume_transport()

    def room_for(self, size: int) -> Deferred[None]:
        """Fire once there is room for what is made of a line of `size` bytes, too; raises TooLarge."""
        if self._budget_of_line is None:
            return succeed(None)
        if self._budget is None:
            self._budget = self._budget_of_line()
        return self._budget.hold(self, LINE_FACTOR * size)

    @property
    def has_room(self) -> bool:
        """Whether room in a budget is taken, or waited for."""
        return self._budget is not None

    def give_room_back(self) -> None:
        """Give back the room that a line had, if it was long, and what was made of it."""
        budget, self._budget = self._budget, None
        if budget is not None:
            self._line_room = LONG_LINE_BYTES
            self.long_lines += 1
            budget.give_back(self)

    def _deliver(self, result: Line | Failure | None) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        if isinstance(result, Failure):
            waiting.errback(result)
        else:
            waiting.callback(result)

    def _take_chunk(self) -> bytes:
        """Take as much of the payload as is there in one piece; something is."""
        chunk = self._input.take_chunk(self._payload_left)
        self._payload_left -= len(chunk)
        return chunk

    @property
    def standing(self) -> tuple[Awaited, int]:
        """What the peer is to do before this end can go on, and a number that changes as it does."""
        if self._output.waits:
            return Awaited.READING, self._output.moved
        if self._waiting is None or self._transport_paused or self._discarding:
            return Awaited.NOTHING, 0
        if self._payload_left:
            return Awaited.PAYLOAD, self._came
        if not self._input.kept:
            return Awaited.REQUEST, self._came
        if self.has_room:
            return Awaited.LONG_LINE, self._input.kept // STEP_BYTES
        return Awaited.LINE, self._came

    # What the transport calls, and what LineReceiver calls lines and raw data

    def connectionMade(self) -> None:
        """Set the transport up."""
        self.transport.bufferSize = _TRANSPORT_BUFFER_BYTES
        self._output.connect(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Keep `data` until it is asked for; a long line's pieces are looked at, and joined, once."""
        self._came += 1
        if self._discarding:
            return
        self._input.add(data)
        if self._waiting is None:
            if self._input.kept >= _TRANSPORT_BUFFER_BYTES:
                self._pause_transport()
        elif self._payload_left or b"\n" in data or self._input.kept > self._most_unseen:
            self._serve()

    def lineReceived(self, line: Line) -> None:
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
        if self._budget is not None:
            self._budget.stop_waiting(self)
        self._output.connection_lost()
        if self._waiting is not None:
            self._deliver(reason)

    # Out

    def send(self, *pieces: bytes) -> Deferred[None]:
        """Send `pieces`; the result waits until the transport takes more, and fails once the connection is lost."""
        if self.lost is not None:
            return fail(self.lost)
        return self._output.send(pieces)

    async def lend_output(self) -> LentSocket | None:
        """Once everything is sent, let a thread send, until it is given back; None if it cannot."""
        if self.lost is not None or not self._output.direct:
            return None
        await self.flushed()
        return LentSocket.of(self.transport) if self.lost is None else None

    def flushed(self) -> Deferred[None]:
        """Fire once the transport takes more (TCP: has nothing left to send), or the connection is lost."""
        return self._output.flushed()

    def close(self) -> None:
        """Close once everything is sent."""
        if self.lost is None:
            self._output.end()
            self.transport.loseConnection()

    def close_gently(self) -> None:
        """Close once everything is sent, and drop what the peer still sends, so that our last reply reaches it."""
        if self.lost is not None:
            return
        self._discard_input()
        if self.input_ended or not hasattr(self.transport, "loseWriteConnection"):
            self.close()
            return
        self._output.end()
        self.transport.loseWriteConnection()
        if self._transport_paused:
            self.transport.resumeProducing()
        self._lingering = self._clock.callLater(_LINGER_SECONDS, self.abort)

    def abort(self) -> None:
        """Close now, dropping what was not sent."""
        if self.lost is None:
            self._output.end(abruptly=True)
            self.transport.abortConnection()

    def _discard_input(self) -> None:
        self._discarding = True
        self._input.clear()


def _given_up(failure: Failure) -> None:
    """Overlook that who waited for room does not need it any more."""
    failure.trap(CancelledError)
