"""The server's end of a conversation: read a request, answer it, go on to the next."""

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from filefly.errors import BadRequest, FileFlyError, Internal, TooLarge
from filefly.wire.batches import MAX_BATCH_BYTES
from filefly.wire.codec import (
    CommandTable,
    declared_payload,
    decode_object,
    decode_request,
    encode,
    error_reply,
    payload_of_no_request,
)
from filefly.wire.framing import DEFAULT_MAX_LINE, Conversation
from filefly.wire.messages import Reply, Request


class Verbs(Protocol):
    """What a server can do, apart from how it is asked."""

    commands: CommandTable
    max_payload: int

    async def answer(self, request: Request, conversation: Conversation) -> Reply | None:
        """Carry out `request` and return its reply, or None if the reply was sent on `conversation` already.

        The request's payload, if it has one, is next on `conversation`; what is left of it will be skipped. Raises
        FileFlyError for an error reply.
        """


class _EndOfConversation(Exception):
    """Nothing more of the input can be understood."""


class ServerProtocol(Conversation):
    """Answers the requests of one connection, one after another, in order."""

    log = Logger()
    factory: "ServerFactory"

    def __init__(self, clock: Any, verbs: Verbs, max_line: int) -> None:
        super().__init__(clock, max_line)
        self._verbs = verbs
        self._answering = False
        self._leaving = False
        self._gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Begin to answer."""
        super().connectionMade()
        self.factory.conversations[self] = Deferred.fromCoroutine(self._converse())

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        """Let the conversation end."""
        super().connectionLost(reason)
        self._gone.callback(None)

    def leave(self) -> None:
        """Close after the request in flight, if there is one; the factory's Deferred fires when all is over."""
        self._leaving = True
        if not self._answering:
            self.close()

    async def _converse(self) -> None:
        try:
            while not self._leaving:
                line = await self.receive_line()
                if line is None:
                    break
                self._answering = True
                await self._answer(line)
                self._answering = False
                del line  # it may be long, and the next one is about to be gathered
            self.close()
        except TooLarge as error:
            self.send(encode(error_reply(error)), b"\n").addErrback(lambda _gone: None)
            self.close_gently()
        except _EndOfConversation:
            self.close_gently()
        except ConnectionClosed:
            pass
        except Exception:  # this is framing's own broad except: the last resort of one connection
            self.log.failure("conversation with {peer} failed", peer=self.transport.getPeer())
            self.abort()
        await self._gone
        self.factory.conversations.pop(self, None)

    async def _answer(self, line: bytes) -> None:
        try:
            fields = decode_object(line)
        except BadRequest as error:
            await self._refuse(line, error)
            return
        try:
            payload = declared_payload(fields)
            limit = self._payload_limit(fields.get("command"))
            if payload > limit:
                raise TooLarge(f"size is over the limit of {limit} bytes (--max-block-size)")
        except FileFlyError as error:
            await self._reply(error_reply(error))
            raise _EndOfConversation from None
        self.begin_payload(payload)
        try:
            try:
                reply = await self._verbs.answer(decode_request(fields, self._verbs.commands), self)
            finally:
                await self.skip_payload()
        except FileFlyError as error:
            error.__traceback__ = None  # an error that came through a Deferred keeps its request's data alive
            await self._reply(error_reply(error))
        except ConnectionClosed:
            raise
        except Exception:  # framing's broad except: any other failure is an error reply
            self.log.failure("{command} failed", command=fields.get("command"))
            await self._reply(error_reply(Internal()))
        else:
            if reply is not None:
                await self._reply(reply)

    async def _refuse(self, line: bytes, error: FileFlyError) -> None:
        """Say why a line is no request; what may be its payload is skipped, or the conversation ended, never read."""
        payload = payload_of_no_request(line)
        if payload is None or payload > self._verbs.max_payload:
            await self._reply(error_reply(error))
            raise _EndOfConversation
        self.begin_payload(payload)
        try:
            await self.skip_payload()
        except FileFlyError as ended:
            error = ended
        await self._reply(error_reply(error))

    def _payload_limit(self, command: object) -> int:
        """Return how large a payload is received, if only to be skipped; blocks that are small each may be many."""
        limit = self._verbs.max_payload
        return max(limit, MAX_BATCH_BYTES) if command == "store_blocks" else limit

    def _reply(self, reply: Any) -> Deferred[None]:
        return self.send(encode(reply) + b"\n")


class ServerFactory(Factory):
    """Makes a ServerProtocol for each connection and knows those that are alive."""

    noisy = False

    def __init__(self, clock: Any, verbs: Verbs, max_line: int = DEFAULT_MAX_LINE) -> None:
        self._clock = clock
        self._verbs = verbs
        self._max_line = max_line
        self.conversations: dict[ServerProtocol, Deferred[None]] = {}

    def buildProtocol(self, addr: Any) -> ServerProtocol:  # type: ignore[override]  # its bound is private to Twisted
        """Make the server's end of a new connection."""
        protocol = ServerProtocol(self._clock, self._verbs, self._max_line)
        protocol.factory = self
        return protocol
