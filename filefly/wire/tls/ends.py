"""A server's and a client's end of a TLS connection, which differ in how they begin."""

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from filefly.errors import BadRequest
from filefly.wire.codec import encode, error_reply
from filefly.wire.tls.errors import wrong_host
from filefly.wire.tls.failures import TlsRefused
from filefly.wire.tls.transport import GONE, HANDSHAKE_SECONDS, TlsTransport

_MOST_REFUSED = 8
_HANDSHAKE_RECORD = b"\x16"
_NOT_TLS = BadRequest("this port speaks TLS: its address is tls://HOST:PORT; by hand: ncat --ssl, openssl s_client")
_SILENT = f"it did not answer for {HANDSHAKE_SECONDS:g} seconds; does it speak TLS?"


class ServerTls(TlsTransport):
    """A server's end: its protocol is there from the beginning, so that it counts, and is told when it is over.

    `refused` are those of a server whose protocols have closed them from the beginning. They hear why after the
    handshake; where many are at that, one more is closed at once: nobody counts them, and a handshake takes its time.
    """

    def __init__(self, clock: Any, tls: SSL.Connection, protocol: Any, refused: "set[ServerTls]") -> None:
        super().__init__(clock, tls, protocol)
        self._refused = refused

    def connectionMade(self) -> None:
        """See TlsTransport."""
        self._tls.set_accept_state()
        self._protocol.makeConnection(self)
        if self._closing and len(self._refused) == _MOST_REFUSED:
            self.transport.abortConnection()
            return
        if self._closing:
            self._refused.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        """See TlsTransport."""
        self._refused.discard(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """Tell who does not speak TLS so, in a line as it expects one."""
        if self._deaf or self.established or self._heard:
            super().dataReceived(data)
            return
        self._heard = True
        if data.startswith(_HANDSHAKE_RECORD):
            super().dataReceived(data)
        else:
            self.transport.write(encode(error_reply(_NOT_TLS)) + b"\n")
            self._part()

    _heard = False

    def _refuse(self, _sentence: str) -> None:
        if self._deaf:
            return
        self._part()  # TLS has told the peer, as far as it speaks TLS


class ClientTls(TlsTransport):
    """A client's end: its protocol is connected only once the server has shown who it is."""

    def __init__(self, clock: Any, tls: SSL.Connection, protocol: Any, host: str) -> None:
        super().__init__(clock, tls, protocol)
        self._host = host
        self._outcome: Deferred[Any] | None = Deferred(lambda _: self.transport.abortConnection())
        self.connected_to = self._outcome
        """Fires with the protocol, or says why not."""

    def connectionMade(self) -> None:
        """See TlsTransport."""
        self._tls.set_connect_state()
        super().connectionMade()

    def _greet(self) -> None:
        sentence = wrong_host(self._tls, self._host)
        if sentence is not None:
            self._refuse(sentence)
            return
        super()._greet()
        self._protocol.makeConnection(self)
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            outcome.callback(self._protocol)

    def _refuse(self, sentence: str) -> None:
        self._deaf = self._sending_over = True
        self._tell_lost(Failure(TlsRefused(string=sentence)))
        self.transport.loseConnection()

    def _too_late(self) -> None:
        self._tell_lost(Failure(TlsRefused(string=_SILENT)))
        self.transport.abortConnection()

    def _tell_lost(self, reason: Failure) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            if not reason.check(TlsRefused):
                reason = Failure(TlsRefused(string=GONE))
            outcome.errback(reason)
        elif self.established:
            self._protocol.connectionLost(reason)
