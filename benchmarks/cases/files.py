"""One large file up and down, and the smallest one: whole `filefly-client` processes."""

import filecmp
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.cluster import interpreter_start
from benchmarks.measures import Bound, Row, Side, at_least, at_most, nothing
from benchmarks.place import Place, evict, in_words, random_file
from benchmarks.processes import Failed, timed
from filefly.units import KIB, MIB

_MILLISECONDS = 1000
_TINY_FILE = KIB


def up(place: Place) -> Iterator[Row]:
    """Upload a large file: against `dd conv=fsync` on the disk, against `weed filer.copy` in memory."""
    size = place.sizes.file
    title = f"{in_words(size)} up"
    if not place.on_disk and place.weed is None:
        yield place.without_weed("up", title)
        return
    source = random_file(place.folder / "up.bin", size)
    ours = uploading(place, source, lambda seconds: size / MIB / seconds)
    if place.on_disk:
        peer, bound, other = "dd conv=fsync", at_least(0.7), _dd(source, size)
    else:
        peer, bound, other = "weed filer.copy", at_least(2.0), _weed_copy(place, source, size)
    own, others = place.in_turn(ours, other)
    yield Row("up", title, place.name, "MiB/s", own, peer, others, bound)
    source.unlink()


def down(place: Place) -> Iterator[Row]:
    """Download it to a file: against `cp` on the disk, against curl from SeaweedFS's filer in memory."""
    size = place.sizes.file
    title = f"{in_words(size)} down, verified"
    if not place.on_disk and place.weed is None:
        yield place.without_weed("down", title)
        return
    source = random_file(place.folder / "down.bin", size)
    name = place.fresh("down")
    place.cluster.upload(source, name)

    def download(target: Path) -> float:
        return size / MIB / place.cluster.download(name, target)

    def beside(ours: Side, peer: str, other: Side, bound: Bound, titled: str = title) -> Row:
        own, others = place.in_turn(ours, other)
        return Row("down", titled, place.name, "MiB/s", own, peer, others, bound)

    if place.on_disk:
        copy = partial(_copy, source, size)
        yield beside(fetching(source, download), "cp", fetching(source, copy), at_least(0.6))
        cold = fetching(source, download, lambda: evict(place.cluster.block_files()))
        cold_copy = fetching(source, copy, lambda: evict([source]))
        yield beside(cold, "cp", cold_copy, at_least(0.6), f"{title}, not in the page cache")
    else:
        place.seaweed.copy(source, name)
        url = place.seaweed.url(f"{name}/{source.name}")
        curl = fetching(source, lambda target: size / MIB / timed(["curl", "-s", "-f", "-o", target, url]))
        yield beside(fetching(source, download), "curl", curl, at_least(1.5))
        place.seaweed.remove(name)
    place.cluster.remove(name)
    source.unlink()


def _copy(source: Path, size: int, target: Path) -> float:
    return size / MIB / timed(["cp", source, target])


def tiny(place: Place) -> Iterator[Row]:
    """Upload a file of 1 KiB: against a Python that only imports what every client needs."""
    source = random_file(place.folder / "tiny.bin", _TINY_FILE)
    ours = uploading(place, source, lambda seconds: seconds * _MILLISECONDS)
    own, others = place.in_turn(ours, Side(lambda: interpreter_start() * _MILLISECONDS))
    yield Row("tiny", "1 KiB up", place.name, "ms", own, "import reactor, click", others, at_most(2.0))
    source.unlink()


def uploading(place: Place, source: Path, figure: Callable[[float], float], *options: str) -> Side:
    """Return the side that uploads under a new name each time; `figure` makes the figure of the seconds."""
    name = ""

    def run() -> float:
        nonlocal name
        name = place.fresh("up")
        return figure(place.cluster.upload(source, name, *options))

    return Side(run, lambda: place.cluster.remove(name, *options))


def _dd(source: Path, size: int) -> Side:
    target = source.with_suffix(".dd")

    def run() -> float:
        return size / MIB / timed(["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync"])

    return Side(run, target.unlink)


def _weed_copy(place: Place, source: Path, size: int) -> Side:
    name = ""

    def run() -> float:
        nonlocal name
        name = place.fresh("up")
        return size / MIB / place.seaweed.copy(source, name)

    return Side(run, lambda: place.seaweed.remove(name))


def fetching(source: Path, fetch: Callable[[Path], float], prepare: Callable[[], None] = nothing) -> Side:
    """Return the side that fetches a copy of `source`: `fetch` returns the figure. It is compared outside the time."""
    target = source.with_suffix(".fetched")

    def clear() -> None:
        if not filecmp.cmp(source, target, shallow=False):
            raise Failed(f"what was fetched differs from {source.name}")
        target.unlink()

    return Side(lambda: fetch(target), clear, prepare)
