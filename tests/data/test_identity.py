import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from filefly.data.blocks import BlockStore
from filefly.data.identity import Identity, IdentityFile
from filefly.errors import DiskFull, FileFlyError, Internal, NotFound, Unavailable, WrongStorage
from tests.data.disks import WatchedDisk

MINE = "id of blocks"


@pytest.fixture
def identity(store: BlockStore) -> IdentityFile:
    return store.identity


def on_disk(folder: Path) -> object:
    return msgspec.json.decode((folder / ".filefly.json").read_bytes())


def test_a_new_storage_is_no_catalogs(identity: IdentityFile) -> None:
    """It can be adopted by any."""
    assert Identity(MINE, None, 0) == identity.read()


def test_an_adopted_storage_is_one_of_a_catalogs(identity: IdentityFile, folder: Path) -> None:
    """The file tells, to a person as well."""
    identity.adopt("catalog", 7, force=False)
    assert {"storage_id": MINE, "catalog_id": "catalog", "generation": 7} == on_disk(folder)
    assert Identity(MINE, "catalog", 7) == identity.read()


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(("told", "kept"), [(6, 7), (7, 7), (8, 8)])
def test_the_highest_generation_is_kept(identity: IdentityFile, told: int, kept: int, force: bool) -> None:
    """A catalog from a backup cannot make a storage forget what it has seen."""
    identity.adopt("catalog", 7, force=False)
    identity.adopt("catalog", told, force)
    assert Identity(MINE, "catalog", kept) == identity.read()


def test_another_catalogs_storage_is_not_adopted(identity: IdentityFile) -> None:
    """Whose blocks these are is for a person to decide."""
    identity.adopt("catalog", 7, force=False)
    with pytest.raises(WrongStorage, match=r"^this storage belongs to catalog catalog, not other$"):
        identity.adopt("other", 99, force=False)
    assert Identity(MINE, "catalog", 7) == identity.read()


def test_a_storage_is_taken_from_another_catalog_by_force(identity: IdentityFile) -> None:
    """The other catalog's generations mean nothing to this one."""
    identity.adopt("catalog", 7, force=False)
    identity.adopt("other", 3, force=True)
    assert Identity(MINE, "other", 3) == identity.read()


def test_an_identity_is_durable_before_it_is_acknowledged(identity: IdentityFile, disk: WatchedDisk) -> None:
    """Its bytes are on stable storage before its name is, and both before `adopt` returns."""
    disk.calls.clear()
    identity.adopt("catalog", 7, force=False)
    assert ["create", "write", "fsync", "close", "rename", "fsync_directory"] == disk.calls[-6:]


@pytest.mark.parametrize("generation", [6, 7])
def test_nothing_is_written_if_nothing_changes(identity: IdentityFile, disk: WatchedDisk, generation: int) -> None:
    """Being told again and again costs a disk nothing."""
    identity.adopt("catalog", 7, force=False)
    disk.calls.clear()
    identity.adopt("catalog", generation, force=False)
    assert ["open", "read", "close"] == disk.calls


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "close", "rename"])
@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (errno.EIO, Internal, "cannot write the storage's identity: Input/output error"),
        (errno.ENOSPC, DiskFull, "the disk is full; free some space or add a data server"),
    ],
)
def test_a_failed_adoption_leaves_the_old_identity(
    identity: IdentityFile,
    folder: Path,
    disk: WatchedDisk,
    operation: str,
    error: int,
    kind: type[FileFlyError],
    sentence: str,
) -> None:
    """Old or new, never a mix; nothing else is left, and the next try works."""
    identity.adopt("catalog", 7, force=False)
    before = identity.read()
    if operation == "close":  # of the new file: the old one is read with it before
        disk.before["fsync"] = lambda: disk.fail("close", error)
    else:
        disk.fail(operation, error)
    with pytest.raises(kind, match=f"^{sentence}$"):
        identity.adopt("catalog", 8, force=False)
    disk.mend()
    assert (before, []) == (identity.read(), os.listdir(folder / ".incoming"))
    identity.adopt("catalog", 8, force=False)
    assert Identity(MINE, "catalog", 8) == identity.read()


def test_what_a_failed_adoption_could_not_remove_does_no_harm(identity: IdentityFile, disk: WatchedDisk) -> None:
    """The error is the first one, and the next try works."""
    disk.fail("rename", errno.ENOSPC)
    disk.before["fsync"] = lambda: disk.fail("unlink", errno.EIO)
    with pytest.raises(DiskFull):
        identity.adopt("catalog", 7, force=False)
    disk.mend()
    identity.adopt("catalog", 7, force=False)
    assert Identity(MINE, "catalog", 7) == identity.read()


def test_a_failed_sync_of_the_folder_stops_storing(store: BlockStore, disk: WatchedDisk) -> None:
    """What the folder's sync lost may have been a block's name."""
    disk.fail("fsync_directory", errno.EIO)
    with pytest.raises(Unavailable, match="cannot be synced"):
        store.identity.adopt("catalog", 7, force=False)
    disk.mend()
    with pytest.raises(Unavailable, match="cannot be synced"):
        store.begin("a-0")


def test_an_identity_that_may_not_be_durable_is_never_acknowledged(identity: IdentityFile, disk: WatchedDisk) -> None:
    """What is on disk already is not written again, but neither is it known to stay."""
    disk.fail("fsync_directory", errno.EIO)
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be synced"):
            identity.adopt("catalog", 7, force=False)
        disk.mend()


# What may be gone by now


def test_an_identity_is_asked_of_the_disk_itself(identity: IdentityFile, disk: WatchedDisk) -> None:
    """What the system remembers says nothing about the disk; only who wants to know that makes it work."""
    disk.calls.clear()
    identity.read()
    identity.read(afresh=True)
    assert ["open", "read", "close", "open", "drop_cached", "read", "close"] == disk.calls


def test_a_lost_identity_is_no_identity(identity: IdentityFile, folder: Path) -> None:
    """As it is where a disk is not mounted."""
    (folder / ".filefly.json").unlink()
    with pytest.raises(Unavailable, match=r"^the storage directory has lost its .filefly.json; is its disk mounted\?$"):
        identity.read()


def test_an_unreadable_identity_is_no_identity(identity: IdentityFile, disk: WatchedDisk) -> None:
    """The system's own words are in the sentence."""
    disk.fail("read", errno.EIO)
    with pytest.raises(Unavailable, match=r"^cannot read the storage directory's .filefly.json: Input/output error$"):
        identity.read()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"storage_id":"id of blocks","generation":"7"}'])
def test_a_damaged_identity_is_no_identity(identity: IdentityFile, folder: Path, content: bytes) -> None:
    """It is not replaced, either."""
    (folder / ".filefly.json").write_bytes(content)
    for use in (identity.read, lambda: identity.adopt("catalog", 1, force=True)):
        with pytest.raises(Unavailable, match=r"json is damaged; restore it from a copy$"):
            use()
    assert content == (folder / ".filefly.json").read_bytes()


def test_another_storage_in_the_same_place_is_found_out(identity: IdentityFile, folder: Path) -> None:
    """Another disk may have been mounted meanwhile."""
    (folder / ".filefly.json").write_bytes(b'{"storage_id":"another"}')
    for use in (identity.read, lambda: identity.adopt("catalog", 1, force=True)):
        with pytest.raises(WrongStorage, match=r"^the storage directory holds another storage now; "):
            use()
    assert {"storage_id": "another"} == on_disk(folder)


def test_a_request_for_another_storage_is_refused(identity: IdentityFile) -> None:
    """Who names none, or this one, is served."""
    identity.check(None)
    identity.check(MINE)
    with pytest.raises(WrongStorage, match=r"^this is another storage, not yours$"):
        identity.check("yours")


def unmount(folder: Path) -> None:
    """Leave what is seen where a disk was mounted: an empty folder."""
    folder.rename(folder.with_name("the disk"))
    folder.mkdir()


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.begin("a-0").commit([b"x"]),
        lambda store: store.open("a-0"),
        lambda store: store.stat("a-0"),
        lambda store: store.delete("a-0"),
        lambda store: store.link("b-0", "a-0", "00000000"),
        lambda store: store.quarantine("a-0", "00000000"),
        lambda store: store.set_aside("a-0"),
        lambda store: store.list("", 10),
        lambda store: store.usage(),
        lambda store: store.identity.adopt("catalog", 1, force=True),
    ],
    ids=["store", "open", "stat", "delete", "link", "quarantine", "set_aside", "list", "usage", "adopt"],
)
def test_nothing_is_done_or_found_missing_where_no_disk_is_mounted(
    store: BlockStore, folder: Path, use: object
) -> None:
    """A block that is said to be missing would be forgotten, and one said to be deleted be back with the disk."""
    store.begin("a-0").commit([b"x"])
    unmount(folder)
    assert callable(use)
    with pytest.raises(Unavailable, match=r"; is its disk mounted\?$"):
        use(store)
    assert [] == os.listdir(folder)


@pytest.mark.parametrize("use", [BlockStore.delete, BlockStore.set_aside])
def test_another_storages_blocks_are_left_alone(
    store: BlockStore, folder: Path, use: Callable[[BlockStore, str], object]
) -> None:
    """Swapped disks never get each other's deletes."""
    unmount(folder)
    (folder / ".filefly.json").write_bytes(b'{"storage_id":"another"}')
    (folder / "a-0").write_bytes(b"another's")
    with pytest.raises(WrongStorage):
        use(store, "a-0")
    assert b"another's" == (folder / "a-0").read_bytes()


def test_a_block_is_missing_only_where_the_storage_is_there(store: BlockStore, disk: WatchedDisk) -> None:
    """A disk that cannot say who it is cannot say what it lacks."""
    with pytest.raises(NotFound):
        store.stat("a-0")
    disk.before["open"] = lambda: disk.fail("open", errno.EIO)  # the second time
    with pytest.raises(Unavailable):
        store.stat("a-0")
