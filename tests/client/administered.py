"""A metadata server that answers what a test wants to whoever looks after the cluster, and notes what it was asked."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.defer import maybeDeferred

from filefly.client.api import Client
from filefly.daemon.guard import Session
from filefly.daemon.protocol import ServerFactory
from filefly.errors import FileFlyError
from filefly.wire.address import listening_endpoint
from filefly.wire.administration import (
    AcceptCatalog,
    AcceptDataServer,
    BackupCatalog,
    Drain,
    Fsck,
    RemoveDataServer,
    Scrub,
    UndeleteFile,
    Undrain,
)
from filefly.wire.blocks import BytesFollow
from filefly.wire.codec import commands_of, encode
from filefly.wire.framing import Conversation
from filefly.wire.messages import ListDataServers, RegisterDataServer, Reply, Request
from filefly.wire.security import ListQuotas, ListRevokedTokens, RevokeToken, SetQuota
from tests.meta.running import TIMEOUT_SECONDS

Answer = Reply | Exception | tuple[BytesFollow, bytes]
"""A reply, what is raised (the server hangs up if it is no FileFlyError), or a line with the bytes that follow it."""

_REQUESTS = (
    ListDataServers,
    RegisterDataServer,
    AcceptDataServer,
    RemoveDataServer,
    Drain,
    Undrain,
    Scrub,
    Fsck,
    UndeleteFile,
    BackupCatalog,
    AcceptCatalog,
    RevokeToken,
    ListRevokedTokens,
    SetQuota,
    ListQuotas,
)


class AdministeredServer:
    """Gives the `answers` to each kind of request one after the other, the last one again and again."""

    max_payload = 0

    def __init__(self, answers: dict[type[Request], Sequence[Answer]], unknown: Sequence[type[Request]] = ()) -> None:
        self.asked: list[Request] = []
        self.commands = commands_of(*(request for request in _REQUESTS if request not in unknown))
        self.address = ""
        self._answers = {kind: list(some) for kind, some in answers.items()}

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        """See filefly.daemon.protocol.Verbs."""
        self.asked.append(request)
        answers = self._answers.get(type(request), [Reply()])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, FileFlyError):
            raise answer
        if isinstance(answer, Exception):
            conversation.abort()
        elif isinstance(answer, Reply):
            return answer
        else:
            await conversation.send(encode(answer[0]) + b"\n", answer[1])
        return None


@asynccontextmanager
async def administered(
    reactor: Any, answers: dict[type[Request], Sequence[Answer]], unknown: Sequence[type[Request]] = ()
) -> AsyncIterator[tuple[AdministeredServer, Client]]:
    """Run such a server, and a client of it, until the end of the block."""
    server = AdministeredServer(answers, unknown)
    factory = ServerFactory(reactor, server)
    port: Any = await listening_endpoint(reactor, "127.0.0.1:0").listen(factory)
    server.address = f"127.0.0.1:{port.getHost().port}"
    client = Client(reactor, server.address, timeout_seconds=TIMEOUT_SECONDS)
    try:
        yield server, client
    finally:
        client.close()
        await maybeDeferred(port.stopListening)
        for conversation, gone in list(factory.conversations.items()):
            conversation.abort()
            await gone
