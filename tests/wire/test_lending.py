import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import Factory

from filefly.errors import DiskFull, PayloadEnded
from filefly.threads import WorkerPool
from filefly.units import Chunks
from filefly.wire.framing import Conversation
from filefly.wire.lending import LentSocket, can_be_lent
from filefly.wire.streaming import receive_into, send_from
from tests.caller import Caller
from tests.on_reactor import next_turn, on_reactor
from tests.peer import PeerTransport

MIB = 1024 * 1024
SOURCE = os.urandom(5 * MIB + 17)


# The socket alone


@pytest.fixture
def pair() -> Iterator[tuple[LentSocket, socket.socket]]:
    """Yield a lent socket and the peer's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    lent = LentSocket(ours)
    yield lent, theirs
    lent.give_back()
    theirs.close()


def read(offset: int, size: int) -> bytes:
    return SOURCE[offset : offset + size]


def test_what_is_there_is_received_and_no_more(pair: tuple[LentSocket, socket.socket]) -> None:
    """What follows the payload stays for the next one to receive."""
    lent, peer = pair
    peer.sendall(b"payload, and a line")
    taken: list[bytes] = []
    lent.receive(7, lambda chunks: taken.extend(map(bytes, chunks)))
    assert ([b"payload"], 7) == (taken, lent.received)


def test_a_slow_sender_is_left_to_the_reactor(pair: tuple[LentSocket, socket.socket]) -> None:
    """The thread comes back with what there was."""
    lent, peer = pair
    peer.sendall(b"some")
    taken: list[bytes] = []
    lent.receive(100, lambda chunks: taken.extend(map(bytes, chunks)))
    assert ([b"some"], 4) == (taken, lent.received)


def test_a_sender_that_is_gone_is_left_to_the_reactor(pair: tuple[LentSocket, socket.socket]) -> None:
    """Nothing is raised: the transport tells of the end."""
    lent, peer = pair
    peer.close()
    lent.receive(100, lambda _chunks: None)
    assert (0, b"", 5) == (lent.received, *reversed(lent.send(read, 5, 5)))


def test_what_a_reader_does_not_take_is_returned(pair: tuple[LentSocket, socket.socket]) -> None:
    """How far was read, and what of it was not sent."""
    lent, peer = pair
    offset, unsent = lent.send(read, 0, len(SOURCE))
    peer.setblocking(False)
    sent = b""
    while len(sent) + len(unsent) < offset:
        sent += peer.recv(MIB)
    assert (SOURCE[:offset], True) == (sent + unsent, offset < len(SOURCE))


def test_a_socket_given_back_is_not_used_any_more(pair: tuple[LentSocket, socket.socket]) -> None:
    """A thread that begins too late does nothing."""
    lent, peer = pair
    peer.sendall(b"some")
    assert lent.give_back()
    lent.receive(4, lambda _chunks: None)
    assert (0, 3, b"") == (lent.received, *lent.send(read, 3, 9))


def test_a_socket_given_back_too_early_is_closed_by_its_thread(pair: tuple[LentSocket, socket.socket]) -> None:
    """Its number may belong to another connection as soon as it is closed."""
    lent, peer = pair
    peer.sendall(b"some")
    open_then: list[bool] = []

    def take(_chunks: Chunks) -> None:
        open_then.append(lent.give_back())
        open_then.append(lent._socket.fileno() >= 0)

    lent.receive(4, take)
    assert ([False, True], -1) == (open_then, lent._socket.fileno())


def test_only_a_plain_tcp_transport_is_lent() -> None:
    """Under TLS, or in memory, the socket does not carry the payload as it is."""
    assert not can_be_lent(PeerTransport())


# In a conversation


class Ends:
    """Both ends of one TCP connection, and threads."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.pool = WorkerPool(reactor, "test", 2)
        self.ours: Caller
        self.theirs: Caller


@asynccontextmanager
async def connected(reactor: Any) -> AsyncIterator[Ends]:
    ends = Ends(reactor)
    ends.pool.start()
    ends.theirs = Caller(reactor)
    factory = Factory.forProtocol(lambda: ends.theirs)
    factory.noisy = False
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        ends.ours = await connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), Caller(reactor)
        )
        while ends.theirs.transport is None:
            await next_turn()
        assert can_be_lent(ends.ours.transport)
        yield ends
    finally:
        for end in (ends.ours, ends.theirs):
            end.abort()
            await end.gone
        await port.stopListening()
        ends.pool.stop()


class Sink:
    """Keeps what is written, and where."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.threads: set[int] = set()

    def write(self, chunks: Chunks) -> None:
        self.threads.add(threading.get_ident())
        for chunk in chunks:
            self.written += chunk

    def finish(self, chunks: Chunks) -> bytes:
        self.write(chunks)
        return bytes(self.written)


def receiving(ends: Ends, sink: Sink, size: int = len(SOURCE)) -> Deferred[bytes]:
    ends.ours.begin_payload(size)
    return Deferred.fromCoroutine(receive_into(ends.ours, ends.pool, sink.write, sink.finish))


@on_reactor
async def test_a_large_payload_is_received_to_its_end_and_not_beyond(reactor: Any) -> None:
    """Lines, payloads, and lines again on one connection."""
    async with connected(reactor) as ends:
        for _ in range(3):
            ends.theirs.tell(SOURCE, command="before")
            ends.theirs.tell(command="after")
            assert {"command": "before"} == await ends.ours.hear()
            assert SOURCE == await receiving(ends, Sink())
            assert {"command": "after"} == await ends.ours.hear()


@on_reactor
async def test_a_payload_that_comes_slowly_is_received_all_the_same(reactor: Any) -> None:
    """By turns in a thread and by the reactor."""
    async with connected(reactor) as ends:
        result = receiving(ends, Sink())
        for at in range(0, len(SOURCE), 300_000):
            await ends.theirs.send(SOURCE[at : at + 300_000])
            for _ in range(20):
                await next_turn()
        assert SOURCE == await result


@on_reactor
async def test_the_end_inside_a_payload_is_told(reactor: Any) -> None:
    """As without a thread: how much of it there was."""
    async with connected(reactor) as ends:
        result = receiving(ends, Sink())
        await ends.theirs.send(SOURCE[: 2 * MIB])
        ends.theirs.close()
        with pytest.raises(PayloadEnded, match=f"ended after {2 * MIB} of {len(SOURCE)} bytes"):
            await result


@on_reactor
async def test_after_a_failed_write_the_rest_can_still_be_skipped(reactor: Any) -> None:
    """What a thread has taken counts, also if it then failed: no byte of a payload is read as a line."""

    class Full(Sink):
        def write(self, chunks: Chunks) -> None:
            super().write(chunks)
            if len(self.written) > MIB:
                raise DiskFull

    async with connected(reactor) as ends:
        ends.theirs.tell(SOURCE, command="before")
        ends.theirs.tell(command="after")
        await ends.ours.hear()
        with pytest.raises(DiskFull):
            await receiving(ends, Full())
        await ends.ours.skip_payload()
        assert {"command": "after"} == await ends.ours.hear()


@on_reactor
async def test_who_gives_up_while_a_thread_receives_ends_the_connection(reactor: Any) -> None:
    """Nobody knows how far the thread will come."""
    going_on, begun = threading.Event(), threading.Event()

    class Held(Sink):
        def write(self, chunks: Chunks) -> None:
            super().write(chunks)
            if isinstance(chunks[0], memoryview):
                begun.set()
                going_on.wait(30)

    async with connected(reactor) as ends:
        result = receiving(ends, Held())
        ends.theirs.tell(SOURCE)
        while not begun.is_set():
            await next_turn()
        result.cancel()
        with pytest.raises(CancelledError):
            await result
        going_on.set()
        assert await ends.theirs.hear_the_end()


async def _received(conversation: Conversation, size: int) -> bytes:
    conversation.begin_payload(size)
    received = []
    while chunks := await conversation.receive_chunks():
        received += chunks
    return b"".join(received)


@on_reactor
async def test_bytes_are_sent_behind_what_is_still_waiting(reactor: Any) -> None:
    """A thread must not overtake the transport."""
    async with connected(reactor) as ends:
        sizes: list[int] = []
        for _ in range(3):
            heard = Deferred.fromCoroutine(_received(ends.theirs, 2 * len(SOURCE)))
            await ends.ours.send(SOURCE[:100_000])
            ends.ours.send(SOURCE[100_000:]).addErrback(lambda _gone: None)
            await send_from(ends.ours, ends.pool, read, 0, len(SOURCE), sizes.append)
            assert 2 * SOURCE == await heard
        assert 3 * len(SOURCE) == sum(sizes)


@on_reactor
async def test_a_slow_reader_gets_everything(reactor: Any) -> None:
    """By turns from a thread and from the reactor."""
    async with connected(reactor) as ends:
        sending = Deferred.fromCoroutine(send_from(ends.ours, ends.pool, read, 0, len(SOURCE)))
        for _ in range(300):
            await next_turn()
        assert SOURCE == await _received(ends.theirs, len(SOURCE))
        await sending
        ends.ours.tell(command="after")
        assert {"command": "after"} == await ends.theirs.hear()


@on_reactor
async def test_a_reader_that_goes_away_is_noticed(reactor: Any) -> None:
    """The sender does not wait for ever."""
    async with connected(reactor) as ends:
        sending = Deferred.fromCoroutine(send_from(ends.ours, ends.pool, lambda _at, size: bytes(size), 0, 1000 * MIB))
        await _received(ends.theirs, MIB)
        ends.theirs.abort()
        with pytest.raises(ConnectionClosed):
            await sending


@on_reactor
async def test_what_cannot_be_read_is_raised(reactor: Any) -> None:
    """The error is that of the source."""

    def failing(offset: int, size: int) -> bytes:
        raise DiskFull

    async with connected(reactor) as ends:
        with pytest.raises(DiskFull):
            await send_from(ends.ours, ends.pool, failing, 0, len(SOURCE))
