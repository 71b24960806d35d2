"""What goes out over real TCP: at once as far as the system takes it, and the rest in order behind it."""

import os
from typing import Any

import pytest
from twisted.internet.error import ConnectionClosed
from twisted.internet.task import Clock

from filefly.wire.framing import Conversation
from tests.on_reactor import on_reactor
from tests.peer import Peer, PeerTransport
from tests.wire.test_lending import connected

MIB = 1024 * 1024
LARGE = os.urandom(24 * MIB)


async def received(conversation: Conversation, size: int) -> bytes:
    conversation.begin_payload(size)
    chunks: list[bytes] = []
    while more := await conversation.receive_chunks():
        chunks += more
    return b"".join(chunks)


@on_reactor
async def test_what_the_system_takes_is_sent_without_a_turn_of_the_reactor(reactor: Any) -> None:
    """A small reply is with the peer's system as soon as `send` returns."""
    async with connected(reactor) as ends:
        sent = ends.ours.send(b"one ", b"line\n")
        assert sent.called
        assert b"one line\n" == ends.theirs.transport.getHandle().recv(100)


@on_reactor
async def test_what_the_system_does_not_take_follows_in_order(reactor: Any) -> None:
    """The result waits until it is out of hand, and what is sent meanwhile comes behind it."""
    async with connected(reactor) as ends:
        sent = ends.ours.send(b"head\n", LARGE)
        behind = ends.ours.send(b"behind\n")
        waited = [sent.called, behind.called]
        assert b"head" == await ends.theirs.receive_line()
        assert LARGE == await received(ends.theirs, len(LARGE))
        assert b"behind" == await ends.theirs.receive_line()
        await behind
        assert ([False, False], True) == (waited, sent.called)
        assert ends.ours.send(b"at once\n").called
        assert b"at once" == await ends.theirs.receive_line()


@pytest.mark.parametrize("end", [Conversation.close, Conversation.close_gently])
@on_reactor
async def test_a_close_lets_out_what_was_sent(reactor: Any, end: Any) -> None:
    """The peer gets all of it before the end."""
    async with connected(reactor) as ends:
        ends.ours.send(LARGE).addErrback(lambda _gone: None)
        end(ends.ours)
        assert LARGE == await received(ends.theirs, len(LARGE))
        assert await ends.theirs.hear_the_end()


@on_reactor
async def test_who_waits_for_a_peer_that_is_gone_is_released(reactor: Any) -> None:
    """Sending fails from then on."""
    async with connected(reactor) as ends:
        sent = ends.ours.send(LARGE)
        ends.theirs.abort()
        await sent
        with pytest.raises(ConnectionClosed):
            await ends.ours.send(b"x")


@on_reactor
async def test_nothing_is_sent_after_an_abort(reactor: Any) -> None:
    """Not even in the moment before the connection is gone."""
    async with connected(reactor) as ends:
        ends.ours.abort()
        ends.ours.send(b"x").addErrback(lambda _gone: None)
        assert await ends.theirs.hear_the_end()


class CountingTransport(PeerTransport):
    """Has what TCP has, but only passes it on, as TLS does."""

    def writeSomeData(self, data: bytes) -> int:  # noqa: N802 - Twisted's name
        raise AssertionError("sent past the transport")


def test_nothing_is_sent_past_a_transport_that_is_not_plain_tcp() -> None:
    """What only looks like TCP may have to encrypt what it is given."""
    transport = CountingTransport()
    peer = Peer(Conversation(Clock()), transport)
    assert peer.protocol.send(b"secret").called
    assert b"secret" == transport.value()
    peer.hang_up()
