"""Addresses: where a server listens and where a client connects.

| text | listening | connecting |
| --- | --- | --- |
| `:9001` | all interfaces | the host where one reached the metadata server, else localhost |
| `host:9001`, `[::1]:9001` | that interface | that host |
| `tls://` before either | not here: a server has `--tls-cert` | the same, and the host must prove who it is |
| anything else with a `:` | a Twisted server endpoint string, `unix:/run/ff` | a Twisted client endpoint string |
"""

import errno
import re
import socket
from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    HostnameEndpoint,
    TCP4ClientEndpoint,
    clientFromString,
    serverFromString,
)
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

if TYPE_CHECKING:
    from filefly.wire.tls.files import Tls

_TLS = "tls://"
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^:\[\]\s=/]*)):(?P<port>\d{1,5})")
_TCP_ENDPOINT = re.compile(r"tcp:(port=)?(?P<port>\d{1,5})(:interface=(?P<interface>[^:]+))?")
_INTEGER = re.compile(r"-?[0-9]{1,100}")
_LONGEST_SOCKET_PATH = 107
_ENDPOINT_KINDS = {"tcp", "tcp4", "tcp6", "ssl", "tls", "unix", "systemd", "haproxy"}
"""What a Twisted endpoint string may begin with: `tcp:9001` names no host."""

CONNECT_TIMEOUT_SECONDS = 10.0
_BACKLOG = 1024


@frozen
class HostPort:
    """`host:port`; an empty host means all interfaces, or the host that one already knows."""

    host: str
    port: int
    tls: bool = False

    def __str__(self) -> str:
        """Spell it as it would be parsed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_TLS if self.tls else ''}{host}:{self.port}"


def parse_host_port(text: str) -> HostPort | None:
    """Return `text` as a host and a port, or None if it has another form."""
    plain = text.removeprefix(_TLS)
    match = _HOST_PORT.fullmatch(plain)
    if match is None or int(match["port"]) > 65535 or match["host"] in _ENDPOINT_KINDS:
        return None
    return HostPort(match["v6"] or match["host"] or "", int(match["port"]), tls=plain != text)


def is_ip(host: str) -> bool:
    """Whether `host` is an address by number."""
    return isIPAddress(host) or isIPv6Address(host)


def has_one_address(transport: Any) -> bool:
    """Whether both ends of a TCP connection have the same address, as on one machine."""
    here, there = (getattr(end, "host", None) for end in (transport.getHost(), transport.getPeer()))
    return here is not None and here == there


def resolve(text: str, known_host: str) -> str:
    """Return an address that can be dialled: `:PORT` is completed with `known_host`."""
    address = parse_host_port(text)
    return str(HostPort(known_host, address.port, address.tls)) if address and not address.host else text


def host_of(text: str) -> str:
    """Return the host that `text` names, `localhost` where it names none."""
    address = parse_host_port(text)
    return (address and address.host) or "localhost"


def check_client_address(text: str) -> None:
    """Raise ValueError with a sentence unless a client can dial `text`."""
    address = parse_host_port(text)
    if address is None and _is_endpoint(text):
        _check_endpoint(text)
    elif address is None or address.port == 0:
        raise ValueError(f"{text!r} is not an address; write HOST:PORT")


def _is_endpoint(text: str) -> bool:
    return text.startswith(("tcp:", "unix:", "ssl:", "tls:")) and not text.startswith(_TLS)


def _check_endpoint(text: str) -> None:
    """Raise ValueError for what Twisted takes, and fails with only in the reactor, where nobody hears of it."""
    kind, *arguments = text.split(":")
    for value in (argument.rpartition("=")[2] for argument in arguments):
        if _INTEGER.fullmatch(value) and not 0 <= int(value) <= 65535:
            raise ValueError(f"{text!r} is not an address: {value} is out of range")
        if kind == "unix" and len(value.encode(errors="replace")) > _LONGEST_SOCKET_PATH:
            raise ValueError(f"{text!r} is not an address: a socket's path has at most {_LONGEST_SOCKET_PATH} bytes")


def client_endpoint(reactor: Any, text: str, tls: "Tls | None" = None) -> IStreamClientEndpoint:
    """Return the endpoint that dials `text`; raises ValueError with a sentence.

    `tls` says whom to believe behind `tls://`, by default whom the system trusts.
    """
    check_client_address(text)
    address = parse_host_port(text)
    if address is None:
        try:
            endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
        except Exception as error:  # Twisted's parsers pass on what they come across: files, OpenSSL's own errors
            raise ValueError(f"{text!r} is neither HOST:PORT nor a Twisted endpoint: {error}") from None
        return endpoint
    tcp = _tcp_endpoint(reactor, address)
    return _with_tls(reactor, tcp, address.host or "localhost", tls) if address.tls else tcp


def _tcp_endpoint(reactor: Any, address: HostPort) -> IStreamClientEndpoint:
    if isIPAddress(address.host):  # nothing to look up, and no second address to wait for
        return TCP4ClientEndpoint(reactor, address.host, address.port, timeout=CONNECT_TIMEOUT_SECONDS)
    return HostnameEndpoint(reactor, address.host or "localhost", address.port, timeout=CONNECT_TIMEOUT_SECONDS)


def _with_tls(reactor: Any, tcp: IStreamClientEndpoint, host: str, tls: "Tls | None") -> IStreamClientEndpoint:
    from filefly.wire.tls.endpoints import TlsClientEndpoint  # OpenSSL, which most clients need not load
    from filefly.wire.tls.files import Tls

    return TlsClientEndpoint(reactor, tcp, host, tls or Tls())


def listening_endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """Bind `text` at once and return the endpoint that will accept there.

    Binding before twistd forks lets a taken port be one sentence at start. An endpoint string is only parsed here.
    Raises ValueError or OSError with a sentence.
    """
    tcp = _TCP_ENDPOINT.fullmatch(text)
    address = HostPort(tcp["interface"] or "", int(tcp["port"])) if tcp else parse_host_port(text)
    if text.startswith(_TLS):
        raise ValueError(f"{text!r} is for those who connect; a server speaks TLS if it has --tls-cert and --tls-key")
    if address is None:
        try:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, text)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{text!r} is neither HOST:PORT nor a Twisted endpoint: {error}") from None
        return endpoint
    bound = _bind(address)
    bound.setblocking(False)
    family = bound.family
    return AdoptedStreamServerEndpoint(reactor, bound.detach(), family)


def _bind(address: HostPort) -> socket.socket:
    if not address.host and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    family, _kind, _proto, _name, where = socket.getaddrinfo(
        address.host or "0.0.0.0",  # noqa: S104 - ":PORT" asks for all interfaces
        address.port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    return socket.create_server(where[:2], family=family, backlog=_BACKLOG)
