"""Daemons as they are run for good: in the background, with a pid file and a log, away from where they were started."""

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from attrs import define

from filefly.units import MIB
from tests.system.processes import BIN, Daemon, connect, free_ports, listening_ports, talk, wait_until

DATA = b"hello from the background"
ANY_PORT = "127.0.0.1:0"
STORAGE_SPELLINGS = ["--storage_dir", "--storage-dir"]


@define(eq=False)
class Background:
    """A daemon in the background."""

    pid_file: Path
    log: Path
    pid: int
    ports: list[int]

    @property
    def address(self) -> str:
        """Where the first of its services listens."""
        return f"127.0.0.1:{self.ports[0]}"

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End it as README does, by `kill`, and wait for its end."""
        self.terminate()
        wait_until(lambda: not lives(self.pid), f"the end of {self.pid_file.stem}")


def lives(pid: int) -> bool:
    """Whether a process that is nobody's child here still runs; one that nobody waits for stays as a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def accepts(port: int) -> bool:
    """Whether something listens on a port."""
    with suppress(OSError):
        connect(port).close()
        return True
    return False


@contextmanager
def background(
    folder: Path, *arguments: str, services: int = 1, twistd_options: Sequence[str] = (), name: str = ""
) -> Iterator[Background]:
    """Run `twistd` without -n in `folder`; it must start silently, and its log must not hold a traceback at the end."""
    name = name or arguments[0]
    pid_file, log = folder / f"{name}.pid", folder / f"{name}.log"
    began = log.stat().st_size if log.exists() else 0
    command = [str(BIN / "twistd"), f"--pidfile={pid_file}", f"--logfile={log}", *twistd_options, *arguments]
    printed = folder / f"{name}.out"
    with printed.open("wb") as out:  # not a pipe, which would wait for the daemon too if it kept it open
        status = subprocess.run(command, cwd=folder, stdout=out, stderr=out, check=False, timeout=60).returncode
    assert (0, b"") == (status, printed.read_bytes())
    daemon = Background(pid_file, log, int(pid_file.read_text()), [])

    def listens() -> bool:
        daemon.ports = listening_ports(log.read_bytes()[began:].decode())
        assert lives(daemon.pid), log.read_text()
        return len(daemon.ports) == services

    try:
        wait_until(listens, f"{name} to listen")
        for port in daemon.ports:  # once it answers, its reactor runs, and with it what twistd does on SIGTERM
            assert b'"ok"' in talk(port, b'{"command":"ping"}\n')
        yield daemon
        if lives(daemon.pid):
            daemon.stop()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if lives(daemon.pid):
            os.kill(daemon.pid, signal.SIGKILL)


def data_server(folder: Path, *options: str) -> Sequence[str]:
    return ("filefly-data", "--addr", ANY_PORT, "--storage-dir", str(folder / "blocks"), *options)


def client(address: str, *arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run `filefly-client` against a metadata server."""
    return subprocess.run(
        [BIN / "filefly-client", "--metadata-addr", address, *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
    )


def store(port: int, block_id: str, data: bytes) -> bytes:
    """Store a block by hand and return the reply."""
    request = {"command": "store", "block_id": block_id, "data": base64.b64encode(data).decode()}
    return talk(port, json.dumps(request).encode() + b"\n")


# Two servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Background, Background]]:
    """Run a data server and a metadata server."""
    folder = tmp_path_factory.mktemp("background")
    with (
        background(folder, *data_server(folder)) as data,
        background(folder, "filefly-meta", "--addr", ANY_PORT, "--data-servers", data.address) as meta,
    ):
        yield data, meta


def test_a_file_goes_up_and_comes_down(servers: tuple[Background, Background]) -> None:
    """Servers in the background take a file and give it back."""
    _data, meta = servers
    uploaded = client(meta.address, "upload", "-", "--name", "letter", stdin=DATA)
    assert 0 == uploaded.returncode, uploaded
    assert DATA == client(meta.address, "cat", "letter").stdout


def test_daemons_have_left_the_terminal(servers: tuple[Background, Background]) -> None:
    """The process that the pid file names is in a session of its own: closing the terminal does not end it."""
    assert os.getsid(0) not in {os.getsid(daemon.pid) for daemon in servers}


def test_logs_say_where_the_daemons_listen(servers: tuple[Background, Background]) -> None:
    """Each daemon's log has its address."""
    names = [daemon.log.stem for daemon in servers]
    assert ["filefly-data", "filefly-meta"] == names
    for name, daemon in zip(names, servers, strict=True):
        assert f"{name} is listening on {daemon.address}" in daemon.log.read_text()


def test_sigterm_ends_a_data_server(tmp_path: Path) -> None:
    """After `kill` a data server's port is closed, and its pid file gone."""
    with background(tmp_path, *data_server(tmp_path)) as data:
        assert accepts(data.ports[0])
        data.stop()
        assert (False, False) == (accepts(data.ports[0]), data.pid_file.exists())


def test_sigterm_ends_a_metadata_server(tmp_path: Path) -> None:
    """After `kill` a metadata server's port is closed, its pid file gone, and its catalog free for the next one."""
    arguments = ("filefly-meta", "--addr", ANY_PORT, "--data-servers", "127.0.0.1:1")
    with background(tmp_path, *arguments) as meta:
        assert accepts(meta.ports[0])
        meta.stop()
        assert (False, False) == (accepts(meta.ports[0]), meta.pid_file.exists())
    with background(tmp_path, *arguments) as again:
        assert accepts(again.ports[0])


def test_a_quiet_connection_does_not_delay_the_end(tmp_path: Path) -> None:
    """A client that is connected and says nothing is hung up on."""
    with background(tmp_path, *data_server(tmp_path)) as data, connect(data.ports[0]) as idle:
        idle.sendall(b'{"command":"ping"}\n')
        assert b'"ok"' in idle.recv(1000)
        data.stop()
        assert b"" == idle.recv(1000)


# Folders


@pytest.mark.parametrize("spelling", STORAGE_SPELLINGS)
def test_a_relative_storage_directory_is_where_it_was_started(tmp_path: Path, spelling: str) -> None:
    """A daemon that twistd moves to --rundir keeps its blocks below the folder it was started in."""
    (tmp_path / "elsewhere").mkdir()
    with background(
        tmp_path, "filefly-data", "--addr", ANY_PORT, spelling, "my-blocks", twistd_options=["--rundir=elsewhere"]
    ) as data:
        assert b'"ok"' in store(data.ports[0], "letter-0", DATA)
        assert DATA == (tmp_path / "my-blocks" / "letter-0").read_bytes()
        assert [] == list((tmp_path / "elsewhere").iterdir())


def test_the_default_storage_directory_is_where_it_was_started(tmp_path: Path) -> None:
    """Without --storage-dir the blocks are in `blocks`."""
    (tmp_path / "elsewhere").mkdir()
    with background(tmp_path, "filefly-data", "--addr", ANY_PORT, twistd_options=["--rundir=elsewhere"]) as data:
        store(data.ports[0], "letter-0", DATA)
        assert DATA == (tmp_path / "blocks" / "letter-0").read_bytes()


def test_a_relative_catalog_is_where_it_was_started(tmp_path: Path) -> None:
    """A metadata server that twistd moves to --rundir keeps its catalog below the folder it was started in."""
    (tmp_path / "elsewhere").mkdir()
    arguments = ("--addr", ANY_PORT, "--data-servers", "127.0.0.1:1", "--catalog", "sqlite:///my.sqlite")
    with background(tmp_path, "filefly-meta", *arguments, twistd_options=["--rundir=elsewhere"]) as meta:
        assert b'"ok"' in talk(meta.ports[0], b'{"command":"store_file","file_name":"letter","file_size":0}\n')
        assert (tmp_path / "my.sqlite").read_bytes().startswith(b"SQLite format 3")
        assert [] == list((tmp_path / "elsewhere").iterdir())


# One process


def test_one_process_is_a_whole_filefly(tmp_path: Path) -> None:
    """`twistd filefly` serves files from a metadata server and three data servers, each with a folder below --root."""
    addr = f"127.0.0.1:{free_ports(4)}"
    arguments = ("filefly", "--root", "root", "--data-servers-count", "3", "--addr", addr, "--block-size", "8")
    with background(tmp_path, *arguments, services=4) as whole:
        uploaded = client(addr, "upload", "-", "--name", "letter", stdin=DATA)
        assert 0 == uploaded.returncode, uploaded
        assert DATA == client(addr, "cat", "letter").stdout
        blocks = [file.name for number in (1, 2, 3) for file in (tmp_path / "root" / f"data{number}").glob("letter-*")]
        assert ["letter-0", "letter-1", "letter-2", "letter-3"] == sorted(blocks)
        whole.stop()
        assert [False] * 4 == [accepts(port) for port in whole.ports]
    with background(tmp_path, *arguments, services=4):
        assert DATA == client(addr, "cat", "letter").stdout


def test_one_process_on_a_network_warns_once(tmp_path: Path) -> None:
    """However many servers it has."""
    arguments = ["filefly", "--root", "root", "--addr", f":{free_ports(3)}"]
    daemon = Daemon(arguments, tmp_path, "all").start()
    daemon.stop()
    assert 1 == daemon.log.read_text().count("can read, overwrite and delete everything")


# Ending while something is under way


def test_a_store_under_way_is_finished_before_the_end(tmp_path: Path) -> None:
    """A data server that is told to end takes no new connection, but answers the store whose bytes still come."""
    payload = bytes(range(256)) * 4096 * 4
    with background(tmp_path, *data_server(tmp_path)) as data, connect(data.ports[0]) as peer:
        header = json.dumps({"command": "store", "block_id": "letter-0", "size": len(payload)}).encode()
        peer.sendall(header + b"\n" + payload[:MIB])
        wait_until(lambda: any((tmp_path / "blocks" / ".incoming").iterdir()), "the store to begin")
        data.terminate()
        wait_until(lambda: not accepts(data.ports[0]), "the port to close")
        peer.sendall(payload[MIB:])
        assert "ok" == json.loads(peer.makefile("rb").readline())["status"]
        assert payload == (tmp_path / "blocks" / "letter-0").read_bytes()


def test_an_upload_cut_off_is_a_clear_error_and_works_after_a_restart(tmp_path: Path) -> None:
    """A client whose only data server ends during an upload says so in a sentence; after a restart it succeeds."""
    big = tmp_path / "big"
    big.touch()
    os.truncate(big, 200 * MIB)
    port = free_ports(1)
    arguments = ("filefly-data", "--addr", f"127.0.0.1:{port}")
    meta_arguments = ("--addr", ANY_PORT, "--data-servers", f"127.0.0.1:{port}", "--block-size", "1MiB")
    with background(tmp_path, "filefly-meta", *meta_arguments) as meta:
        command = [
            str(BIN / "filefly-client"),
            "--metadata-addr",
            meta.address,
            "upload",
            "--concurrency",
            "1",
            str(big),
        ]
        with (
            background(tmp_path, *arguments) as data,
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as uploading,
        ):
            assert uploading.stderr is not None
            assert uploading.stderr.readline().startswith("stored big-0")
            data.stop()
            said = uploading.stderr.read()
        assert 1 == uploading.returncode, said
        assert "Traceback" not in said
        assert "cannot reach 127.0.0.1:" in said.splitlines()[-1], said
        assert "not_found" in talk(meta.ports[0], b'{"command":"fetch_file","file_name":"big"}\n').decode()
        with background(tmp_path, *arguments):
            again = client(meta.address, "upload", "-q", big)
            assert (0, b"", b"") == (again.returncode, again.stdout, again.stderr)
