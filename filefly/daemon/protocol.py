"""The server's end of a conversation: read a request, answer it, go on to the next."""

import re
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from filefly.daemon.audit import Audit, Audited
from filefly.daemon.failures import TooManyWait
from filefly.daemon.guard import Guard, OpenGuard, Session
from filefly.daemon.limits import ConnectionLimits
from filefly.daemon.patience import Patience
from filefly.errors import BadRequest, Busy, FileFlyError, Internal, TimedOut, TooLarge
from filefly.wire.awaited import Awaited
from filefly.wire.batches import MAX_BATCH_BYTES, RetrieveBlocks, StoreBlocks
from filefly.wire.blocks import ListBlocks
from filefly.wire.budget import LINE_FACTOR, LineBudget, UnsentReplies
from filefly.wire.codec import (
    LONG_LINE_BYTES,
    CommandTable,
    Line,
    RequestDecoder,
    Understood,
    commands_of,
    encode,
    error_reply,
    weight,
)
from filefly.wire.framing import DEFAULT_MAX_LINE, Conversation
from filefly.wire.messages import ListFiles, Reply, Request
from filefly.wire.security import Auth, Prove

_MOST_IN_A_ROW = 64
"""Requests of one connection that are answered before others have a turn, if none has to wait for anything."""

_MAPPED = "::ffff:"
"""With it an IPv4 peer of a socket that takes both is told; everybody knows it without."""

_HTTP = re.compile(rb"[\w-]+ \S+ HTTP/\d\.\d\s*")

_OF_LARGE_REPLIES = (ListFiles, ListBlocks, RetrieveBlocks)
"""Requests whose replies may be of any size up to a limit, and are made before the first byte is sent."""


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

    def __init__(self, factory: "ServerFactory", host: str) -> None:
        super().__init__(factory.clock, factory.max_line, self._budget_for_line, factory.unsent)
        self.factory = factory
        self.session = Session(host)
        self._verbs = factory.verbs
        self._guard = factory.guard
        self._understand = factory.decoder.understand
        self._in_a_row = 0
        self._answering = False
        self._leaving = False
        self._gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Begin to answer."""
        super().connectionMade()
        self.factory.limits.enter(self.session.host)
        self.factory.patience.watch(self)
        self.factory.conversations[self] = Deferred.fromCoroutine(self._converse())

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        """Let the conversation end."""
        super().connectionLost(reason)
        self.factory.limits.leave(self.session.host)
        self.factory.patience.forget(self)
        self._gone.callback(None)

    def leave(self) -> None:
        """Close after the request in flight, if there is one; the factory's Deferred fires when all is over."""
        self._leaving = True
        if not self._answering:
            self.close()

    def give_up(self, awaited: Awaited, sentence: str) -> None:
        """End the conversation with a peer that does not do what is awaited, and tell it so if it may be listening."""
        if awaited is Awaited.READING:
            self.abort()
        else:
            self._send_last(TimedOut(sentence))
            self.give_room_back()

    def _budget_for_line(self) -> LineBudget:
        """Return where a long line of this peer's finds room: strangers must not take what others need."""
        if self._guard.knows(self.session):
            return self.factory.budget
        if self._guard.takes_tickets:
            return self.factory.strangers_budget
        raise TooLarge(f"line is over the limit of {LONG_LINE_BYTES} bytes for who has not signed in; sign in first")

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
                if len(line) > LONG_LINE_BYTES:
                    await self.room_for(weight(line))
                payload, request = self._requested(line)
                del line  # it may be long, and what is made of it is, too
                if isinstance(request, _OF_LARGE_REPLIES):
                    await self.factory.unsent.room(self)
                    await self._answer(payload, request)
                    self.factory.unsent.made(self)
                else:
                    await self._answer(payload, request)
                del request  # before the next line is gathered
                self._answering = False
                if self.has_room:
                    self.give_room_back()
            self.close()
        except TooLarge as error:
            self._send_last(error)
        except _EndOfConversation:
            self.close_gently()
        except (ConnectionClosed, CancelledError) as error:  # the latter where it waited for room
            error.__traceback__ = None  # `lost` holds it, and it this frame
        except Exception:  # this is framing's own broad except: the last resort of one connection
            self.log.failure("conversation with {peer} failed", peer=self.transport.getPeer())
            self.abort()
        self.give_room_back()
        await self._gone
        self.factory.conversations.pop(self, None)

    def _requested(self, line: Line) -> Understood:
        """Return what a line asks for; what follows an HTTP request is not: a web page may have chosen it."""
        payload, request = self._understand(line)
        if isinstance(request, FileFlyError) and _HTTP.fullmatch(line):
            return None, BadRequest("this is no web server: a request is one line of JSON")
        return payload, request

    def _send_last(self, error: FileFlyError) -> None:
        self.send(encode(error_reply(error)), b"\n").addErrback(lambda _gone: None)
        self.close_gently()

    def _turn_of_others(self) -> Deferred[None]:
        """Fire in the reactor's next turn: who sends many requests at once must not keep all others waiting."""
        turn: Deferred[None] = Deferred()
        self._clock.callLater(0, turn.callback, None)
        return turn

    async def _answer(self, payload: int | None, request: Request | FileFlyError) -> None:
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
            if isinstance(error, TooManyWait):
                raise _EndOfConversation from None
        except ConnectionClosed:
            raise
        except Exception:  # framing's broad except: any other failure is an error reply
            self.log.failure("{request} failed", request=type(request).__name__)
            await self._reply(error_reply(Internal()))
        else:
            if reply is not None:
                await self._reply(reply)

    async def _reply_to(self, request: Request) -> Reply | None:
        try:
            reply = await self._carry_out(request)
        except Exception as error:
            self.factory.audit.note(request, self.session, error)
            raise
        self.factory.audit.note(request, self.session, reply)
        return reply

    async def _carry_out(self, request: Request) -> Reply | None:
        if isinstance(request, Auth | Prove):
            return await self._guard.sign_in(request, self.session)
        self._guard.check(request, self.session)
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
        audited: Audited = Audited.CHANGES,
    ) -> None:
        self.clock = clock
        self.verbs = verbs
        self.guard = guard or OpenGuard()
        self.audit = Audit(clock.seconds, not self.guard.is_open, audited)
        self.decoder = RequestDecoder({**verbs.commands, **commands_of(Auth, Prove)})
        self.max_line = max_line
        self.limits = limits or ConnectionLimits()
        self.budget = LineBudget(self.limits.max_buffered, LINE_FACTOR * max_line)
        self.strangers_budget = LineBudget(LINE_FACTOR * max_line, LINE_FACTOR * max_line)
        self.unsent = UnsentReplies(self.limits.max_unsent)
        self.patience = Patience(clock, self.limits.idle_seconds, self.limits.peer_seconds, self.unsent.look)
        self.conversations: dict[ServerProtocol, Deferred[None]] = {}

    def buildProtocol(self, addr: Any) -> Conversation:
        """Make the server's end of a new connection."""
        host = getattr(addr, "host", "this machine").removeprefix(_MAPPED)  # a Unix socket's has none
        try:
            self.limits.check(host)
        except Busy as error:
            return _Refusal(self.clock, error)
        return ServerProtocol(self, host)
