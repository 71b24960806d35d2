"""Conversations with a server in memory, from addresses of their own: what one does wrong is its own fault."""

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
from attrs import define, field
from twisted.internet.address import IPv4Address

from filefly.daemon.protocol import ServerFactory
from filefly.security.keys import Key, Keyring
from tests.peer import Peer

NOW = 1_800_000_000.0
"""When it is, in these tests."""

EARLIER = NOW - 100

KEY, OLD = Key("00000002", b"k" * 32), Key("00000001", b"o" * 32)
STRANGER = Key("00000002", b"s" * 32)
"""A key of another cluster that happens to have the same id."""

NEW_ALONE, BOTH = Keyring([KEY]), Keyring([KEY, OLD])

_numbers = count(1)


@define
class Secret:
    """The keys that are valid: only the new one, unless it is earlier."""

    keyring: Keyring = field(default=NEW_ALONE)


@define(eq=False)
class Server:
    """A server of a closed cluster; `let_time_pass` has it do what it is asked, until something comes about."""

    factory: ServerFactory
    secret: Any
    let_time_pass: Callable[[Callable[[], bool]], None]
    now: float = NOW

    def earlier(self, keyring: Keyring = BOTH) -> None:
        """Go back to when another key was valid, too, and what has expired now had not."""
        self.now, self.secret.keyring = EARLIER, keyring

    def later(self) -> None:
        """Come back."""
        self.now, self.secret.keyring = NOW, NEW_ALONE

    def connect(self) -> "Talk":
        """Begin a conversation."""
        number = next(_numbers)
        address = IPv4Address("TCP", f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 40_000)
        return Talk(self, Peer(self.factory.buildProtocol(address)))


@define(eq=False)
class Talk:
    """One conversation."""

    server: Server
    peer: Peer

    def ask(self, payload: bytes = b"", /, **fields: Any) -> tuple[Any, bytes]:
        """Send a request and its payload; return the reply, and all that comes behind it."""
        transport = self.peer.transport
        transport.clear()
        ping = b'{"command":"ping"}\n'
        self.peer.give(msgspec.json.encode(fields) + b"\n" + payload + ping)
        self.server.let_time_pass(lambda: _is_whole(transport.value()))
        said, end, rest = transport.value().partition(b"\n")
        assert end, f"no answer to {fields}"
        behind, pong, _end = rest.rpartition(b'{"status":"ok"')
        assert pong, f"the conversation does not go on after {fields}: {rest!r}"
        return msgspec.json.decode(said), behind

    def hang_up(self) -> None:
        """End it."""
        self.peer.hang_up()


def _is_whole(received: bytes) -> bool:
    """Whether a reply and a pong have come."""
    return received.partition(b"\n")[2].endswith((b'{"status":"ok"}\n', b'"pong":true}\n'))


def verdict(reply: Any) -> str:
    """Return the word that an answer comes down to: of a batch, that of its only item."""
    if reply["status"] == "error":
        return str(reply["code"])
    results = reply.get("results", [{}])
    assert len(results) == 1
    return str(results[0].get("code", "ok"))
