"""A tree of many small files up and down: whole `filefly-client` processes with `-r`."""

import filecmp
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.cases.files import uploading
from benchmarks.measures import Bound, Row, Side, at_least, nothing
from benchmarks.place import Place, evict, files_below, random_tree
from benchmarks.processes import Failed, load, timed
from benchmarks.seaweed import curl_config
from filefly.units import KIB

FILE_SIZE = 4 * KIB
_AT_ONCE = "16"


def tree_up(place: Place) -> Iterator[Row]:
    """Upload a tree: against the bare loop on the disk, against `weed filer.copy -c 16` in memory."""
    count = place.sizes.tree_files
    title = f"{count:,} files of 4 KiB up"
    if not place.on_disk and place.weed is None:
        yield place.without_weed("tree-up", title)
        return
    tree = _tree(place)
    ours = uploading(place, tree, lambda seconds: count / seconds, "-r")
    if place.on_disk:
        peer, bound, other = "bare loop", at_least(0.6), bare_loop(place, count, FILE_SIZE)
    else:
        peer, bound, other = "weed filer.copy -c 16", at_least(1.0), _weed_copy(place, tree, count)
    own, others = place.in_turn(ours, other)
    yield Row("tree-up", title, place.name, "files/s", own, peer, others, bound)
    shutil.rmtree(tree)


def tree_down(place: Place) -> Iterator[Row]:
    """Download it: against `cp -r` on the disk, against parallel curl from SeaweedFS's filer in memory."""
    count = place.sizes.tree_files
    title = f"{count:,} files of 4 KiB down, verified"
    if not place.on_disk and place.weed is None:
        yield place.without_weed("tree-down", title)
        return
    tree, name = _tree(place), place.fresh("down")
    place.cluster.upload(tree, name, "-r")

    def download(target: Path) -> float:
        return count / place.cluster.download(name, target, "-r")

    def beside(ours: Side, peer: str, other: Side, bound: Bound, titled: str = title) -> Row:
        own, others = place.in_turn(ours, other)
        return Row("tree-down", titled, place.name, "files/s", own, peer, others, bound)

    if place.on_disk:
        copy = partial(_copy, tree, count)
        yield beside(fetching_tree(tree, download), "cp -r", fetching_tree(tree, copy), at_least(0.6))
        cold = fetching_tree(tree, download, lambda: evict(place.cluster.block_files()))
        cold_copy = fetching_tree(tree, copy, lambda: evict(files_below(tree)))
        yield beside(cold, "cp -r", cold_copy, at_least(0.6), f"{title}, not in the page cache")
    else:
        place.seaweed.copy(tree, name, "-c", _AT_ONCE)
        url = place.seaweed.url(f"{name}/{tree.name}")
        curl = fetching_tree(tree, lambda target: count / _curl(tree, url, target))
        yield beside(fetching_tree(tree, download), "curl -Z --parallel-max 16", curl, at_least(1.0))
        place.seaweed.remove(name)
    place.cluster.remove(name, "-r")
    shutil.rmtree(tree)


def _copy(tree: Path, count: int, target: Path) -> float:
    return count / timed(["cp", "-r", tree, target])


def _tree(place: Place) -> Path:
    return random_tree(place.folder / place.fresh("tree"), place.sizes.tree_files, place.sizes.tree_folders, FILE_SIZE)


def bare_loop(place: Place, count: int, size: int) -> Side:
    """Return the side that writes files as durably as FileFly does, and does nothing else."""
    folder = place.folder / place.fresh("loop")
    return Side(
        lambda: float(load("bare_loop", folder, str(count), str(size))["per_second"]), partial(shutil.rmtree, folder)
    )


def _weed_copy(place: Place, tree: Path, count: int) -> Side:
    name = ""

    def run() -> float:
        nonlocal name
        name = place.fresh("up")
        return count / place.seaweed.copy(tree, name, "-c", _AT_ONCE)

    return Side(run, lambda: place.seaweed.remove(name))


def _curl(tree: Path, url: str, target: Path) -> float:
    files = (path.relative_to(tree) for path in files_below(tree))
    config = tree.with_suffix(".curl")
    config.write_text(curl_config({f"{url}/{path}": target / path for path in files}))
    return timed(["curl", "-s", "-f", "-Z", "--parallel-max", _AT_ONCE, "--create-dirs", "--config", config])


def fetching_tree(tree: Path, fetch: Callable[[Path], float], prepare: Callable[[], None] = nothing) -> Side:
    """Return the side that fetches a copy of `tree`: `fetch` returns the figure. It is compared outside the time."""
    target = tree.with_suffix(".fetched")

    def clear() -> None:
        names = [str(path.relative_to(tree)) for path in files_below(tree)]
        _same, different, failed = filecmp.cmpfiles(tree, target, names, shallow=False)
        if different or failed:
            raise Failed(f"{len(different) + len(failed)} of {len(names)} files differ from what was stored")
        shutil.rmtree(target)

    return Side(lambda: fetch(target), clear, prepare)
