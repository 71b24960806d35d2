import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from filefly.errors import BadRequest, DiskFull
from filefly.units import Chunks
from filefly.wire.framing import PIECE_BYTES, Conversation
from filefly.wire.streaming import pieces_of, receive_into
from tests.peer import HeldThreads, Peer, inline, now

SOURCE = bytes(range(256)) * (5 * PIECE_BYTES // 2 // 256)


class Sink:
    """Keeps what is written; fails from the piece `fail_at` on."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.pieces: list[bytes] = []
        self.finished = False
        self._fail_at = fail_at

    def write(self, chunks: Chunks) -> None:
        if self._fail_at is not None and len(self.pieces) >= self._fail_at:
            raise DiskFull
        self.pieces.append(b"".join(chunks))

    def finish(self, chunks: Chunks) -> str:
        self.write(chunks)
        self.finished = True
        return "done"


def receiving(size: int) -> Peer:
    peer = Peer(Conversation(Clock()))
    peer.protocol.begin_payload(size)
    return peer


def test_a_payload_is_written_in_order() -> None:
    """All bytes arrive, and the result is that of the last call."""
    peer, sink = receiving(len(SOURCE)), Sink()
    result = Deferred.fromCoroutine(receive_into(peer.protocol, inline, sink.write, sink.finish))
    peer.give(*(SOURCE[at : at + 100_000] for at in range(0, len(SOURCE), 100_000)))
    assert "done" == now(result)
    assert SOURCE == b"".join(sink.pieces)


@pytest.mark.parametrize("payload", [b"", b"x", b"x" * 1000])
def test_a_small_payload_takes_one_hop(payload: bytes) -> None:
    """A small block costs one call in a thread."""
    peer, threads, sink = receiving(len(payload)), HeldThreads(), Sink()
    result = Deferred.fromCoroutine(receive_into(peer.protocol, threads, sink.write, sink.finish))
    peer.give(payload)
    hops = threads.held
    threads.run_all()
    assert (1, "done", [payload]) == (hops, now(result), sink.pieces)


def test_the_next_piece_is_received_while_the_last_is_written() -> None:
    """Network and disk work at the same time, but only one piece ahead."""
    peer, threads, sink = receiving(4 * PIECE_BYTES), HeldThreads(), Sink()
    result = Deferred.fromCoroutine(receive_into(peer.protocol, threads, sink.write, sink.finish))
    peer.give(*[b"x" * (PIECE_BYTES // 4)] * 16)
    held, read_ahead = threads.held, 4 * PIECE_BYTES - peer.protocol._payload_left
    threads.run_next()
    peer.give()
    threads.run_next()
    peer.give()
    threads.run_all()
    peer.give()
    threads.run_all()
    assert (1, 2 * PIECE_BYTES) == (held, read_ahead)
    assert "done" == now(result)


def test_a_failed_write_ends_the_transfer() -> None:
    """The cause is raised, and nothing is finished."""
    peer, sink = receiving(len(SOURCE)), Sink(fail_at=0)
    result = Deferred.fromCoroutine(receive_into(peer.protocol, inline, sink.write, sink.finish))
    peer.give(SOURCE)
    with pytest.raises(DiskFull):
        now(result)
    assert not sink.finished


def test_a_payload_that_ends_early_is_not_finished() -> None:
    """What came is no block."""
    peer, sink = receiving(len(SOURCE)), Sink()
    result = Deferred.fromCoroutine(receive_into(peer.protocol, inline, sink.write, sink.finish))
    peer.give(SOURCE[:-1])
    peer.end_input()
    with pytest.raises(BadRequest, match=r"^payload ended after "):
        now(result)
    assert not sink.finished


def test_nobody_is_told_before_the_last_write_is_over() -> None:
    """Who cleans up after a lost connection does not meet a write that is under way."""
    peer, threads, sink = receiving(len(SOURCE)), HeldThreads(), Sink()
    result = Deferred.fromCoroutine(receive_into(peer.protocol, threads, sink.write, sink.finish))
    peer.give(SOURCE[: PIECE_BYTES + 1])
    peer.hang_up()
    before = result.called
    threads.run_all()
    assert (False, True) == (before, result.called)
    result.addErrback(lambda _lost: None)


def read_source(offset: int, size: int) -> bytes:
    return SOURCE[offset : offset + size]


async def gather(threads: HeldThreads | None, offset: int, end: int, first: bytes = b"") -> list[bytes]:
    return [piece async for piece in pieces_of(threads or inline, read_source, offset, end, first)]


@pytest.mark.parametrize(
    ("offset", "end"), [(0, len(SOURCE)), (0, 0), (5, 5), (1, 2), (PIECE_BYTES, 2 * PIECE_BYTES), (3, PIECE_BYTES + 9)]
)
def test_the_pieces_are_the_range(offset: int, end: int) -> None:
    """Nothing is left out, doubled or moved."""
    pieces = now(Deferred.fromCoroutine(gather(None, offset, end)))
    assert SOURCE[offset:end] == b"".join(pieces)


def test_no_piece_is_large() -> None:
    """Memory is bounded whatever the size of the range."""
    pieces = now(Deferred.fromCoroutine(gather(None, 0, len(SOURCE))))
    assert [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES // 2] == [len(piece) for piece in pieces]


def test_what_was_read_already_comes_first() -> None:
    """The first piece is not read twice."""
    assert [b"first", SOURCE[5:9]] == now(Deferred.fromCoroutine(gather(None, 5, 9, b"first")))


def test_the_next_piece_is_read_while_one_is_used() -> None:
    """One read is under way before the first piece is out of hand."""
    threads = HeldThreads()

    async def use_one() -> bytes:
        return await anext(pieces)

    pieces = pieces_of(threads, read_source, 0, len(SOURCE), b"first")
    assert (b"first", 1) == (now(Deferred.fromCoroutine(use_one())), threads.held)
    now(Deferred.fromCoroutine(pieces.aclose()))
    threads.run_all()


def test_a_read_that_fails_after_nobody_listens_is_forgotten() -> None:
    """Who stops early is not told of a failure that does not matter any more."""
    threads = HeldThreads()

    def fail(_offset: int, _size: int) -> bytes:
        raise DiskFull

    async def use_one_and_stop() -> None:
        pieces = pieces_of(threads, fail, 0, 10, b"first")
        await anext(pieces)
        await pieces.aclose()

    result = Deferred.fromCoroutine(use_one_and_stop())
    threads.run_all()
    assert now(result) is None


def test_pieces_end_early_when_nothing_is_read() -> None:
    """A reader that comes to an end before its time ends the pieces."""
    assert [SOURCE[-4:]] == now(Deferred.fromCoroutine(gather(None, len(SOURCE) - 4, len(SOURCE) + 4)))


def test_a_write_that_fails_while_it_is_waited_for_ends_the_transfer() -> None:
    """The cause is raised here as well, when the network is faster than the disk."""
    peer, threads, sink = receiving(len(SOURCE)), HeldThreads(), Sink(fail_at=0)
    result = Deferred.fromCoroutine(receive_into(peer.protocol, threads, sink.write, sink.finish))
    peer.give(*(SOURCE[at : at + 100_000] for at in range(0, len(SOURCE), 100_000)))
    threads.run_all()
    with pytest.raises(DiskFull):
        now(result)
    assert not sink.finished
