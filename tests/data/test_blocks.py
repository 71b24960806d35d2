import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filefly.data.blocks import BlockStore
from filefly.data.disk import Disk
from filefly.errors import (
    BadRange,
    BadRequest,
    Conflict,
    Corrupt,
    DiskFull,
    FileFlyError,
    Internal,
    NotFound,
    TooLarge,
    Unavailable,
)
from filefly.wire.blocks import BlockSum, ListedBlock
from filefly.wire.names import check_block_id, name_on_disk
from tests.data.disks import WatchedDisk, open_store

MIB = 1024 * 1024


@pytest.fixture
def store(folder: Path, disk: WatchedDisk) -> Iterator[BlockStore]:
    opened = open_store(folder, disk, max_block_size=4 * MIB)
    yield opened
    opened.storage.release()


def put(store: BlockStore, block_id: str, *chunks: bytes) -> BlockSum:
    return store.begin(block_id).commit(chunks)


def get(store: BlockStore, block_id: str, offset: int = 0, length: int | None = None) -> bytes:
    block = store.open(block_id, offset, length)
    try:
        return block.read(block.offset, block.end - block.offset)
    finally:
        block.close()


def incoming(folder: Path) -> list[str]:
    return os.listdir(folder / ".incoming")


def blocks_of(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


# Storing


def test_a_block_is_a_plain_file(store: BlockStore, folder: Path) -> None:
    """The file has the block's bytes and nothing else, under its id."""
    put(store, "hello.txt-0", b"hello ", b"world")
    assert b"hello world" == (folder / "hello.txt-0").read_bytes()


def test_a_store_answers_with_size_and_checksum(store: BlockStore) -> None:
    """The checksum is that of the bytes that arrived."""
    assert BlockSum(size=9, crc32c="e3069283") == put(store, "a-0", b"1234", b"", b"56789")


def test_a_block_arrives_in_pieces(store: BlockStore, folder: Path) -> None:
    """Each piece is appended and summed up."""
    block = store.begin("a-0")
    for piece in (b"123", b"456"):
        block.write([piece])
    assert BlockSum(size=9, crc32c="e3069283") == block.commit([b"789"])
    assert b"123456789" == (folder / "a-0").read_bytes()


def test_what_has_come_of_a_block_is_written_while_more_is_coming(store: BlockStore, disk: WatchedDisk) -> None:
    """The last piece is synced at once."""
    block = store.begin("a-0")
    for piece in (b"123", b"456"):
        block.write([piece])
    block.commit([b"789"])
    assert 2 == len(disk.begun_syncs)


def test_an_empty_block_is_stored(store: BlockStore, folder: Path) -> None:
    """A block of no bytes is a file of no bytes."""
    assert BlockSum(size=0, crc32c="00000000") == put(store, "a-0")
    assert b"" == (folder / "a-0").read_bytes()
    assert b"" == get(store, "a-0")


@pytest.mark.parametrize("block_id", ["docs/a b.txt-0", ".profile-0", "100%-0", "-rf-0", "日本-0", "..x/..y-0"])
def test_an_odd_id_is_kept(store: BlockStore, folder: Path, block_id: str) -> None:
    """What a client calls its file is no path here."""
    put(store, block_id, b"x")
    assert b"x" == get(store, block_id)
    assert [ListedBlock(block_id, 1)] == store.list("", 10).blocks
    assert b"x" == (folder / os.fsdecode(name_on_disk(block_id))).read_bytes()


@pytest.mark.parametrize("block_id", ["", "..", "../a-0", "/a-0", "a\0b", "a\n", "x" * 256, "a\ud800"])
@pytest.mark.parametrize("use", [BlockStore.begin, BlockStore.open, BlockStore.stat, BlockStore.delete])
def test_a_bad_id_is_refused(store: BlockStore, use: Callable[[BlockStore, str], object], block_id: str) -> None:
    """No id leaves the storage directory, whatever it is used for."""
    with pytest.raises(BadRequest):
        use(store, block_id)


def test_a_block_is_durable_before_it_is_acknowledged(store: BlockStore, disk: WatchedDisk) -> None:
    """The bytes are on stable storage before the name is, and both before `commit` returns."""
    put(store, "a-0", b"x")
    assert ["create", "write", "fsync", "close", "rename", "fsync_directory"] == disk.calls


def test_only_a_whole_block_is_visible(store: BlockStore, folder: Path) -> None:
    """Until its commit a block is nowhere but in the folder of incoming ones."""
    block = store.begin("a-0")
    block.write([b"x"])
    assert ([], 1) == (blocks_of(folder), len(incoming(folder)))
    with pytest.raises(NotFound):
        store.open("a-0")
    block.abort()


def test_beginning_touches_no_disk(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """A store that is begun and forgotten leaves nothing."""
    store.begin("a-0").abort()
    assert ([], []) == (disk.calls, incoming(folder))


def test_an_aborted_store_leaves_nothing(store: BlockStore, folder: Path) -> None:
    """Neither a block nor a temporary file."""
    block = store.begin("a-0")
    block.write([b"x"])
    block.abort()
    assert ([], []) == (blocks_of(folder), incoming(folder))


def test_an_aborted_store_leaves_the_old_block(store: BlockStore) -> None:
    """Old or new, never a mix."""
    put(store, "a-0", b"old")
    block = store.begin("a-0")
    block.write([b"new"])
    block.abort()
    assert b"old" == get(store, "a-0")


def test_aborting_after_the_commit_does_nothing(store: BlockStore) -> None:
    """Whoever cleans up late does no harm."""
    block = store.begin("a-0")
    block.commit([b"x"])
    block.abort()
    assert b"x" == get(store, "a-0")


def test_a_store_replaces_the_block(store: BlockStore, folder: Path) -> None:
    """The newest bytes are read."""
    put(store, "a-0", b"old and long")
    put(store, "a-0", b"new")
    assert b"new" == get(store, "a-0")
    assert (["a-0"], []) == (blocks_of(folder), incoming(folder))


def test_the_last_store_begun_wins(store: BlockStore, folder: Path) -> None:
    """An older one that ends later answers `conflict` and leaves no temporary file."""
    older, newer = store.begin("a-0"), store.begin("a-0")
    newer.commit([b"newer"])
    with pytest.raises(Conflict, match=r"^a newer store or a delete of this block came first$"):
        older.commit([b"older"])
    older.abort()
    assert b"newer" == get(store, "a-0")
    assert [] == incoming(folder)


def test_a_store_is_doomed_as_soon_as_a_newer_one_begins(store: BlockStore, folder: Path) -> None:
    """An older one that ends earlier answers `conflict`, too: what it stored would be gone at once."""
    older, newer = store.begin("a-0"), store.begin("a-0")
    with pytest.raises(Conflict):
        older.commit([b"older"])
    older.abort()
    assert [] == blocks_of(folder)
    newer.commit([b"newer"])
    assert b"newer" == get(store, "a-0")


def test_a_doomed_store_does_not_doom_others(store: BlockStore) -> None:
    """Cleaning up after an older store leaves the newer one its right."""
    older, newer = store.begin("a-0"), store.begin("a-0")
    older.abort()
    assert BlockSum(size=1, crc32c=f"{crc32c(b'x'):08x}") == newer.commit([b"x"])


def test_stores_of_other_blocks_go_on(store: BlockStore) -> None:
    """Only the same id competes."""
    one, other = store.begin("a-0"), store.begin("a-1")
    other.commit([b"other"])
    one.commit([b"one"])
    assert [b"one", b"other"] == [get(store, "a-0"), get(store, "a-1")]


def test_a_delete_dooms_the_stores_under_way(store: BlockStore, folder: Path) -> None:
    """A late write does not bring a deleted block back."""
    block = store.begin("a-0")
    block.write([b"x"])
    store.delete("a-0")
    with pytest.raises(Conflict):
        block.commit()
    block.abort()
    assert ([], []) == (blocks_of(folder), incoming(folder))


def test_a_store_begun_after_a_delete_is_fine(store: BlockStore) -> None:
    """The last one wins, in this order, too."""
    put(store, "a-0", b"old")
    store.delete("a-0")
    put(store, "a-0", b"new")
    assert b"new" == get(store, "a-0")


def test_another_checksum_stores_nothing(store: BlockStore, folder: Path) -> None:
    """What was damaged on its way replaces nothing."""
    put(store, "a-0", b"old")
    block = store.begin("a-0")
    with pytest.raises(Corrupt, match=r"^crc32c is e3069283, expected 00000000$"):
        block.commit([b"123456789"], expected="00000000")
    block.abort()
    assert b"old" == get(store, "a-0")
    assert [] == incoming(folder)


def test_the_expected_checksum_is_stored(store: BlockStore) -> None:
    """A client that says what it sends is believed when it is so."""
    assert BlockSum(size=9, crc32c="e3069283") == store.begin("a-0").commit([b"123456789"], expected="e3069283")


def test_a_block_as_large_as_the_limit_is_stored(store: BlockStore) -> None:
    """The limit itself is allowed."""
    assert 4 * MIB == put(store, "a-0", *[b"x" * MIB] * 4).size


def test_a_block_over_the_limit_is_refused(store: BlockStore, folder: Path) -> None:
    """The piece that goes over it is not written; the sentence names the option."""
    block = store.begin("a-0")
    block.write([b"x" * MIB] * 4)
    with pytest.raises(TooLarge, match=r"^block is over the limit of 4194304 bytes \(--max-block-size\)$"):
        block.commit([b"x"])
    block.abort()
    assert ([], []) == (blocks_of(folder), incoming(folder))


# Faults


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "rename"])
@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (errno.EIO, Internal, "cannot store the block: Input/output error"),
        (errno.ENOSPC, DiskFull, "the disk is full; free some space or add a data server"),
        (errno.EDQUOT, DiskFull, "the disk is full; free some space or add a data server"),
        (
            errno.ENOENT,
            Unavailable,
            r"cannot store the block: a folder of the storage directory is gone; is its disk mounted\?",
        ),
    ],
)
def test_a_failed_store_leaves_nothing(
    store: BlockStore, folder: Path, disk: WatchedDisk, operation: str, error: int, kind: type[Exception], sentence: str
) -> None:
    """The old block stays, the temporary file goes, and the next try works."""
    put(store, "a-0", b"old")
    disk.fail(operation, error)
    block = store.begin("a-0")
    with pytest.raises(kind, match=f"^{sentence}$"):
        block.commit([b"newer"])
    block.abort()
    assert (b"old", []) == (get(store, "a-0"), incoming(folder))
    disk.mend()
    put(store, "a-0", b"newer")
    assert b"newer" == get(store, "a-0")


def test_a_file_that_could_not_be_closed_is_removed(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """Some file systems tell of a failed write only then."""
    disk.fail("close", errno.EDQUOT)
    block = store.begin("a-0")
    with pytest.raises(DiskFull):
        block.commit([b"x"])
    block.abort()
    assert ([], []) == (blocks_of(folder), incoming(folder))


def test_a_file_that_could_not_be_synced_is_not_tried_again(store: BlockStore, disk: WatchedDisk) -> None:
    """What the kernel could not write once it may forget: only a new file can be trusted."""
    disk.fail("fsync", errno.EIO)
    block = store.begin("a-0")
    with pytest.raises(Internal):
        block.commit([b"x"])
    block.abort()
    assert ["create", "write", "fsync", "close", "unlink"] == disk.calls


def test_a_failed_sync_of_the_folder_is_no_success(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """Whether the block is there after a crash nobody knows; the sentence says what to do."""
    disk.fail("fsync_directory", errno.EIO)
    block = store.begin("a-0")
    with pytest.raises(Unavailable, match=r"^the storage directory cannot be synced \(Input/output error\); check the"):
        block.commit([b"x"])
    block.abort()
    assert [] == incoming(folder)


def stopped(store: BlockStore, disk: WatchedDisk) -> BlockStore:
    """Let a sync of the folder fail, once."""
    put(store, "a-0", b"x")
    disk.fail("fsync_directory", errno.EIO)
    block = store.begin("b-0")
    with pytest.raises(Unavailable):
        block.commit([b"x"])
    block.abort()
    disk.mend()
    return store


def test_a_failed_sync_of_the_folder_stops_storing(store: BlockStore, disk: WatchedDisk) -> None:
    """Nothing can be promised any more, even if the disk seems to be well again."""
    with pytest.raises(Unavailable, match="cannot be synced"):
        stopped(store, disk).begin("a-0")


def test_a_failed_sync_of_the_folder_stops_deleting(store: BlockStore, disk: WatchedDisk) -> None:
    """A delete is a write as well."""
    with pytest.raises(Unavailable, match="cannot be synced"):
        stopped(store, disk).delete("a-0")


def test_a_failed_sync_of_the_folder_stops_the_stores_under_way(
    store: BlockStore, folder: Path, disk: WatchedDisk
) -> None:
    """A store that began before does not end as if nothing had been."""
    under_way = store.begin("c-0")
    under_way.write([b"x"])
    stopped(store, disk)
    with pytest.raises(Unavailable, match="cannot be synced"):
        under_way.commit()
    under_way.abort()
    assert not (folder / "c-0").exists()


def test_a_failed_sync_of_the_folder_stops_a_sync_that_comes_after_it(store: BlockStore, disk: WatchedDisk) -> None:
    """A sync that seems to succeed after another has failed may have lost what the other could not write."""
    first, second = store.begin("a-0"), store.begin("b-0")

    def fail_for_the_first() -> None:
        disk.fail("fsync_directory", errno.EIO)
        with pytest.raises(Unavailable):
            first.commit([b"first"])
        disk.mend()

    disk.before["fsync_directory"] = fail_for_the_first
    with pytest.raises(Unavailable, match="cannot be synced"):
        second.commit([b"second"])


def test_a_failed_sync_of_the_folder_does_not_stop_reading(store: BlockStore, disk: WatchedDisk) -> None:
    """What is there can still be rescued."""
    assert b"x" == get(stopped(store, disk), "a-0")


def test_a_failed_sync_after_a_delete_is_no_success(store: BlockStore, disk: WatchedDisk) -> None:
    """A deleted block might be back after a crash."""
    put(store, "a-0", b"x")
    disk.fail("fsync_directory", errno.EIO)
    with pytest.raises(Unavailable, match="cannot be synced"):
        store.delete("a-0")


@pytest.mark.parametrize(("operation", "doing"), [("open", "read"), ("unlink", "delete")])
def test_a_failure_of_the_disk_is_told_in_a_sentence(
    store: BlockStore, disk: WatchedDisk, operation: str, doing: str
) -> None:
    """No OSError leaves the store."""
    put(store, "a-0", b"x")
    disk.fail(operation, errno.EIO)
    use: Callable[[str], object] = store.open if operation == "open" else store.delete
    with pytest.raises(Internal, match=f"^cannot {doing} the block: Input/output error$"):
        use("a-0")


def test_a_failed_read_is_told_in_a_sentence(store: BlockStore, disk: WatchedDisk) -> None:
    """A bad sector is no end of file."""
    put(store, "a-0", b"x")
    block = store.open("a-0")
    disk.fail("read", errno.EIO)
    with pytest.raises(Internal, match=r"^cannot read the block: Input/output error$"):
        block.read(0, 1)
    block.close()


# Reading


@pytest.mark.parametrize("use", [get, BlockStore.stat, lambda store, block_id: store.stat(block_id, verify=True)])
def test_what_closing_a_file_that_was_read_says_does_not_matter(
    store: BlockStore, disk: WatchedDisk, use: Callable[[BlockStore, str], object]
) -> None:
    """Its bytes are known by then."""
    put(store, "a-0", b"x")
    disk.fail("close", errno.EIO)
    assert use(store, "a-0") in (b"x", BlockSum(size=1), BlockSum(size=1, crc32c=f"{crc32c(b'x'):08x}"))
    with pytest.raises(NotFound):
        use(store, "b-0")


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 0, b""),
        (0, 3, b"012"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (9, 1, b"9"),
        (8, 100, b"89"),
        (0, 2**53 - 1, b"0123456789"),
        (10, None, b""),
        (10, 5, b""),
    ],
)
def test_a_range_is_read(store: BlockStore, offset: int, length: int | None, expected: bytes) -> None:
    """A range's end is clipped; it may begin at the end itself."""
    put(store, "a-0", b"0123456789")
    assert expected == get(store, "a-0", offset, length)


@pytest.mark.parametrize("offset", [11, 2**53 - 1])
def test_a_range_cannot_begin_beyond_the_end(store: BlockStore, offset: int) -> None:
    """The sentence has both numbers."""
    put(store, "a-0", b"0123456789")
    with pytest.raises(BadRange, match=rf"^offset {offset} is beyond the block's 10 bytes$"):
        store.open("a-0", offset, 0)


@given(st.binary(max_size=40), st.integers(0, 50), st.none() | st.integers(0, 50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_range_is_the_same_slice_of_the_bytes(
    store: BlockStore, data: bytes, offset: int, length: int | None
) -> None:
    """Ranges are what Python's slices are, and their sums those of the slices."""
    put(store, "a-0", data)
    if offset > len(data):
        with pytest.raises(BadRange):
            store.open("a-0", offset, length)
        return
    wanted = data[offset:] if length is None else data[offset : offset + length]
    block = store.open("a-0", offset, length)
    assert (f"{crc32c(data):08x}", f"{crc32c(wanted):08x}") == block.sums()
    assert wanted == block.read(block.offset, block.end - block.offset)
    block.close()


def test_the_sums_of_a_large_block_are_right(store: BlockStore) -> None:
    """A block that is read in several pieces has the same sums, as has a range across them."""
    data = os.urandom(3 * MIB + 5)
    put(store, "a-0", data)
    block = store.open("a-0", MIB - 1, MIB + 2)
    assert (f"{crc32c(data):08x}", f"{crc32c(data[MIB - 1 : 2 * MIB + 1]):08x}") == block.sums()
    block.close()


def test_a_block_that_is_not_there_is_not_found(store: BlockStore) -> None:
    """Other programs look for `block not found`."""
    with pytest.raises(NotFound, match=r"^block not found$"):
        store.open("a-0")


def test_a_block_that_was_deleted_by_hand_is_not_found(store: BlockStore, folder: Path) -> None:
    """Removing the file is allowed."""
    put(store, "a-0", b"x")
    (folder / "a-0").unlink()
    with pytest.raises(NotFound, match=r"^block not found$"):
        store.open("a-0")
    assert [] == store.list("", 10).blocks


def test_a_block_that_was_put_there_by_hand_is_found(store: BlockStore, folder: Path) -> None:
    """A block restored from a copy is a block."""
    (folder / "a-0").write_bytes(b"restored")
    assert b"restored" == get(store, "a-0")


@pytest.mark.parametrize("change", ["replace", "delete", "delete by hand"])
def test_an_open_block_keeps_its_bytes(store: BlockStore, folder: Path, change: str) -> None:
    """A reader sees the old block or the new one, never a mix."""
    put(store, "a-0", b"old" * 1000)
    block = store.open("a-0")
    before = block.read(0, 1500)
    if change == "replace":
        put(store, "a-0", b"new" * 2000)
    elif change == "delete":
        store.delete("a-0")
    else:
        (folder / "a-0").unlink()
    assert b"old" * 1000 == before + block.read(1500, 1500)
    block.close()


def test_a_block_that_became_shorter_is_an_error(store: BlockStore, folder: Path) -> None:
    """Fewer bytes than were promised are never returned as if they were all."""
    put(store, "a-0", b"0123456789")
    block = store.open("a-0")
    os.truncate(folder / "a-0", 5)
    with pytest.raises(Unavailable, match=r"^the block was cut short while it was read$"):
        block.read(0, 10)
    block.close()


def test_a_closed_block_cannot_be_read(store: BlockStore) -> None:
    """Its descriptor may be another file's by now."""
    put(store, "a-0", b"x")
    block = store.open("a-0")
    block.close()
    block.close()
    with pytest.raises(Internal, match="the block is closed"):
        block.read(0, 1)


def test_no_descriptor_is_left_open(store: BlockStore, disk: WatchedDisk) -> None:
    """Every way to fail gives its file back."""
    put(store, "a-0", b"x")
    before = len(os.listdir("/proc/self/fd"))
    for block_id, offset in (("a-0", 5), ("b-0", 0), ("../x", 0)):
        with pytest.raises(FileFlyError):
            store.open(block_id, offset)
    store.stat("a-0", verify=True)
    for operation in ("create", "write", "fsync", "rename"):
        disk.fail(operation, errno.EIO)
        block = store.begin("c-0")
        with pytest.raises(Internal):
            block.commit([b"x"])
        block.abort()
        disk.mend()
    assert before == len(os.listdir("/proc/self/fd"))


def test_stat_tells_the_size(store: BlockStore) -> None:
    """Without reading a byte."""
    put(store, "a-0", b"123456789")
    assert BlockSum(size=9) == store.stat("a-0")


def test_stat_reads_what_is_on_disk_now(store: BlockStore, folder: Path) -> None:
    """With `verify` a changed byte shows."""
    put(store, "a-0", b"123456780")
    (folder / "a-0").write_bytes(b"123456789")
    assert BlockSum(size=9, crc32c="e3069283") == store.stat("a-0", verify=True)


# Deleting


def test_a_deleted_block_is_gone(store: BlockStore, folder: Path) -> None:
    """The file is removed."""
    put(store, "a-0", b"x")
    store.delete("a-0")
    assert [] == blocks_of(folder)


def test_a_delete_is_durable_before_it_is_acknowledged(store: BlockStore, disk: WatchedDisk) -> None:
    """A deleted block is not back after a crash."""
    put(store, "a-0", b"x")
    disk.calls.clear()
    store.delete("a-0")
    assert ["unlink", "fsync_directory"] == disk.calls[-2:]


def test_a_block_that_is_not_there_can_be_deleted(store: BlockStore) -> None:
    """A delete may be repeated until it is confirmed."""
    store.delete("a-0")
    store.delete("a-0")
    assert [] == store.list("", 1).blocks


# Listing


def ids_of(store: BlockStore, after: str = "", limit: int = 100) -> tuple[list[str], str | None]:
    page = store.list(after, limit)
    return [block.id for block in page.blocks], page.next


def test_an_empty_store_lists_nothing(store: BlockStore) -> None:
    """There is no next page either."""
    assert ([], None) == ids_of(store)


def test_blocks_are_listed_with_their_sizes(store: BlockStore) -> None:
    """The size is that of the file."""
    put(store, "a-0", b"12345")
    assert [ListedBlock("a-0", 5)] == store.list("", 10).blocks


def test_blocks_are_listed_in_byte_order(store: BlockStore) -> None:
    """The order is that of the ids' UTF-8, not of how they are spelled on disk."""
    ids = [
        "%-0",
        "-0",
        ".-0",
        "/x-0".lstrip("/"),
        "0/1-0",
        "0-0",
        "A-0",
        "a/b-0",
        "a-0",
        "ab-0",
        "é-0",
        "\uffff-0",
        "😀-0",
    ]
    for each in ids:
        put(store, each, b"x")
    assert (sorted(ids, key=str.encode), None) == ids_of(store)


def test_a_page_says_where_the_next_begins(store: BlockStore) -> None:
    """`next` is the last id of the page, and is absent at the end."""
    for n in range(5):
        put(store, f"a-{n}", b"x")
    assert [(["a-0", "a-1"], "a-1"), (["a-2", "a-3"], "a-3"), (["a-4"], None)] == [
        ids_of(store, after, 2) for after in ("", "a-1", "a-3")
    ]


def test_a_full_last_page_has_no_next(store: BlockStore) -> None:
    """Nobody asks for an empty page."""
    put(store, "a-0", b"x")
    assert (["a-0"], None) == ids_of(store, limit=1)


def test_after_need_not_be_there(store: BlockStore) -> None:
    """A block that was deleted between two pages does no harm."""
    put(store, "a-0", b"x")
    put(store, "a-2", b"x")
    assert (["a-2"], None) == ids_of(store, after="a-1")


segments = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=4)
segments = segments.filter(lambda text: text not in {".", ".."})


@given(st.sets(st.lists(segments, min_size=1, max_size=3).map("/".join), max_size=12), st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_pages_have_every_block_once(store: BlockStore, folder: Path, names: set[str], limit: int) -> None:
    """Going on after `next` leaves nothing out, doubles nothing, and ends."""
    for name in blocks_of(folder):
        (folder / name).unlink()
    ids = {f"{name}-0" for name in names}
    for each in ids:
        check_block_id(each)
        put(store, each)
    listed: list[str] = []
    after: str | None = ""
    while after is not None:
        page, after = ids_of(store, after, limit)
        listed += page
    assert sorted(ids, key=str.encode) == listed


def foreign(folder: Path) -> None:
    """Put all kinds of things into `folder` that are no blocks."""
    (folder / "folder-0").mkdir()
    (folder / "secret").write_text("secret")
    (folder / "secret").rename(folder.parent / "secret")
    (folder / "link-0").symlink_to("../secret")
    (folder / "dangling-0").symlink_to("nowhere")
    (folder / "loop-0").symlink_to("loop-0")
    os.mkfifo(folder / "pipe-0")
    (folder / "%2fslash-0").write_text("lower case")
    (folder / "100%-0").write_text("not encoded")
    (folder / ".hidden-0").write_text("hidden")
    (folder / "line\nend-0").write_text("control")
    Path(os.fsdecode(os.fsencode(folder) + b"/latin-\xe9-0")).write_text("no UTF-8")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket-0"))


FOREIGN = ["folder-0", "link-0", "dangling-0", "loop-0", "pipe-0", "socket-0", "100%-0", ".hidden-0", "slash-0"]


def test_foreign_files_are_not_listed(store: BlockStore, folder: Path) -> None:
    """Only regular files whose names survive are blocks."""
    foreign(folder)
    put(store, "a-0", b"x")
    assert (["a-0"], None) == ids_of(store)


def test_foreign_files_are_not_counted(store: BlockStore, folder: Path) -> None:
    """Neither as blocks nor as bytes."""
    foreign(folder)
    put(store, "a-0", b"12345")
    usage = store.usage()
    assert (1, 5) == (usage.block_count, usage.used_bytes)


@pytest.mark.parametrize("block_id", FOREIGN)
def test_foreign_files_are_not_read(store: BlockStore, folder: Path, block_id: str) -> None:
    """No link is followed, no pipe waited for, no folder opened."""
    foreign(folder)
    with pytest.raises(NotFound, match=r"^block not found$"):
        store.open(block_id)


def test_deleting_leaves_what_a_link_leads_to(store: BlockStore, folder: Path) -> None:
    """A link in the storage directory is no way out of it."""
    foreign(folder)
    store.delete("link-0")
    assert "secret" == (folder.parent / "secret").read_text()


def test_storing_leaves_what_a_link_leads_to(store: BlockStore, folder: Path) -> None:
    """The link is replaced, not what it leads to."""
    foreign(folder)
    put(store, "link-0", b"block")
    assert "secret" == (folder.parent / "secret").read_text()
    assert b"block" == (folder / "link-0").read_bytes()


def test_a_block_cannot_replace_a_folder(store: BlockStore, folder: Path) -> None:
    """Somebody's folder is left alone, with a sentence."""
    foreign(folder)
    block = store.begin("folder-0")
    with pytest.raises(Internal, match=r"^cannot store the block: "):
        block.commit([b"x"])
    block.abort()
    assert (folder / "folder-0").is_dir()
    assert [] == incoming(folder)


def test_a_block_that_goes_while_it_is_listed_is_left_out(folder: Path) -> None:
    """Deleting by hand at any time is allowed."""

    class DeletingDisk(WatchedDisk):
        def stat(self, path: bytes) -> os.stat_result:
            if path.endswith(b"a-0"):
                os.unlink(path)
            return super().stat(path)

    store = open_store(folder, DeletingDisk())
    for each in ("a-0", "a-1", "a-2"):
        put(store, each, b"x")
    assert (["a-1"], "a-1") == ids_of(store, limit=2)
    store.storage.release()


def test_usage_counts_blocks_and_bytes(store: BlockStore, folder: Path) -> None:
    """Free space is what the file system says."""
    put(store, "a-0", b"12345")
    put(store, "a-1", b"1234567")
    usage = store.usage()
    assert (2, 12) == (usage.block_count, usage.used_bytes)
    assert usage.free_bytes > 0


# Threads


def test_many_threads_store_one_block(folder: Path) -> None:
    """Exactly one store of those begun wins: the last; every other answers `conflict` and leaves nothing."""
    store = open_store(folder)
    blocks = [store.begin("a-0") for _ in range(16)]
    outcomes: list[str] = [""] * len(blocks)

    def run(n: int) -> None:
        try:
            blocks[n].write([b"%d" % n] * 1000)
            blocks[n].commit()
            outcomes[n] = "stored"
        except Conflict:
            outcomes[n] = "conflict"
        finally:
            blocks[n].abort()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(blocks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [*["conflict"] * 15, "stored"] == outcomes
    assert (b"15" * 1000, []) == (get(store, "a-0"), incoming(folder))
    store.storage.release()


def test_the_real_disk_keeps_blocks(folder: Path) -> None:
    """Without any fake, on the file system that the tests run on, across a restart."""
    store = open_store(folder, Disk())
    put(store, "a-0", b"123456789")
    store.storage.release()
    store = open_store(folder, Disk())
    assert BlockSum(size=9, crc32c="e3069283") == store.stat("a-0", verify=True)
    store.storage.release()
