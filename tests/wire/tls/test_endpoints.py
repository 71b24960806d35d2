from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from filefly.daemon.limits import ConnectionLimits
from filefly.daemon.protocol import ServerFactory
from filefly.wire.address import client_endpoint, listening_endpoint
from filefly.wire.framing import Conversation
from filefly.wire.tls.certificates import read_contexts
from filefly.wire.tls.endpoints import TlsClientEndpoint, TlsServerEndpoint
from filefly.wire.tls.failures import TlsFailed, TlsRefused
from filefly.wire.tls.files import Tls, TlsFiles
from filefly.wire.tls.transport import HANDSHAKE_SECONDS
from tests.caller import Caller, calling
from tests.certificates import Made, make
from tests.daemon.test_protocol import Failing
from tests.on_reactor import next_turn, on_reactor

MEBI = 1 << 20


@define(eq=False)
class Accepted(Factory):
    """Keeps the server's ends of its connections."""

    reactor: Any
    port: int = 0
    ends: list[Caller] = field(factory=list)
    _accepted: Deferred[Caller] = field(factory=Deferred)
    noisy = False

    def buildProtocol(self, addr: Any) -> Caller:
        self.ends.append(Caller(self.reactor))
        if len(self.ends) == 1:
            self._accepted.callback(self.ends[0])
        return self.ends[-1]

    async def first(self) -> Caller:
        """Return the end of the first connection."""
        return await self._accepted


@asynccontextmanager
async def serving(reactor: Any, files: TlsFiles | Tls | None, clock: Any = None) -> AsyncIterator[Accepted]:
    """Listen, with TLS unless there are no files for it, and hang up in the end."""
    accepted = Accepted(reactor)
    endpoint = listening_endpoint(reactor, "127.0.0.1:0")
    if files is not None:
        tls = files if isinstance(files, Tls) else Tls(files)
        endpoint = TlsServerEndpoint(clock or reactor, endpoint, tls)
    port: Any = await endpoint.listen(accepted)
    accepted.port = port.getHost().port
    try:
        yield accepted
    finally:
        await port.stopListening()
        for end in accepted.ends:
            end.abort()
            await end.gone


@asynccontextmanager
async def dialling(reactor: Any, server: Accepted, files: TlsFiles, host: str = "127.0.0.1") -> AsyncIterator[Caller]:
    """Connect with TLS, and hang up in the end."""
    endpoint = client_endpoint(reactor, f"tls://{host}:{server.port}", Tls(files))
    caller: Caller = await connectProtocol(endpoint, Caller(reactor))
    try:
        yield caller
    finally:
        caller.abort()
        await caller.gone


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Make a CA and a certificate."""
    return make(tmp_path / "tls")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_reactor
async def test_lines_and_payloads_go_both_ways(reactor: Any, made: Made, host: str) -> None:
    """Of more than one record of TLS, and more than the system takes at once."""
    payload = bytes(range(256)) * (3 * MEBI // 256) + b"!"
    async with serving(reactor, made.server) as server, dialling(reactor, server, made.client, host) as caller:
        caller.tell(payload, command="x")
        end = await server.first()
        assert {"command": "x"} == await end.hear()
        assert payload == await end.hear_bytes(len(payload))
        end.tell(payload, status="ok")
        assert {"status": "ok"} == await caller.hear()
        assert payload == await caller.hear_bytes(len(payload))


@on_reactor
async def test_each_side_may_stop_sending_and_still_hears(reactor: Any, made: Made) -> None:
    """As over TCP: what is said behind the other's end of input arrives."""
    async with serving(reactor, made.server) as server, dialling(reactor, server, made.client) as caller:
        caller.tell(command="x")
        caller.transport.loseWriteConnection()
        end = await server.first()
        assert {"command": "x"} == await end.hear()
        assert await end.hear_the_end()
        assert end.lost is None
        end.tell(status="ok")
        end.close()
        assert {"status": "ok"} == await caller.hear()
        assert await caller.hear_the_end()


@on_reactor
async def test_an_end_of_input_without_a_goodbye_is_one(reactor: Any, made: Made) -> None:
    """`ncat --ssl` closes the TCP connection's sending side, and waits for replies."""
    async with serving(reactor, made.server) as server, dialling(reactor, server, made.client) as caller:
        caller.tell(command="x")
        caller.transport.transport.loseWriteConnection()
        end = await server.first()
        assert {"command": "x"} == await end.hear()
        assert await end.hear_the_end()
        end.tell(status="ok")
        assert {"status": "ok"} == await caller.hear()


@on_reactor
async def test_what_was_sent_arrives_before_a_gentle_end(reactor: Any, made: Made) -> None:
    """Though the peer still sends: it gets the last reply, and what it says is dropped."""
    async with serving(reactor, made.server) as server, dialling(reactor, server, made.client) as caller:
        caller.tell(b"x" * MEBI, command="x")
        end = await server.first()
        await end.hear()
        end.tell(status="error")
        end.close_gently()
        assert {"status": "error"} == await caller.hear()
        assert await caller.hear_the_end()


@on_reactor
async def test_who_sends_waits_for_who_reads(reactor: Any, made: Made) -> None:
    """Memory is bounded: a payload that nobody reads stays with its sender."""
    payload = b"x" * (64 * MEBI)
    async with serving(reactor, made.server) as server, dialling(reactor, server, made.client) as caller:
        sent: list[None] = []
        sending = caller.send(b'{"command":"x"}\n', payload).addCallback(sent.append)
        end = await server.first()
        await end.hear()
        for _ in range(50):
            await next_turn()
        assert not sent
        assert len(payload) == len(await end.hear_bytes(len(payload)))
        await sending


# Who is at the other end


async def refusal(reactor: Any, server: Accepted, files: TlsFiles, host: str = "127.0.0.1") -> str:
    """Return why there is no connection."""
    with pytest.raises(TlsRefused) as caught:
        async with dialling(reactor, server, files, host):
            pass
    return str(caught.value)


@on_reactor
async def test_a_server_of_another_name_is_refused(reactor: Any, made: Made) -> None:
    """Its certificate says for whom it is; it may be behind the right address all the same."""
    expected = "its certificate is for localhost, 127.0.0.1, ::1, not for 127.0.0.2; is it another server?"
    async with serving(reactor, made.server) as server:
        endpoint = TlsClientEndpoint(
            reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", server.port), "127.0.0.2", Tls(made.client)
        )
        with pytest.raises(TlsRefused) as caught:
            await connectProtocol(endpoint, Caller(reactor))
    assert expected == str(caught.value)


@on_reactor
async def test_a_server_of_another_ca_is_refused(reactor: Any, made: Made, tmp_path: Path) -> None:
    """And one of a private CA where only those are trusted whom the system trusts."""
    expected = "its certificate is signed by nobody that is trusted here (--tls-ca)"
    async with serving(reactor, made.server) as server:
        for files in (make(tmp_path / "other").client, TlsFiles()):
            said = await refusal(reactor, server, files)
            assert expected == said.replace("the certificate of its CA", "its certificate")


@on_reactor
async def test_a_server_whose_certificate_has_expired_is_refused(reactor: Any, tmp_path: Path) -> None:
    """As one that went on running past its day shows it."""
    old = make(tmp_path / "old", days_ago=900)
    tls = Tls(old.server)
    tls.use(read_contexts(old.server, datetime.now(UTC) - timedelta(days=800)))
    async with serving(reactor, tls) as server:
        assert "its certificate has expired" == await refusal(reactor, server, old.client)


@on_reactor
async def test_a_client_shows_a_certificate_where_it_must(reactor: Any, made: Made) -> None:
    """Then it is let in."""
    async with serving(reactor, made.strict_server) as server, dialling(reactor, server, made.known_client) as caller:
        caller.tell(command="x")
        assert {"command": "x"} == await (await server.first()).hear()


@pytest.mark.parametrize("shows_another", [False, True])
@on_reactor
async def test_a_client_without_the_right_certificate_is_kept_out(
    reactor: Any, made: Made, tmp_path: Path, shows_another: bool
) -> None:
    """It is told why, and nothing that it sends is read."""
    files, expected = made.client, "it wants to see a certificate (--tls-cert, --tls-key)"
    if shows_another:
        other = make(tmp_path / "other")
        files = TlsFiles(other.certificate, other.key, made.ca)
        expected = "it does not trust the CA of the certificate that we show"
    async with serving(reactor, made.strict_server) as server:
        async with dialling(reactor, server, files) as caller:  # a client of TLS 1.3 has done its part by then
            caller.tell(command="x")
            await caller.gone
            assert caller.lost is not None
            assert (TlsFailed, expected) == (caller.lost.type, str(caller.lost.value))
        end = await server.first()
        assert await end.hear_the_end()


# What is not TLS


@on_reactor
async def test_who_does_not_speak_tls_is_told_so_in_a_line(reactor: Any, made: Made) -> None:
    """A person with nc, and a client that was given no tls://."""
    async with serving(reactor, made.server) as server, calling(reactor, server.port) as caller:
        reply = await caller.ask(command="ping")
        assert ("error", "bad_request") == (reply["status"], reply["code"])
        assert reply["error"].startswith("this port speaks TLS: its address is tls://HOST:PORT; ")
        assert await caller.hear_the_end()


@on_reactor
async def test_a_server_that_does_not_speak_tls_is_recognised(reactor: Any, made: Made) -> None:
    """By what it says."""
    expected = "it does not speak TLS; is its address HOST:PORT, without tls://?"
    async with serving(reactor, None) as server:
        refused = Deferred.fromCoroutine(refusal(reactor, server, made.client))
        end = await server.first()
        await next_turn()
        end.tell(status="error", error="request is not valid JSON", code="bad_request")
        assert expected == await refused


@on_reactor
async def test_a_server_that_never_answers_is_given_up(reactor: Any, made: Made) -> None:
    """After ten seconds, at once if nobody waits any more."""
    clock = Clock()
    async with serving(reactor, None) as server:
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
        connecting = connectProtocol(TlsClientEndpoint(clock, tcp, "127.0.0.1", Tls(made.client)), Caller(reactor))
        await server.first()
        await next_turn()
        clock.advance(HANDSHAKE_SECONDS)
        with pytest.raises(TlsRefused, match=r"^it did not answer for 10 seconds; does it speak TLS\?$"):
            await connecting
        await server.ends[0].gone
        assert [] == clock.getDelayedCalls()


@on_reactor
async def test_a_client_that_never_shakes_hands_is_dropped(reactor: Any, made: Made) -> None:
    """Its connection counts no longer than that."""
    clock = Clock()
    async with serving(reactor, made.server, clock) as server, calling(reactor, server.port) as caller:
        end = await server.first()
        await next_turn()
        clock.advance(HANDSHAKE_SECONDS)
        await end.gone
        await caller.gone
        assert [] == clock.getDelayedCalls()


@on_reactor
async def test_few_connections_that_are_too_many_are_told_so(reactor: Any, made: Made) -> None:
    """One more is closed at once: nobody counts them, and each could wait for its handshake."""
    factory = ServerFactory(reactor, Failing(), limits=ConnectionLimits(0))
    endpoint = TlsServerEndpoint(Clock(), listening_endpoint(reactor, "127.0.0.1:0"), Tls(made.server))
    port: Any = await endpoint.listen(factory)
    async with AsyncExitStack() as stack:
        number = port.getHost().port
        silent = [await stack.enter_async_context(calling(reactor, number)) for _ in range(12)]
        await silent[-1].gone
        assert 8 == sum(caller.lost is None for caller in silent)
        silent[0].abort()
        await silent[0].gone
        await next_turn()
        address = f"tls://127.0.0.1:{number}"
        caller: Caller = await connectProtocol(client_endpoint(reactor, address, Tls(made.client)), Caller(reactor))
        assert "busy" == (await caller.hear())["code"]
        caller.abort()
        await caller.gone
    await port.stopListening()


@on_reactor
async def test_a_changed_byte_ends_the_connection(reactor: Any, made: Made) -> None:
    """Nothing behind it is believed."""
    async with serving(reactor, made.server) as server, dialling(reactor, server, made.client) as caller:
        caller.tell(command="x")
        end = await server.first()
        assert {"command": "x"} == await end.hear()
        caller.transport.transport.writeSomeData(b"\x17\x03\x03\x00\x20" + bytes(32))
        caller.tell(command="y")
        assert await end.hear_the_end()
        assert end.lost is not None
        assert (TlsFailed, "what came was changed on its way") == (end.lost.type, str(end.lost.value))


@on_reactor
async def test_what_was_said_before_the_handshake_is_sent_after_it(reactor: Any, made: Made) -> None:
    """As a server does that refuses a connection as soon as it has it."""

    class Refusing(Conversation):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.send(b'{"status":"error"}\n')
            self.close()

    def refusing(_addr: Any, ends: list[Refusing]) -> Refusing:
        ends.append(Refusing(reactor))
        return ends[0]

    ends: list[Refusing] = []
    factory = Factory()
    factory.buildProtocol = lambda addr: refusing(addr, ends)  # type: ignore[method-assign]
    endpoint = TlsServerEndpoint(reactor, listening_endpoint(reactor, "127.0.0.1:0"), Tls(made.server))
    port: Any = await endpoint.listen(factory)
    address = f"tls://127.0.0.1:{port.getHost().port}"
    caller: Caller = await connectProtocol(client_endpoint(reactor, address, Tls(made.client)), Caller(reactor))
    assert {"status": "error"} == await caller.hear()
    assert await caller.hear_the_end()
    caller.abort()
    await caller.gone
    await port.stopListening()
    while ends[0].lost is None:
        await next_turn()
