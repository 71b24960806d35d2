import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filefly.data.batches import IncomingBatch, read_batch
from filefly.data.blocks import BlockStore
from filefly.errors import BadRequest, TooLarge, Unavailable
from filefly.wire.batches import MAX_BATCH_BYTES, BlockResult, BlockToRetrieve, BlockToStore
from tests.data.disks import WatchedDisk, files, open_store
from tests.data.running import MIB, sum_of
from tests.faults.nth_disk import Fault, NthDisk

CONFLICT = BlockResult(error="a newer store or a delete of this block came first", code="conflict")
FULL = BlockResult(error="the disk is full; free some space or add a data server", code="disk_full")


def begin(store: BlockStore, *blocks: tuple[str, bytes]) -> IncomingBatch:
    wanted = [BlockToStore(block_id, len(data)) for block_id, data in blocks]
    return IncomingBatch(store, wanted, sum(len(data) for _id, data in blocks))


def put(store: BlockStore, *blocks: tuple[str, bytes]) -> list[BlockResult]:
    batch = begin(store, *blocks)
    try:
        return batch.commit([data for _id, data in blocks])
    except BaseException:
        batch.abort()
        raise


def stored(data: bytes) -> BlockResult:
    return BlockResult(size=len(data), crc32c=sum_of(data))


# Storing


@given(st.lists(st.binary(max_size=9), max_size=7), st.lists(st.integers(1, 63), max_size=9), st.integers(0, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_blocks_are_the_same_however_their_bytes_come(
    store: BlockStore, folder: Path, blocks: list[bytes], cuts: list[int], written: int
) -> None:
    """Neither chunks nor calls have anything to do with where a block ends; a block may have no bytes."""
    sent = b"".join(blocks)
    edges = [0, *sorted({cut for cut in cuts if cut < len(sent)}), len(sent)]
    chunks = [sent[begin:end] for begin, end in itertools.pairwise(edges)]
    named = [(f"{n}-0", data) for n, data in enumerate(blocks)]
    batch = begin(store, *named)
    for chunk in chunks[:written]:
        batch.write([chunk])
    assert [stored(data) for data in blocks] == batch.commit(chunks[written:])
    assert dict(named) == {name: (folder / name).read_bytes() for name, _ in named}
    assert [] == os.listdir(folder / ".incoming")


def test_blocks_are_durable_before_they_are_acknowledged(store: BlockStore, disk: WatchedDisk) -> None:
    """All bytes are on stable storage before any name is, and one sync is enough for the names."""
    disk.calls.clear()
    put(store, ("a-0", b"a"), ("b-0", b""), ("c-0", b"c"))
    synced = len(disk.calls) - 1 - disk.calls[::-1].index("fsync")
    assert 3 == disk.calls.count("fsync")
    assert synced < disk.calls.index("rename")
    assert ["rename"] * 3 + ["fsync_directory"] == disk.calls[-4:]


def test_a_block_is_written_while_others_are_coming(store: BlockStore, disk: WatchedDisk) -> None:
    """So that the syncs, which come later, find less to do."""
    batch = begin(store, ("a-0", b"a"), ("b-0", b"b"), ("c-0", b"c"))
    batch.write([b"ab"])
    assert (2, 0) == (len(disk.begun_syncs), disk.calls.count("fsync"))
    batch.abort()


def test_beginning_touches_no_disk(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """It may be done in the reactor's thread."""
    disk.calls.clear()
    begin(store, ("a-0", b""), ("b-0", b"x")).abort()
    assert ([], {}) == (disk.calls, files(folder))


def test_many_blocks_take_few_descriptors(store: BlockStore) -> None:
    """However many blocks a batch has, a process has not room for so many open files."""
    batch = begin(store, *[(f"{n}-0", b"x") for n in range(500)])
    before = len(os.listdir("/proc/self/fd"))
    batch.write([b"x" * 499])
    assert len(os.listdir("/proc/self/fd")) - before <= 64
    batch.abort()


def test_an_aborted_batch_leaves_nothing(store: BlockStore, folder: Path) -> None:
    """Whether a block was whole, half there or still to come."""
    batch = begin(store, *[(f"{n}-0", b"abc") for n in range(200)])
    batch.write([b"abc" * 150 + b"a"])
    batch.abort()
    assert {} == files(folder)


def test_aborting_after_the_commit_does_nothing(store: BlockStore, folder: Path) -> None:
    """Whoever cleans up late does no harm."""
    batch = begin(store, ("a-0", b"x"))
    batch.commit([b"x"])
    batch.abort()
    assert {"a-0": b"x"} == files(folder)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_sizes_that_do_not_add_up_are_refused(store: BlockStore, size: int) -> None:
    """Nobody knows which of them is wrong."""
    with pytest.raises(BadRequest, match=f"^the sizes of the blocks do not add up to {size}$"):
        IncomingBatch(store, [BlockToStore("a-0", 1), BlockToStore("b-0", 2)], size)


def test_too_many_bytes_are_refused(store: BlockStore) -> None:
    """The limit itself is allowed."""
    IncomingBatch(store, [BlockToStore("a-0", MAX_BATCH_BYTES)], MAX_BATCH_BYTES).abort()
    with pytest.raises(TooLarge, match=r"^the blocks are over the limit of 8388608 bytes in all$"):
        IncomingBatch(store, [BlockToStore("a-0", MAX_BATCH_BYTES + 1)], MAX_BATCH_BYTES + 1)


def test_a_block_that_is_refused_does_not_touch_the_others(folder: Path, disk: WatchedDisk) -> None:
    """Its bytes are skipped, whatever is wrong with it; each gets its own answer."""
    store = open_store(folder, disk, max_block_size=3)
    (folder / "sum-0").write_bytes(b"old")
    wanted = [
        BlockToStore("good-0", 3),
        BlockToStore("../bad-0", 2),
        BlockToStore("sum-0", 1, crc32c="00000000"),
        BlockToStore("large-0", 4),
        BlockToStore("sum-1", 2, crc32c=sum_of(b"ok")),
    ]
    assert [
        stored(b"abc"),
        BlockResult(error="block_id '../bad-0' has an empty, '.' or '..' part", code="bad_request"),
        BlockResult(error=f"crc32c is {sum_of(b'x')}, expected 00000000", code="corrupt"),
        BlockResult(error="block is over the limit of 3 bytes (--max-block-size)", code="too_large"),
        stored(b"ok"),
    ] == IncomingBatch(store, wanted, 12).commit([b"abc__x____ok"])
    assert {"good-0": b"abc", "sum-0": b"old", "sum-1": b"ok"} == files(folder)
    store.storage.release()


def test_the_last_store_begun_wins(store: BlockStore, folder: Path) -> None:
    """A store that begins while a batch is under way dooms the batch's store of that block alone."""
    batch = begin(store, ("a-0", b"old"), ("b-0", b"new"))
    store.begin("a-0").commit([b"newer"])
    assert [CONFLICT, stored(b"new")] == batch.commit([b"oldnew"])
    assert {"a-0": b"newer", "b-0": b"new"} == files(folder)


def test_a_batch_dooms_older_stores(store: BlockStore, folder: Path) -> None:
    """It is no weaker than a store."""
    older = begin(store, ("a-0", b"old"))
    put(store, ("a-0", b"newer"))
    assert [CONFLICT] == older.commit([b"old"])
    assert {"a-0": b"newer"} == files(folder)


def test_of_one_block_twice_in_a_batch_the_last_wins(store: BlockStore, folder: Path) -> None:
    """As if they were stored at a time."""
    assert [CONFLICT, stored(b"two")] == put(store, ("a-0", b"one"), ("a-0", b"two"))
    assert {"a-0": b"two"} == files(folder)


def test_a_delete_dooms_the_stores_of_a_batch(store: BlockStore, folder: Path) -> None:
    """A late write does not bring a deleted block back."""
    batch = begin(store, ("a-0", b"x"), ("b-0", b"y"))
    store.delete("a-0")
    assert [CONFLICT, stored(b"y")] == batch.commit([b"xy"])
    assert {"b-0": b"y"} == files(folder)


def test_the_reserve_is_left(folder: Path, disk: WatchedDisk) -> None:
    """A block that would take of it is refused, a smaller one beside it is not."""
    store = open_store(folder, disk, reserve_bytes=1000)
    disk.free = 1001
    refused = BlockResult(error="less than 1000 B would be left free (--reserve)", code="disk_full")
    assert [refused, stored(b"c")] == put(store, ("a-0", b"ab"), ("b-0", b"c"))
    assert {"b-0": b"c"} == files(folder)
    store.storage.release()


def test_after_a_failed_sync_of_the_names_nothing_is_acknowledged(
    store: BlockStore, folder: Path, disk: WatchedDisk
) -> None:
    """What would be there after a crash nobody knows; nor is anything stored after that."""
    disk.fail("fsync_directory", errno.EIO)
    results = put(store, ("a-0", b"x"), ("../b-0", b"y"))
    assert ["unavailable", "bad_request"] == [result.code for result in results]
    assert [] == os.listdir(folder / ".incoming")
    disk.mend()
    assert ["unavailable"] == [result.code for result in put(store, ("c-0", b"x"))]
    with pytest.raises(Unavailable):
        store.check_writable()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_whichever_operation_fails_once_nothing_wrong_is_left(tmp_path: Path, error: int) -> None:
    """The block that it was for is refused and as it was before; the others are stored."""
    new = [("a-0", b"new a"), ("b-0", b"new b"), ("c-0", b"new c")]
    recorded = NthDisk()
    store = open_store(tmp_path / "recorded", recorded)
    recorded.watch()
    put(store, *new)
    store.storage.release()
    for number, operation in enumerate(list(recorded.operations)):
        disk, folder = NthDisk(), tmp_path / f"{number}"
        store = open_store(folder, disk)
        (folder / "a-0").write_bytes(b"old a")
        disk.watch(Fault(number, error))
        results = put(store, *new)
        disk.watch()
        refused = [name for (name, _data), result in zip(new, results, strict=True) if result.error]
        found = files(folder)
        if operation == "fsync_directory":
            assert (["a-0", "b-0", "c-0"], dict(new)) == (refused, found)
        else:
            assert 1 == len(refused), operation
            expected = {"a-0": b"old a"} | {name: data for name, data in new if name not in refused}
            assert expected == found, operation
        store.storage.release()


# Reading


def read(store: BlockStore, *block_ids: str) -> tuple[Sequence[BlockResult], bytes]:
    results, found = read_batch(store, [BlockToRetrieve(block_id) for block_id in block_ids])
    return results, b"".join(found)


def test_blocks_are_read_in_order(store: BlockStore) -> None:
    """Also one that has no bytes, or is asked for twice."""
    put(store, ("a-0", b"aa"), ("b-0", b""), ("c-0", b"c"))
    expected = [stored(b"c"), stored(b""), stored(b"aa"), stored(b"c")], b"caac"
    assert expected == read(store, "c-0", "b-0", "a-0", "c-0")


def test_what_cannot_be_read_does_not_touch_the_others(store: BlockStore, folder: Path) -> None:
    """Each block gets its own answer, and only those that were found have bytes."""
    put(store, ("a-0", b"aa"), ("b-0", b"b"))
    (folder / "folder-0").mkdir()
    missing = BlockResult(error="block not found", code="not_found")
    refused = BlockResult(error="missing block_id", code="bad_request")
    expected = [missing, stored(b"b"), refused, missing, stored(b"aa")], b"baa"
    assert expected == read(store, "x-0", "b-0", "", "folder-0", "a-0")


def test_a_changed_block_is_not_read(store: BlockStore) -> None:
    """With an expected checksum."""
    put(store, ("a-0", b"aa"), ("b-0", b"b"))
    results, found = read_batch(
        store, [BlockToRetrieve("a-0", crc32c="00000000"), BlockToRetrieve("b-0", crc32c=sum_of(b"b"))]
    )
    changed = BlockResult(error=f"crc32c is {sum_of(b'aa')}, expected 00000000", code="corrupt")
    assert ([changed, stored(b"b")], [b"b"]) == (results, found)


def test_no_more_is_read_than_a_batch_may_have(store: BlockStore, folder: Path) -> None:
    """A block that would be too much is to be asked for alone; a smaller one behind it may still have room."""
    half = MAX_BATCH_BYTES // 2
    for name, size in (("a-0", half), ("b-0", half + 1), ("c-0", half - 1), ("d-0", 1), ("e-0", 1)):
        (folder / name).write_bytes(bytes(size))
    results, found = read_batch(store, [BlockToRetrieve(name) for name in ("a-0", "b-0", "c-0", "d-0", "e-0")])
    sentence = "the blocks are over the limit of 8388608 bytes in all; ask for this one alone"
    refused = BlockResult(error=sentence, code="too_large")
    sizes = [result.size or result for result in results]
    assert ([half, refused, half - 1, 1, refused], MAX_BATCH_BYTES) == (sizes, sum(map(len, found)))


def test_nothing_is_missing_where_the_disk_is(store: BlockStore, folder: Path) -> None:
    """A disk that is not mounted has lost no block."""
    (folder / ".filefly.json").rename(folder / ".elsewhere")
    assert ["unavailable"] == [result.code for result in read(store, "a-0")[0]]


def test_a_large_batch_goes_both_ways(store: BlockStore) -> None:
    """More blocks than are open at once, of more bytes than a piece."""
    blocks = [(f"{n}-0", os.urandom(20_000)) for n in range(400)]
    assert [stored(data) for _name, data in blocks] == put(store, *blocks)
    results, found = read(store, *(name for name, _data in blocks))
    assert [stored(data) for _name, data in blocks] == results
    assert b"".join(data for _name, data in blocks) == found
    assert 7 * MIB < len(found)
