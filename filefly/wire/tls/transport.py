"""TLS on a TCP connection: to the connection a protocol, to a protocol a transport that ends as TCP does.

Twisted's own TLS closes everything when one side has no more to say, and `ncat --ssl` says so as soon as its input
ends. Here each side may stop sending and still receive. An end of input that comes without TLS's own goodbye, as it
does from `ncat`, is an end of input: who cuts a connection gains nothing, since a line that is cut is no JSON, and
every payload has a length.

States: shaking hands; established; deaf: what still comes is dropped, and the peer has `HANDSHAKE_SECONDS` to go
"""

from contextlib import suppress
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from filefly.units import KIB
from filefly.wire.gates import Rest, SendingGate
from filefly.wire.tls.errors import sentence_of
from filefly.wire.tls.failures import TlsFailed

HANDSHAKE_SECONDS = 10.0
_BUFFER_BYTES = 256 * KIB  # what one recv takes from the system
_SEALED_AT_ONCE = 256 * KIB  # sixteen records of TLS
_MOST_SEALED = _SEALED_AT_ONCE + 16 * KIB  # with what TLS adds to each
_RECORD_BYTES = 16 * KIB
GONE = "it closed the connection during the TLS handshake"


class _Flow(SendingGate):
    """Is open while the TCP connection has nothing left to send; whoever produces is told."""

    producer: IPushProducer | None = None

    def pauseProducing(self) -> None:
        """Close."""
        super().pauseProducing()
        if self.producer is not None:
            self.producer.pauseProducing()

    def resumeProducing(self) -> None:
        """Open."""
        super().resumeProducing()
        if self.producer is not None:
            self.producer.resumeProducing()


@implementer(IHalfCloseableProtocol, ITransport)
class TlsTransport(Protocol):
    """What both ends have in common; `transport` is the TCP connection."""

    transport: Any
    verify_error: str | None = None
    """Why the peer's certificate is refused."""

    def __init__(self, clock: Any, tls: SSL.Connection, protocol: Any) -> None:
        """`protocol` is who sends and receives; a client's is connected once it is `established`."""
        tls.set_app_data(self)
        self.established = False
        self._clock = clock
        self._tls = tls
        self._protocol = protocol
        self._flow = _Flow()
        self._early: list[bytes] = []
        self._deadline: Any = None
        self._why: Failure | None = None
        self._deaf = False
        self._input_over = False
        self._sending_over = False
        self._closing = False

    # What the TCP connection calls

    def connectionMade(self) -> None:
        """Begin the handshake, which must not take for ever."""
        self.transport.bufferSize = _BUFFER_BYTES
        self.transport.SEND_LIMIT = _MOST_SEALED  # or what TLS adds would be a packet of its own
        self._deadline = self._clock.callLater(HANDSHAKE_SECONDS, self._too_late)
        self._shake_hands()

    def dataReceived(self, data: bytes) -> None:
        """Decrypt, and hand on what there is."""
        if self._deaf:
            return
        self._tls.bio_write(data)
        if not self.established:
            self._shake_hands()
        if self.established:
            self._receive()

    def readConnectionLost(self) -> None:
        """Note the end of input."""
        if self.established:
            self._end_input()
        elif self._deaf:
            self.transport.loseConnection()
        else:
            self._refuse(GONE)

    def writeConnectionLost(self) -> None:
        """Nothing to do: only we close our sending side."""

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        """Tell the protocol why."""
        self._deaf = True
        self._stop_waiting()
        self._flow.producer = None
        self._tell_lost(self._why or reason)

    # The handshake

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._flush()
        except SSL.Error as error:
            self._flush()
            self._refuse(self.verify_error or sentence_of(error))
        else:
            self._greet()

    def _greet(self) -> None:
        """Go on to what the handshake was for."""
        self.established = True
        self._stop_waiting()
        self._flush()
        early, self._early = self._early, []
        for data in early:
            self._seal(data)
        if self._closing:
            self._close()

    def _refuse(self, sentence: str) -> None:
        """End a handshake that came to nothing."""
        raise NotImplementedError

    def _too_late(self) -> None:
        self.transport.abortConnection()

    def _tell_lost(self, reason: Failure) -> None:
        self._protocol.connectionLost(reason)

    def _stop_waiting(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def _part(self) -> None:
        """Close once everything is sent, and drop what the peer still sends, so that our last word reaches it."""
        self._deaf = self._sending_over = True
        self.transport.loseWriteConnection()

    # In

    def _receive(self) -> None:
        pieces: list[bytes] = []
        ended, failed = False, None
        try:
            while True:
                pieces.append(self._tls.recv(_RECORD_BYTES))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            ended = True
        except SSL.Error as error:
            failed = error
        self._flush()  # an answer to a change of keys
        if pieces:
            self._protocol.dataReceived(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if failed is not None:
            self._fail(failed)
        elif ended:
            self._end_input()

    def _end_input(self) -> None:
        if self._input_over or self._deaf:
            return
        self._input_over = True
        if IHalfCloseableProtocol.providedBy(self._protocol):
            self._protocol.readConnectionLost()
        else:
            self.loseConnection()

    def _fail(self, error: SSL.Error) -> None:
        """End a connection whose TLS has gone wrong; nothing more of it can be believed."""
        if not self._deaf:
            self._deaf = self._sending_over = True
            self._why = Failure(TlsFailed(sentence_of(error, established=True)))
            self._flush()
            self.transport.loseConnection()

    # Out: what the protocol calls

    def write(self, data: bytes) -> None:
        """Send `data`, once the handshake is over."""
        if self._sending_over or self._closing or not data:
            return
        if self.established:
            self._seal(data)
        else:
            self._early.append(data)

    def writeSequence(self, data: Any) -> None:
        """Send what is in a sequence."""
        self.write(b"".join(data))

    def _seal(self, data: bytes) -> None:
        unsealed = memoryview(data)
        waiting = 0
        try:
            while unsealed:
                sealed = self._tls.send(unsealed)  # a record
                unsealed = unsealed[sealed:]
                waiting += sealed
                if waiting >= _SEALED_AT_ONCE:
                    self._flush()
                    waiting = 0
        except SSL.Error as error:
            self._fail(error)
        self._flush()

    def _flush(self) -> None:
        """Send what TLS has to say."""
        with suppress(SSL.WantReadError):  # nothing
            sealed = self._tls.bio_read(_MOST_SEALED)
            while len(sealed) == _MOST_SEALED:
                self._send(sealed)
                sealed = self._tls.bio_read(_MOST_SEALED)
            self._send(sealed)

    def _send(self, sealed: bytes) -> None:
        """Send what the system takes, without a turn of the reactor, and leave the rest to the TCP connection."""
        if not self._flow.open:
            self.transport.write(sealed)
            return
        unsent = memoryview(sealed)
        while unsent:
            sent = self.transport.writeSomeData(unsent)
            if sent == 0 or isinstance(sent, Exception):  # full; or lost, as the transport will find out itself
                Rest(self.transport, self._flow, [bytes(unsent)])
                return
            unsent = unsent[sent:]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause `producer`, a push producer, while there is something left to send."""
        if not streaming:
            raise NotImplementedError("only push producers")
        self._flow.producer = producer
        if not self._flow.open:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """Pause it no more."""
        self._flow.producer = None

    def pauseProducing(self) -> None:
        """Receive nothing for now."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Receive again."""
        self.transport.resumeProducing()

    # Ends

    def loseConnection(self) -> None:
        """Close once everything is sent, as TCP does: the peer need not agree."""
        if self._closing:
            return
        self._closing = True
        if self.established:
            self._close()
        elif not self._early:
            self.transport.abortConnection()

    def _close(self) -> None:
        self._say_goodbye()
        self.transport.loseConnection()

    def loseWriteConnection(self) -> None:
        """Send no more after what was written, and go on receiving."""
        if self.established:
            self._say_goodbye()
            self.transport.loseWriteConnection()
        else:
            self.loseConnection()

    def _say_goodbye(self) -> None:
        if not self._sending_over:
            self._sending_over = True
            with suppress(SSL.Error):
                self._tls.shutdown()
            self._flush()

    def abortConnection(self) -> None:
        """Close now, dropping what was not sent."""
        self._closing = True
        self.transport.abortConnection()

    # About the connection

    @property
    def disconnecting(self) -> bool:
        """Whether the connection is being closed."""
        return self._closing

    def getPeer(self) -> Any:
        """Return the address of the other end."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """Return the address of this end."""
        return self.transport.getHost()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """See ITCPTransport."""
        self.transport.setTcpNoDelay(enabled)
