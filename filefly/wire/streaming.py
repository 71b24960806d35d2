"""Payloads between a conversation and blocking reads or writes: the next piece moves while a thread has the last."""

from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed

from filefly.threads import InThread
from filefly.wire.framing import PIECE_BYTES, Conversation

T = TypeVar("T")


async def receive_into(
    conversation: Conversation,
    in_thread: InThread,
    write_thd: Callable[[list[bytes]], None],
    finish_thd: Callable[[list[bytes]], T],
    received: Callable[[int], None] | None = None,
) -> T:
    """Receive the rest of a payload, a piece at a time and in order, and return what `finish_thd` returned.

    The last piece goes to `finish_thd`, those before it to `write_thd`: a small payload takes one hop to a thread.
    `received` hears of each piece's size. Work in a thread cannot be cancelled: when this is, one call may still be
    under way.
    """
    writing: Deferred[None] = succeed(None)
    try:
        while True:
            chunks = await conversation.receive_chunks()
            if received is not None:
                received(sum(map(len, chunks)))
            earlier, writing = writing, succeed(None)
            await earlier  # only once: a failed Deferred cannot be awaited again from within its own callback
            if conversation.payload_ended:
                return await in_thread(finish_thd, chunks)
            writing = in_thread(write_thd, chunks)
    finally:
        await writing


async def pieces_of(
    in_thread: InThread, read_thd: Callable[[int, int], bytes], offset: int, end: int, first: bytes = b""
) -> AsyncGenerator[bytes, None]:
    """Yield `first`, then the bytes from `offset` to `end` in order, the next piece read while the last one is used.

    `read_thd(offset, size)` returns at most `size` bytes; if it returns none, the pieces end early. Whoever stops
    listening early may leave one call of it under way.
    """

    def read() -> Deferred[bytes] | None:
        return in_thread(read_thd, offset, min(PIECE_BYTES, end - offset)) if offset < end else None

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
