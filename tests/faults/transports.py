"""Simulated TCP: bytes arrive in order, in pieces and times that the seed decides, however the two ends fare."""

from collections import deque
from typing import TYPE_CHECKING, Any
from zlib import crc32

from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from tests.faults.simulation import Process

_CLIENT_PORT = 40_000
_PAUSING = 0.05
"""How often a sender is told to wait until what it sent has arrived."""


@define(eq=False)
class Connector:
    """What a factory is told of a connection that is being made."""

    process: "Process"
    host: str
    port: int

    def getDestination(self) -> IPv4Address:  # noqa: N802
        """Return where to."""
        return IPv4Address("TCP", self.host, self.port)

    def stopConnecting(self) -> None:  # noqa: N802
        """Give it up."""
        self.process.stop_connecting(self)


@define(eq=False)
class Port:
    """A port that a process listens on."""

    process: "Process"
    port: int

    def getHost(self) -> IPv4Address:
        """Return where that is."""
        return IPv4Address("TCP", self.process.machine.address, self.port)

    def stopListening(self) -> Deferred[None]:
        """Refuse connections from now on."""
        self.process.listening.pop(self.port, None)
        return succeed(None)


def connect(client: "Process", server: "Process", port: int, factory: Any) -> None:
    """Connect two living processes; the server's end is there first."""
    here, there = client.machine.address, server.machine.address
    client.simulation.note("connect", here, there)
    near = End(client, IPv4Address("TCP", here, _CLIENT_PORT), IPv4Address("TCP", there, port))
    far = End(server, near.peer, near.host)
    near.other, far.other = far, near
    for end, maker in ((far, server.listening[port]), (near, factory)):
        end.protocol = maker.buildProtocol(end.peer)
        end.process.machine.ends.append(end)
        end.protocol.makeConnection(end)


class End:
    """One end of a connection: the transport of a protocol, which it never calls from inside a call of that."""

    disconnecting = False
    bufferSize = 0  # noqa: N815 - set by protocols

    def __init__(self, process: "Process", host: IPv4Address, peer: IPv4Address) -> None:
        self.process = process
        self.simulation = process.simulation
        self.host, self.peer = host, peer
        self.other: End
        self.protocol: Any = None
        self.closed = False  # its socket is gone
        self._protocol_gone = False
        self._write_ended = False
        self._read_ended = False
        self._reading = True
        self._incoming: deque[tuple[float, str, bytes]] = deque()
        self._last_arrival = 0.0
        self._arrival: Any = None
        self._producer: Any = None
        self._producer_waits = False

    # What a protocol calls

    def getPeer(self) -> IPv4Address:
        """Return who is at the other end."""
        return self.peer

    def getHost(self) -> IPv4Address:
        """Return who is at this end."""
        return self.host

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Nothing is delayed on purpose."""

    def write(self, data: bytes) -> None:
        """Send, in pieces."""
        if self.closed or self._write_ended or self.disconnecting:
            return
        random = self.simulation.random
        while data:
            size = random.randint(1, len(data)) if random.random() < 0.3 else len(data)
            self.other.arrive_later("data", bytes(data[:size]))
            data = data[size:]
        if self._producer is not None and not self._producer_waits and random.random() < _PAUSING:
            self._producer_waits = True
            self._producer.pauseProducing()

    def writeSequence(self, pieces: Any) -> None:
        """Send."""
        self.write(b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Take a push producer."""
        assert streaming
        assert self._producer is None
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Let the producer go."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Leave what arrives with the system."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Hand over what arrived."""
        self._reading = True
        self.arrive_soon()

    def loseConnection(self) -> None:
        """Close; what was written still arrives, unless there is input that nobody has read: then TCP resets."""
        if self.closed or self.disconnecting:
            return
        self.disconnecting = True
        unread = any(kind == "data" for _due, kind, _data in self._incoming)
        self.other.arrive_later("reset" if unread else "end", b"")
        self._close(ConnectionDone())

    def loseWriteConnection(self) -> None:
        """Close the sending side."""
        if not (self.closed or self._write_ended or self.disconnecting):
            self._write_ended = True
            self.other.arrive_later("end", b"")

    def abortConnection(self) -> None:
        """Close, dropping what has not left."""
        if self.closed:
            return
        self.disconnecting = True
        self.other.lose_some()
        self.other.arrive_later("reset", b"")
        self._close(ConnectionLost())

    def _close(self, reason: Exception) -> None:
        self.closed = True
        self._incoming.clear()
        self.process.machine.forget(self)
        self.process.callLater(0, self._tell_gone, reason)

    def _tell_gone(self, reason: Exception) -> None:
        if not self._protocol_gone:
            self._protocol_gone = True
            self.protocol.connectionLost(Failure(reason))

    # What the network does

    def arrive_later(self, kind: str, data: bytes) -> None:
        """Have something arrive here, after all that was sent before."""
        self._last_arrival = max(self._last_arrival, self.simulation.clock.seconds() + self.simulation.lag())
        self._incoming.append((self._last_arrival, kind, data))
        self.arrive_soon()

    def lose_some(self) -> None:
        """Lose some of what is still on its way here, from the end: who sent it will not send it again."""
        cut = (self.other.host.host, self.host.host) in self.simulation.cuts
        for _ in range(len(self._incoming) if cut else self.simulation.random.randint(0, len(self._incoming))):
            self._incoming.pop()

    def arrive_soon(self) -> None:
        """Go on with what is on its way here."""
        if self._arrival is None and self._incoming:
            wait = max(0.0, self._incoming[0][0] - self.simulation.clock.seconds())
            self._arrival = self.simulation.clock.callLater(wait, self._arrive)

    def _arrive(self) -> None:
        self._arrival = None
        if not self._incoming or (self.other.host.host, self.host.host) in self.simulation.cuts:
            return
        _due, kind, data = self._incoming[0]
        if kind == "data" and not self._reading and not self.closed:
            return
        self._incoming.popleft()
        if self.closed:
            self._fall_on_deaf_ears(kind)
        else:
            self.simulation.note(self.peer.host, ">", self.host.host, kind, f"{len(data)}:{crc32(data):08x}")
            self._take(kind, data)
        if not self._incoming:
            self.other.drained()
        self.arrive_soon()

    def _take(self, kind: str, data: bytes) -> None:
        if kind == "data":
            self.protocol.dataReceived(data)
        elif kind == "reset":
            self.disconnecting = True
            self._close(ConnectionLost())
        elif not self._read_ended:
            self._read_ended = True
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.readConnectionLost()
            else:
                self.loseConnection()

    def _fall_on_deaf_ears(self, kind: str) -> None:
        """Let the other end know that nobody is here; a machine without power says so when it is back."""
        self._incoming.clear()
        if kind == "reset" or self.other.closed:
            return
        if self.process.machine.powered:
            self.other.arrive_later("reset", b"")
        elif self.other not in self.process.machine.lost:
            self.process.machine.lost.append(self.other)

    def drained(self) -> None:
        """Let the producer go on: all that was sent has arrived."""
        if self._producer_waits and not self.closed:
            self._producer_waits = False
            if self._producer is not None:
                self.process.callLater(0, self._producer.resumeProducing)

    def process_died(self, power: bool) -> None:
        """Close without the protocol's doing; after a power loss the other end is told nothing."""
        self.closed = True
        self._incoming.clear()
        if power:
            self.other.lose_some()
        else:
            self.other.arrive_later(self.simulation.random.choice(("end", "reset")), b"")
        self._tell_gone(ConnectionLost())
