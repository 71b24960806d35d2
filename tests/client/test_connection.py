from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from filefly.client.connection import MAX_REPLY_LINE, ConnectionPool, ServerConnection
from filefly.client.errors import Silent, Unreachable
from filefly.errors import BadRequest, NotFound, TimedOut, Unavailable
from filefly.wire.blocks import BlockSum, BytesFollow, Retrieve, Stat
from filefly.wire.messages import Ping, Pong
from tests.client.clusters import pooling
from tests.client.faults import cut_after, proxy_of, say_instead, say_nothing
from tests.meta.running import DataNode, data_node
from tests.on_reactor import next_turn, on_reactor
from tests.peer import Peer, now

PONG = b'{"status":"ok","pong":true}\n'


# One conversation, in memory


class Talk:
    """A connection to a server that the test plays, by a clock that the test turns."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.connection = ServerConnection(self.clock, "x:1", 60)
        self.peer = Peer(self.connection)

    def ask(self) -> Deferred[Pong]:
        return Deferred.fromCoroutine(self.connection.request(Ping(), Pong))


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_a_request_gets_its_reply(talk: Talk) -> None:
    """And the connection may serve the next one."""
    for _ in range(2):
        asked = talk.ask()
        assert not talk.connection.usable
        talk.peer.give(PONG)
        assert now(asked).pong
        assert talk.connection.usable
    assert b'{"command":"ping"}\n' * 2 == talk.peer.transport.value()


def test_an_error_reply_is_raised(talk: Talk) -> None:
    """As what it stands for; the connection is as good as before."""
    asked = talk.ask()
    talk.peer.give(b'{"status":"error","error":"no","code":"not_found"}\n')
    with pytest.raises(NotFound, match=r"^no$"):
        now(asked)
    assert talk.connection.usable


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"status":"ok","pong":1}', b"\xff"])
def test_a_reply_that_is_not_understood_ends_the_use_of_a_connection(talk: Talk, line: bytes) -> None:
    """Nobody knows what comes next on it."""
    asked = talk.ask()
    talk.peer.give(line + b"\n")
    with pytest.raises(Unavailable, match=r"^the server's reply is not understood: "):
        now(asked)
    assert not talk.connection.usable


def test_a_server_that_closes_is_unavailable(talk: Talk) -> None:
    """Without a reply."""
    asked = talk.ask()
    talk.peer.end_input()
    with pytest.raises(Unavailable, match=r"^x:1 closed the connection$"):
        now(asked)
    assert not talk.connection.usable


def test_a_server_that_does_not_answer_times_out(talk: Talk) -> None:
    """After a minute without a byte."""
    asked = talk.ask()
    talk.clock.advance(59.9)
    assert not asked.called
    talk.clock.advance(0.1)
    with pytest.raises(TimedOut, match=r"^x:1 did not answer for 60 seconds$"):
        now(asked)
    assert not talk.connection.usable
    assert [] == talk.clock.getDelayedCalls()


def test_a_server_that_takes_nothing_times_out(talk: Talk) -> None:
    """A transfer does not hang for ever either."""
    talk.peer.stop_reading()
    asked = talk.ask()
    talk.clock.advance(60)
    with pytest.raises(TimedOut):
        now(asked)
    assert [] == talk.clock.getDelayedCalls()


def test_each_step_has_its_own_time(talk: Talk) -> None:
    """A slow transfer that moves is not given up."""

    async def retrieve() -> list[bytes]:
        await talk.connection.begin(Retrieve("a-0", raw=True))
        head = await talk.connection.finish(BytesFollow, payload_follows=True)
        talk.connection.begin_payload(head.size)
        received = []
        while chunks := await talk.connection.receive_chunks(at_least=1):
            received += chunks
        talk.connection.end_payload()
        return received

    retrieving = Deferred.fromCoroutine(retrieve())
    for data in (b'{"status":"ok","size":3}\n', b"a", b"b", b"c"):
        talk.clock.advance(59)
        talk.peer.give(data)
        assert talk.connection.usable == (data == b"c")
    assert [b"a", b"b", b"c"] == now(retrieving)
    assert [] == talk.clock.getDelayedCalls()


def test_a_cancelled_request_leaves_no_timer(talk: Talk) -> None:
    """And a connection that cannot be used again: its reply is still to come."""
    asked = talk.ask()
    asked.cancel()
    with pytest.raises(CancelledError):
        now(asked)
    assert not talk.connection.usable
    assert [] == talk.clock.getDelayedCalls()


def test_an_idle_connection_that_the_server_closes_is_closed(talk: Talk) -> None:
    """It is noticed before the next request."""
    asked = talk.ask()
    talk.peer.give(PONG)
    now(asked)
    talk.peer.end_input()
    assert not talk.connection.usable
    assert talk.peer.transport.disconnecting


def test_an_endless_reply_ends(talk: Talk) -> None:
    """A server that sends no newline does not fill the memory."""
    asked = talk.ask()
    talk.peer.give(*[b"x" * 2**20] * (MAX_REPLY_LINE // 2**20 + 1))
    with pytest.raises(Exception, match=r"line is over the limit of \d+ bytes"):
        now(asked)
    assert not talk.connection.usable


# The pool, over TCP


@asynccontextmanager
async def serving(reactor: Any, folder: Path) -> AsyncIterator[DataNode]:
    """Run a data server that has a block."""
    async with data_node(reactor, folder) as node:
        node.put("a-0", b"0123456789")
        yield node


@on_reactor
async def test_one_connection_serves_many_requests(reactor: Any, tmp_path: Path) -> None:
    """One after another."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        for _ in range(5):
            await pool.request(node.address, Ping(), Pong)
        assert 1 == node.connections


@on_reactor
async def test_requests_at_once_have_connections_of_their_own(reactor: Any, tmp_path: Path) -> None:
    """Which are all used again."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        for _ in range(2):
            await gatherResults([Deferred.fromCoroutine(pool.request(node.address, Ping(), Pong)) for _ in range(4)])
        assert 4 == node.connections


@on_reactor
async def test_so_many_connections_are_kept_and_no_more(reactor: Any, tmp_path: Path) -> None:
    """A burst does not leave hundreds of them."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        await gatherResults([Deferred.fromCoroutine(pool.request(node.address, Ping(), Pong)) for _ in range(30)])
        assert 16 == len(pool._idle[node.address])


@on_reactor
async def test_an_error_reply_does_not_cost_the_connection(reactor: Any, tmp_path: Path) -> None:
    """It is an answer like any other."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        for block_id, kind in (("missing-0", NotFound), ("../x", BadRequest)):
            with pytest.raises(kind):
                await pool.request(node.address, Stat(block_id), BlockSum)
        assert 1 == node.connections


@on_reactor
async def test_a_server_that_was_restarted_is_reached_again(reactor: Any, tmp_path: Path) -> None:
    """The connections from before are not used any more."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        await pool.request(node.address, Ping(), Pong)
        await node.stop()
        while any(connection.usable for connection in pool._idle[node.address]):
            await next_turn()
        node.start()
        assert 10 == (await pool.request(node.address, Stat("a-0"), BlockSum)).size


@on_reactor
async def test_one_lost_connection_is_enough_to_drop_the_others(reactor: Any, tmp_path: Path) -> None:
    """Those that were idle as long may be as dead: a server that lost its power says no goodbye."""
    async with serving(reactor, tmp_path) as server, pooling(reactor) as pool:
        await gatherResults([Deferred.fromCoroutine(pool.request(server.address, Ping(), Pong)) for _ in range(5)])
        kept = list(pool._idle[server.address])

        async def lose() -> None:
            async with pool.connection(server.address) as connection:
                connection.abort()
                await connection.request(Ping(), Pong)

        with pytest.raises(Unreachable):
            await lose()
        assert 5 == len(kept)
        assert not any(connection in pool._idle.get(server.address, []) for connection in kept)


@on_reactor
async def test_a_port_alone_means_the_known_host(reactor: Any, tmp_path: Path) -> None:
    """That of the metadata server."""
    async with serving(reactor, tmp_path) as node, pooling(reactor, "127.0.0.1") as pool:
        assert (await pool.request(f":{node.port}", Ping(), Pong)).pong
        assert [node.address] == list(pool._idle)


@on_reactor
async def test_nobody_there_is_unavailable(reactor: Any, tmp_path: Path) -> None:
    """The sentence names the address."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        await node.stop()
        with pytest.raises(Unreachable, match=rf"^cannot reach {node.address}: .*refused"):
            await pool.request(node.address, Ping(), Pong)


def test_a_machine_that_does_not_answer_is_told_apart() -> None:
    """After ten seconds, which nobody should have to wait again."""
    reactor = MemoryReactorClock()
    pool = ConnectionPool(reactor, "localhost")
    asked = Deferred.fromCoroutine(pool.request("127.0.0.1:1", Ping(), Pong))
    [(_host, _port, factory, timeout, _bind)] = reactor.tcpClients
    assert 10 == timeout
    connector: Any = None
    factory.clientConnectionFailed(connector, Failure(ConnectTimeout()))
    with pytest.raises(Silent, match=r"^cannot reach 127\.0\.0\.1:1: "):
        now(asked)


@on_reactor
async def test_an_unknown_host_is_unavailable(reactor: Any) -> None:
    """Not a traceback."""
    pool = ConnectionPool(reactor, "localhost")
    with pytest.raises(Unavailable, match=r"^cannot reach nowhere\.invalid:1: this host name is not known$"):
        await pool.request("nowhere.invalid:1", Ping(), Pong)


@pytest.mark.parametrize("address", ["nonsense", "a:0", "", "a:b:c", "tcp:nonsense"])
@on_reactor
async def test_what_is_no_address_is_unavailable(reactor: Any, address: str) -> None:
    """A plan may name anything."""
    pool = ConnectionPool(reactor, "localhost")
    with pytest.raises(Unavailable):
        await pool.request(address, Ping(), Pong)


@on_reactor
async def test_garbage_costs_the_connection(reactor: Any, tmp_path: Path) -> None:
    """What follows it would be taken for the next reply."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, proxy_of(reactor, node.port) as proxy:
        proxy.faults = [say_instead(b"garbage\n" + PONG)]
        with pytest.raises(Unavailable, match="not understood"):
            await pool.request(proxy.address, Ping(), Pong)
        assert (await pool.request(proxy.address, Ping(), Pong)).pong
        assert 2 == proxy.connections


@on_reactor
async def test_a_connection_that_breaks_is_unavailable(reactor: Any, tmp_path: Path) -> None:
    """In the middle of a reply."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, proxy_of(reactor, node.port) as proxy:
        proxy.faults = [cut_after(5)]
        with pytest.raises(Unavailable):
            await pool.request(proxy.address, Ping(), Pong)


@on_reactor
async def test_a_cancelled_request_closes_its_connection(reactor: Any, tmp_path: Path) -> None:
    """At both ends."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, proxy_of(reactor, node.port) as proxy:
        proxy.always = say_nothing
        asking = Deferred.fromCoroutine(pool.request(proxy.address, Ping(), Pong))
        while not proxy.received:
            await next_turn()
        asking.cancel()
        with pytest.raises(CancelledError):
            await asking
        while proxy.open:
            await next_turn()
        assert [] == pool._idle[proxy.address]


@on_reactor
async def test_a_cancelled_connection_attempt_leaves_nothing(reactor: Any, tmp_path: Path) -> None:
    """It is not taken for a server that cannot be reached, which would be tried again."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool:
        asking = Deferred.fromCoroutine(pool.request(node.address, Ping(), Pong))
        asking.cancel()
        with pytest.raises(CancelledError):
            await asking


@on_reactor
async def test_closing_the_pool_closes_its_connections(reactor: Any, tmp_path: Path) -> None:
    """The server sees them go."""
    async with serving(reactor, tmp_path) as node, pooling(reactor) as pool, proxy_of(reactor, node.port) as proxy:
        await pool.request(proxy.address, Ping(), Pong)
        assert 1 == len(proxy.open)
        pool.close()
        while proxy.open:
            await next_turn()
