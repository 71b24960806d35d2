"""Large files in little memory: up, down, and by `fetch_file` over plain nc."""

import binascii
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import IO

import pytest
from attrs import frozen

from filefly.units import GIB, MIB
from tests.system.processes import BIN, Processes, processes
from tests.system.talkers import need

QUICK = 192 * MIB
DAEMON_LIMIT = 120 * MIB
META_LIMIT = 150 * MIB
CLIENT_LIMIT = 200 * MIB
CHUNK = 4 * MIB

_MEASURE = """
import os, sys
pid = os.fork()
if not pid:
    os.execv(sys.argv[2], sys.argv[2:])
_pid, status, usage = os.wait4(pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Run a program from a small process: a fork of this one would count its memory as the program's."""


@frozen
class Local:
    """A file on this machine, no two blocks of which are alike, and its digest."""

    path: Path
    size: int
    digest: str

    @classmethod
    def make(cls, path: Path, size: int) -> "Local":
        source, digest = random.Random(size), sha256()
        with path.open("wb") as file:
            for _ in range(size // CHUNK):
                chunk = source.randbytes(CHUNK)
                digest.update(chunk)
                file.write(chunk)
        return cls(path, size, digest.hexdigest())


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Processes]:
    """Run a cluster with the default block size, whose daemons have done nothing yet."""
    with processes(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, local: Local) -> Iterator[Processes]:
    """Run a cluster that holds the file of 192 MiB."""
    with processes(tmp_path_factory.mktemp("filled")) as running:
        upload(running, local)
        yield running


@pytest.fixture
def holding(filled: Processes) -> Processes:
    """Return that cluster with the daemons' peaks so far forgotten."""
    for daemon in filled.all:
        daemon.forget_peak_memory()
    return filled


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Local:
    return Local.make(tmp_path_factory.mktemp("local") / "large", QUICK)


def digest_of(stream: IO[bytes]) -> str:
    digest = sha256()
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def digest_of_base64(stream: IO[bytes]) -> str:
    """Return the digest of the bytes that `data` of a reply to fetch_file has, without holding the reply."""
    head, _data, rest = stream.read(CHUNK).partition(b'"data":"')
    assert head.startswith(b'{"metadata":'), head[:200]
    digest, encoded, end = sha256(), rest, b""
    while not end:
        encoded, end, tail = encoded.partition(b'"')
        whole = len(encoded) if end else len(encoded) // 4 * 4
        digest.update(binascii.a2b_base64(encoded[:whole], strict_mode=True))
        if not end:
            chunk = stream.read(CHUNK)
            assert chunk, "the reply ended in the middle"
            encoded = encoded[whole:] + chunk
    assert b',"status":"ok"}\n' == tail + stream.read()
    return digest.hexdigest()


def digest_of_raw(stream: IO[bytes]) -> str:
    """Return the digest of the bytes behind the first line."""
    head = stream.readline()
    assert b'"status":"ok"' in head
    return digest_of(stream)


def client(cluster: Processes, *arguments: str | Path, stdout: int | None = subprocess.DEVNULL) -> tuple[int, str]:
    """Run filefly-client; return the most memory that it had resident, and the digest of its piped output."""
    peak = cluster.folder / "peak"
    command = [sys.executable, "-S", "-E", "-c", _MEASURE, str(peak), f"{BIN}/filefly-client"]
    command += ["--metadata-addr", cluster.meta.address, *map(str, arguments)]
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE) as process:
        digest = "" if process.stdout is None else digest_of(process.stdout)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert 0 == process.returncode, errors
    return int(peak.read_text()) * 1024, digest


def upload(cluster: Processes, local: Local) -> int:
    return client(cluster, "upload", "-q", "--name", "large", local.path)[0]


def nc(cluster: Processes, request: bytes) -> subprocess.Popen[bytes]:
    """Say one line to the metadata server by plain nc."""
    need("nc")
    host, _, port = cluster.meta.address.partition(":")
    process = subprocess.Popen(["nc", "-N", host, port], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(request + b"\n")
    process.stdin.close()
    return process


def fetch_by_nc(cluster: Processes, raw: bool) -> str:
    """Return the digest of the file's bytes as fetch_file gives them over plain nc."""
    flag = b"true" if raw else b"false"
    with nc(cluster, b'{"command":"fetch_file","file_name":"large","raw":%s}' % flag) as process:
        assert process.stdout is not None
        return digest_of_raw(process.stdout) if raw else digest_of_base64(process.stdout)


def assert_daemons_bounded(cluster: Processes, what: str) -> None:
    """Check and print every daemon's peak."""
    peaks = {daemon.name: daemon.peak_memory() for daemon in cluster.all}
    print(f"{what}: " + ", ".join(f"{name} {peak // MIB} MiB" for name, peak in peaks.items()))
    for name, peak in peaks.items():
        assert peak <= (META_LIMIT if name == "meta" else DAEMON_LIMIT), name


def test_a_large_upload_takes_little_memory(roomy: Processes, local: Local) -> None:
    """192 MiB go up with a client below 200 MiB and daemons below 120 MiB."""
    peak = upload(roomy, local)
    assert_daemons_bounded(roomy, f"192 MiB up, client {peak // MIB} MiB")
    assert peak <= CLIENT_LIMIT
    assert local.size == sum(len(data) for data in roomy.block_files().values())


def test_a_large_download_takes_little_memory(holding: Processes, local: Local) -> None:
    """192 MiB come down, whole, with a client below 200 MiB and daemons below 120 MiB."""
    peak, _ = client(holding, "download", "-q", "large", "-o", holding.folder / "copy")
    assert_daemons_bounded(holding, f"192 MiB down, client {peak // MIB} MiB")
    with (holding.folder / "copy").open("rb") as copy:
        assert local.digest == digest_of(copy)
    assert peak <= CLIENT_LIMIT


def test_cat_of_a_large_file_takes_little_memory(holding: Processes, local: Local) -> None:
    """192 MiB are printed, whole, with a client below 200 MiB and daemons below 120 MiB."""
    peak, digest = client(holding, "cat", "large", stdout=subprocess.PIPE)
    assert_daemons_bounded(holding, f"192 MiB by cat, client {peak // MIB} MiB")
    assert local.digest == digest
    assert peak <= CLIENT_LIMIT


@pytest.mark.parametrize("raw", [False, True], ids=["base64", "raw"])
def test_fetch_file_of_a_large_file_takes_little_memory(holding: Processes, local: Local, raw: bool) -> None:
    """192 MiB come over plain nc, whole, through a metadata server below 150 MiB."""
    need("nc")
    assert local.digest == fetch_by_nc(holding, raw)
    assert_daemons_bounded(holding, f"192 MiB by fetch_file, {'raw' if raw else 'base64'}")


@pytest.mark.slow
def test_2_gib_go_up_and_down_in_little_memory(roomy: Processes) -> None:
    """2 GiB go up, down and through cat, whole, in the same memory as 192 MiB; prints the peaks."""
    local = Local.make(roomy.folder / "local", 2 * GIB)
    up = upload(roomy, local)
    down, _ = client(roomy, "download", "-q", "large", "-o", roomy.folder / "copy")
    with (roomy.folder / "copy").open("rb") as copy:
        assert local.digest == digest_of(copy)
    os.unlink(roomy.folder / "copy")
    printed, digest = client(roomy, "cat", "large", stdout=subprocess.PIPE)
    assert local.digest == digest
    figures = f"2 GiB, client up {up // MIB} MiB, down {down // MIB} MiB, cat {printed // MIB} MiB"
    assert_daemons_bounded(roomy, figures)
    assert max(up, down, printed) <= CLIENT_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("raw", [False, True], ids=["base64", "raw"])
def test_fetch_file_of_1_gib_over_nc(roomy: Processes, raw: bool) -> None:
    """1 GiB comes over plain nc, whole, in the same memory as 192 MiB; prints the peaks."""
    need("nc")
    local = Local.make(roomy.folder / "local", GIB)
    upload(roomy, local)
    assert local.digest == fetch_by_nc(roomy, raw)
    assert_daemons_bounded(roomy, f"1 GiB by fetch_file, {'raw' if raw else 'base64'}")
