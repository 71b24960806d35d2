"""A data server of a closed cluster in memory, but with real files, and what is signed for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from attrs import define, field
from twisted.internet.task import Clock

from filefly.daemon.failures import Failures
from filefly.daemon.protocol import ServerFactory
from filefly.data.blocks import BlockStore
from filefly.data.rights import DataGuard
from filefly.data.server import DataServer
from filefly.security.keys import Key, Keyring
from filefly.security.proofs import Part, prove
from filefly.security.tickets import Right, Ticket, indexes_of, issue_ticket
from filefly.security.tokens import Role, Token, issue_token
from filefly.wire.address import HostPort
from tests.data.disks import WatchedDisk, take
from tests.peer import Peer, inline
from tests.security.texts import KEY

STORAGE = "0123456789abcdef0123456789abcdef"
NOW = 1_000_000.0
NONCE = "0" * 32


@define
class KnownSecret:
    """A secret that a test has, and changes."""

    keyring: Keyring = field(factory=lambda: Keyring([KEY]))


def a_ticket(right: Right, *indexes: int, key: Key = KEY, **changed: Any) -> str:
    """Return a ticket for blocks `a-N` of 10 bytes, of a file of 25, unless it is to say something else."""
    plan = {"storage_id": STORAGE, "stem": "a", "generation": None, "total_size": 25, "block_size": 10}
    said = {**plan, "expires": int(NOW) + 900, **changed}
    return issue_ticket(Keyring([key]), Ticket(right=right, indexes=indexes_of(indexes), **said))


def a_token(role: Role = Role.READ, key: Key = KEY, expires: int | None = None, token_id: str = "t-1") -> str:
    """Return a token."""
    return issue_token(Keyring([key]), Token(token_id, role, expires=expires))


@define(eq=False)
class Connection:
    """A client's connection."""

    peer: Peer

    def ask(self, payload: bytes = b"", /, **fields: object) -> Any:
        """Return the reply to a request; what follows it in bytes is left out."""
        self.peer.transport.clear()
        self.peer.give(msgspec.json.encode(fields) + b"\n" + payload)
        return msgspec.json.decode(self.peer.transport.value().partition(b"\n")[0])

    def prove(self, key: Key = KEY) -> Any:
        """Sign in as a daemon that has the key."""
        first = self.ask(command="prove", key_id=key.id, nonce=NONCE)
        return self.ask(command="prove", proof=prove(key, Part.ASKING, NONCE, first["nonce"], first.get("storage_id")))


@define(eq=False)
class ClosedServer:
    """The server; its time is the test's."""

    folder: Path
    secret: KnownSecret = field(factory=KnownSecret)
    clock: Clock = field(factory=Clock)
    disk: WatchedDisk = field(factory=WatchedDisk)
    factory: ServerFactory = field(init=False)

    def connect(self, host: str = "192.0.2.1") -> Connection:
        """Return a new connection from a host."""
        return Connection(Peer(self.factory.buildProtocol(HostPort(host, 1))))

    def block_ids(self) -> list[str]:
        """Return what is stored."""
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))


@contextmanager
def closed_server(folder: Path) -> Iterator[ClosedServer]:
    """Run one, in a folder that has the storage's id."""
    folder.mkdir()
    (folder / ".filefly.json").write_text(f'{{"storage_id":"{STORAGE}"}}')
    server = ClosedServer(folder)
    server.clock.advance(NOW)
    storage = take(folder)
    store = BlockStore(storage, server.disk)
    guard = DataGuard(server.secret, store.identity, server.clock.seconds, Failures(server.clock))
    verbs = DataServer(store, inline, server.clock, guard)
    server.factory = ServerFactory(server.clock, verbs, guard=guard)
    yield server
    storage.release()
