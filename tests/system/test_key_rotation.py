"""The secret's key is changed while a cluster runs, in the order that docs/operations.md tells: nobody notices."""

import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from filefly.security.keys import Keyring, create_secret, read_secret, retire_keys, rotate_secret
from filefly.security.tokens import Role, Token, issue_token
from tests.system.processes import Daemon, connect, wait_until

HELLO = b"hello"
NAMES = ("data1", "data2", "meta")


def converse(daemon: Daemon, *requests: Any, payload: bytes = b"") -> list[Any]:
    """Return the answers to requests on one connection; the payload follows the last one."""
    with connect(daemon.ports[0]) as peer, peer.makefile("rb") as received:
        peer.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests) + payload)
        return [json.loads(received.readline()) for _ in requests]


@define(eq=False)
class Cluster:
    """A metadata server and two data servers, each with a folder and a copy of the secret of its own."""

    folder: Path
    daemons: dict[str, Daemon] = field(factory=dict)

    @property
    def secret(self) -> Path:
        """The file that the copies are made of."""
        return self.folder / "secret"

    def start(self) -> None:
        """Make the secret, and start everything."""
        create_secret(self.secret)
        for name in NAMES:
            (self.folder / name).mkdir()
        self.hand_out(*NAMES)
        for name in NAMES:
            options = self._data_servers() if name == "meta" else []
            command = ["filefly-meta" if name == "meta" else "filefly-data", "--addr", "127.0.0.1:0", *options]
            daemon = Daemon([*command, "--secret-file", "secret"], self.folder / name, name)
            self.daemons[name] = daemon
            daemon.start()

    def _data_servers(self) -> list[str]:
        addresses = ",".join(daemon.address for daemon in self.daemons.values())
        return ["--data-servers", addresses, "--replicas", "2", "--health-interval", "1"]

    def hand_out(self, *names: str) -> None:
        """Copy the secret, in one step each."""
        for name in names:
            shutil.copy2(self.secret, self.folder / name / "new")
            (self.folder / name / "new").replace(self.folder / name / "secret")

    def hand_out_and_wait(self, name: str) -> None:
        """Copy the secret to one of them, and return once it has read it."""
        self.hand_out(name)
        key, log = read_secret(self.secret).signing.id, self.daemons[name].log
        wait_until(lambda: f"was read again: key {key}" in log.read_text(), f"{name} to read its secret again")

    def ask(self, keyring: Keyring, **request: Any) -> Any:
        """Return the metadata server's answer to an administrator."""
        token = issue_token(keyring, Token("t-1", Role.ADMIN))
        return converse(self.daemons["meta"], {"command": "auth", "token": token}, request)[1]

    def put_and_fetch(self, name: str, keyring: Keyring) -> Any:
        """Store a file on both data servers by the plan's tickets, and return what the metadata server reads there."""
        plan = self.ask(keyring, command="store_file", file_name=name, file_size=len(HELLO))["metadata"]
        for each in ("data1", "data2"):
            daemon = self.daemons[each]
            ticket = plan["tickets"][daemon.address]
            store = {"command": "store", "block_id": plan["blocks"][0]["id"], "size": len(HELLO), "ticket": ticket}
            [stored] = converse(daemon, store, payload=HELLO)
            assert "ok" == stored["status"], stored
        fetched = self.ask(keyring, command="fetch_file", file_name=name)
        return fetched.get("data", fetched)

    def healthy(self, keyring: Keyring) -> bool:
        """Return whether the metadata server gets on with both data servers."""
        servers = self.ask(keyring, command="list_data_servers")["servers"]
        return [True, True] == [server["healthy"] for server in servers]

    def stop(self) -> None:
        """Stop everything; nobody has complained."""
        for daemon in reversed(self.daemons.values()):
            daemon.stop()
            log = daemon.log.read_text()
            for complaint in ("Traceback", "different secrets", "retired", " is down"):
                assert complaint not in log, log


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Run such a cluster."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
        cluster.stop()
    finally:
        for daemon in cluster.daemons.values():
            if daemon.running.poll() is None:
                daemon.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path) as cluster:
        yield cluster


def test_a_key_is_changed_in_a_running_cluster(cluster: Cluster) -> None:
    """The file goes to the data servers first and to the metadata server last; all work with all, at every step."""
    hello = b64encode(HELLO).decode()
    first = read_secret(cluster.secret)
    wait_until(lambda: cluster.healthy(first), "the data servers to be up")
    assert hello == cluster.put_and_fetch("before", first)
    second = rotate_secret(cluster.secret)
    for name in NAMES:
        cluster.hand_out_and_wait(name)
        assert hello == cluster.put_and_fetch(f"{name} has the new key", first)
    assert hello == cluster.put_and_fetch("with a new token", second)
    last = retire_keys(cluster.secret)
    cluster.hand_out(*NAMES)
    wait_until(
        lambda: "error" == cluster.ask(first, command="list_files")["status"], "the metadata server to retire the key"
    )
    assert hello == cluster.put_and_fetch("with the new key alone", last)
    assert cluster.healthy(last)
