"""Idle, slow, deaf and senseless peers in number: others are served as before, and the daemons' memory is bounded."""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from filefly.units import GIB, MIB
from tests.system.hostile import crowd
from tests.system.processes import Processes, processes
from tests.system.test_memory import Local, digest_of

MEMORY_LIMIT = 150 * MIB
LEAST_RATIO = 0.7
PAIRS = 3
FEW = {"idle": 20, "slow": 10, "deaf": 12, "garbage": 4}
MANY = {"idle": 500, "slow": 50, "deaf": 50, "garbage": 20}
FILES_LISTED = 2000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Processes]:
    """Run a cluster that holds the file `large`, of eight blocks on one data server, and many small files."""
    with processes(tmp_path, "--trash-grace", "0", data_servers=1, data_options=["--no-local-reads"]) as running:
        running.client("upload", "-q", "--name", "large", Local.make(tmp_path / "seed", 64 * MIB).path)
        requests = (
            {"command": "store_file", "file_name": f"{number:05}" + "x" * 200, "data": ""}
            for number in range(FILES_LISTED)
        )
        running.ask(*requests)
        yield running


def block_of(cluster: Processes) -> str:
    """Return the id of a block of `large`."""
    return str(cluster.ask_one("get_metadata", file_name="large")["metadata"]["blocks"][0]["id"])


def move(cluster: Processes, local: Local) -> tuple[float, float]:
    """Bring a file up and down again, and return the seconds of both; what comes down must be what went up."""
    copy = cluster.folder / "copy"
    begun = time.perf_counter()
    cluster.client("upload", "-q", "--name", "moved", local.path)
    up = time.perf_counter()
    cluster.client("download", "-q", "moved", "-o", copy)
    down = time.perf_counter()
    with copy.open("rb") as stream:
        assert local.digest == digest_of(stream)
    copy.unlink()
    return up - begun, down - up


def assert_bounded(cluster: Processes) -> dict[str, int]:
    peaks = {daemon.name: daemon.peak_memory() for daemon in cluster.all}
    assert max(peaks.values()) < MEMORY_LIMIT, peaks
    return {name: peak // MIB for name, peak in peaks.items()}


def test_a_few_hostile_peers_change_nothing(cluster: Processes) -> None:
    """While they are at it 8 MiB go up and down, and no daemon takes 150 MiB."""
    local = Local.make(cluster.folder / "local", 8 * MIB)
    with crowd(cluster, block_of(cluster), **FEW):
        move(cluster, local)
        for daemon in cluster.all:
            assert "ok" == cluster.ask_one("ping", daemon)["status"]
    assert_bounded(cluster)


@pytest.mark.slow
def test_hundreds_of_hostile_peers_do_not_slow_others_down(cluster: Processes) -> None:
    """1 GiB goes up and down at 0.7 of its speed without them, or faster; no daemon takes 150 MiB; prints figures."""
    local = Local.make(cluster.folder / "local", GIB)
    move(cluster, local)
    alone, among = [], []
    for _ in range(PAIRS):
        alone.append(move(cluster, local))
        with crowd(cluster, block_of(cluster), **MANY) as hostile:
            among.append(move(cluster, local))
        print(f"thrown out: {hostile.thrown_out}")
    print(f"memory in MiB: {assert_bounded(cluster)}")
    for way, what in enumerate(("up", "down")):
        quiet, busy = median(times[way] for times in alone), median(times[way] for times in among)
        print(f"1 GiB {what}: {quiet:.2f} s alone, {busy:.2f} s among hostile peers: {quiet / busy:.2f} of its speed")
        assert quiet / busy >= LEAST_RATIO
