"""Whether cost grows faster than the work: the same for files and trees of very different sizes."""

import shutil
from collections.abc import Iterator

from benchmarks.cases.files import fetching, uploading
from benchmarks.cases.trees import FILE_SIZE, fetching_tree
from benchmarks.measures import Row, Side
from benchmarks.place import Place, in_words, random_file, random_tree
from filefly.units import GIB

_COPIES = 3  # the source, its blocks, and what is downloaded
_SPARE = 2 * GIB
_FILES_A_FOLDER = 100
_NANOSECONDS, _MILLISECONDS = 1e9, 1e3


def scaling(place: Place) -> Iterator[Row]:
    """Tell the time a byte of files, and the time a file of trees, up and down."""
    for size in place.sizes.scaling_files:
        if shutil.disk_usage(place.folder).free < _COPIES * size + _SPARE:
            note = "not enough room"
            yield from (Row("scaling", f"{in_words(size)} {way}", place.name, note=note) for way in ("up", "down"))
        else:
            yield from _file(place, size)
    for count in place.sizes.scaling_trees:
        yield from _tree(place, count)


def _file(place: Place, size: int) -> Iterator[Row]:
    source = random_file(place.folder / "scaling.bin", size)
    up = uploading(place, source, lambda seconds: seconds * _NANOSECONDS / size)
    yield Row("scaling", f"{in_words(size)} up", place.name, "ns/byte", _figures(place, up, size))
    name = place.fresh("scaling")
    place.cluster.upload(source, name)
    down = fetching(source, lambda target: place.cluster.download(name, target) * _NANOSECONDS / size)
    yield Row("scaling", f"{in_words(size)} down", place.name, "ns/byte", _figures(place, down, size))
    place.cluster.remove(name)
    source.unlink()


def _figures(place: Place, side: Side, size: int) -> list[float]:
    """Run a side; what takes minutes only twice, of which the second run counts."""
    [figures] = place.in_turn(side, counted=1 if size > GIB else None)
    return figures


def _tree(place: Place, count: int) -> Iterator[Row]:
    tree = random_tree(place.folder / "scaling", count, max(1, count // _FILES_A_FOLDER), FILE_SIZE)
    title = f"{count:,} files of 4 KiB"
    [figures] = place.in_turn(uploading(place, tree, lambda seconds: seconds * _MILLISECONDS / count, "-r"))
    yield Row("scaling", f"{title} up", place.name, "ms/file", figures)
    name = place.fresh("scaling")
    place.cluster.upload(tree, name, "-r")
    down = fetching_tree(tree, lambda target: place.cluster.download(name, target, "-r") * _MILLISECONDS / count)
    [figures] = place.in_turn(down)
    yield Row("scaling", f"{title} down", place.name, "ms/file", figures)
    place.cluster.remove(name, "-r")
    shutil.rmtree(tree)
