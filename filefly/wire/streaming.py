"""Payloads between a conversation and blocking reads or writes: the next piece moves while a thread has the last."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed

from filefly.threads import InThread
from filefly.units import KIB, Chunks
from filefly.wire.framing import PIECE_BYTES, Conversation
from filefly.wire.lending import LentSocket, can_be_lent

T = TypeVar("T")
_BEGINNING_BYTES = 256 * KIB  # what is received before it is worth a thread of its own


async def receive_into(
    conversation: Conversation,
    in_thread: InThread,
    write_thd: Callable[[Chunks], None],
    finish_thd: Callable[[Chunks], T],
    received: Callable[[int], None] | None = None,
) -> T:
    """Receive the rest of a payload, a piece at a time and in order, and return what `finish_thd` returned.

    The last piece goes to `finish_thd`, those before it to `write_thd`: a small payload takes one hop to a thread.
    `received` hears of each piece's size. Work in a thread cannot be cancelled: when this is, one call may still be
    under way.
    """
    writing: Deferred[None] = succeed(None)
    at_least = _BEGINNING_BYTES if can_be_lent(conversation.transport) else PIECE_BYTES
    try:
        while True:
            chunks = await conversation.receive_chunks(at_least)
            if received is not None:
                received(sum(map(len, chunks)))
            earlier, writing = writing, succeed(None)
            await earlier  # only once: a failed Deferred cannot be awaited again from within its own callback
            if conversation.payload_ended:
                return await in_thread(finish_thd, chunks)
            lent = conversation.lend_input()
            if lent is None:
                writing = in_thread(write_thd, chunks)
                continue
            try:
                await in_thread(_go_on_thd, lent, chunks, conversation.payload_left, write_thd)
            finally:
                conversation.take_back(lent)
            if received is not None:
                received(lent.received)
            if conversation.payload_ended:
                return await in_thread(finish_thd, [])
    finally:
        await writing


def _go_on_thd(lent: LentSocket, chunks: Chunks, left: int, write_thd: Callable[[Chunks], None]) -> None:
    write_thd(chunks)
    lent.receive(left, write_thd)


async def send_from(
    conversation: Conversation,
    in_thread: InThread,
    read_thd: Callable[[int, int], bytes],
    offset: int,
    end: int,
    sent: Callable[[int], None] = lambda _size: None,
) -> None:
    """Send the bytes from `offset` to `end`, which `read_thd(offset, size)` returns; `sent` hears of them."""
    while offset < end and (lent := await conversation.lend_output()) is not None:
        begin = offset
        try:
            offset, unsent = await in_thread(lent.send, read_thd, begin, end)
        finally:
            lent.give_back()
        if offset == begin:
            break  # the connection is gone, or it cannot be used in a thread any more
        sent(offset - begin)
        if unsent:
            await conversation.send(unsent)
    async with aclosing(pieces_of(in_thread, read_thd, offset, end)) as pieces:
        async for piece in pieces:
            await conversation.send(piece)
            sent(len(piece))


async def pieces_of(
    in_thread: InThread,
    read_thd: Callable[[int, int], bytes],
    offset: int,
    end: int,
    first: bytes = b"",
    piece_bytes: int = PIECE_BYTES,
) -> AsyncGenerator[bytes, None]:
    """Yield `first`, then the bytes from `offset` to `end` in order, the next piece read while the last one is used.

    `read_thd(offset, size)` returns at most `size` bytes; if it returns none, the pieces end early. Whoever stops
    listening early may leave one call of it under way.
    """

    def read() -> Deferred[bytes] | None:
        return in_thread(read_thd, offset, min(piece_bytes, end - offset)) if offset < end else None

    reading = read()
    try:
        if first:
            yield first
        while reading is not None and (piece := await reading):
            offset += len(piece)
            reading = read()
            yield piece
    finally:
        if reading is not None:
            reading.addErrback(lambda _failure: None)
