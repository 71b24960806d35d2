"""A client for tests: asks one server over TCP and hands over what it says, unjudged."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.python.failure import Failure

from filefly.wire.framing import Conversation


class Caller(Conversation):
    """The client's end of a conversation."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.gone: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        super().connectionLost(reason)
        self.gone.callback(None)

    def tell(self, payload: bytes = b"", /, **fields: object) -> None:
        """Send a request and its payload."""
        self.send(msgspec.json.encode(fields) + b"\n", payload).addErrback(
            lambda failure: failure.trap(ConnectionClosed)
        )

    async def hear(self) -> Any:
        """Return the next reply."""
        line = await self.receive_line()
        assert line is not None, "the server has ended the conversation"
        return msgspec.json.decode(line)

    async def ask(self, payload: bytes = b"", /, **fields: object) -> Any:
        """Send a request and return its reply."""
        self.tell(payload, **fields)
        return await self.hear()

    async def hear_bytes(self, size: int) -> bytes:
        """Return the `size` bytes that follow a reply."""
        self.begin_payload(size)
        received = []
        while chunks := await self.receive_chunks():
            received += chunks
        return b"".join(received)

    async def hear_the_end(self) -> bool:
        """Wait for the server to close, and return whether it did so without another reply."""
        with suppress(ConnectionClosed):
            return await self.receive_line() is None
        return True


@asynccontextmanager
async def calling(reactor: Any, port: int) -> AsyncIterator[Caller]:
    """Connect to `port` of this machine, and hang up in the end."""
    caller: Caller = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Caller(reactor))
    try:
        yield caller
    finally:
        caller.abort()
        await caller.gone
