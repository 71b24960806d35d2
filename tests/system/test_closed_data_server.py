"""A data server with a secret, as a real process that is spoken to by hand: what tickets allow, and nothing else."""

import json
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from filefly.security.keys import Keyring, create_secret, read_secret, retire_keys, rotate_secret
from filefly.security.tickets import Right, Ticket, indexes_of, issue_ticket
from filefly.security.tokens import Role, Token, issue_token
from tests.security.texts import STRANGER
from tests.system.processes import Daemon, connect, wait_until

DATA = b"twenty-five bytes of data"
PING = {"command": "ping"}
PONG = {"status": "ok", "pong": True}


@define(eq=False)
class Closed:
    """The data server, and the secret that it shares with the test."""

    daemon: Daemon
    secret: Path
    storage_id: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Look which storage it is."""
        identity = json.loads((self.secret.parent / "blocks" / ".filefly.json").read_text())
        self.storage_id = identity["storage_id"]

    def talk(self, request: Any, payload: bytes = b"") -> tuple[Any, bytes]:
        """Return the answer to a request on a connection of its own, which then goes on, and the bytes behind it."""
        with connect(self.daemon.ports[0]) as peer, peer.makefile("rb") as received:
            peer.sendall(json.dumps(request).encode() + b"\n" + payload + json.dumps(PING).encode() + b"\n")
            answer = json.loads(received.readline())
            data = received.read(answer["size"]) if request.get("raw") and answer["status"] == "ok" else b""
            assert PONG == json.loads(received.readline())
            return answer, data

    def ask(self, request: Any, payload: bytes = b"") -> Any:
        """Return the answer alone."""
        return self.talk(request, payload)[0]

    def ticket(self, right: Right, keyring: Keyring | None = None, **changed: Any) -> str:
        """Return a ticket for all blocks of a file of 25 bytes in blocks of 10."""
        plan = {"storage_id": self.storage_id, "stem": "a", "generation": None, "indexes": indexes_of(range(3))}
        plan |= {"total_size": 25, "block_size": 10, "expires": int(time.time()) + 900}
        return issue_ticket(keyring or read_secret(self.secret), Ticket(right=right, **{**plan, **changed}))

    def token(self, role: Role = Role.READ) -> str:
        """Return a token."""
        return issue_token(read_secret(self.secret), Token("t-1", role))

    def store(self, block_id: str, data: bytes, ticket: str | None) -> str:
        """Store a block; return the code of the answer."""
        request = {"command": "store", "block_id": block_id, "size": len(data), "ticket": ticket}
        return str(self.ask(request, data).get("code", "stored"))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("closed")
    create_secret(folder / "secret")
    daemon = Daemon(["filefly-data", "--addr", "127.0.0.1:0", "--secret-file", "secret"], folder, "data")
    daemon.start()
    yield Closed(daemon, folder / "secret")
    daemon.stop()
    assert "Traceback" not in daemon.log.read_text()


def test_what_is_stored_by_ticket_is_read_by_ticket(closed: Closed) -> None:
    """Raw and in base64, whole and in part."""
    store, retrieve = closed.ticket(Right.STORE), closed.ticket(Right.RETRIEVE)
    for index in range(3):
        assert "stored" == closed.store(f"a-{index}", DATA[10 * index : 10 * index + 10], store)
    read = {"command": "retrieve", "block_id": "a-2", "ticket": retrieve}
    assert DATA[20:] == closed.talk({**read, "raw": True})[1]
    assert DATA[21:23] == closed.talk({**read, "raw": True, "offset": 1, "length": 2})[1]
    assert b64encode(DATA[20:]).decode() == closed.ask(read)["data"]


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        ("unauthorized", {"expires": 1}),
        ("unauthorized", {"keyring": Keyring([STRANGER])}),
        ("unauthorized", {"storage_id": "f" * 32}),
        ("forbidden", {"right": Right.RETRIEVE}),
        ("forbidden", {"indexes": 0b110}),
        ("forbidden", {"total_size": 9}),
        ("forbidden", {"stem": "b"}),
    ],
)
def test_another_ticket_stores_nothing(closed: Closed, code: str, changed: dict[str, Any]) -> None:
    """Expired, another cluster's, another storage's, for reading, for other blocks, for another size or file."""
    assert "stored" == closed.store("a-0", DATA[:10], closed.ticket(Right.STORE))
    assert code == closed.store("a-0", b"x" * 10, closed.ticket(**{"right": Right.STORE, **changed}))
    read = {"command": "retrieve", "block_id": "a-0", "raw": True, "ticket": closed.ticket(Right.RETRIEVE)}
    assert DATA[:10] == closed.talk(read)[1]


def test_a_ticket_with_one_bit_changed_stores_nothing(closed: Closed) -> None:
    """A change in each of its three parts."""
    ticket = closed.ticket(Right.STORE)
    for place in (5, ticket.index(".") + 5, ticket.rindex(".") + 5):
        changed = ticket[:place] + chr(ord(ticket[place]) ^ 1) + ticket[place + 1 :]
        assert "unauthorized" == closed.store("a-0", b"x" * 10, changed)


@pytest.mark.parametrize(
    "request_",
    [
        {"command": "store", "block_id": "a-0", "data": "eA=="},
        {"command": "retrieve", "block_id": "a-0"},
        {"command": "stat", "block_id": "a-0"},
        {"command": "delete", "block_id": "a-0"},
        {"command": "list_blocks"},
        {"command": "status"},
        {"command": "adopt", "storage_id": None, "catalog_id": "mine", "generation": 1, "force": True},
    ],
    ids=lambda request: request["command"],
)
def test_nobody_does_anything(closed: Closed, request_: dict[str, Any]) -> None:
    """But ping, and sign in."""
    if "storage_id" in request_:
        request_ = {**request_, "storage_id": closed.storage_id}
    assert "unauthorized" == closed.ask(request_)["code"]
    assert "unauthorized" == closed.ask({"command": "auth", "token": "garbage"})["code"]


def test_a_token_shows_the_status_alone(closed: Closed) -> None:
    """Not even an administrator stores without a plan."""
    requests = [
        {"command": "auth", "token": closed.token(Role.ADMIN)},
        {"command": "status"},
        {"command": "delete", "block_id": "a-0"},
        {"command": "store", "block_id": "a-0", "data": "eA=="},
    ]
    with connect(closed.daemon.ports[0]) as peer, peer.makefile("rb") as received:
        peer.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        signed_in, status, *others = [json.loads(received.readline()) for _ in requests]
    assert {"status": "ok", "role": "admin"} == signed_in
    assert closed.storage_id == status["storage_id"]
    assert ["forbidden"] * 2 == [other["code"] for other in others]


@pytest.mark.skipif(not hasattr(socket, "recv_fds"), reason="no open files to be had here")
def test_open_files_are_had_by_ticket(closed: Closed) -> None:
    """Anybody on the machine can connect to the local socket, but it asks for the same."""
    assert "stored" == closed.store("a-0", DATA[:10], closed.ticket(Right.STORE))
    name = closed.ask({"command": "ping", "identity": True})["local_socket"]
    request = {"command": "retrieve", "block_id": "a-0", "descriptor": True}
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"\0{name}")
        peer.sendall(json.dumps(request).encode() + b"\n")
        refused, files, _flags, _address = socket.recv_fds(peer, 4096, 1)
        assert ("unauthorized", []) == (json.loads(refused)["code"], files)
        peer.sendall(json.dumps({**request, "ticket": closed.ticket(Right.RETRIEVE)}).encode() + b"\n")
        answer, [file], _flags, _address = socket.recv_fds(peer, 1, 1)
        assert {"status": "ok", "size": 10} == json.loads(answer + peer.makefile("rb").readline())
        with open(file, "rb") as opened:
            assert DATA[:10] == opened.read()


def test_keys_are_changed_without_a_restart(closed: Closed) -> None:
    """The old key's tickets are good until it is retired; the new key's from when the file was read again."""
    old = closed.ticket(Right.STORE)
    pid = closed.daemon.running.pid
    rotate_secret(closed.secret)
    new = closed.ticket(Right.STORE)
    wait_until(lambda: "stored" == closed.store("a-0", DATA[:10], new), "the new key to be known")
    assert "stored" == closed.store("a-0", DATA[:10], old)
    retire_keys(closed.secret)
    wait_until(lambda: "unauthorized" == closed.store("a-0", DATA[:10], old), "the old key to be void")
    assert "stored" == closed.store("a-0", DATA[:10], new)
    assert pid == closed.daemon.running.pid
    assert closed.daemon.running.poll() is None
    log = closed.daemon.log.read_text()
    for key in [line.split()[1] for line in closed.secret.read_text().splitlines() if line[0] != "#"]:
        assert key not in log
    assert new not in log


@pytest.mark.parametrize("spoil", ["missing", "open to others"])
def test_a_data_server_does_not_start_open(tmp_path: Path, spoil: str) -> None:
    """Who wants it closed, and made a mistake, has it neither open nor running."""
    if spoil == "open to others":
        create_secret(tmp_path / "secret")
        (tmp_path / "secret").chmod(0o640)
    daemon = Daemon(["filefly-data", "--addr", "127.0.0.1:0", "--secret-file", "secret"], tmp_path, "data")
    daemon.start(wait=False)
    assert 1 == daemon.wait()
    [sentence] = daemon.log.read_text().splitlines()
    assert sentence.startswith("filefly-data: --secret-file: ")


def test_a_closed_data_server_gives_no_warning(tmp_path: Path) -> None:
    """On a network an open one does."""
    create_secret(tmp_path / "secret")
    closed = Daemon(["filefly-data", "--addr", "0.0.0.0:0", "--secret-file", "secret"], tmp_path, "closed")
    opened = Daemon(["filefly-data", "--addr", "0.0.0.0:0", "--storage-dir", "other"], tmp_path, "open")
    warned = {}
    for daemon in (closed, opened):
        daemon.start()
        daemon.stop()
        warned[daemon.name] = "whoever reaches" in daemon.log.read_text()
    assert {"closed": False, "open": True} == warned
