"""Signing in with a token: to the metadata server, and to nobody else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from filefly.client.api import Client
from filefly.client.tokens import TokenFor
from filefly.daemon.guard import OpenGuard, Session
from filefly.daemon.protocol import ServerFactory
from filefly.errors import BadRequest, Unauthorized
from filefly.wire.address import listening_endpoint
from filefly.wire.messages import Reply, Request
from filefly.wire.security import Auth, Prove
from filefly.wire.tls.files import TlsFiles
from tests.client.scripted import Scripted, ScriptedData
from tests.meta.running import TIMEOUT_SECONDS
from tests.on_reactor import on_reactor


class Noting(OpenGuard):
    """Notes which tokens it is shown."""

    def __init__(self, *answers: Exception) -> None:
        self.tokens: list[str] = []
        self._answers = list(answers)

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        """See Guard."""
        assert isinstance(request, Auth)
        self.tokens.append(request.token)
        if self._answers:
            raise self._answers.pop(0)
        return await super().sign_in(request, session)


@asynccontextmanager
async def listening(reactor: Any, guard: Noting) -> AsyncIterator[tuple[str, Scripted]]:
    """Run a server that answers pings."""
    server = ScriptedData()
    factory = ServerFactory(reactor, server, guard=guard)
    port: Any = await listening_endpoint(reactor, "127.0.0.1:0").listen(factory)
    try:
        yield f"127.0.0.1:{port.getHost().port}", server
    finally:
        await maybeDeferred(port.stopListening)
        for conversation, gone in list(factory.conversations.items()):
            conversation.abort()
            await gone


@asynccontextmanager
async def signing_in(reactor: Any, address: str, token: str | None) -> AsyncIterator[Client]:
    client = Client(reactor, address, timeout_seconds=TIMEOUT_SECONDS, token=token)
    try:
        yield client
    finally:
        client.close()


@on_reactor
async def test_a_client_signs_in_once_a_connection(reactor: Any) -> None:
    """Before its first request."""
    guard = Noting()
    async with listening(reactor, guard) as (address, server), signing_in(reactor, address, "t") as client:
        for _ in range(3):
            await client.ping()
        assert (["t"], 3) == (guard.tokens, len(server.asked))


@on_reactor
async def test_nobody_else_is_shown_the_token(reactor: Any) -> None:
    """Who listens at an address that somebody has told might collect tokens."""
    meta, other = Noting(), Noting()
    async with (
        listening(reactor, meta) as (address, _meta),
        listening(reactor, other) as (other_address, _other),
        signing_in(reactor, address, "t") as client,
    ):
        await client.ping(other_address)
        await client.ping()
        assert (["t"], []) == (meta.tokens, other.tokens)


@on_reactor
async def test_who_has_no_token_says_nothing(reactor: Any) -> None:
    """As ever."""
    guard = Noting()
    async with listening(reactor, guard) as (address, server), signing_in(reactor, address, None) as client:
        await client.ping()
        assert ([], 1) == (guard.tokens, len(server.asked))


@on_reactor
async def test_a_token_that_is_refused_is_shown_again_with_the_next_request(reactor: Any) -> None:
    """The request itself is not made."""
    guard = Noting(Unauthorized("the token has expired"))
    async with listening(reactor, guard) as (address, server), signing_in(reactor, address, "t") as client:
        with pytest.raises(Unauthorized, match=r"^the token has expired$"):
            await client.ping()
        assert [] == server.asked
        await client.ping()
        assert (["t", "t"], 1) == (guard.tokens, len(server.asked))


class Older(ServerFactory):
    """A server that is older than tokens."""

    def buildProtocol(self, addr: Any) -> Any:
        protocol: Any = super().buildProtocol(addr)
        understand = protocol._understand

        def without_tokens(line: bytes) -> Request:
            found: Request = understand(line.replace(b'"auth"', b'"unheard-of"'))
            return found

        protocol._understand = without_tokens
        return protocol


@on_reactor
async def test_a_server_that_is_older_than_tokens_needs_none(reactor: Any) -> None:
    """A client with a token works there as one without."""
    server = ScriptedData()
    port: Any = await listening_endpoint(reactor, "127.0.0.1:0").listen(factory := Older(reactor, server))
    try:
        async with signing_in(reactor, f"127.0.0.1:{port.getHost().port}", "t") as client:
            await client.ping()
            assert 1 == len(server.asked)
    finally:
        await maybeDeferred(port.stopListening)
        for conversation, gone in list(factory.conversations.items()):
            conversation.abort()
            await gone


def test_a_token_is_not_shown_by_accident() -> None:
    """In a traceback, say."""
    assert "secret-thing" not in repr(TokenFor("x:1", "secret-thing"))


@on_reactor
async def test_who_wants_tls_shows_no_token_without_it(reactor: Any, tmp_path: Path) -> None:
    """A CA is named, but the address has no `tls://`: a slip that would tell everybody the token."""
    guard = Noting()
    async with listening(reactor, guard) as (address, server):
        client = Client(reactor, address, timeout_seconds=TIMEOUT_SECONDS, token="t", tls=TlsFiles(ca=tmp_path / "ca"))
        with pytest.raises(
            BadRequest, match=rf"^a token is not shown to {address} without TLS .*; write tls://{address}"
        ):
            await client.ping()
        assert ([], []) == (guard.tokens, server.asked)
        client.close()
