"""A closed cluster as real processes, in which things break: what mends it, and who goes on, does so under tickets."""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from filefly.security.keys import create_secret, read_secret
from filefly.security.tokens import Role, Token, issue_token
from tests.system.processes import BIN, Daemon, Processes, connect, processes, wait_until

SECRET = ("--secret-file", "secret")
OPTIONS = ("--block-size", "1KiB", "--replicas", "2", "--health-interval", "1", "--down-after", "1", *SECRET)
DATA = bytes(range(256)) * 10  # three blocks
MANY_BLOCKS = bytes(range(256)) * 500
PIPE_BYTES = 4096
"""As much as a transfer can tell of without being heard: less than half of MANY_BLOCKS."""


@define(eq=False)
class Closed:
    """A closed cluster with two data servers, with two copies of each block, and tokens in files."""

    cluster: Processes

    def token(self, name: str, role: Role) -> str:
        """Make a token, whose id is its name, in a file of that name; return it."""
        text = issue_token(read_secret(self.cluster.folder / "secret"), Token(name, role))
        file = self.cluster.folder / name
        file.touch(mode=0o600)
        file.write_text(text)
        return text

    def run(self, token: str, *arguments: str | Path, stdin: bytes | None = None) -> bytes:
        """Run filefly-client to its good end, and return what it prints."""
        return self.cluster.client("--token-file", token, *arguments, stdin=stdin).stdout

    def put(self, name: str, data: bytes) -> None:
        """Store a file."""
        self.run("write", "upload", "-q", "-", "--name", name, stdin=data)

    def ask(self, command: str, token: str = "admin", **fields: Any) -> Any:
        """Return the metadata server's answer to the holder of a token."""
        text = (self.cluster.folder / token).read_text()
        return self.cluster.ask({"command": "auth", "token": text}, {"command": command, **fields})[1]

    def blocks_of(self, name: str) -> list[Any]:
        """Return what the metadata server tells of a file's blocks."""
        blocks: list[Any] = self.ask("get_metadata", file_name=name)["metadata"]["blocks"]
        return blocks

    def copies_of(self, name: str, *numbers: int) -> list[bytes | None]:
        """Return a file's bytes as the disk of each data server has them, None where it lacks a block."""
        ids = [block["id"] for block in self.blocks_of(name)]
        return [self._copy_on(self.cluster.storage(number), ids) for number in numbers]

    def _copy_on(self, storage: Path, ids: Sequence[str]) -> bytes | None:
        try:
            return b"".join((storage / block_id).read_bytes() for block_id in ids)
        except FileNotFoundError:
            return None

    def wait_for_copies_of(self, name: str, data: bytes, *numbers: int) -> None:
        """Return once each of these data servers has the whole file."""
        wait_until(lambda: self.copies_of(name, *numbers) == [data] * len(numbers), f"copies of {name} on {numbers}")

    def state_of(self, daemon: Daemon) -> str | None:
        """Return how a data server is; None if it is none of the cluster's."""
        servers = self.ask("list_data_servers")["servers"]
        return next((server["state"] for server in servers if server["address"] == daemon.address), None)

    def wait_until_up(self, *daemons: Daemon) -> None:
        """Return once the metadata server gets on with these data servers."""
        wait_until(lambda: {self.state_of(daemon) for daemon in daemons} == {"up"}, "the data servers to be up")

    @contextmanager
    def another_data_server(self) -> Iterator[Daemon]:
        """Run a third data server, of which nobody has heard yet."""
        arguments = ["filefly-data", "--addr", "127.0.0.1:0", "--storage-dir", "blocks3", *SECRET, "--audit", "all"]
        daemon = Daemon(arguments, self.cluster.folder, "data3").start()
        try:
            yield daemon
            self.cluster.meta.stop()  # it would miss the data server
            daemon.stop()
            assert "Traceback" not in daemon.log.read_text()
        finally:
            daemon.kill()

    def add(self, daemon: Daemon) -> None:
        """Make a data server one of the cluster's."""
        assert {"status": "ok"} == self.ask("register_data_server", data_server_addr=daemon.address)
        self.wait_until_up(daemon)

    @contextmanager
    def in_the_middle_of(self, token: str, *arguments: str | Path) -> Iterator[None]:
        """Hold up a transfer after its first blocks, until the end of the block; then it must come to a good end."""
        options = ["--metadata-addr", self.cluster.meta.address, "--token-file", token]
        program = [BIN / "filefly-client", *options, *arguments, "--concurrency", "1"]
        with subprocess.Popen(program, bufsize=0, cwd=self.cluster.folder, stderr=subprocess.PIPE) as client:
            try:
                assert client.stderr is not None
                fcntl.fcntl(client.stderr, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                said = client.stderr.readline()
                assert b"-0" in said, said + client.stderr.read()
                yield
                assert client.poll() is None, "it was not held up"
                said = client.stderr.read()
                assert 0 == client.wait(60), said.decode()
            finally:
                client.kill()


@contextmanager
def running(folder: Path) -> Iterator[Closed]:
    """Run such a cluster."""
    create_secret(folder / "secret")
    with processes(folder, *OPTIONS, "--repair-delay", "1", data_options=[*SECRET, "--audit", "all"]) as cluster:
        closed = Closed(cluster)
        for role in Role:
            closed.token(role, role)
        closed.wait_until_up(*cluster.data)
        yield closed


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    """Share a cluster: a test here leaves both data servers running, and whole."""
    with running(tmp_path_factory.mktemp("closed")) as closed:
        yield closed


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Closed]:
    """Have a cluster of one's own."""
    with running(tmp_path) as closed:
        yield closed


def wait_until_told(daemon: Daemon, *fields: str) -> None:
    """Return once a daemon's log tells of a request with these fields."""

    def told() -> bool:
        return any(all(field in line for field in fields) for line in daemon.log.read_text().splitlines())

    wait_until(told, f"{daemon.name} to tell of {fields}")


def test_a_data_server_without_the_secret_is_given_nothing(tmp_path: Path) -> None:
    """Neither before it was asked who it is, nor after it."""
    create_secret(tmp_path / "secret")
    with processes(tmp_path, *SECRET, data_servers=1) as cluster:
        closed = Closed(cluster)
        closed.token("admin", Role.ADMIN)
        nowhere = "replica count 1 exceeds available data servers (0)"
        assert nowhere == closed.ask("store_file", file_name="a", file_size=7)["error"]
        wait_until(lambda: closed.state_of(cluster.data[0]) == "down", "the data server to be refused")
        assert nowhere == closed.ask("store_file", file_name="a", file_size=7)["error"]
        refused = f"data server {cluster.data[0].address}: it has no secret (--secret-file)"
        assert 1 == cluster.meta.log.read_text().count(refused)


# What is lost


def test_what_a_reader_finds_is_mended(closed: Closed) -> None:
    """A token for reading is enough to say that a block is missing, or is not what it was; daemons do the rest."""
    closed.put("read", DATA)
    places = {daemon.address: (number, daemon) for number, daemon in enumerate(closed.cluster.data, 1)}
    mended = []
    for block in closed.blocks_of("read"):
        number, daemon = places[block["data_server"]]
        file = closed.cluster.storage(number) / block["id"]
        if block["id"] == "read-1":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[::-1])
        mended.append((daemon, block["id"]))
    assert DATA == closed.run("read", "cat", "read")
    closed.wait_for_copies_of("read", DATA, 1, 2)
    for daemon, block_id in mended:
        wait_until_told(daemon, "who=daemon", "command=copy", f"block_id={block_id}", "result=ok")


def test_a_storage_that_was_wiped_is_filled_again(closed: Closed) -> None:
    """Once an administrator has accepted the empty one."""
    closed.put("wiped", DATA)
    daemon = closed.cluster.data[1]
    daemon.stop()
    shutil.rmtree(closed.cluster.storage(2))
    daemon.start()
    wait_until(lambda: closed.state_of(daemon) == "down", "the empty storage to be refused")
    assert DATA == closed.run("read", "cat", "wiped")
    assert "forbidden" == closed.ask("accept", "write", data_server_addr=daemon.address)["code"]
    assert "ok" == closed.ask("accept", data_server_addr=daemon.address)["status"]
    closed.wait_for_copies_of("wiped", DATA, 1, 2)
    closed.put("later", DATA)
    assert [DATA, DATA] == closed.copies_of("later", 1, 2)


# Who goes on, and who does not


def test_an_upload_goes_on_with_another_data_server(own: Closed) -> None:
    """With a ticket for one that nobody knew when it was planned; what only the dead one lacks is copied there, too."""
    (own.cluster.folder / "large").write_bytes(MANY_BLOCKS)
    with own.another_data_server() as new:
        with own.in_the_middle_of("write", "upload", "large"):
            own.add(new)
            own.cluster.data[1].kill()
        assert MANY_BLOCKS == own.run("read", "cat", "large")
        wait_until_told(new, "who=token:write", "command=store", "block_id=large-", "result=ok")
        own.wait_for_copies_of("large", MANY_BLOCKS, 1, 3)


def test_a_data_server_is_drained_while_a_file_is_read(own: Closed) -> None:
    """Its reader gets tickets for where the blocks are now; daemons alone have copied them."""
    own.put("large", MANY_BLOCKS)
    first, old = own.cluster.data
    drain = {"command": "drain", "data_server_addr": old.address}
    assert "forbidden" == own.ask(**drain, token="write")["code"]
    with own.another_data_server() as new:
        with own.in_the_middle_of("read", "download", "large", "-o", "back"):
            own.add(new)
            wait_until(lambda: own.ask(**drain)["safe_to_remove"], "the data server to be drained")
            assert [MANY_BLOCKS, MANY_BLOCKS] == own.copies_of("large", 1, 3)
            assert {"status": "ok"} == own.ask("remove_data_server", data_server_addr=old.address)
            old.kill()
            first.kill()
        assert MANY_BLOCKS == (own.cluster.folder / "back").read_bytes()
        wait_until_told(new, "who=daemon", "command=copy", "block_id=large-", "result=ok")
        wait_until_told(new, "who=token:read", "command=retrieve", "result=ok")


def test_a_token_is_revoked_in_the_middle_of_a_conversation(closed: Closed) -> None:
    """Its next request is refused, and its tickets are not renewed; others go on."""
    auth = {"command": "auth", "token": closed.token("lost", Role.WRITE)}
    with connect(closed.cluster.meta.ports[0]) as peer, peer.makefile("rb") as heard:

        def ask(request: Any) -> Any:
            peer.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(heard.readline())

        assert {"status": "ok", "role": "write"} == ask(auth)
        plan = ask({"command": "store_file", "file_name": "begun", "file_size": 5, "explicit": True})["metadata"]
        renew = {"command": "renew_plan", "generation": plan["generation"]}
        assert 2 == len(ask(renew)["tickets"])
        assert {"status": "ok"} == closed.ask("revoke_token", token_id="lost")
        for request in (renew, {**renew, "command": "complete_file"}, {"command": "list_files"}, auth):
            assert "the token was revoked; ask for another one" == ask(request)["error"]
        assert {"status": "ok"} == ask({"command": "ping"})
    assert "ok" == closed.ask("list_files", "write")["status"]
