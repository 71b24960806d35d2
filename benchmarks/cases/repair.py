"""How fast what a lost data server had is copied to those that remain."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import define

from benchmarks.cluster import Cluster, DataServer
from benchmarks.measures import Row, Side, at_least
from benchmarks.place import Place, in_words, random_file
from benchmarks.processes import Failed, Processes, timed
from filefly.units import MIB

_SOON = ("--health-interval", "1", "--down-after", "1", "--repair-delay", "1")
_UNLIMITED = ("--repair-rate", "100GiB")  # by default it is kept to 100 MiB a second, to leave the disks to the users
_LONGEST_SECONDS = 120.0
_POLL_SECONDS = 0.005


def repair(place: Place) -> Iterator[Row]:
    """Lose one of three data servers, two replicas: against `cp` of the same bytes. What it waits does not count."""
    size = place.sizes.repair
    source = random_file(place.folder / "repair.bin", size)
    target = source.with_suffix(".cp")
    ours = _Loss(place, source)
    other = Side(lambda: size / MIB / timed(["cp", source, target]), target.unlink)
    own, others = place.in_turn(Side(ours.run, ours.clear), other)
    title = f"repair of a lost data server, 2 replicas of {in_words(size)}"
    yield Row("repair", title, place.name, "MiB/s", own, "cp", others, at_least(0.3))
    source.unlink()


@define(eq=False)
class _Loss:
    """A cluster that loses a data server; a new one each time."""

    place: Place
    source: Path
    folder: Path = Path()
    processes: Processes | None = None

    def run(self) -> float:
        """Fill the cluster, take a data server and its blocks away, and return how fast they are made again."""
        self.folder = self.place.new_folder("repair")
        self.processes = Processes(self.place.processes.peaks)
        self.place.on_exit(self.processes.close)
        cluster = Cluster.start(self.processes, self.folder, 3, (*_SOON, *_UNLIMITED))
        cluster.upload(self.source, "lost", "--replicas", "2")
        lost, *left = cluster.data
        gone = lost.stored_bytes()
        if cluster.stored_bytes() != 2 * self.place.sizes.repair or not gone:
            raise Failed("not every replica was stored before the loss")
        self.processes.kill(lost.daemon)
        shutil.rmtree(lost.storage)
        return gone / MIB / _seconds_until(left, 2 * self.place.sizes.repair)

    def clear(self) -> None:
        """End the cluster and remove what it stored."""
        assert self.processes is not None
        self.processes.close()
        shutil.rmtree(self.folder)


def _seconds_until(servers: Sequence[DataServer], wanted: int) -> float:
    """Return how long it takes from the first sign of a copy until the data servers have `wanted` bytes."""
    begun = None
    before = sum(server.stored_bytes() for server in servers)
    deadline = time.monotonic() + _LONGEST_SECONDS
    while time.monotonic() < deadline:
        stored = sum(server.stored_bytes() for server in servers)
        if begun is None and (stored > before or any(server.receives for server in servers)):
            begun = time.perf_counter()
        if begun is not None and stored >= wanted:
            return time.perf_counter() - begun
        time.sleep(_POLL_SECONDS)
    raise Failed(f"not repaired in {_LONGEST_SECONDS:g} seconds")
