import errno
import os
from pathlib import Path

import pytest

from filefly.data.blocks import BlockStore
from filefly.errors import BadRequest, Conflict, Corrupt, DiskFull, FileFlyError, Internal, NotFound, Unavailable
from filefly.wire.blocks import BlockSum
from tests.data.disks import WatchedDisk, files
from tests.data.running import sum_of

MIB = 1024 * 1024
DIGITS = b"123456789"
SUM = sum_of(DIGITS)


def test_a_block_gets_a_second_id(store: BlockStore, folder: Path) -> None:
    """Both are the same file."""
    (folder / "a-0").write_bytes(DIGITS)
    assert BlockSum(size=9, crc32c=SUM) == store.link("b-0", "a-0", SUM)
    assert {"a-0": DIGITS, "b-0": DIGITS} == files(folder)
    assert (folder / "a-0").samefile(folder / "b-0")


@pytest.mark.parametrize("gone", ["a-0", "b-0"])
def test_a_block_outlives_its_other_id(store: BlockStore, folder: Path, gone: str) -> None:
    """Deleting one id deletes one id."""
    (folder / "a-0").write_bytes(DIGITS)
    store.link("b-0", "a-0", SUM)
    store.delete(gone)
    assert [DIGITS] == [*files(folder).values()]


@pytest.mark.parametrize("replaced", ["a-0", "b-0"])
def test_storing_one_id_leaves_the_other(store: BlockStore, folder: Path, replaced: str) -> None:
    """A store is a new file, never a write into what is there."""
    (folder / "a-0").write_bytes(DIGITS)
    store.link("b-0", "a-0", SUM)
    store.begin(replaced).commit([b"new"])
    assert {"a-0": DIGITS, "b-0": DIGITS} | {replaced: b"new"} == files(folder)


def test_a_link_is_durable_before_it_is_acknowledged(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """So are the bytes, which somebody may just have put there by hand."""
    (folder / "a-0").write_bytes(DIGITS)
    disk.calls.clear()
    store.link("b-0", "a-0", SUM)
    assert ["open", "read", "fsync", "link", "rename", "fsync_directory", "unlink", "close"] == disk.calls


def test_a_link_replaces_the_block(store: BlockStore, folder: Path) -> None:
    """As a store does."""
    (folder / "a-0").write_bytes(DIGITS)
    (folder / "b-0").write_bytes(b"old")
    store.link("b-0", "a-0", SUM)
    assert {"a-0": DIGITS, "b-0": DIGITS} == files(folder)


def test_linking_twice_leaves_nothing(store: BlockStore, folder: Path) -> None:
    """Renaming a file's one name to its other one does nothing at all, not even away with the first."""
    (folder / "a-0").write_bytes(DIGITS)
    for _ in range(2):
        assert BlockSum(size=9, crc32c=SUM) == store.link("b-0", "a-0", SUM)
    assert {"a-0": DIGITS, "b-0": DIGITS} == files(folder)


def test_a_block_can_be_linked_to_itself(store: BlockStore, folder: Path) -> None:
    """It is there already."""
    (folder / "a-0").write_bytes(DIGITS)
    assert BlockSum(size=9, crc32c=SUM) == store.link("a-0", "a-0", SUM)
    assert {"a-0": DIGITS} == files(folder)


def test_another_checksum_links_nothing(store: BlockStore, folder: Path) -> None:
    """What is on disk may not be what was stored."""
    (folder / "a-0").write_bytes(DIGITS)
    (folder / "b-0").write_bytes(b"old")
    with pytest.raises(Corrupt, match=r"^crc32c is e3069283, expected 00000000$"):
        store.link("b-0", "a-0", "00000000")
    assert {"a-0": DIGITS, "b-0": b"old"} == files(folder)


def test_another_checksum_dooms_no_store(store: BlockStore, folder: Path) -> None:
    """Only a link that can be made is one."""
    (folder / "a-0").write_bytes(DIGITS)
    block = store.begin("b-0")
    with pytest.raises(Corrupt):
        store.link("b-0", "a-0", "00000000")
    block.commit([b"stored"])
    assert {"a-0": DIGITS, "b-0": b"stored"} == files(folder)


def test_a_block_that_is_not_there_is_not_linked(store: BlockStore, folder: Path) -> None:
    """It must be stored."""
    with pytest.raises(NotFound, match=r"^block not found$"):
        store.link("b-0", "a-0", SUM)
    assert {} == files(folder)


@pytest.mark.parametrize(("block_id", "source"), [("../b", "a-0"), ("b-0", "../blocks/a-0"), ("", "a-0")])
def test_a_bad_id_is_refused(store: BlockStore, folder: Path, block_id: str, source: str) -> None:
    """No id leaves the storage directory."""
    (folder / "a-0").write_bytes(DIGITS)
    with pytest.raises(BadRequest):
        store.link(block_id, source, SUM)
    assert {"a-0": DIGITS} == files(folder)


def test_a_link_of_a_link_is_not_made(store: BlockStore, folder: Path) -> None:
    """A symbolic link in the storage directory is no block."""
    (folder / "secret").write_bytes(DIGITS)
    (folder / "a-0").symlink_to("secret")
    with pytest.raises(NotFound):
        store.link("b-0", "a-0", SUM)
    assert not (folder / "b-0").exists()


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV])
def test_without_hard_links_a_block_is_copied(store: BlockStore, folder: Path, disk: WatchedDisk, error: int) -> None:
    """Some file systems have none, or not so many of one file."""
    data = os.urandom(2 * MIB + 3)
    (folder / "a-0").write_bytes(data)
    disk.fail("link", error)
    assert BlockSum(size=len(data), crc32c=sum_of(data)) == store.link("b-0", "a-0", sum_of(data))
    assert {"a-0": data, "b-0": data} == files(folder)
    assert not (folder / "a-0").samefile(folder / "b-0")


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_what_was_verified_is_what_is_linked(store: BlockStore, folder: Path, disk: WatchedDisk, change: str) -> None:
    """The source may be replaced or deleted between the look at it and the link."""
    (folder / "a-0").write_bytes(DIGITS)

    def change_source() -> None:
        disk.mend()
        if change == "replaced":
            store.begin("a-0").commit([b"other bytes"])
        else:
            store.delete("a-0")

    disk.before["link"] = change_source
    assert BlockSum(size=9, crc32c=SUM) == store.link("b-0", "a-0", SUM)
    assert DIGITS == files(folder).pop("b-0")
    assert [] == os.listdir(folder / ".incoming")


def test_a_store_that_begins_later_wins(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """A link is a store like any other: the last one begun wins."""
    (folder / "a-0").write_bytes(DIGITS)

    def store_newer() -> None:
        store.begin("b-0").commit([b"newer"])

    disk.before["link"] = store_newer
    with pytest.raises(Conflict):
        store.link("b-0", "a-0", SUM)
    assert {"a-0": DIGITS, "b-0": b"newer"} == files(folder)


def test_a_link_dooms_stores_that_began_before(store: BlockStore, folder: Path) -> None:
    """In this direction, too."""
    (folder / "a-0").write_bytes(DIGITS)
    block = store.begin("b-0")
    store.link("b-0", "a-0", SUM)
    with pytest.raises(Conflict):
        block.commit([b"older"])
    block.abort()
    assert {"a-0": DIGITS, "b-0": DIGITS} == files(folder)


@pytest.mark.parametrize(
    ("hard_links", "operation"),
    [
        *((True, operation) for operation in ("open", "read", "fsync", "link", "stat", "rename")),
        *((False, operation) for operation in ("open", "read", "fsync", "create", "write", "rename")),
    ],
)
@pytest.mark.parametrize(("error", "kind"), [(errno.EIO, Internal), (errno.ENOSPC, DiskFull)])
def test_a_failed_link_leaves_nothing(
    store: BlockStore,
    folder: Path,
    disk: WatchedDisk,
    operation: str,
    error: int,
    kind: type[FileFlyError],
    hard_links: bool,
) -> None:
    """Neither a block nor a temporary file, and the next try works."""
    (folder / "a-0").write_bytes(DIGITS)
    if not hard_links:
        disk.fail("link", errno.EPERM)
    disk.fail(operation, error)
    with pytest.raises(kind):
        store.link("b-0", "a-0", SUM)
    assert {"a-0": DIGITS} == files(folder)
    disk.mend()
    store.link("b-0", "a-0", SUM)
    assert {"a-0": DIGITS, "b-0": DIGITS} == files(folder)


def test_a_failed_sync_of_the_folder_is_no_success(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """As for any store."""
    (folder / "a-0").write_bytes(DIGITS)
    disk.fail("fsync_directory", errno.EIO)
    with pytest.raises(Unavailable, match="cannot be synced"):
        store.link("b-0", "a-0", SUM)
    assert [] == os.listdir(folder / ".incoming")


def test_no_descriptor_is_left_open(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """Every way to fail gives its files back."""
    (folder / "a-0").write_bytes(DIGITS)
    before = len(os.listdir("/proc/self/fd"))
    store.link("b-0", "a-0", SUM)
    with pytest.raises(Corrupt):
        store.link("b-0", "a-0", "00000000")
    disk.fail("link", errno.EPERM)
    for operation in ("read", "fsync", "create", "write", "rename"):
        disk.fail(operation, errno.EIO)
        with pytest.raises(Internal):
            store.link("b-0", "a-0", SUM)
        del disk.before[operation]
    assert before == len(os.listdir("/proc/self/fd"))
