"""Endpoints that speak TLS over TCP."""

from typing import Any

from attrs import frozen
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import ClientFactory, Factory
from zope.interface import implementer

from filefly.wire.address import is_ip
from filefly.wire.tls.ends import ClientTls, ServerTls
from filefly.wire.tls.files import Tls, TlsUnusable


@implementer(IStreamClientEndpoint)
@frozen
class TlsClientEndpoint:
    """Dials with TLS where `tcp` dials, and believes only a certificate for `host`."""

    _reactor: Any
    _tcp: IStreamClientEndpoint
    _host: str
    _tls: Tls

    def connect(self, factory: Any) -> Deferred[Any]:
        """Return the factory's protocol once the server has shown who it is; fails with a ConnectError."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        context = self._tls.contexts.client
        transport: Any = await self._tcp.connect(_Dialling(self._reactor, context, self._host, factory))
        return await transport.connected_to


class _Dialling(ClientFactory):
    """Makes the client's end of one connection."""

    noisy = False

    def __init__(self, reactor: Any, context: SSL.Context, host: str, factory: Any) -> None:
        self._reactor, self._context, self._host, self._factory = reactor, context, host, factory

    def buildProtocol(self, addr: Any) -> ClientTls | None:
        """See ClientFactory."""
        protocol = self._factory.buildProtocol(addr)
        if protocol is None:
            return None
        connection = SSL.Connection(self._context, None)
        if not is_ip(self._host):
            connection.set_tlsext_host_name(self._host.encode("idna"))
        return ClientTls(self._reactor, connection, protocol, self._host)


@implementer(IStreamServerEndpoint)
@frozen
class TlsServerEndpoint:
    """Speaks TLS with everybody who comes to `tcp`."""

    _reactor: Any
    _tcp: IStreamServerEndpoint
    _tls: Tls

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See IStreamServerEndpoint."""
        return self._tcp.listen(_Answering(self._reactor, self._tls, factory))


class _Answering(Factory):
    """Makes the server's end of each connection, with the certificate of the day."""

    noisy = False

    def __init__(self, reactor: Any, tls: Tls, factory: Any) -> None:
        self._reactor, self._tls, self._factory = reactor, tls, factory
        self._refused: set[ServerTls] = set()

    def logPrefix(self) -> str:
        """Say what is behind the TLS."""
        return f"{self._factory.logPrefix()} under TLS"

    def doStart(self) -> None:
        """Start the factory that makes the protocols, too."""
        super().doStart()
        self._factory.doStart()

    def doStop(self) -> None:
        """Stop it."""
        super().doStop()
        self._factory.doStop()

    def buildProtocol(self, addr: Any) -> ServerTls | None:
        """See Factory."""
        protocol = self._factory.buildProtocol(addr)
        if protocol is None:
            return None
        context = self._tls.contexts.server
        if context is None:
            raise TlsUnusable("a server has a certificate to show")
        return ServerTls(self._reactor, SSL.Connection(context, None), protocol, self._refused)
