import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol

from filefly.wire.address import (
    HostPort,
    check_client_address,
    client_endpoint,
    host_of,
    listening_endpoint,
    parse_host_port,
    resolve,
)
from tests.on_reactor import on_reactor


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":9001", "", 9001),
        ("localhost:9001", "localhost", 9001),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("data-1.example.org:65535", "data-1.example.org", 65535),
        ("[::1]:9001", "::1", 9001),
        ("[fe80::1%eth0]:9001", "fe80::1%eth0", 9001),
    ],
)
def test_a_host_and_a_port_are_read(text: str, host: str, port: int) -> None:
    """These are the forms that people write."""
    assert HostPort(host, port) == parse_host_port(text)


@pytest.mark.parametrize("text", [":9001", "localhost:9001", "127.0.0.1:0", "[::1]:9001"])
def test_an_address_is_spelled_as_it_was_read(text: str) -> None:
    """An address that is passed on can be read again."""
    assert text == str(parse_host_port(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "9001",
        "localhost",
        "host:",
        "host:x",
        "host:65536",
        "host:123456",
        "host:-1",
        "::1:9001",
        "[::1]",
        "a b:1",
        *["host: 1", "host:1 ", "host/x:1", "tcp:host:9001", "unix:/run/ff", "[host]x:1", "tcp:port=9001"],
    ],
)
def test_anything_else_is_no_host_and_port(text: str) -> None:
    """It may still be an endpoint string of Twisted's."""
    assert parse_host_port(text) is None


@pytest.mark.parametrize(
    ("text", "known_host", "expected"),
    [
        (":9001", "meta.example.org", "meta.example.org:9001"),
        (":9001", "::1", "[::1]:9001"),
        ("data:9001", "meta", "data:9001"),
        ("unix:/run/ff", "meta", "unix:/run/ff"),
    ],
)
def test_an_address_without_a_host_means_the_known_one(text: str, known_host: str, expected: str) -> None:
    """`:PORT` means the host where one reached the metadata server."""
    assert expected == resolve(text, known_host)


@pytest.mark.parametrize(
    ("text", "host"),
    [("data:9001", "data"), ("[::1]:1", "::1"), (":9001", "localhost"), ("unix:/run/ff", "localhost")],
)
def test_the_host_of_an_address_is_known(text: str, host: str) -> None:
    """Where an address names no host, it is this one."""
    assert host == host_of(text)


@pytest.mark.parametrize("text", [":1", "host:9001", "[::1]:9001", "tcp:host:9001", "unix:/run/ff", "tls:host:443"])
def test_a_client_can_dial(text: str) -> None:
    """Hosts with ports and endpoint strings can be dialled."""
    check_client_address(text)


@pytest.mark.parametrize(
    "text", ["", "host", "9001", ":0", "host:0", "host:65536", "/run/ff", "http://host:9001/", "::1"]
)
def test_a_client_cannot_dial_anything_else(text: str) -> None:
    """The sentence shows the address and what to write instead."""
    with pytest.raises(ValueError, match=r"^'.*' is not an address; write HOST:PORT$"):
        check_client_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *("tcp:host:65536", "tcp:host:-1", "tcp:port=65536:host=h", "tcp:h:1:timeout=-1", "ssl:h:99999999"),
        *("unix:/" + "x" * 107, "unix:path=/" + "x" * 107),
    ],
)
def test_what_would_only_fail_in_the_reactor_is_refused(text: str) -> None:
    """Twisted takes it, and then nobody hears that it failed."""
    with pytest.raises(ValueError, match=" is not an address: "):
        check_client_address(text)


@pytest.mark.parametrize("text", ["ssl:h:1:certKey=/none", "ssl:h:1:caCertsDir=/none", "tls:h:1:endpoint=x"])
def test_what_an_endpoint_string_misses_is_told_in_a_sentence(reactor: Any, text: str) -> None:
    """Whatever Twisted comes across."""
    with pytest.raises(ValueError, match="is neither HOST:PORT nor a Twisted endpoint: "):
        client_endpoint(reactor, text)


@pytest.mark.parametrize("text", ["host:9001", ":9001", "[::1]:9001"])
def test_a_host_is_looked_up(reactor: Any, text: str) -> None:
    """A client endpoint takes names and both families."""
    assert isinstance(client_endpoint(reactor, text), HostnameEndpoint)


def test_an_endpoint_string_is_dialled(reactor: Any) -> None:
    """A client may come by a local socket."""
    assert isinstance(client_endpoint(reactor, "unix:/run/ff"), UNIXClientEndpoint)


def test_no_endpoint_for_a_bad_address(reactor: Any) -> None:
    """A bad address is known before it is dialled."""
    with pytest.raises(ValueError, match="is not an address"):
        client_endpoint(reactor, "nonsense")


class Greeting(Protocol):
    """Says one word to who connects."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Greeted(Protocol):
    """Waits for all that is said."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: object = None) -> None:
        self.ended.callback(self.heard)


async def greeting_at(reactor: Any, host: str, port: int) -> bytes:
    client: Greeted = await connectProtocol(client_endpoint(reactor, str(HostPort(host, port))), Greeted())
    return await client.ended


async def listen(reactor: Any, address: str) -> Any:
    return await listening_endpoint(reactor, address).listen(Factory.forProtocol(Greeting))


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1:0", "127.0.0.1"), ("localhost:0", "localhost"), (":0", "127.0.0.1")]
)
@on_reactor
async def test_a_listening_endpoint_accepts(reactor: Any, address: str, host: str) -> None:
    """Who connects to the bound port is served."""
    port = await listen(reactor, address)
    assert b"hello" == await greeting_at(reactor, host, port.getHost().port)
    await port.stopListening()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "localhost:{}", ":{}"])
@on_reactor
async def test_a_taken_port_is_known_at_once(reactor: Any, address: str) -> None:
    """The second one to bind a port fails before it listens."""
    port = await listen(reactor, address.format(0))
    with pytest.raises(OSError, match=r".") as caught:
        listening_endpoint(reactor, address.format(port.getHost().port))
    assert errno.EADDRINUSE == caught.value.errno
    await port.stopListening()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_a_port_taken_by_one_family_is_taken(reactor: Any) -> None:
    """All interfaces are those of both families: one that is in use is not quietly left out."""
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as other,
        pytest.raises(OSError, match=r".") as caught,
    ):
        listening_endpoint(reactor, f":{other.getsockname()[1]}")
    assert errno.EADDRINUSE == caught.value.errno


def port_bound_by(endpoint: Any) -> int:
    with socket.socket(fileno=os.dup(endpoint.fileno)) as bound:
        return int(bound.getsockname()[1])


@on_reactor
async def test_a_port_is_bound_before_it_listens(reactor: Any) -> None:
    """Whoever connects between the bind and twistd's fork is served later."""
    endpoint = listening_endpoint(reactor, "127.0.0.1:0")
    number = port_bound_by(endpoint)
    client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", number), Greeted())
    port: Any = await endpoint.listen(Factory.forProtocol(Greeting))
    assert b"hello" == await client.ended
    await port.stopListening()


@on_reactor
async def test_a_freed_port_can_be_bound_again(reactor: Any) -> None:
    """A daemon may be restarted at once."""
    port = await listen(reactor, "127.0.0.1:0")
    number = port.getHost().port
    await greeting_at(reactor, "127.0.0.1", number)
    await port.stopListening()
    again = await listen(reactor, f"127.0.0.1:{number}")
    assert number == again.getHost().port
    await again.stopListening()


@on_reactor
async def test_a_local_socket_can_be_listened_on(reactor: Any, tmp_path: Path) -> None:
    """An endpoint string of Twisted's is taken as it is."""
    port = await listen(reactor, f"unix:{tmp_path}/ff")
    client = await connectProtocol(client_endpoint(reactor, f"unix:{tmp_path}/ff"), Greeted())
    assert b"hello" == await client.ended
    await port.stopListening()


@pytest.mark.parametrize("text", ["", "nonsense", "nonsense:1:2", "host:65536", "tcp:port=x"])
def test_a_bad_listening_address_is_refused(reactor: Any, text: str) -> None:
    """The sentence shows the address."""
    with pytest.raises(ValueError, match=r"^'.*' is neither HOST:PORT nor a Twisted endpoint: "):
        listening_endpoint(reactor, text)


def test_a_host_that_is_not_here_cannot_be_listened_on(reactor: Any) -> None:
    """An address of another machine is an error with the system's sentence."""
    with pytest.raises(OSError, match=r".") as caught:
        listening_endpoint(reactor, "192.0.2.1:0")
    assert errno.EADDRNOTAVAIL == caught.value.errno
