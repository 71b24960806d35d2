import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from filefly.errors import BadRequest, TooLarge
from filefly.units import MOST_CHUNKS
from filefly.wire.framing import Conversation
from tests.peer import Peer, now

KIB = 1024
MIB = 1024 * KIB


def new_peer(max_line: int = 24 * MIB) -> Peer:
    return Peer(Conversation(Clock(), max_line))


def all_lines(peer: Peer) -> list[Any]:
    """Return the lines that are there, up to the end of input."""
    return list(iter(lambda: now(peer.protocol.receive_line()), None))


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return (data[begin:end] for begin, end in itertools.pairwise(edges))


lines = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))
endings = st.sampled_from([b"\n", b"\r\n"])


@given(st.lists(st.tuples(lines, endings)), lines, st.lists(st.integers(0, 10_000)), st.booleans())
def test_lines_are_the_same_however_they_are_split(
    ended: list[tuple[bytes, bytes]], last: bytes, cuts: list[int], asked_first: bool
) -> None:
    """Packets mean nothing; blank lines and line ends are dropped, and the last line needs no end."""
    peer = new_peer()
    waiting = [peer.protocol.receive_line()] if asked_first else []
    peer.give(*split(b"".join(map(b"".join, ended)) + last, cuts))
    peer.end_input()
    first = [line for line in map(now, waiting) if line is not None]
    assert [line for line in [*(line for line, _end in ended), last] if line.strip()] == first + all_lines(peer)


@given(st.binary(max_size=50), st.binary(max_size=50), st.lists(st.integers(0, 10_000)), st.booleans())
def test_payloads_are_the_same_however_they_are_split(
    one: bytes, two: bytes, cuts: list[int], split_late: bool
) -> None:
    """What follows a payload is the next line, whatever bytes the payload has."""
    peer = new_peer()
    sent = b"one\n" + one + b"two\r\n" + two + b"three\n"
    pieces = [sent] if split_late else list(split(sent, cuts))
    received: list[Any] = []

    async def converse() -> None:
        for payload in (one, two):
            received.append(await peer.protocol.receive_line())
            peer.protocol.begin_payload(len(payload))
            received.append(b"".join([chunk async for chunk in chunks()]))
        received.append(await peer.protocol.receive_line())
        received.append(await peer.protocol.receive_line())

    async def chunks() -> AsyncIterator[bytes]:
        while chunk := b"".join(await peer.protocol.receive_chunks(at_least=7)):
            yield chunk

    result = Deferred.fromCoroutine(converse())
    peer.give(*pieces)
    peer.end_input()
    now(result)
    assert [b"one", one, b"two", two, b"three", None] == received


def test_nothing_is_looked_at_until_it_is_asked_for() -> None:
    """The second line of a packet waits until somebody wants it."""
    peer = new_peer()
    peer.give(b"one\ntwo\n")
    first = now(peer.protocol.receive_line())
    peer.protocol.begin_payload(3)
    assert (b"one", [b"two"]) == (first, now(Deferred.fromCoroutine(peer.protocol.receive_chunks())))


def test_there_is_one_receiver_at_a_time() -> None:
    """A second one who waits would steal from the first."""
    peer = new_peer()
    waiting = peer.protocol.receive_line()
    with pytest.raises(RuntimeError, match="one receiver at a time"):
        peer.protocol.receive_line()
    peer.give(b"one\n")
    assert b"one" == now(waiting)


def test_who_stops_waiting_loses_nothing() -> None:
    """A line that comes after a wait was cancelled is for the next one who asks."""
    peer = new_peer()
    waiting = peer.protocol.receive_line()
    peer.give(b"on")
    waiting.cancel()
    with pytest.raises(CancelledError):
        now(waiting)
    peer.give(b"e\n")
    assert b"one" == now(peer.protocol.receive_line())


def test_skipping_takes_what_is_left_of_a_payload() -> None:
    """The line after a payload that nobody wants is found."""
    peer = new_peer()
    peer.protocol.begin_payload(2 * MIB)
    result = Deferred.fromCoroutine(peer.protocol.skip_payload())
    peer.give(b"\n" * MIB, b"\n" * MIB + b"next\n")
    now(result)
    assert b"next" == now(peer.protocol.receive_line())


def test_chunks_are_handed_over_as_they_came() -> None:
    """A piece is gathered without copying."""
    peer = new_peer()
    peer.protocol.begin_payload(100)
    result = Deferred.fromCoroutine(peer.protocol.receive_chunks(at_least=5))
    peer.give(b"abc", b"def", b"ghi")
    assert [b"abc", b"def"] == now(result)


def test_tiny_chunks_are_handed_over_before_they_are_many() -> None:
    """Each costs more memory than it has bytes."""
    peer = new_peer()
    peer.protocol.begin_payload(5000)
    result = Deferred.fromCoroutine(peer.protocol.receive_chunks(at_least=5000))
    peer.give(*[b"xy"] * MOST_CHUNKS)
    assert [b"xy"] * MOST_CHUNKS == now(result)


def test_a_payload_has_ended_with_its_last_byte() -> None:
    """Who receives a payload knows the last piece when it has it."""
    peer = new_peer()
    peer.protocol.begin_payload(3)
    before = peer.protocol.payload_ended
    peer.give(b"abc")
    now(Deferred.fromCoroutine(peer.protocol.receive_chunks()))
    assert (False, True) == (before, peer.protocol.payload_ended)


def test_a_payload_that_ends_early_says_how_much_came() -> None:
    """The end of input inside a payload is an error, after which only the end is left."""
    peer = new_peer()
    peer.protocol.begin_payload(30)
    result = Deferred.fromCoroutine(peer.protocol.receive_chunks())
    peer.give(b"0123456")
    peer.end_input()
    with pytest.raises(BadRequest, match=r"^payload ended after 7 of 30 bytes$"):
        now(result)
    assert now(peer.protocol.receive_line()) is None


@pytest.mark.parametrize("pieces", [[b"x" * 10 + b"\n"], [b"x" * 5, b"x" * 5, b"\n"], [b"x"] * 10 + [b"\n"]])
def test_a_line_as_long_as_the_limit_is_taken(pieces: list[bytes]) -> None:
    """The limit itself is allowed."""
    peer = new_peer(max_line=10)
    waiting = peer.protocol.receive_line()
    peer.give(*pieces)
    assert b"x" * 10 == now(waiting)


@pytest.mark.parametrize("asked_first", [True, False])
@pytest.mark.parametrize("pieces", [[b"x" * 11 + b"\nnext\n"], [b"x" * 11], [b"x" * 5, b"x" * 6], [b"x"] * 11])
def test_a_line_over_the_limit_names_its_option(pieces: list[bytes], asked_first: bool) -> None:
    """Nobody has to wait for the end of a line that is too long already."""
    peer = new_peer(max_line=10)
    waiting = peer.protocol.receive_line() if asked_first else None
    peer.give(*pieces)
    with pytest.raises(TooLarge, match=r"^line is over the limit of 10 bytes \(--max-line\)$"):
        now(waiting or peer.protocol.receive_line())


def test_the_lines_before_one_over_the_limit_are_taken() -> None:
    """What was sent before is understood."""
    peer = new_peer(max_line=10)
    peer.give(b"one\n" + b"x" * 11)
    assert b"one" == now(peer.protocol.receive_line())
    with pytest.raises(TooLarge):
        now(peer.protocol.receive_line())


def test_nothing_behind_a_line_over_the_limit_is_kept() -> None:
    """What follows such a line takes no memory."""
    peer = new_peer(max_line=10)
    waiting = peer.protocol.receive_line()
    peer.give(b"x" * 11)
    with pytest.raises(TooLarge):
        now(waiting)
    peer.give(*[b"y" * MIB] * 3)
    assert (0, b"", 0) == (peer.protocol._input.kept, peer.protocol._input._next, len(peer.protocol._input._behind))


def test_each_piece_of_a_long_line_is_taken_once() -> None:
    """It goes to the end of one place and is let go of, so that the time is in proportion to the line's length."""
    peer = new_peer()
    waiting = peer.protocol.receive_line()
    peer.protocol.dataReceived(b"x" * MIB)
    gathered = peer.protocol._input._beginning
    for number in range(2, 17):
        peer.protocol.dataReceived(b"x" * MIB)
        left = peer.protocol._input
        assert gathered is left._beginning
        assert (number * MIB, b"", 0) == (len(gathered), left._next, len(left._behind))
    peer.protocol.dataReceived(b"\n")
    assert gathered is now(waiting)


def test_what_comes_too_fast_stays_with_the_kernel() -> None:
    """While nobody asks, the transport is paused before a mebibyte is kept."""
    peer = new_peer()
    peer.give(*[b"x" * 64 * KIB] * 64)
    assert peer.transport.paused
    assert peer.protocol._input.kept <= 512 * KIB


def test_what_comes_too_fast_is_not_lost() -> None:
    """The transport reads on once the last line that was kept is used up."""
    peer = new_peer()
    sent = [bytes([65 + n]) * (64 * KIB - 1) for n in range(32)]
    peer.give(*(line + b"\n" for line in sent))
    received = []
    for _ in sent:
        waiting = peer.protocol.receive_line()
        peer.give()
        received.append(now(waiting))
    assert sent == received


def test_a_payload_that_comes_too_fast_stays_with_the_kernel() -> None:
    """Between two pieces of a payload little is kept, too."""
    peer = new_peer()
    peer.protocol.begin_payload(8 * MIB)
    peer.give(*[b"x" * 64 * KIB] * 128)
    assert peer.transport.paused
    assert peer.protocol._input.kept <= 512 * KIB


def test_sending_waits_while_the_peer_does_not_read() -> None:
    """The result of `send` comes when the transport takes more."""
    peer = new_peer()
    peer.stop_reading()
    sent = peer.protocol.send(b"x")
    before = sent.called
    peer.read_on()
    assert (False, True) == (before, sent.called)


def test_sending_does_not_wait_for_who_reads() -> None:
    """A transport that takes more costs no wait."""
    peer = new_peer()
    assert peer.protocol.send(b"x").called


def test_sending_ends_its_wait_with_the_connection() -> None:
    """Nobody waits for a peer that is gone."""
    peer = new_peer()
    peer.stop_reading()
    sent = peer.protocol.send(b"x")
    peer.hang_up()
    assert sent.called


def test_nothing_is_sent_when_the_connection_is_lost() -> None:
    """Sending fails with the reason for the loss."""
    peer = new_peer()
    peer.hang_up()
    with pytest.raises(ConnectionDone):
        now(peer.protocol.send(b"x"))


def test_who_waits_learns_of_a_lost_connection() -> None:
    """A wait for a line ends with the reason for the loss."""
    peer = new_peer()
    waiting = peer.protocol.receive_line()
    peer.hang_up()
    with pytest.raises(ConnectionDone):
        now(waiting)


def test_nothing_is_received_when_the_connection_is_lost() -> None:
    """Receiving fails with the reason for the loss."""
    peer = new_peer()
    peer.hang_up()
    with pytest.raises(ConnectionDone):
        now(peer.protocol.receive_line())


def test_closing_is_left_to_the_transport() -> None:
    """What was sent before still goes out."""
    peer = new_peer()
    peer.protocol.close()
    assert (True, False) == (peer.transport.disconnecting, peer.transport.disconnected)


def test_aborting_drops_what_was_not_sent() -> None:
    """The transport is told to end at once."""
    peer = new_peer()
    peer.protocol.abort()
    assert peer.transport.disconnected


@pytest.mark.parametrize("end", [Conversation.close, Conversation.close_gently, Conversation.abort])
def test_a_lost_connection_cannot_be_ended_again(end: Callable[[Conversation], None]) -> None:
    """Whoever cleans up late does no harm."""
    peer = new_peer()
    peer.hang_up()
    end(peer.protocol)
    assert not peer.transport.disconnecting


def test_a_gentle_close_ends_only_the_sending_side() -> None:
    """A peer that is still sending can read our last reply."""
    peer = new_peer()
    peer.protocol.close_gently()
    assert (True, False) == (peer.transport.sending_ended, peer.transport.disconnecting)


def test_a_gentle_close_reads_on() -> None:
    """A peer that we had stopped reading from can finish what it sends."""
    peer = new_peer()
    peer.give(*[b"x" * 256 * KIB] * 8)
    peer.protocol.close_gently()
    assert not peer.transport.paused


def test_a_gentle_close_ends_when_the_peer_has_sent_all() -> None:
    """The peer's end of input is the end of the connection."""
    peer = new_peer()
    peer.protocol.close_gently()
    peer.end_input()
    assert peer.transport.disconnecting


def test_a_gentle_close_has_a_deadline() -> None:
    """A peer that never stops sending is cut off."""
    clock = Clock()
    peer = Peer(Conversation(clock))
    peer.protocol.close_gently()
    clock.advance(9.9)
    before = peer.transport.disconnected
    clock.advance(0.2)
    assert (False, True) == (before, peer.transport.disconnected)


def test_a_gentle_close_leaves_no_deadline_behind() -> None:
    """A connection that has ended is not looked after any more."""
    clock = Clock()
    peer = Peer(Conversation(clock))
    peer.protocol.close_gently()
    peer.hang_up()
    assert [] == clock.getDelayedCalls()


def test_a_gentle_close_is_a_close_when_the_input_has_ended() -> None:
    """There is nothing to wait for."""
    peer = new_peer()
    peer.end_input()
    peer.protocol.close_gently()
    assert peer.transport.disconnecting


def test_a_gentle_close_is_a_close_where_there_is_no_half_close() -> None:
    """TLS cannot end one side alone."""
    conversation, transport = Conversation(Clock()), StringTransport()
    conversation.makeConnection(transport)
    conversation.close_gently()
    assert transport.disconnecting
