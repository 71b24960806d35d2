"""Long answers: bytes of any number behind a line, or in base64 inside one, in bounded memory."""

import binascii
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from twisted.internet.error import ConnectionClosed
from twisted.logger import Logger

from filefly.errors import FileFlyError, Internal
from filefly.threads import InThread
from filefly.wire.codec import encode, error_reply
from filefly.wire.framing import Conversation
from filefly.wire.messages import Reply
from filefly.wire.streaming import send_from

_log = Logger()
_STATUS_OK = encode(Reply()).removesuffix(b"}") + b","

Pieces = AsyncGenerator[bytes, None]


async def send_raw(conversation: Conversation, head: Reply, pieces: Pieces) -> None:
    """Send `head` as a line, then the bytes that it announces; a failure half-way aborts the connection.

    Raises, with nothing sent, what getting the first piece raises.
    """
    async with aclosing(pieces):
        first = await anext(pieces, b"")
        try:
            await conversation.send(encode(head) + b"\n", first)
            async for piece in pieces:
                await conversation.send(piece)
        except BaseException:
            conversation.abort()
            raise


async def send_file(
    conversation: Conversation,
    in_thread: InThread,
    head: Reply,
    first: bytes,
    read_thd: Callable[[int, int], bytes],
    offset: int,
    end: int,
) -> None:
    """Send `head` as a line, `first`, then what is read from `offset` to `end`; a failure aborts the connection."""
    try:
        await conversation.send(encode(head) + b"\n", first)
        await send_from(conversation, in_thread, read_thd, offset, end)
    except BaseException:
        conversation.abort()
        raise


async def send_base64(conversation: Conversation, head: Reply, pieces: Pieces) -> None:
    """Send one line: the fields of `head`, the pieces as `data`, and `status` last: it tells of a failure half-way.

    Raises, with nothing sent, what getting the first piece raises.
    """
    async with aclosing(pieces):
        first = await anext(pieces, b"")
        fields = encode(head).removeprefix(_STATUS_OK).removesuffix(b"}")
        await conversation.send(b"{", fields, b',"data":"')
        ending: Any = Reply()
        try:
            carried = await _send_encoded(conversation, first)
            async for piece in pieces:
                carried = await _send_encoded(conversation, carried + piece)
            await conversation.send(binascii.b2a_base64(carried, newline=False))
        except ConnectionClosed:
            raise
        except FileFlyError as error:
            ending = error_reply(error)
        except Exception:  # framing's broad except, for an answer that has begun
            _log.failure("an answer failed half-way")
            ending = error_reply(Internal())
    await conversation.send(b'",', encode(ending).removeprefix(b"{"), b"\n")


async def _send_encoded(conversation: Conversation, data: bytes) -> bytes:
    """Send as much of `data` as makes whole groups of base64, and return the rest."""
    whole = len(data) - len(data) % 3
    await conversation.send(binascii.b2a_base64(memoryview(data)[:whole], newline=False))
    return data[whole:]
