"""A client's end of a conversation, and the pool that keeps such ends for the next request."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError, UnknownHostError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from filefly.client.errors import Silent, Unreachable
from filefly.errors import FileFlyError, PayloadEnded, TimedOut, Unauthorized, Unavailable
from filefly.wire.address import client_endpoint, resolve
from filefly.wire.codec import NotUnderstood, decode_reply, encode
from filefly.wire.framing import Conversation
from filefly.wire.messages import Reply, Request
from filefly.wire.tls.failures import TlsRefused
from filefly.wire.tls.files import Tls

C = TypeVar("C", bound="ServerConnection")
R = TypeVar("R", bound=Reply)
T = TypeVar("T")

MAX_REPLY_LINE = 64 * 1024 * 1024
_MOST_IDLE = 16


class ServerConnection(Conversation):
    """One conversation with a server: a request, its reply, and perhaps a payload either way; then the next one.

    Each step fails with TimedOut when nothing moves for `timeout_seconds`. `idle` is false while a request is under
    way: such a connection cannot be used for another.
    """

    def __init__(self, clock: Any, address: str, timeout_seconds: float) -> None:
        super().__init__(clock, MAX_REPLY_LINE)
        self.address = address
        self.idle = True
        self.signed_in_as: object = None
        self._timeout_seconds = timeout_seconds

    async def request(self, request: Request, kind: type[R]) -> R:
        """Send `request` and return its reply; raises what an error reply says."""
        await self.begin(request)
        return await self.finish(kind)

    async def begin(self, request: Request) -> None:
        """Send the line of `request`; its payload is to follow, or its reply to be received."""
        self.idle = False
        await self.send(encode(request) + b"\n")

    async def finish(self, kind: type[R], payload_follows: bool = False) -> R:
        """Receive the reply to what was sent; with `payload_follows` the request is over only after `end_payload`."""
        line = await self.receive_line()
        if line is None:
            raise Unreachable(f"{self.address} closed the connection")
        try:
            reply = decode_reply(line, kind)
        except NotUnderstood:
            raise  # nobody knows what comes next
        except FileFlyError:
            self.idle = True  # an error reply is an answer like any other, and no payload follows it
            raise
        self.idle = not payload_follows
        return reply

    def end_payload(self) -> None:
        """Say that the payload was received to its end: the connection may serve the next request."""
        self.idle = True

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self.idle and self.lost is None and not self.input_ended

    def send(self, *pieces: bytes) -> Deferred[None]:
        """See Conversation; fails with TimedOut if the server takes nothing."""
        return self._in_time(super().send(*pieces))

    def flushed(self) -> Deferred[None]:
        """See Conversation; fails with TimedOut if the server takes nothing."""
        return self._in_time(super().flushed())

    def _receive(self) -> Deferred[bytes | None]:
        return self._in_time(super()._receive())

    def _in_time(self, waiting: Deferred[T]) -> Deferred[T]:
        if waiting.called:
            return waiting
        sentence = f"{self.address} did not answer for {self._timeout_seconds:g} seconds"
        return waiting.addTimeout(self._timeout_seconds, self._clock, lambda *_: Failure(TimedOut(sentence)))

    def readConnectionLost(self) -> None:
        """Close an idle connection that the server closed."""
        super().readConnectionLost()
        if self.idle:
            self.close()


class _OneConnection(ClientFactory):
    """Hands an endpoint the protocol that was made for it."""

    noisy = False

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: Any) -> ServerConnection:
        return self._connection


class SignIn(Protocol):
    """Says on a connection who is asking."""

    def identity(self) -> object:
        """Return what changes with who it is: then connections that are signed in sign in again. None is nobody."""

    async def __call__(self, connection: ServerConnection) -> None:
        """Sign in; raises what the server says of it."""


class _StayUnknown:
    """Says nothing: an open cluster wants to know nobody, and a data server's tickets speak for themselves."""

    def identity(self) -> object:
        """See SignIn."""
        return None

    async def __call__(self, connection: ServerConnection) -> None:
        """See SignIn."""


STAY_UNKNOWN: SignIn = _StayUnknown()


class ConnectionPool:
    """Connections to any number of servers, kept open between requests; `:PORT` means `known_host`.

    Each is signed in before its first request.
    """

    def __init__(
        self,
        reactor: Any,
        known_host: str,
        timeout_seconds: float = 60.0,
        sign_in: SignIn = STAY_UNKNOWN,
        tls: Tls | None = None,
    ) -> None:
        self._reactor = reactor
        self._known_host = known_host
        self._timeout_seconds = timeout_seconds
        self._sign_in = sign_in
        self._tls = tls
        self._idle: dict[str, list[Any]] = {}

    def connection(self, address: str) -> AbstractAsyncContextManager[ServerConnection]:
        """Lend a connection to `address`; it goes back unless a request on it was left half-done.

        Raises Unavailable if the server cannot be reached or goes away.
        """
        return self.connection_of(ServerConnection, address)

    @asynccontextmanager
    async def connection_of(self, kind: type[C], address: str) -> AsyncIterator[C]:
        """Lend a connection of one kind, always the same one for an `address`; see `connection`."""
        connection = await self._take(kind, resolve(address, self._known_host))
        try:
            identity = self._sign_in.identity()
            if connection.signed_in_as != identity:
                await self._sign_in(connection)
                connection.signed_in_as = identity
            yield connection
        except Unauthorized:
            connection.signed_in_as = None  # what it signed in with is void, perhaps
            raise
        except PayloadEnded:
            self._abort_idle(connection.address)
            raise Unreachable(f"{address} closed the connection half-way") from None
        except ConnectionClosed as error:
            self._abort_idle(connection.address)
            raise Unreachable(f"lost the connection to {address}: {_first_line(error)}") from None
        except TimedOut:
            self._abort_idle(connection.address)
            raise
        finally:
            self._give_back(connection)

    def _abort_idle(self, address: str) -> None:
        """Drop the other connections to a server that went away: each might fail a request of its own."""
        for connection in self._idle.pop(address, []):
            connection.abort()

    async def request(self, address: str, request: Request, kind: type[R]) -> R:
        """Send one request on a connection of its own and return the reply."""
        async with self.connection(address) as connection:
            return await connection.request(request, kind)

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _take(self, kind: type[C], address: str) -> C:
        idle: list[C] = self._idle.get(address, [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        protocol = kind(self._reactor, address, self._timeout_seconds)
        try:
            await _cancellable(client_endpoint(self._reactor, address, self._tls).connect(_OneConnection(protocol)))
        except ValueError as error:
            raise Unavailable(str(error)) from None
        except TlsRefused as error:
            raise Unreachable(f"no TLS with {address}: {error}") from None
        except ConnectTimeout as error:
            raise Silent(f"cannot reach {address}: {_first_line(error)}") from None
        except (DNSLookupError, UnknownHostError):
            raise Unreachable(f"cannot reach {address}: this host name is not known") from None
        except ConnectError as error:
            raise Unreachable(f"cannot reach {address}: {_first_line(error)}") from None
        return protocol

    def _give_back(self, connection: ServerConnection) -> None:
        idle = self._idle.setdefault(connection.address, [])
        if connection.usable and len(idle) < _MOST_IDLE:
            idle.append(connection)
        else:
            connection.abort()


def _cancellable(connecting: Deferred[T]) -> Deferred[T]:
    """Return the same result, but CancelledError when cancelled: an endpoint says that the server was not reached."""

    def cancel(outcome: Deferred[T]) -> None:
        outcome.errback(CancelledError())
        connecting.cancel()

    def pass_on(result: Any) -> None:
        if not outcome.called:
            outcome.callback(result)

    outcome: Deferred[T] = Deferred(cancel)
    connecting.addBoth(pass_on)
    return outcome


def _first_line(error: BaseException) -> str:
    """Return what Twisted says of a connection's end, without its general remarks."""
    text = str(error).strip().rstrip(".")
    return text.split(": ", 2)[-1] if ": " in text else text
