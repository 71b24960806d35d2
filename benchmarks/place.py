"""Where a run works, how much it does, and the systems that run there."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, field, frozen

from benchmarks.cluster import Cluster
from benchmarks.measures import Row, Side, in_turn, nothing
from benchmarks.processes import Processes
from benchmarks.seaweed import SeaweedFS
from filefly.units import GIB, KIB, MIB, format_size

DISK, SHM = "disk", "shm"


@frozen
class Sizes:
    """How much is moved and counted."""

    file: int
    tree_files: int
    tree_folders: int
    blocks: int
    plans: int
    repair: int
    catalogs: tuple[int, int]
    asked: int
    scaling_files: Sequence[int]
    scaling_trees: Sequence[int]


FULL = Sizes(
    file=GIB,
    tree_files=5_000,
    tree_folders=50,
    blocks=50_000,
    plans=5_000,
    repair=512 * MIB,
    catalogs=(10_000, 1_000_000),
    asked=2_000,
    scaling_files=(MIB, 32 * MIB, GIB, 8 * GIB),
    scaling_trees=(100, 1_000, 10_000),
)
QUICK = Sizes(
    file=256 * MIB,
    tree_files=1_000,
    tree_folders=50,
    blocks=5_000,
    plans=1_000,
    repair=192 * MIB,
    catalogs=(10_000, 200_000),
    asked=200,
    scaling_files=(MIB, 32 * MIB, 256 * MIB),
    scaling_trees=(100, 1_000),
)
TINY = Sizes(
    file=3 * MIB,
    tree_files=20,
    tree_folders=4,
    blocks=64,
    plans=32,
    repair=24 * MIB,
    catalogs=(100, 1_000),
    asked=10,
    scaling_files=(64 * KIB, MIB),
    scaling_trees=(5, 10),
)


@define(eq=False)
class Place:
    """A folder on the disk or in memory. FileFly and SeaweedFS are started when first asked for, and run on."""

    name: str
    folder: Path
    sizes: Sizes
    pairs: int
    weed: Path | None
    processes: Processes
    _exits: ExitStack
    _cluster: Cluster | None = None
    _seaweed: SeaweedFS | None = None
    _names: Iterator[int] = field(factory=lambda: iter(range(1_000_000_000)))

    @property
    def on_disk(self) -> bool:
        """Whether it is a real disk, where the yardstick is the disk."""
        return self.name == DISK

    @property
    def cluster(self) -> Cluster:
        """FileFly with one data server."""
        if self._cluster is None:
            self._cluster = Cluster.start(self.processes, self.new_folder("filefly"))
        return self._cluster

    @property
    def seaweed(self) -> SeaweedFS:
        """SeaweedFS; ask for it only where there is a `weed`."""
        if self._seaweed is None:
            assert self.weed is not None
            self._seaweed = SeaweedFS.start(self.processes, self.weed, self.new_folder("seaweedfs"))
            self.on_exit(self._seaweed.close)
            self._seaweed.wait_until_ready()
        return self._seaweed

    def fresh(self, stem: str) -> str:
        """Return a name that was never given before."""
        return f"{stem}{next(self._names)}"

    def new_folder(self, stem: str) -> Path:
        """Make a folder that was not there before."""
        folder = self.folder / self.fresh(stem)
        folder.mkdir()
        return folder

    def in_turn(self, *sides: Side, counted: int | None = None) -> list[list[float]]:
        """Run the sides in turn: as many pairs as are wanted, or `counted` ones."""
        return in_turn(sides, counted or self.pairs, os.sync if self.on_disk else nothing)

    def on_exit(self, end: Callable[[], None]) -> None:
        """Call `end`, which must stand being called twice, when all is over, however it ends."""
        self._exits.callback(end)

    def without_weed(self, case: str, title: str) -> Row:
        """Return the row that says that there is nothing to compare with."""
        return Row(case, title, self.name, note="SeaweedFS is not installed: make bench installs it")


@contextmanager
def place(
    name: str, parent: Path, sizes: Sizes, pairs: int, weed: Path | None, processes: Processes
) -> Iterator[Place]:
    """Give a place in a new folder below `parent`; at the end its daemons are ended and the folder is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as exits:
        folder = Path(tempfile.mkdtemp(prefix="filefly-bench-", dir=parent))
        exits.callback(shutil.rmtree, folder, ignore_errors=True)
        exits.callback(processes.close)
        yield Place(name, folder, sizes, pairs, weed, processes, exits)


def evict(files: Iterable[Path]) -> None:
    """Drop synced files from the page cache, so that they are read from the disk the next time."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def files_below(folder: Path) -> list[Path]:
    """Return all files in a tree."""
    return [path for path in folder.rglob("*") if path.is_file()]


def in_words(size: int) -> str:
    """Return a size as a title has it: `1 GiB`."""
    return format_size(size).replace(".0 ", " ")


def random_file(path: Path, size: int) -> Path:
    """Write a file of random bytes, no two blocks of which are alike."""
    with path.open("wb") as file:
        for begin in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - begin)))
    return path


def random_tree(folder: Path, files: int, folders: int, size: int) -> Path:
    """Make a tree of `files` files of `size` random bytes, spread over `folders` folders."""
    for number in range(files):
        below = folder / f"d{number % folders:04}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"f{number:06}").write_bytes(os.urandom(size))
    return folder


Case = Callable[[Place], Iterator[Row]]
"""What measures some rows at a place."""
