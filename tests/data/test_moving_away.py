import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from filefly.data.blocks import BlockStore
from filefly.errors import BadRequest, Conflict, DiskFull, FileFlyError, Internal, NotFound, Unavailable
from tests.data.disks import WatchedDisk, files, open_store
from tests.data.running import sum_of

GOOD, BAD = b"123456789", b"123456780"
SUM = sum_of(GOOD)


def quarantine(store: BlockStore, block_id: str) -> object:
    return store.quarantine(block_id, SUM)


Move = Callable[[BlockStore, str], object]
both = pytest.mark.parametrize(
    ("move", "where"), [(quarantine, ".corrupt"), (BlockStore.set_aside, ".unknown")], ids=["quarantine", "set_aside"]
)


def test_a_good_block_stays(store: BlockStore, folder: Path) -> None:
    """Whoever doubted it was wrong."""
    (folder / "a-0").write_bytes(GOOD)
    assert store.quarantine("a-0", SUM) is False
    assert {"a-0": GOOD} == files(folder)


def test_a_corrupt_block_is_kept_elsewhere(store: BlockStore, folder: Path) -> None:
    """A person may still look at it."""
    (folder / "a-0").write_bytes(BAD)
    assert store.quarantine("a-0", SUM) is True
    assert {".corrupt/a-0": BAD} == files(folder)


def test_a_block_is_judged_by_the_disk(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """Not by what the system remembers of it."""
    (folder / "a-0").write_bytes(GOOD)
    disk.calls.clear()
    store.quarantine("a-0", SUM)
    assert ["open", "drop_cached", "read", "close"] == disk.calls[-4:]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENODATA, errno.EBADMSG, errno.EUCLEAN])
def test_an_unreadable_block_is_moved(store: BlockStore, folder: Path, disk: WatchedDisk, error: int) -> None:
    """What the disk has lost is as bad as what is wrong."""
    (folder / "a-0").write_bytes(GOOD)
    disk.before["drop_cached"] = lambda: disk.fail("read", error)
    assert store.quarantine("a-0", SUM) is True
    assert {".corrupt/a-0": GOOD} == files(folder)


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EINTR, errno.ESTALE])
def test_a_block_is_not_moved_for_what_may_pass(store: BlockStore, folder: Path, disk: WatchedDisk, error: int) -> None:
    """The machine's troubles say nothing about the block."""
    (folder / "a-0").write_bytes(GOOD)
    disk.before["drop_cached"] = lambda: disk.fail("read", error)
    with pytest.raises(Internal, match=r"^cannot read the block: "):
        store.quarantine("a-0", SUM)
    assert {"a-0": GOOD} == files(folder)


@both
def test_what_was_moved_before_is_kept_too(store: BlockStore, folder: Path, move: Move, where: str) -> None:
    """A number tells them apart."""
    for n in range(3):
        (folder / "a-0").write_bytes(b"%d" % n)
        move(store, "a-0")
    assert {f"{where}/a-0": b"0", f"{where}/a-0~1": b"1", f"{where}/a-0~2": b"2"} == files(folder)


@both
def test_a_long_name_is_kept_too(store: BlockStore, folder: Path, move: Move, where: str) -> None:
    """What gets a number must not become longer than a file system takes."""
    for n in range(3):
        (folder / ("x" * 255)).write_bytes(b"%d" % n)
        move(store, "x" * 255)
    assert [b"0", b"1", b"2"] == [data for _name, data in sorted(files(folder).items(), key=lambda item: item[1])]


@both
def test_what_was_moved_is_no_block(store: BlockStore, folder: Path, move: Move, where: str) -> None:
    """It is not listed, not counted, and not found."""
    (folder / "a-0").write_bytes(BAD)
    move(store, "a-0")
    assert ([], 0) == (store.list("", 10).blocks, store.usage().block_count)
    with pytest.raises(NotFound):
        store.open("a-0")
    with pytest.raises(BadRequest):
        store.open(f"../{where}/a-0")


@both
def test_a_move_is_durable_before_it_is_acknowledged(folder: Path, move: Move, where: str) -> None:
    """In both folders, and so is the new folder itself."""

    class SyncedDisk(WatchedDisk):
        def fsync_directory(self, path: bytes) -> None:
            super().fsync_directory(path)
            self.calls[-1] = f"sync {os.path.relpath(os.fsdecode(path), folder)}"

    disk = SyncedDisk()
    store = open_store(folder, disk)
    (folder / "a-0").write_bytes(BAD)
    disk.calls.clear()
    move(store, "a-0")
    assert ["mkdir", "sync .", "rename", f"sync {where}", "sync ."] == [
        call for call in disk.calls if call in {"mkdir", "rename"} or call.startswith("sync")
    ]
    store.storage.release()


def test_a_block_that_is_not_there_is_not_quarantined(store: BlockStore, folder: Path) -> None:
    """And no empty folder is made for it."""
    with pytest.raises(NotFound, match=r"^block not found$"):
        store.quarantine("a-0", SUM)
    assert not (folder / ".corrupt").exists()


def test_a_block_that_is_not_there_is_aside_already(store: BlockStore, folder: Path) -> None:
    """Asking twice is fine."""
    store.set_aside("a-0")
    assert not (folder / ".unknown").exists()


@both
@pytest.mark.parametrize("block_id", ["", "..", "../a-0", ".corrupt/../a-0"])
def test_a_bad_id_is_refused(store: BlockStore, move: Move, where: str, block_id: str) -> None:
    """No id leaves the storage directory."""
    with pytest.raises(BadRequest):
        move(store, block_id)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_what_is_no_block_is_left_alone(store: BlockStore, folder: Path, kind: str) -> None:
    """Somebody's folder, and a link to somewhere, stay where they are."""
    if kind == "folder":
        (folder / "a-0").mkdir()
    else:
        (folder / "a-0").symlink_to("elsewhere")
    with pytest.raises(NotFound):
        store.quarantine("a-0", SUM)
    store.set_aside("a-0")
    assert "a-0" in os.listdir(folder)


@both
@pytest.mark.parametrize("operation", ["mkdir", "rename", "stat"])
@pytest.mark.parametrize(("error", "kind"), [(errno.EIO, Internal), (errno.ENOSPC, DiskFull)])
def test_a_failed_move_leaves_the_block(
    store: BlockStore,
    folder: Path,
    disk: WatchedDisk,
    move: Move,
    where: str,
    operation: str,
    error: int,
    kind: type[FileFlyError],
) -> None:
    """It is where it was, and the next try works."""
    (folder / "a-0").write_bytes(BAD)
    disk.fail(operation, error)
    with pytest.raises(kind):
        move(store, "a-0")
    assert {"a-0": BAD} == files(folder)
    disk.mend()
    move(store, "a-0")
    assert {f"{where}/a-0": BAD} == files(folder)


@both
def test_a_failed_sync_stops_writing(
    store: BlockStore, folder: Path, disk: WatchedDisk, move: Move, where: str
) -> None:
    """Whether a crash would bring the block back, or take it away for good, nobody knows."""
    (folder / where).mkdir()
    (folder / "a-0").write_bytes(BAD)
    disk.fail("fsync_directory", errno.EIO)
    with pytest.raises(Unavailable, match="cannot be synced"):
        move(store, "a-0")
    disk.mend()
    (folder / "b-0").write_bytes(BAD)
    with pytest.raises(Unavailable, match="cannot be synced"):
        move(store, "b-0")
    assert {f"{where}/a-0": BAD, "b-0": BAD} == files(folder)


# Meanwhile


def test_a_good_block_that_is_published_meanwhile_stays(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """A store may come between the look at the old bytes and their move: the new ones are looked at as well."""
    (folder / "a-0").write_bytes(BAD)

    def store_a_good_one() -> None:
        disk.mend()
        store.begin("a-0").commit([GOOD])

    disk.before["read"] = lambda: disk.before.update(read=store_a_good_one)  # the identity is read before the block
    assert store.quarantine("a-0", SUM) is False
    assert {"a-0": GOOD} == files(folder)


def test_a_bad_block_that_is_published_meanwhile_goes(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """Each is judged by its own bytes."""
    (folder / "a-0").write_bytes(GOOD)

    def store_a_bad_one() -> None:
        disk.mend()
        store.begin("a-0").commit([BAD])

    (folder / "a-0").write_bytes(b"also bad")
    disk.before["read"] = lambda: disk.before.update(read=store_a_bad_one)
    assert store.quarantine("a-0", SUM) is True
    assert {".corrupt/a-0": BAD} == files(folder)


def test_a_block_that_is_deleted_meanwhile_is_not_found(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """The delete has done more than the quarantine would."""
    (folder / "a-0").write_bytes(BAD)

    def delete() -> None:
        disk.mend()
        store.delete("a-0")

    disk.before["read"] = lambda: disk.before.update(read=delete)
    with pytest.raises(NotFound):
        store.quarantine("a-0", SUM)
    assert {} == files(folder)


def test_no_good_block_is_lost_to_threads(store: BlockStore, folder: Path) -> None:
    """However stores, the moving of corrupt ones, and damage meet, the last good store's bytes are readable."""
    stored = threading.Event()

    def keep_quarantining() -> None:
        while not stored.is_set():
            with suppress(NotFound):
                store.quarantine("a-0", SUM)

    threads = [threading.Thread(target=keep_quarantining) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            store.begin("a-0").commit([BAD])
            store.begin("a-0").commit([GOOD])
            assert GOOD == (folder / "a-0").read_bytes()
    finally:
        stored.set()
        for thread in threads:
            thread.join()
    moved = files(folder)
    assert GOOD == moved.pop("a-0")
    assert {BAD} >= {*moved.values()}


def test_a_block_that_is_being_stored_is_not_set_aside(store: BlockStore, folder: Path) -> None:
    """It may be known by the time it is there."""
    (folder / "a-0").write_bytes(GOOD)
    block = store.begin("a-0")
    with pytest.raises(Conflict, match=r"^this block is being stored$"):
        store.set_aside("a-0")
    assert {"a-0": GOOD} == files(folder)
    block.abort()
    store.set_aside("a-0")
    assert {".unknown/a-0": GOOD} == files(folder)


def test_a_store_that_begins_meanwhile_wins(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """What was looked at is moved; what is stored after it stays."""
    (folder / "a-0").write_bytes(BAD)
    begun = []

    def begin() -> None:
        begun.append(store.begin("a-0"))

    disk.before["rename"] = begin
    store.set_aside("a-0")
    disk.mend()
    begun[0].commit([GOOD])
    assert {".unknown/a-0": BAD, "a-0": GOOD} == files(folder)


def test_beginning_a_store_waits_for_no_disk(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """A store may begin in the reactor's thread while another thread waits for the disk to rename, delete or move."""
    (folder / "a-0").write_bytes(BAD)
    (folder / "b-0").write_bytes(BAD)
    begun = 0

    def begin() -> None:
        nonlocal begun
        thread = threading.Thread(target=lambda: store.begin("z-0").abort())
        thread.start()
        thread.join(10)
        begun += not thread.is_alive()

    disk.before = {"rename": begin, "unlink": begin}
    store.begin("c-0").commit([GOOD])
    store.quarantine("a-0", SUM)
    store.delete("b-0")
    assert 3 == begun
