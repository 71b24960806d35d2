"""What somebody may have planted in a storage directory, or unpacked there: it leads nowhere."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filefly.data.blocks import BlockStore
from filefly.data.disk import Disk
from filefly.data.storage import StorageUnusable
from filefly.errors import NotFound, Unavailable
from tests.data.disks import take
from tests.data.running import sum_of

THEIRS = "somebody else's"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Make a folder beside the storage directory, with a file of somebody else."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "file").write_text(THEIRS)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make the storage directory that the plants are in."""
    folder = tmp_path / "blocks"
    folder.mkdir()
    return folder


def untouched(theirs: Path) -> bool:
    """Whether somebody else's folder is as it was."""
    return [theirs / "file"] == list(theirs.iterdir()) and (theirs / "file").read_text() == THEIRS


def plant_pipe(path: Path, _theirs: Path) -> None:
    os.mkfifo(path)


def plant_link(path: Path, theirs: Path) -> None:
    path.symlink_to(theirs / "file")


def plant_dangling_link(path: Path, theirs: Path) -> None:
    path.symlink_to(theirs / "new")


def plant_folder(path: Path, _theirs: Path) -> None:
    path.mkdir()


Plant = Callable[[Path, Path], None]
PLANTS = [plant_pipe, plant_link, plant_dangling_link, plant_folder]


@pytest.mark.parametrize("name", [".lock", ".filefly.json"])
@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_no_file_is_refused_in_a_files_place(root: Path, theirs: Path, plant: Plant, name: str) -> None:
    """Neither the lock nor the identity is looked for where a link leads, and a pipe is not waited for."""
    plant(root / name, theirs)
    with pytest.raises(StorageUnusable, match="cannot write to"):
        take(root)
    assert untouched(theirs)


def test_stores_under_way_are_not_cleared_elsewhere(root: Path, theirs: Path) -> None:
    """At start `.incoming/` is emptied: not the folder that a link in its place leads to."""
    (root / ".incoming").symlink_to(theirs)
    with pytest.raises(StorageUnusable, match=r"\.incoming is not a folder; remove it"):
        take(root)
    assert untouched(theirs)


@pytest.mark.parametrize("plant", [plant_pipe, plant_link, plant_dangling_link])
def test_what_is_no_folder_is_refused_in_a_folders_place(root: Path, theirs: Path, plant: Plant) -> None:
    """The sentence says what to do."""
    plant(root / ".incoming", theirs)
    with pytest.raises(StorageUnusable, match=r"\.incoming is not a folder; remove it"):
        take(root)
    assert untouched(theirs)


@pytest.mark.parametrize("plant", [plant_pipe, plant_link, plant_dangling_link])
def test_what_a_store_under_way_left_is_removed_itself(root: Path, theirs: Path, plant: Plant) -> None:
    """A link among the temporary files goes, and not what it leads to."""
    (root / ".incoming").mkdir()
    plant(root / ".incoming" / "0", theirs)
    plant(root / ".incoming" / "identity", theirs)
    take(root).release()
    assert [] == os.listdir(root / ".incoming")
    assert untouched(theirs)


@pytest.fixture
def store(root: Path) -> BlockStore:
    """Open a store on the real disk."""
    return BlockStore(take(root), Disk())


def quarantine(store: BlockStore) -> None:
    store.quarantine("a-0", sum_of(b"good"))


def set_aside(store: BlockStore) -> None:
    store.set_aside("a-0")


@pytest.mark.parametrize(("move", "where"), [(quarantine, ".corrupt"), (set_aside, ".unknown")])
@pytest.mark.parametrize("leads_to", [".", "file"])
def test_no_block_is_moved_out_of_the_storage(
    store: BlockStore, root: Path, theirs: Path, move: Callable[[BlockStore], None], where: str, leads_to: str
) -> None:
    """Where blocks are moved out of the way a link would hand them to somebody else."""
    (root / "a-0").write_bytes(b"bad")
    (root / where).symlink_to(theirs / leads_to)
    with pytest.raises(Unavailable, match=f"{where} in the storage directory is not a folder; remove it"):
        move(store)
    assert b"bad" == (root / "a-0").read_bytes()
    assert untouched(theirs)


def store_again(store: BlockStore) -> None:
    store.begin("b-0").commit([b"data"])


def link(store: BlockStore) -> None:
    store.link("b-0", "a-0", sum_of(b"data"))


@pytest.mark.parametrize("write", [store_again, link])
def test_a_link_that_was_planted_while_it_runs_is_not_followed(
    store: BlockStore, root: Path, theirs: Path, write: Callable[[BlockStore], None]
) -> None:
    """Blocks that are stored from then on would be written, or get a name, in somebody else's folder."""
    store.begin("a-0").commit([b"data"])
    (root / ".incoming").rename(root / ".was")
    (root / ".incoming").symlink_to(theirs)
    with pytest.raises(Unavailable, match="a folder of the storage directory is none any more; remove what is there"):
        write(store)
    assert not (root / "b-0").exists()
    assert untouched(theirs)


@pytest.mark.parametrize("plant", [plant_link, plant_dangling_link])
def test_a_planted_temporary_file_is_not_written_to(store: BlockStore, root: Path, theirs: Path, plant: Plant) -> None:
    """A store makes its file; one that is there already is nobody's."""
    plant(root / ".incoming" / "0", theirs)
    incoming = store.begin("a-0")
    with pytest.raises(Exception, match="File exists"):
        incoming.commit([b"data"])
    assert not (root / "a-0").exists()
    assert untouched(theirs)


def test_a_second_name_is_not_written_through(store: BlockStore, root: Path, theirs: Path) -> None:
    """A hard link to somebody else's file in a block's place: the block replaces the name, and leaves the file."""
    os.link(theirs / "file", root / "a-0")
    store.begin("a-0").commit([b"data"])
    assert b"data" == (root / "a-0").read_bytes()
    assert untouched(theirs)


def test_a_second_name_of_the_identity_is_not_written_through(root: Path, theirs: Path) -> None:
    """Who adopts a storage replaces its identity, and does not write into that file."""
    take(root).release()
    os.link(root / ".filefly.json", theirs / "identity")
    before = (theirs / "identity").read_bytes()
    store = BlockStore(take(root), Disk())
    store.identity.adopt("some catalog", 7, force=False)
    assert b"some catalog" in (root / ".filefly.json").read_bytes()
    assert before == (theirs / "identity").read_bytes()


def test_a_link_to_a_block_elsewhere_gets_no_second_id(store: BlockStore, root: Path, theirs: Path) -> None:
    """Linking names a block of this storage."""
    (root / "a-0").symlink_to(theirs / "file")
    with pytest.raises(NotFound):
        store.link("b-0", "a-0", sum_of(THEIRS.encode()))
    assert not (root / "b-0").exists()


def test_a_device_is_no_block(store: BlockStore, root: Path) -> None:
    """Reading one might never end."""
    (root / "a-0").symlink_to("/dev/zero")
    try:
        os.mknod(root / "b-0", 0o20600, os.makedev(1, 5))  # /dev/zero itself
    except PermissionError:
        os.mkfifo(root / "b-0")  # only root makes devices
    for block_id in ("a-0", "b-0"):
        assert store.read_in_memory(block_id) is None
        with pytest.raises(NotFound):
            store.open(block_id)
    assert [] == list(store.list("", 10).blocks)
