"""A large file up and down under TLS: against the same without."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.cases.files import fetching
from benchmarks.cluster import Cluster
from benchmarks.measures import Bound, Row, Side, at_least
from benchmarks.place import Place, in_words, random_file
from filefly.units import MIB

_OVER_TCP = ("--no-local-reads",)  # or no byte of a download would be encrypted here
_BOUND: Bound = at_least(0.4)
_PEER = "without TLS"


def up_and_down(place: Place) -> Iterator[Row]:
    """Upload and download a large file, both ways over TCP."""
    size = place.sizes.file
    source = random_file(place.folder / "tls.bin", size)
    ours = Cluster.start_with_tls(place.processes, place.new_folder("tls"), _OVER_TCP)
    plain = Cluster.start(place.processes, place.new_folder("plain"), data_options=_OVER_TCP)

    own, others = place.in_turn(_uploading(place, ours, source), _uploading(place, plain, source))
    yield Row("tls", f"{in_words(size)} up, TLS", place.name, "MiB/s", own, _PEER, others, _BOUND)

    for cluster in (ours, plain):
        cluster.upload(source, "down")
    own, others = place.in_turn(_downloading(ours, source), _downloading(plain, source))
    yield Row("tls", f"{in_words(size)} down, TLS", place.name, "MiB/s", own, _PEER, others, _BOUND)

    for cluster in (ours, plain):
        cluster.remove("down")
    source.unlink()


def _uploading(place: Place, cluster: Cluster, source: Path) -> Side:
    name = ""

    def run() -> float:
        nonlocal name
        name = place.fresh("up")
        return place.sizes.file / MIB / cluster.upload(source, name)

    return Side(run, lambda: cluster.remove(name))


def _downloading(cluster: Cluster, source: Path) -> Side:
    size = source.stat().st_size
    return fetching(source, lambda target: size / MIB / cluster.download("down", target))
