from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from filefly.client.connection import ConnectionPool, ServerConnection, SignIn
from filefly.client.signing_in import CheckStorage, prove
from filefly.daemon.failures import Failures
from filefly.daemon.guard import Guard, OpenGuard, Session
from filefly.daemon.protocol import ServerFactory
from filefly.errors import Conflict, Forbidden, Unauthorized
from filefly.security.keys import Key, Keyring
from filefly.wire.address import listening_endpoint
from filefly.wire.codec import commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import Ping, Pong, Reply, Request
from filefly.wire.security import Auth, Proof, Prove, SignedIn
from tests.daemon.test_guard import AnyGuard, KnownSecret
from tests.on_reactor import on_reactor
from tests.security.texts import KEY, OLD, STRANGER

NEW = Key("00000003", b"n" * 32)


STORAGE = "the storage"


def any_storage(_address: str, _storage_id: str) -> None:
    """Let any storage be anywhere."""


class OnlyDaemons(AnyGuard):
    """A data server's guard that lets daemons pass, and notes how often somebody signs in."""

    storage_id: str | None = STORAGE

    def __init__(self, secret: KnownSecret, clock: Any) -> None:
        super().__init__(secret, clock.seconds, Failures(clock))
        self.asked: list[Auth | Prove] = []

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        self.asked.append(request)
        return await super().sign_in(request, session)

    def check(self, request: Request, session: Session) -> None:
        if not self.is_daemon(session):
            raise Forbidden


class Pongs:
    """Answers `ping`."""

    commands = commands_of(Ping)
    max_payload = 0

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        return Pong(pong=True)


@asynccontextmanager
async def serving(reactor: Any, guard: Guard) -> AsyncIterator[str]:
    """Run a server, and yield its address."""
    factory = ServerFactory(reactor, Pongs(), guard=guard)
    port: Any = await listening_endpoint(reactor, "127.0.0.1:0").listen(factory)
    try:
        yield f"127.0.0.1:{port.getHost().port}"
    finally:
        await maybeDeferred(port.stopListening)
        for conversation, gone in list(factory.conversations.items()):
            conversation.abort()
            await gone


@asynccontextmanager
async def proving(
    reactor: Any, asking: list[Key], answering: list[Key], check_storage: CheckStorage = any_storage
) -> AsyncIterator[tuple[KnownSecret, OnlyDaemons, Any]]:
    """Run a server that has the keys `answering`, and yield what pings it from a pool that has those `asking`."""
    secret, guard = KnownSecret(Keyring(asking)), OnlyDaemons(KnownSecret(Keyring(answering)), reactor)
    pool = ConnectionPool(reactor, "localhost", 20, prove(lambda: secret.keyring, check_storage))
    async with serving(reactor, guard) as address:

        async def ping() -> bool | None:
            return (await pool.request(address, Ping(), Pong)).pong

        yield secret, guard, ping
        pool.close()


@on_reactor
async def test_a_daemon_proves_itself_once_a_connection(reactor: Any) -> None:
    """With the key that signs."""
    async with proving(reactor, [KEY], [KEY]) as (_secret, guard, ping):
        assert [True, True] == [await ping(), await ping()]
        first, second = guard.asked
        assert isinstance(first, Prove)
        assert KEY.id == first.key_id
        assert isinstance(second, Prove)
        assert second.key_id is None


@pytest.mark.parametrize(
    ("asking", "answering"),
    [([NEW, KEY], [KEY]), ([KEY], [NEW, KEY]), ([NEW, KEY], [NEW, KEY]), ([NEW, KEY], [NEW]), ([NEW, KEY], [KEY, OLD])],
)
@on_reactor
async def test_one_key_in_common_is_enough(reactor: Any, asking: list[Key], answering: list[Key]) -> None:
    """While keys are being changed either side may have the older file."""
    async with proving(reactor, asking, answering) as (_secret, _guard, ping):
        assert await ping()


@pytest.mark.parametrize("answering", [[NEW], [STRANGER]])
@on_reactor
async def test_another_secret_is_refused(reactor: Any, answering: list[Key]) -> None:
    """Whether the key's id is unknown or another key has it; the sentence says who, and names the option."""
    async with proving(reactor, [KEY], answering) as (_secret, guard, ping):
        with pytest.raises(Unauthorized, match=r"^127\.0\.0\.1:\d+: .*different secrets \(--secret-file\)"):
            await ping()
        assert 1 == len(guard.asked)  # who does not prove to have the secret is shown no proof


@on_reactor
async def test_a_server_without_a_secret_is_not_taken_for_closed(reactor: Any) -> None:
    """Who has a secret believes that nobody else reads and writes there."""
    pool = ConnectionPool(reactor, "localhost", 20, prove(lambda: Keyring([KEY]), any_storage))
    async with serving(reactor, OpenGuard()) as address:
        with pytest.raises(Unauthorized, match=r": it has no secret \(--secret-file\)"):
            await pool.request(address, Ping(), Pong)
        pool.close()


class AsItWas(OpenGuard):
    """A server's guard that says of signing in what a test wants."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        return self._replies.pop(0)


@on_reactor
async def test_a_made_up_proof_is_refused(reactor: Any) -> None:
    """Whoever listens there instead of the data server hears nothing more."""
    guard = AsItWas(Proof("0" * 32, STORAGE, "0" * 64))
    pool = ConnectionPool(reactor, "localhost", 20, prove(lambda: Keyring([KEY]), any_storage))
    async with serving(reactor, guard) as address:
        with pytest.raises(Unauthorized, match=r"the proof is wrong: the daemons have different secrets"):
            await pool.request(address, Ping(), Pong)
        pool.close()


@on_reactor
async def test_who_cannot_be_there_is_shown_no_proof(reactor: Any) -> None:
    """It may pass on what another data server says, and would pass on what it is told."""

    def elsewhere(address: str, storage_id: str) -> None:
        raise Unauthorized(f"{storage_id} is not there")

    async with proving(reactor, [KEY], [KEY], elsewhere) as (_secret, guard, ping):
        with pytest.raises(Unauthorized, match=rf"^127\.0\.0\.1:\d+: {STORAGE} is not there$"):
            await ping()
        assert 1 == len(guard.asked)


class OfMetadata(OnlyDaemons):
    """A metadata server's guard."""

    storage_id = None


@on_reactor
async def test_who_is_no_data_server_is_shown_no_proof(reactor: Any) -> None:
    """Who listens in a data server's place could pass it on to the very metadata server that gives it."""
    guard = OfMetadata(KnownSecret(Keyring([KEY])), reactor)
    pool = ConnectionPool(reactor, "localhost", 20, prove(lambda: Keyring([KEY]), any_storage))
    async with serving(reactor, guard) as address:
        with pytest.raises(Unauthorized, match=r": it is no data server$"):
            await pool.request(address, Ping(), Pong)
        assert 1 == len(guard.asked)
        pool.close()


@on_reactor
async def test_idle_connections_follow_a_new_key(reactor: Any) -> None:
    """So that an older one can be retired without a single refusal."""
    async with proving(reactor, [KEY], [NEW, KEY]) as (secret, guard, ping):
        await ping()
        secret.keyring = Keyring([NEW, KEY])
        await ping()
        assert [KEY.id, None, NEW.id, None] == [each.key_id for each in guard.asked if isinstance(each, Prove)]
        guard._secret.keyring = Keyring([NEW])
        assert await ping()


@on_reactor
async def test_who_is_refused_signs_in_again(reactor: Any) -> None:
    """If the other side retires a key too early, one request fails, not all of them."""
    async with proving(reactor, [KEY, NEW], [NEW, KEY]) as (_secret, guard, ping):
        await ping()
        guard._secret.keyring = Keyring([NEW])
        with pytest.raises(Unauthorized, match=r"is retired"):
            await ping()
        assert await ping()


class _Naming:
    """Signs in with a name, which may change."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def identity(self) -> object:
        return self.name

    async def __call__(self, connection: ServerConnection) -> None:
        await connection.request(Auth(self.name or ""), SignedIn)


class _Noting(OpenGuard):
    """Notes who signs in."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        assert isinstance(request, Auth)
        self.names.append(request.token)
        if request.token == "refused":
            raise Conflict("not you")
        return SignedIn("read")


@on_reactor
async def test_a_connection_signs_in_as_who_it_is_now(reactor: Any) -> None:
    """Not again while that stays the same; and not at all as nobody."""
    guard, naming = _Noting(), _Naming(None)
    sign_in: SignIn = naming
    pool = ConnectionPool(reactor, "localhost", 20, sign_in)
    async with serving(reactor, guard) as address:
        for name in (None, "one", "one", "two", "two"):
            naming.name = name
            assert (await pool.request(address, Ping(), Pong)).pong
        assert ["one", "two"] == guard.names
        pool.close()


@on_reactor
async def test_who_cannot_sign_in_asks_for_nothing(reactor: Any) -> None:
    """The reason is passed on, and the next request tries again."""
    guard = _Noting()
    pool = ConnectionPool(reactor, "localhost", 20, _Naming("refused"))
    async with serving(reactor, guard) as address:
        for _ in range(2):
            with pytest.raises(Conflict, match=r"^not you$"):
                await pool.request(address, Ping(), Pong)
        assert ["refused"] * 2 == guard.names
        pool.close()
