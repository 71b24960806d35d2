"""The server's end of a conversation: read a request, answer it, go on to the next."""

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from filefly.daemon.guard import Guard, OpenGuard, Session
from filefly.daemon.limits import ConnectionLimits
from filefly.errors import Busy, FileFlyError, Internal, TooLarge
from filefly.wire.batches import MAX_BATCH_BYTES, StoreBlocks
from filefly.wire.codec import CommandTable, RequestDecoder, commands_of, encode, error_reply
from filefly.wire.framing import DEFAULT_MAX_LINE, Conversation
from filefly.wire.messages import Reply, Request
from filefly.wire.security import Auth, Prove

_MOST_IN_A_ROW = 64
"""Requests of one connection that are answered before others have a turn, if none has to wait for anything."""


class Verbs(Protocol):
    """What a server can do, apart from how it is asked."""

    commands: CommandTable
    max_payload: int

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        """Carry out `request` and return its reply, or None if the reply was sent on `conversation` already.

        The guard has let it pass; what its parts need, each for itself, is looked at here.

        The request's payload, if it has one, is next on `conversation`; what is left of it will be skipped. Raises
        FileFlyError for an error reply.
        """


class _EndOfConversation(Exception):
    """Nothing more of the input can be understood."""


class ServerProtocol(Conversation):
    """Answers the requests of one connection, one after another, in order."""

    log = Logger()
    factory: "ServerFactory"

    def __init__(
        self, clock: Any, verbs: Verbs, guard: Guard, decoder: RequestDecoder, max_line: int, host: str
    ) -> None:
        super().__init__(clock, max_line)
        self.session = Session(host)
        self._verbs = verbs
        self._guard = guard
        self._understand = decoder.understand
        self._in_a_row = 0
        self._answering = False
        self._leaving = False
        self._gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Begin to answer."""
        super().connectionMade()
        self.factory.limits.enter(self.session.host)
        self.factory.conversations[self] = Deferred.fromCoroutine(self._converse())

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        """Let the conversation end."""
        super().connectionLost(reason)
        self.factory.limits.leave(self.session.host)
        self._gone.callback(None)

    def leave(self) -> None:
        """Close after the request in flight, if there is one; the factory's Deferred fires when all is over."""
        self._leaving = True
        if not self._answering:
            self.close()

    async def _converse(self) -> None:
        try:
            while not self._leaving:
                line = self.line_at_hand()
                if line is None:
                    self._in_a_row = 0
                    line = await self.receive_line()
                elif self._in_a_row == _MOST_IN_A_ROW:
                    self._in_a_row = 0
                    await self._turn_of_others()
                if line is None:
                    break
                self._in_a_row += 1
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

    def _turn_of_others(self) -> Deferred[None]:
        """Fire in the reactor's next turn: who sends many requests at once must not keep all others waiting."""
        turn: Deferred[None] = Deferred()
        self._clock.callLater(0, turn.callback, None)
        return turn

    async def _answer(self, line: bytes) -> None:
        payload, request = self._understand(line)
        limit = self._verbs.max_payload
        if isinstance(request, StoreBlocks):
            limit = max(limit, MAX_BATCH_BYTES)  # blocks that are small each may be many
        if payload is None or payload > limit:
            too_large = TooLarge(f"size is over the limit of {limit} bytes (--max-block-size)")
            await self._reply(
                error_reply(request if payload is None and isinstance(request, FileFlyError) else too_large)
            )
            raise _EndOfConversation
        self.begin_payload(payload)
        try:
            try:
                if isinstance(request, FileFlyError):
                    raise request
                reply = await self._reply_to(request)
            finally:
                if not self.payload_ended:
                    await self.skip_payload()
        except FileFlyError as error:
            error.__traceback__ = None  # an error that came through a Deferred keeps its request's data alive
            await self._reply(error_reply(error))
        except ConnectionClosed:
            raise
        except Exception:  # framing's broad except: any other failure is an error reply
            self.log.failure("{request} failed", request=type(request).__name__)
            await self._reply(error_reply(Internal()))
        else:
            if reply is not None:
                await self._reply(reply)

    async def _reply_to(self, request: Request) -> Reply | None:
        if isinstance(request, Auth | Prove):
            return await self._guard.sign_in(request, self.session)
        await self._guard.check(request, self.session)
        return await self._verbs.answer(request, self, self.session)

    def _reply(self, reply: Any) -> Deferred[None]:
        return self.send(encode(reply) + b"\n")


class _Refusal(Conversation):
    """Tells one connection too many why it is closed."""

    def __init__(self, clock: Any, error: Busy) -> None:
        super().__init__(clock)
        self._error = error

    def connectionMade(self) -> None:
        """Say so, and close."""
        super().connectionMade()
        self.send(encode(error_reply(self._error)), b"\n")
        self.close()


class ServerFactory(Factory):
    """Makes a ServerProtocol for each connection that the limits allow, and knows those that are alive."""

    noisy = False

    def __init__(
        self,
        clock: Any,
        verbs: Verbs,
        max_line: int = DEFAULT_MAX_LINE,
        limits: ConnectionLimits | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._clock = clock
        self._verbs = verbs
        self._guard = guard or OpenGuard()
        self._decoder = RequestDecoder({**verbs.commands, **commands_of(Auth, Prove)})
        self._max_line = max_line
        self.limits = limits or ConnectionLimits()
        self.conversations: dict[ServerProtocol, Deferred[None]] = {}

    def buildProtocol(self, addr: Any) -> Conversation:
        """Make the server's end of a new connection."""
        host = getattr(addr, "host", "this machine")  # a Unix socket's has none
        try:
            self.limits.check(host)
        except Busy as error:
            return _Refusal(self._clock, error)
        protocol = ServerProtocol(self._clock, self._verbs, self._guard, self._decoder, self._max_line, host)
        protocol.factory = self
        return protocol
