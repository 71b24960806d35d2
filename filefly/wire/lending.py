"""A connection's socket in the hands of a thread: a large payload moves past the reactor.

Through Twisted's transport a payload moves a quarter of a MiB in each turn of the reactor, with a hop to a thread and
back for what is then done with it. A thread that has the socket receives, or sends, what there is in one go through
one buffer, and lets the interpreter run others all the while (measured in docs/performance.md). It does not wait for a
slow peer: that is the reactor's work, and the thread is soon wanted elsewhere.

The thread has a duplicate of the descriptor, so that it cannot meet another connection's bytes, whatever happens to
this one meanwhile.
"""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.tcp import Connection

from filefly.units import KIB, MIB

_BUFFER_BYTES = 512 * KIB
_TURN_BYTES = 16 * MIB  # then others have the thread
_WAIT_MILLISECONDS = 2
_WORTH_A_WAIT = 16 * KIB  # who moves less between two waits is slow


def can_be_lent(transport: Any) -> bool:
    """Whether the transport's socket carries what a thread would send and receive, as it is: not under TLS."""
    return isinstance(transport, Connection) and not transport.TLS


@define(eq=False)
class LentSocket:
    """A duplicate of a transport's socket for one thread; closed once it is given back and out of use."""

    _socket: socket.socket
    received: int = 0
    """How many bytes were taken from the socket, whatever became of them."""
    _moved: int = _WORTH_A_WAIT
    _lock: threading.Lock = field(factory=threading.Lock)
    _in_use: bool = False
    _given_back: bool = False

    @classmethod
    def of(cls, transport: Any) -> "LentSocket":
        """Lend the socket of a transport that can be lent; the transport must leave it alone meanwhile."""
        return cls(transport.getHandle().dup())

    def give_back(self) -> bool:
        """Close it, or have a thread that is still at work close it, and return whether none is."""
        with self._lock:
            self._given_back = True
            if not self._in_use:
                self._socket.close()
            return not self._in_use

    @contextmanager
    def _used(self) -> Iterator[bool]:
        """Keep it open until the end of the block; tell whether it still was."""
        with self._lock:
            self._in_use = not self._given_back
        try:
            yield self._in_use
        finally:
            with self._lock:
                self._in_use = False
                if self._given_back:
                    self._socket.close()

    def receive(self, size: int, take: Callable[[list[memoryview]], None]) -> None:
        """Receive at most `size` bytes and hand them to `take`, in pieces that it must not keep.

        It ends early where the peer is slow or gone; the transport will tell. Raises what `take` raises.
        """
        left = min(size, _TURN_BYTES)
        buffer = memoryview(bytearray(min(left, _BUFFER_BYTES)))
        with self._used() as usable:
            while usable and left:
                room = buffer[:left]
                filled = 0
                while filled < len(room) and usable:
                    got = self._move(partial(self._socket.recv_into, room[filled:]), select.POLLIN)
                    filled += got
                    usable = got > 0
                self.received += filled
                left -= filled
                if filled:
                    take([room[:filled]])

    def send(self, read: Callable[[int, int], bytes], offset: int, end: int) -> tuple[int, bytes]:
        """Send what `read(offset, size)` returns, from `offset` to `end`.

        Return how far was read, and what was read but not sent: it ends early where the peer is slow or gone; the
        transport will tell. Raises what `read` raises.
        """
        end = min(end, offset + _TURN_BYTES)
        pending = memoryview(b"")
        with self._used() as usable:
            while usable and (pending or offset < end):
                if not pending:
                    pending = memoryview(read(offset, min(_BUFFER_BYTES, end - offset)))
                    offset += len(pending)
                sent = self._move(partial(self._socket.send, pending), select.POLLOUT)
                pending = pending[sent:]
                usable = sent > 0
        return offset, bytes(pending)

    def _move(self, once: Callable[[], int], event: int) -> int:
        """Return how many bytes `once` has moved; 0 if the peer is slow or gone."""
        while True:
            try:
                moved = once()
            except BlockingIOError:
                if not self._ready_soon(event):
                    return 0
            except OSError:
                return 0
            else:
                self._moved += moved
                return moved

    def _ready_soon(self, event: int) -> bool:
        """Wait a moment for a peer that is about as fast as this thread."""
        moved, self._moved = self._moved, 0
        if moved < _WORTH_A_WAIT:
            return False
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(_WAIT_MILLISECONDS))
