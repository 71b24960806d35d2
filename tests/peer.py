"""The other end of a conversation, played by a test in memory."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, execute
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from filefly.wire.framing import Conversation

T = TypeVar("T")


class PeerTransport(StringTransport):
    """A TCP transport in memory: one that can half-close, and is as lenient with producers as TCP is."""

    def __init__(self) -> None:
        super().__init__(lenient=True)
        self.sending_ended = False

    def loseWriteConnection(self) -> None:
        """Note that the protocol has closed its sending side."""
        self.sending_ended = True

    def unregisterProducer(self) -> None:
        """Do nothing the second time."""
        self.producer = None

    @property
    def paused(self) -> bool:
        """Whether the protocol has stopped reading."""
        return bool(self.producerState == "paused")


@define(eq=False)
class Peer:
    """Talks to `protocol`. What it gives waits, as in the kernel, while the protocol does not read."""

    protocol: Conversation
    transport: PeerTransport = field(factory=PeerTransport)
    _waiting: list[bytes] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.protocol.makeConnection(self.transport)

    def give(self, *packets: bytes) -> None:
        """Send `packets`, as far as they are read."""
        self._waiting.extend(packet for packet in packets if packet)
        while self._waiting and not self.transport.paused:
            self.protocol.dataReceived(self._waiting.pop(0))

    def end_input(self) -> None:
        """Close the sending side, as `nc -N` does."""
        self.protocol.readConnectionLost()

    def stop_reading(self) -> None:
        """Let the protocol's transport be full."""
        assert self.transport.producer is not None
        self.transport.producer.pauseProducing()

    def read_on(self) -> None:
        """Let the protocol's transport be empty again."""
        assert self.transport.producer is not None
        self.transport.producer.resumeProducing()

    def replies(self) -> list[Any]:
        """Return the JSON lines received so far, each decoded."""
        return [msgspec.json.decode(line) for line in self.transport.value().splitlines()]

    def hang_up(self) -> None:
        """End the connection."""
        self.protocol.connectionLost(Failure(ConnectionDone()))


def inline(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
    """Run `function` at once: an InThread without threads."""
    return execute(function, *args, **kwargs)


class HeldThreads:
    """An InThread whose work is done only when the test says so."""

    def __init__(self) -> None:
        self._held: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def __call__(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Deferred[T]:
        """See InThread."""
        result: Deferred[T] = Deferred()
        self._held.append((result, lambda: function(*args, **kwargs)))
        return result

    @property
    def held(self) -> int:
        """How many calls wait."""
        return len(self._held)

    def run_next(self) -> None:
        """Do what was asked for first."""
        result, call = self._held.pop(0)
        execute(call).chainDeferred(result)

    def run_all(self) -> None:
        """Do all that is asked for, and what that asks for."""
        while self._held:
            self.run_next()


def now(result: Deferred[T]) -> T:
    """Return what `result` has already, or raise what it failed with; a result that is still to come fails the test."""
    found: list[Any] = []
    result.addBoth(found.append)
    assert found, "no result yet"
    if isinstance(found[0], Failure):
        found[0].raiseException()
    there: T = found[0]
    return there
