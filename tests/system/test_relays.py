"""Somebody in the middle passes on what daemons say to each other: nobody becomes a daemon by that."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from filefly.security.keys import create_secret, read_secret
from filefly.security.tokens import Role, Token, issue_token
from tests.system.processes import Daemon, Processes, connect, processes, wait_until

SECRET = ("--secret-file", "secret")
_MOST_EXCHANGES = 3  # a proof takes two


@define(eq=False)
class Closed:
    """A closed cluster with one data server, which has the block `f-0`."""

    cluster: Processes
    token: str

    def ask(self, command: str, **fields: Any) -> Any:
        """Return the metadata server's answer to an administrator."""
        return self.cluster.ask({"command": "auth", "token": self.token}, {"command": command, **fields})[1]


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Closed]:
    create_secret(tmp_path / "secret")
    token = issue_token(read_secret(tmp_path / "secret"), Token("admin", Role.ADMIN))
    with processes(tmp_path, "--health-interval", "1", *SECRET, data_servers=1, data_options=SECRET) as cluster:
        here = Closed(cluster, token)
        (tmp_path / "token").touch(mode=0o600)
        (tmp_path / "token").write_text(token)
        wait_until(lambda: "up" == here.ask("list_data_servers")["servers"][0]["state"], "the data server to be up")
        cluster.client("--token-file", "token", "upload", "-q", "-", "--name", "f", stdin=b"hello")
        yield here


@contextmanager
def relayed(trap: socket.socket, to: Daemon) -> Iterator[Any]:
    """Pass on what the metadata server says to `trap`; yield what then asks `to` on that connection."""
    trap.settimeout(30)
    with closing(trap), closing(trap.accept()[0]) as caught, closing(connect(to.ports[0])) as target:
        caught.settimeout(5)
        asking, answering = caught.makefile("rb"), target.makefile("rb")

        def pass_on(line: bytes) -> bytes:
            target.sendall(line)
            return answering.readline()

        for _ in range(_MOST_EXCHANGES):
            try:
                line = asking.readline()
            except TimeoutError:
                break
            if not line:
                break
            caught.sendall(pass_on(line))
        yield lambda **request: json.loads(pass_on(json.dumps(request).encode() + b"\n"))


def test_who_takes_a_data_servers_port_is_no_daemon_to_the_metadata_server(closed: Closed) -> None:
    """Any account on the machine can, while the data server is being restarted."""
    [data] = closed.cluster.data
    data.stop()
    trap = socket.create_server(("127.0.0.1", data.ports[0]))
    with relayed(trap, closed.cluster.meta) as ask:
        assert "unauthorized" == ask(command="delete_file", file_name="f")["code"]
    data.start()
    assert ["f"] == [file["name"] for file in closed.ask("list_files")["files"]]


def test_who_registers_an_address_is_no_daemon_to_a_data_server(closed: Closed) -> None:
    """Administrators look after a cluster, but give no orders to data servers themselves."""
    [data] = closed.cluster.data
    trap = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{trap.getsockname()[1]}"
    assert "ok" == closed.ask("register_data_server", data_server_addr=address)["status"]
    with relayed(trap, data) as ask:
        assert "unauthorized" == ask(command="delete", block_id="f-0")["code"]
    assert {"f-0": b"hello"} == closed.cluster.block_files()
