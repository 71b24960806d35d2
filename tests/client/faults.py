"""What stands between a client and a data server, and does to the bytes what networks and broken servers do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from filefly.wire.address import listening_endpoint

Mangle = Callable[[bytes, int], bytes | None]
"""Makes what is passed on of some bytes that the server says, at this place of the conversation.

None hangs up, and so does less than there was, unless it is nothing.
"""


def cut_after(size: int) -> Mangle:
    """Let so many bytes through, then hang up."""

    def mangle(data: bytes, at: int) -> bytes | None:
        return data if at + len(data) <= size else data[: max(size - at, 0)] or None

    return mangle


def flip_bit_of(place: int) -> Mangle:
    """Change the byte at one place."""

    def mangle(data: bytes, at: int) -> bytes:
        changed = bytearray(data)
        if at <= place < at + len(data):
            changed[place - at] ^= 1
        return bytes(changed)

    return mangle


def flip_every_bulk(data: bytes, _at: int) -> bytes:
    """Change a byte of whatever is too long for a line."""
    return flip_bit_of(len(data) - 1)(data, 0) or b"" if len(data) > 1000 else data


def say_instead(answer: bytes) -> Mangle:
    """Say something else."""
    return lambda _data, _at: answer


def the_first(times: int, fault: Mangle) -> Mangle:
    """Let a fault happen so many times, whatever the connections."""
    left = [times]

    def mangle(data: bytes, at: int) -> bytes | None:
        if not left[0]:
            return data
        left[0] -= 1
        return fault(data, at)

    return mangle


def say_nothing(_data: bytes, _at: int) -> bytes:
    """Leave the client waiting."""
    return b""


def replace(old: bytes, new: bytes) -> Mangle:
    """Put other bytes in place of some."""
    return lambda data, _at: data.replace(old, new)


OF_A_READ: dict[str, Mangle] = {
    "garbage": say_instead(b"garbage\n"),
    "not found": say_instead(b'{"status":"error","error":"block not found","code":"not_found"}\n'),
    "hung up": cut_after(0),
    "cut in the line": cut_after(10),
    "cut in the bytes": cut_after(60_000),
    "bit flipped": flip_every_bulk,
    "too long": replace(b'"size":70000', b'"size":70001'),
    "too short": replace(b'"size":70000', b'"size":69999'),
    "huge": replace(b'"size":70000', b'"size":9007199254740991'),
}
"""What may happen to a read of a block of 70,000 bytes."""


class _ToServer(Protocol):
    """The proxy's connection to the real server."""

    def __init__(self, client: "_FromClient") -> None:
        self._client = client
        self._at = 0
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        mangle = self._client.fault
        passed = data if mangle is None else mangle(data, self._at)
        self._at += len(data)
        transport: Any = self._client.transport
        if passed:
            transport.write(passed)
        if passed is None or (len(passed) < len(data) and passed):
            transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        transport: Any = self._client.transport
        transport.loseConnection()


class _FromClient(Protocol):
    """The proxy's connection from a client."""

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.fault = proxy.next_fault()
        self._server: Any = None
        self._early: list[bytes] = []
        self._gone = False

    def connectionMade(self) -> None:
        self.proxy.open.add(self)
        endpoint = TCP4ClientEndpoint(self.proxy.reactor, "127.0.0.1", self.proxy.behind)
        factory: Any = Factory.forProtocol(lambda: _ToServer(self))
        factory.noisy = False
        endpoint.connect(factory).addCallbacks(self._connected, self._not_connected)

    def _not_connected(self, _failure: Failure) -> None:
        transport: Any = self.transport
        transport.loseConnection()

    def _connected(self, server: Any) -> None:
        self._server = server
        for data in self._early:
            server.transport.write(data)
        if self._gone:
            server.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self.proxy.received += len(data)
        if self._server is None:
            self._early.append(data)
        else:
            self._server.transport.write(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._gone = True
        self.proxy.open.discard(self)
        if self._server is not None:
            self._server.transport.loseConnection()


@define(eq=False)
class Proxy:
    """Passes connections on to a port; each takes the next of `faults`, and when they are used up, `always`."""

    reactor: Any
    behind: int
    faults: list[Mangle] = field(factory=list)
    always: Mangle | None = None
    connections: int = 0
    received: int = 0
    open: set[Any] = field(factory=set)
    port: int = 0

    @property
    def address(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self.port}"

    def next_fault(self) -> Mangle | None:
        """Return what happens to the next connection, to its end."""
        self.connections += 1
        return self.faults.pop(0) if self.faults else self.always


@asynccontextmanager
async def proxy_of(reactor: Any, port: int) -> AsyncIterator[Proxy]:
    """Run a proxy before a port of this machine."""
    proxy = Proxy(reactor, port)
    factory: Any = Factory.forProtocol(lambda: _FromClient(proxy))
    factory.noisy = False
    listening: Any = await listening_endpoint(reactor, "127.0.0.1:0").listen(factory)
    proxy.port = listening.getHost().port
    try:
        yield proxy
    finally:
        await listening.stopListening()
        for connection in list(proxy.open):
            connection.transport.abortConnection()
