import resource
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.python.usage import Options as UsageOptions

from filefly.all_in_one import Options as AllInOneOptions
from filefly.daemon.limits import ConnectionLimits, allow_many_files
from filefly.daemon.protocol import ServerFactory
from filefly.data.tap import Options as DataOptions
from filefly.errors import Busy
from filefly.meta.tap import Options as MetaOptions
from tests.daemon.test_service import SlowVerbs
from tests.peer import Peer

PONG = b'{"status":"ok","pong":true}\n'
TOO_MANY = (
    b'{"status":"error","error":"the server has its limit of 3 connections (--max-connections); try again later",'
    b'"code":"busy"}\n'
)
TOO_MANY_FROM_A = (
    b'{"status":"error","error":"a has its limit of 2 connections (--max-connections-per-address); close some",'
    b'"code":"busy"}\n'
)


@pytest.fixture
def factory() -> ServerFactory:
    return ServerFactory(Clock(), SlowVerbs(), limits=ConnectionLimits(3, 2))


def connect(factory: ServerFactory, host: str) -> Peer:
    return Peer(factory.buildProtocol(IPv4Address("TCP", host, 1)))


def answer_to_ping(peer: Peer) -> bytes:
    if peer.transport.disconnecting:
        return bytes(peer.transport.value())
    peer.give(b'{"command":"ping"}\n')
    return bytes(peer.transport.value())


def test_one_connection_too_many_is_told_and_closed(factory: ServerFactory) -> None:
    """The sentence names the option; who is connected already is answered on."""
    peers = [connect(factory, host) for host in "abcd"]
    assert [PONG, PONG, PONG, TOO_MANY] == [answer_to_ping(peer) for peer in peers]
    assert [False, False, False, True] == [peer.transport.disconnecting for peer in peers]


def test_one_address_does_not_get_all_connections(factory: ServerFactory) -> None:
    """Others still find room."""
    peers = [connect(factory, host) for host in "aaab"]
    assert [PONG, PONG, TOO_MANY_FROM_A, PONG] == [answer_to_ping(peer) for peer in peers]


def test_a_closed_connection_makes_room(factory: ServerFactory) -> None:
    """Also one of the same address; a refused one took none."""
    first = connect(factory, "a")
    for host in "abaa":
        connect(factory, host)
    first.hang_up()
    assert PONG == answer_to_ping(connect(factory, "a"))


def test_nothing_is_kept_of_those_that_left() -> None:
    """Addresses come and go without end."""
    limits = ConnectionLimits(3, 2)
    for number in range(1000):
        limits.check(str(number))
        limits.enter(str(number))
        limits.leave(str(number))
    assert (0, {}) == (limits._total, limits._open)


def test_who_is_refused_is_not_counted() -> None:
    """Asking costs nothing."""
    limits = ConnectionLimits(1, 1)
    limits.enter("a")
    for host in ("a", "b"):
        with pytest.raises(Busy):
            limits.check(host)
    assert {"a": 1} == limits._open


def test_one_customer_does_not_get_all_connections_by_ipv6(factory: ServerFactory) -> None:
    """Who has one address has all that begin with the same 64 bits; each connection is given back once."""
    peers = [connect(factory, host) for host in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1")]
    assert b"2001:db8::3 has its limit of 2 connections" in answer_to_ping(peers[2])
    assert [PONG, PONG, PONG] == [answer_to_ping(peer) for peer in (*peers[:2], peers[3])]
    for peer in peers:
        peer.hang_up()
    assert (0, {}) == (factory.limits._total, factory.limits._open)


def test_who_comes_by_ipv4_is_told_by_that_address(factory: ServerFactory) -> None:
    """Also where the server listens on all interfaces, and hears of it as an IPv6 address."""
    peers = [connect(factory, "::ffff:10.0.0.9") for _ in range(3)]
    assert b'"10.0.0.9 has its limit of 2 connections' in answer_to_ping(peers[2])


def test_connections_over_a_unix_socket_share_one_address(factory: ServerFactory) -> None:
    """They all come from this machine."""
    peers = [Peer(factory.buildProtocol(UNIXAddress(None))) for _ in range(3)]
    assert [PONG, PONG] == [answer_to_ping(peer) for peer in peers[:2]]
    assert b"this machine has its limit of 2 connections" in answer_to_ping(peers[2])


@pytest.mark.parametrize("kind", [DataOptions, MetaOptions, AllInOneOptions])
def test_every_server_takes_the_limits(kind: type[UsageOptions]) -> None:
    """Under the names that the errors give."""
    options: Any = kind()
    servers = ["--data-servers", "a:1"] if kind is MetaOptions else []
    options.parseOptions(["--max-connections", "7", "--max-connections-per-address", "5", *servers])
    limits = ConnectionLimits.of(options)
    assert (7, 5) == (limits.most, limits.most_per_address)


def test_a_server_may_have_as_many_files_as_the_system_allows() -> None:
    """Each connection is one."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
        allow_many_files()
        assert (before[1], before[1]) == resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
