import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filefly.data.blocks import BlockStore, Space
from filefly.errors import DiskFull, Internal
from tests.data.disks import WatchedDisk, open_store
from tests.data.running import sum_of

RESERVE = 1000
TOO_LITTLE = r"^less than 1000 B would be left free \(--reserve\)$"


@pytest.fixture
def store(folder: Path, disk: WatchedDisk) -> Iterator[BlockStore]:
    opened = open_store(folder, disk, reserve_bytes=RESERVE)
    (folder / "a-0").write_bytes(b"x")
    yield opened
    opened.storage.release()


def known(store: BlockStore) -> None:
    """Store 10 bytes that were announced, as a raw payload or a copy is."""
    block = store.begin("b-0", 10)
    try:
        block.write([b"01234"])
        block.commit([b"56789"])
    finally:
        block.abort()


def unknown(store: BlockStore) -> None:
    """Store 10 bytes that came at once, as base64 does."""
    block = store.begin("b-0")
    try:
        block.commit([b"0123456789"])
    finally:
        block.abort()


def link(store: BlockStore) -> None:
    store.link("b-0", "a-0", sum_of(b"x"))


Use = Callable[[BlockStore], None]


@pytest.mark.parametrize(("use", "needed"), [(known, 10), (unknown, 10), (link, 0)])
def test_a_block_is_stored_while_the_reserve_is_left(
    store: BlockStore, folder: Path, disk: WatchedDisk, use: Use, needed: int
) -> None:
    """The reserve itself must remain; a link takes no room."""
    disk.free = RESERVE + needed
    use(store)
    assert (folder / "b-0").exists()


@pytest.mark.parametrize(("use", "needed"), [(known, 10), (unknown, 10), (link, 0)])
def test_a_block_that_would_take_of_the_reserve_is_refused(
    store: BlockStore, folder: Path, disk: WatchedDisk, use: Use, needed: int
) -> None:
    """The sentence names the option; nothing is left."""
    disk.free = RESERVE + needed - 1
    with pytest.raises(DiskFull, match=TOO_LITTLE):
        use(store)
    assert (["a-0"], []) == ([block.id for block in store.list("", 10).blocks], os.listdir(folder / ".incoming"))


@pytest.mark.parametrize("error", [errno.EPERM, errno.EMLINK])
def test_a_link_that_must_be_a_copy_takes_room(store: BlockStore, disk: WatchedDisk, error: int) -> None:
    """Where there are no hard links."""
    disk.free = RESERVE
    disk.fail("link", error)
    with pytest.raises(DiskFull, match=TOO_LITTLE):
        link(store)
    disk.free = RESERVE + 1
    link(store)


def test_a_refused_block_is_not_begun_on_the_disk(store: BlockStore, disk: WatchedDisk) -> None:
    """A full disk is asked for nothing but its room."""
    disk.free = 0
    disk.calls.clear()
    with pytest.raises(DiskFull):
        known(store)
    assert [] == disk.calls


@pytest.mark.parametrize("use", [known, unknown, link])
def test_an_old_block_stays_when_a_new_one_is_refused(
    store: BlockStore, folder: Path, disk: WatchedDisk, use: Use
) -> None:
    """What was readable still is."""
    (folder / "b-0").write_bytes(b"old")
    disk.free = 0
    with pytest.raises(DiskFull):
        use(store)
    assert b"old" == (folder / "b-0").read_bytes()


@pytest.mark.parametrize("use", [known, unknown, link])
def test_a_delete_works_on_a_full_disk(store: BlockStore, folder: Path, disk: WatchedDisk, use: Use) -> None:
    """Also after a store has failed there, and storing works again once there is room."""
    (folder / "c-0").write_bytes(b"x")
    disk.free = 0
    for operation in ("create", "write", "fsync", "link"):
        disk.fail(operation, errno.ENOSPC)
    with pytest.raises(DiskFull):
        use(store)
    store.delete("c-0")
    assert not (folder / "c-0").exists()
    disk.mend()
    disk.free = None
    use(store)
    assert (folder / "b-0").exists()


def test_reads_and_quarantines_work_on_a_full_disk(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """Only what takes room is refused."""
    disk.free = 0
    assert sum_of(b"x") == store.stat("a-0", verify=True).crc32c
    assert store.quarantine("a-0", "00000000") is True
    assert b"x" == (folder / ".corrupt" / "a-0").read_bytes()


def test_without_a_reserve_only_the_disk_decides(folder: Path, disk: WatchedDisk) -> None:
    """It says itself when it is full."""
    store = open_store(folder, disk)
    disk.free = 0
    disk.fail("space", errno.EIO)
    known(store)
    assert b"0123456789" == (folder / "b-0").read_bytes()
    store.storage.release()


@pytest.mark.parametrize("use", [known, unknown, link])
def test_a_disk_that_does_not_tell_its_room_stores_nothing(
    store: BlockStore, folder: Path, disk: WatchedDisk, use: Use
) -> None:
    """No OSError leaves the store, and nothing stays."""
    disk.fail("space", errno.EIO)
    with pytest.raises(Internal, match=r"^cannot store the block: Input/output error$"):
        use(store)
    assert [] == os.listdir(folder / ".incoming")


def test_the_room_is_told(store: BlockStore, disk: WatchedDisk) -> None:
    """Free, in all, and what is to be left of it."""
    disk.free = 77
    space = store.space()
    assert (77, RESERVE) == (space.free_bytes, space.reserve_bytes)
    assert space.total_bytes > 0
    assert Space(77, space.total_bytes, RESERVE) == space


def test_a_room_that_is_not_told_is_an_error(store: BlockStore, disk: WatchedDisk) -> None:
    """With the system's own words."""
    disk.fail("space", errno.EIO)
    with pytest.raises(Internal, match=r"^cannot ask for free space: Input/output error$"):
        store.space()
