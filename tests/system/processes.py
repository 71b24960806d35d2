"""Daemons as real processes on free loopback ports, started as a user would and ended as a machine might."""

import base64
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field

BIN = Path(sys.executable).parent
"""Where `twistd` and `filefly-client` of this environment are."""

DEADLINE_SECONDS = 30.0
_POLL_SECONDS = 0.02
_GOOD_ENDS = (-signal.SIGTERM, -signal.SIGKILL)  # twistd shuts down on SIGTERM, and then ends by it
_LISTENING = re.compile(r"(filefly-\w+) is listening on \S+:(\d+)(?:\"\})?$", re.MULTILINE)  # also in JSON


def wait_until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Return once `condition` holds; fails, saying `what` was waited for, if that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} seconds for {what}"
        time.sleep(_POLL_SECONDS)


def listening_ports(log: str) -> list[int]:
    """Return the ports of the daemons that say in a log that they listen."""
    return [int(port) for _daemon, port in _LISTENING.findall(log)]


@define(eq=False)
class Daemon:
    """One `twistd -n` process; its log is `log`, its ports are read from there."""

    arguments: Sequence[str]
    folder: Path
    name: str
    ports: list[int] = field(factory=list)
    process: subprocess.Popen[bytes] | None = None
    _log_offset: int = 0

    @property
    def log(self) -> Path:
        """The file that its output goes to."""
        return self.folder / f"{self.name}.log"

    @property
    def address(self) -> str:
        """`HOST:PORT` of its first port."""
        return f"127.0.0.1:{self.ports[0]}"

    def start(self, wait: bool = True) -> "Daemon":
        """Start it, on the ports it had before if it ran before."""
        arguments = list(self.arguments)
        if self.ports and "--addr" in arguments:
            arguments[arguments.index("--addr") + 1] = self.address
        with self.log.open("ab") as log:
            self._log_offset = log.tell()
            self.process = subprocess.Popen(
                [BIN / "twistd", "-n", "--pidfile=", *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        if wait:
            self.wait_until_listening()
        return self

    def wait_until_listening(self) -> None:
        """Return once it serves."""

        def listens() -> bool:
            found = listening_ports(self.log.read_bytes()[self._log_offset :].decode())
            if found:
                self.ports = found
                return True
            assert self.running.poll() is None, f"{self.name} did not start:\n{self.log.read_text()}"
            return False

        wait_until(listens, f"{self.name} to listen")

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process, which must have been started."""
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        """End it as a power cut would: kill -9."""
        self.running.kill()
        self.running.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it neither answer nor end until the end of the block, as if it were cut off: SIGSTOP, then SIGCONT."""
        self.running.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.running.send_signal(signal.SIGCONT)

    def begin_stop(self) -> None:
        """Tell it to end."""
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it as `systemctl stop` would, and return its exit status."""
        self.begin_stop()
        return self.wait()

    def wait(self) -> int:
        """Wait for its end and return its exit status; a second SIGTERM would put a traceback into its log."""
        return self.running.wait(DEADLINE_SECONDS)

    def open_files(self) -> int:
        """Return how many files, connections included, it has open."""
        return len(os.listdir(f"/proc/{self.running.pid}/fd"))

    def forget_peak_memory(self) -> None:
        """Let the peak begin again at what is resident now."""
        Path(f"/proc/{self.running.pid}/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """Return the most memory it ever had resident, in bytes."""
        return peak_memory(self.running.pid)


def peak_memory(pid: int) -> int:
    """Return the most memory that a running process ever had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024


@define(eq=False)
class Processes:
    """A metadata server and data servers, and ways to talk to them."""

    folder: Path
    meta: Daemon
    data: list[Daemon]

    @property
    def all(self) -> list[Daemon]:
        """Every daemon."""
        return [self.meta, *self.data]

    def kill(self) -> None:
        """End every daemon at once, as a power cut would."""
        for daemon in self.all:
            daemon.running.kill()
        for daemon in self.all:
            daemon.running.wait()

    def start(self) -> None:
        """Start every daemon again."""
        for daemon in self.all:
            daemon.start(wait=False)
        for daemon in self.all:
            daemon.wait_until_listening()

    # Talking

    def ask(self, *requests: Any, daemon: Daemon | None = None) -> list[Any]:
        """Send requests to a daemon, the metadata server by default, on one connection; return the replies."""
        lines = b"".join(json.dumps(request).encode() + b"\n" for request in requests)
        return [json.loads(line) for line in talk((daemon or self.meta).ports[0], lines).splitlines()]

    def ask_one(self, command: str, daemon: Daemon | None = None, **fields: Any) -> Any:
        """Send one request on a connection of its own, as the smallest programs do, and return its reply."""
        [reply] = self.ask({"command": command, **fields}, daemon=daemon)
        return reply

    def store_blocks(self, plan: Mapping[str, Any], data: bytes) -> None:
        """Store the blocks of a plan's metadata as base64, one connection each."""
        offset = 0
        for block in plan["blocks"]:
            piece = base64.b64encode(data[offset : offset + block["size"]]).decode()
            offset += block["size"]
            for replica in block["replicas"]:
                [server] = [each for each in self.data if each.address == replica["data_server"]]
                reply = self.ask_one("store", server, block_id=block["id"], data=piece)
                assert reply["status"] == "ok", reply

    def store_by_hand(self, name: str, data: bytes, **fields: Any) -> Any:
        """Plan a file by its size and store its blocks; return the plan. Reading it commits it."""
        reply = self.ask_one("store_file", file_name=name, file_size=len(data), **fields)
        assert reply["status"] == "ok", reply
        self.store_blocks(reply["metadata"], data)
        return reply["metadata"]

    def fetch(self, name: str) -> bytes:
        """Return a file's bytes as `fetch_file` gives them in base64."""
        reply = self.ask_one("fetch_file", file_name=name)
        assert reply["status"] == "ok", reply
        return base64.b64decode(reply["data"])

    def names(self) -> list[str]:
        """Return the names of the committed files."""
        return [file["name"] for file in self.ask_one("list_files", limit=10_000)["files"]]

    def client(
        self, *arguments: str | Path, stdin: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `filefly-client` to its end."""
        return subprocess.run(
            [BIN / "filefly-client", "--metadata-addr", self.meta.address, *arguments],
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            check=check,
            timeout=300,
        )

    # Looking

    def storage(self, number: int) -> Path:
        """Return the storage directory of data server `number`, counted from 1."""
        return self.folder / f"blocks{number}"

    def block_files(self, *numbers: int) -> dict[str, bytes]:
        """Return the block files in the storage directories, or in those of the data servers `numbers`."""
        chosen = numbers or range(1, len(self.data) + 1)
        blocks: dict[str, bytes] = {}
        for file in [file for number in chosen for file in self.storage(number).iterdir() if file.name[0] != "."]:
            with suppress(FileNotFoundError):  # it was moved or deleted meanwhile
                blocks[file.name] = file.read_bytes()
        return blocks

    def number_of(self, query: str) -> int:
        """Return the number that an SQL query of the catalog gives, while the metadata server runs."""
        with closing(sqlite3.connect(f"file:{self.folder}/filefly-catalog.sqlite?mode=ro", uri=True)) as catalog:
            [[number]] = catalog.execute(query)
            return int(number)

    def unfinished(self) -> list[Path]:
        """Return what is in the storage directories of stores under way.

        The identity is not: it is written there too, whenever the metadata server has a new generation to tell.
        """
        numbers = range(1, len(self.data) + 1)
        files = [file for number in numbers for file in (self.storage(number) / ".incoming").iterdir()]
        return [file for file in files if file.name != "identity"]


def free_ports(count: int) -> int:
    """Return the first of `count` ports in a row that nobody uses; below those that the kernel gives out itself."""
    for first in range(10_000 + os.getpid() * 16 % 20_000, 32_000, 16):
        with ExitStack() as taken, suppress(OSError):
            for port in range(first, first + count):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no free ports")


def connect(port: int) -> socket.socket:
    """Connect to a port of this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def talk(port: int, data: bytes) -> bytes:
    """Send bytes to a port of this machine, close the sending side as `nc -N` does, and return what comes back."""
    with connect(port) as peer:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        answer = bytearray()
        while chunk := peer.recv(1 << 20):
            answer += chunk
        return bytes(answer)


@contextmanager
def processes(
    folder: Path, *meta_options: str, data_servers: int = 2, data_options: Sequence[str] = ()
) -> Iterator[Processes]:
    """Run a metadata server and data servers in `folder` until the end of the block.

    Then none of them may have logged a traceback, and all must end well when they are told to.
    """
    data = [
        Daemon(
            ["filefly-data", "--addr", "127.0.0.1:0", "--storage-dir", f"blocks{number}", *data_options],
            folder,
            f"data{number}",
        )
        for number in range(1, data_servers + 1)
    ]
    started: list[Daemon] = []
    try:
        for daemon in data:
            started.append(daemon)
            daemon.start(wait=False)
        for daemon in data:
            daemon.wait_until_listening()
        addresses = ",".join(daemon.address for daemon in data)
        meta = Daemon(
            ["filefly-meta", "--addr", "127.0.0.1:0", "--data-servers", addresses, *meta_options], folder, "meta"
        )
        started.append(meta)
        yield Processes(folder, meta.start(), data)
        for daemon in reversed(started):
            daemon.begin_stop()
        for daemon in reversed(started):
            status = daemon.wait()
            log = daemon.log.read_text()
            assert status in _GOOD_ENDS, f"{daemon.name} ended with {status}:\n{log}"
            assert "Traceback" not in log, log
    finally:
        for daemon in started:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()
