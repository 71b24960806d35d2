"""Stores that replace nothing: those that go under a ticket, which may outlive the commit of its plan."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filefly.data.batches import IncomingBatch
from filefly.data.blocks import BlockStore
from filefly.errors import Conflict, FileFlyError, Unavailable
from filefly.security.tickets import Right
from filefly.wire.batches import BlockResult, BlockToStore
from filefly.wire.blocks import BlockSum
from tests.data.closed import ClosedServer, a_ticket, closed_server
from tests.data.disks import WatchedDisk, files, open_store
from tests.data.running import DIGITS, error, sum_of

THERE = "this block is stored already, with other bytes; plan the file again"
SUM = sum_of(DIGITS)
TWIN = bytes(6) + bytes.fromhex("85446321")
"""Other bytes with the same checksum: it is easily forged."""
STORE = a_ticket(Right.STORE, 0, 1)
BESIDE = [("a-0", "is-0"), ("is-0", "a-0")]


def keep(store: BlockStore, block_id: str, data: bytes) -> BlockSum:
    """Store a block as a client with a ticket does."""
    block = store.begin(block_id, len(data), replaces=False)
    try:
        return block.commit([data])
    except BaseException:
        block.abort()
        raise


def test_the_twin_has_the_same_checksum() -> None:
    """Else nothing is shown by it."""
    assert (SUM, len(DIGITS)) == (sum_of(TWIN), len(TWIN))
    assert DIGITS != TWIN


def test_what_is_not_there_is_stored(store: BlockStore, folder: Path) -> None:
    """As ever."""
    assert BlockSum(10, SUM) == keep(store, "a-0", DIGITS)
    assert {"a-0": DIGITS} == files(folder)


@pytest.mark.parametrize("there", [b"", b"others", b"9876543210", DIGITS + b"0"])
def test_other_bytes_stay(store: BlockStore, folder: Path, there: bytes) -> None:
    """They may be a file's by now."""
    (folder / "a-0").write_bytes(there)
    with pytest.raises(Conflict, match=f"^{THERE}$"):
        keep(store, "a-0", DIGITS)
    assert {"a-0": there} == files(folder)


@pytest.mark.parametrize("sent", [DIGITS, TWIN], ids=["the same", "of the same checksum"])
def test_the_same_bytes_are_stored_and_the_file_stays(store: BlockStore, folder: Path, sent: bytes) -> None:
    """A client that lost the answer sends them again; what only passes for the same does not come in, either."""
    keep(store, "a-0", DIGITS)
    before = (folder / "a-0").stat().st_ino
    assert BlockSum(10, SUM) == keep(store, "a-0", sent)
    assert {"a-0": DIGITS} == files(folder)
    assert before == (folder / "a-0").stat().st_ino


def test_a_block_that_stays_is_durable_before_it_is_acknowledged(
    store: BlockStore, folder: Path, disk: WatchedDisk
) -> None:
    """Whose bytes it is, or whose name, may not be on stable storage yet."""
    (folder / "a-0").write_bytes(DIGITS)
    disk.calls.clear()
    keep(store, "a-0", DIGITS)
    written = ["create", "write", "fsync", "close"]
    assert [*written, "open", "read", "fsync", "close", "unlink", "fsync_directory"] == disk.calls


def test_a_directory_that_cannot_be_synced_is_no_success(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """The name that is there may be gone after a crash."""
    (folder / "a-0").write_bytes(DIGITS)
    disk.fail("fsync_directory", errno.EIO)
    with pytest.raises(Unavailable):
        keep(store, "a-0", DIGITS)
    assert {"a-0": DIGITS} == files(folder)


def test_what_is_no_block_does_not_stay(store: BlockStore, folder: Path) -> None:
    """A link that was planted is nobody's block."""
    (folder / "theirs").write_bytes(b"theirs")
    (folder / "a-0").symlink_to("theirs")
    keep(store, "a-0", DIGITS)
    assert {"a-0": DIGITS, "theirs": b"theirs"} == files(folder)


# Meanwhile


def test_a_block_that_was_stored_meanwhile_stays(store: BlockStore, folder: Path) -> None:
    """What counts is what is there when the bytes have come, not when the first of them did."""
    block = store.begin("a-0", 10, replaces=False)
    block.write([DIGITS])
    (folder / "a-0").write_bytes(b"others")
    with pytest.raises(Conflict, match=THERE):
        block.commit()
    block.abort()
    assert {"a-0": b"others"} == files(folder)


@pytest.mark.parametrize("there", [DIGITS, b"others"])
def test_a_block_that_goes_while_it_is_looked_at_is_stored(
    store: BlockStore, folder: Path, disk: WatchedDisk, there: bytes
) -> None:
    """It was moved away as corrupt, or deleted by hand."""
    (folder / "a-0").write_bytes(there)

    def remove() -> None:
        disk.mend()
        (folder / "a-0").unlink()

    disk.before["open"] = remove
    assert BlockSum(10, SUM) == keep(store, "a-0", DIGITS)
    assert {"a-0": DIGITS} == files(folder)


def test_a_delete_while_it_is_looked_at_dooms_the_store(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """A late write does not bring a deleted block back."""
    (folder / "a-0").write_bytes(DIGITS)

    def delete() -> None:
        disk.mend()
        store.delete("a-0")

    disk.before["open"] = delete
    with pytest.raises(Conflict, match="a delete of this block came first"):
        keep(store, "a-0", DIGITS)
    assert {} == files(folder)


def test_a_delete_after_the_look_comes_after_the_store(store: BlockStore, folder: Path, disk: WatchedDisk) -> None:
    """Nothing is brought back then, either."""
    (folder / "a-0").write_bytes(DIGITS)

    def delete() -> None:
        disk.mend()
        store.delete("a-0")

    disk.before["unlink"] = delete
    assert BlockSum(10, SUM) == keep(store, "a-0", DIGITS)
    assert {} == files(folder)


def test_the_last_store_begun_wins(store: BlockStore, folder: Path) -> None:
    """As ever; but of two that replace nothing the first to be there stays."""
    older, newer = (store.begin("a-0", 10, replaces=False) for _ in range(2))
    with pytest.raises(Conflict, match="newer store"):
        older.commit([b"older"])
    older.abort()
    newer.commit([DIGITS])
    with pytest.raises(Conflict, match=THERE):
        keep(store, "a-0", b"newest")
    assert {"a-0": DIGITS} == files(folder)


def test_a_copy_for_repair_replaces_what_tickets_have_stored(store: BlockStore, folder: Path) -> None:
    """What the cluster's daemons store has the catalog's checksum."""
    keep(store, "a-0", b"others")
    store.begin("a-0").commit([DIGITS])
    assert {"a-0": DIGITS} == files(folder)


def test_of_many_threads_one_stores(folder: Path) -> None:
    """Whoever it is, its bytes stay, and nobody else is told that his were stored."""
    store = open_store(folder)
    stored: list[int] = []

    def run(n: int) -> None:
        try:
            keep(store, "a-0", b"%02d" % n * 1000)
            stored.append(n)
        except Conflict:
            pass

    threads = [threading.Thread(target=run, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [{"a-0": b"%02d" % n * 1000} for n in stored] == [files(folder)]
    store.storage.release()


# Links


@pytest.mark.parametrize("no_links", [False, True])
def test_a_link_replaces_nothing(store: BlockStore, folder: Path, disk: WatchedDisk, no_links: bool) -> None:
    """Whether the file system has links or not."""
    (folder / "is-0").write_bytes(DIGITS)
    (folder / "a-0").write_bytes(b"others")
    if no_links:
        disk.fail("link", errno.EPERM)
    with pytest.raises(Conflict, match=f"^{THERE}$"):
        store.link("a-0", "is-0", SUM, replaces=False)
    assert {"is-0": DIGITS, "a-0": b"others"} == files(folder)


@pytest.mark.parametrize("no_links", [False, True])
@pytest.mark.parametrize("there", [TWIN, DIGITS, None])
def test_a_link_to_what_is_there_is_made(
    store: BlockStore, folder: Path, disk: WatchedDisk, there: bytes | None, no_links: bool
) -> None:
    """The file stays, though, that has the id."""
    (folder / "is-0").write_bytes(DIGITS)
    if there is not None:
        (folder / "a-0").write_bytes(there)
    if no_links:
        disk.fail("link", errno.EPERM)
    assert BlockSum(10, SUM) == store.link("a-0", "is-0", SUM, replaces=False)
    assert {"is-0": DIGITS, "a-0": there or DIGITS} == files(folder)


def test_linking_twice_leaves_nothing(store: BlockStore, folder: Path) -> None:
    """The client may have lost the answer."""
    (folder / "is-0").write_bytes(DIGITS)
    for _ in range(2):
        assert BlockSum(10, SUM) == store.link("a-0", "is-0", SUM, replaces=False)
    assert {"is-0": DIGITS, "a-0": DIGITS} == files(folder)
    assert (folder / "is-0").samefile(folder / "a-0")


@pytest.mark.parametrize("operation", ["stat", "open", "read", "fsync", "unlink"])
@pytest.mark.parametrize("how", ["store", "link"])
def test_a_disk_that_fails_leaves_the_block(
    store: BlockStore, folder: Path, disk: WatchedDisk, how: str, operation: str
) -> None:
    """And the descriptors are given back."""
    (folder / "is-0").write_bytes(DIGITS)
    (folder / "a-0").write_bytes(b"others")
    before = len(os.listdir("/proc/self/fd"))
    disk.fail(operation, errno.EIO)
    with pytest.raises(FileFlyError):
        store.link("a-0", "is-0", SUM, replaces=False) if how == "link" else keep(store, "a-0", DIGITS)
    assert {"is-0": DIGITS, "a-0": b"others"} == {name: (folder / name).read_bytes() for name in ("is-0", "a-0")}
    assert before == len(os.listdir("/proc/self/fd"))


# Batches


def test_each_block_of_a_batch_is_kept_for_itself(store: BlockStore, folder: Path) -> None:
    """New, the same, others."""
    (folder / "same-0").write_bytes(DIGITS)
    (folder / "other-0").write_bytes(b"others")
    ids = ["new-0", "same-0", "other-0", "last-0"]
    batch = IncomingBatch(store, [BlockToStore(block_id, 10) for block_id in ids], 40, replaces=False)
    stored, conflict = BlockResult(size=10, crc32c=SUM), BlockResult(error=THERE, code="conflict")
    assert [stored, stored, conflict, stored] == batch.commit([DIGITS * 4])
    assert {"new-0": DIGITS, "same-0": DIGITS, "other-0": b"others", "last-0": DIGITS} == files(folder)


# The server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClosedServer]:
    with closed_server(tmp_path / "blocks") as running:
        (running.folder / "a-0").write_bytes(DIGITS)
        (running.folder / "a-1").write_bytes(b"9876543210")
        yield running


STORES: dict[str, tuple[dict[str, Any], bytes]] = {
    "store": ({"command": "store", "block_id": "a-0", "size": 10, "ticket": STORE}, b"9876543210"),
    "store in base64": ({"command": "store", "block_id": "a-0", "data": "OTg3NjU0MzIxMA==", "ticket": STORE}, b""),
    "store_blocks": (
        {"command": "store_blocks", "size": 10, "blocks": [{"block_id": "a-0", "size": 10, "ticket": STORE}]},
        b"9876543210",
    ),
    "link": (
        {
            "command": "link",
            "block_id": "a-0",
            "source_block_id": "a-1",
            "crc32c": sum_of(b"9876543210"),
            "ticket": STORE,
            "source_ticket": STORE,
        },
        b"",
    ),
}


@pytest.mark.parametrize("how", STORES)
def test_a_ticket_does_not_replace_a_block(server: ClosedServer, how: str) -> None:
    """However it is stored; the bytes that are there may be sent again."""
    request, payload = STORES[how]
    reply = server.connect().ask(payload, **request)
    refused = reply["results"][0] if how == "store_blocks" else reply
    assert error(THERE, "conflict") == {"status": "error", **refused}
    assert DIGITS == (server.folder / "a-0").read_bytes()
    again = server.connect().ask(DIGITS, command="store", block_id="a-0", size=10, ticket=STORE)
    assert {"status": "ok", "size": 10, "crc32c": SUM} == again


@pytest.mark.parametrize("how", STORES)
def test_a_daemon_replaces_a_block(server: ClosedServer, how: str) -> None:
    """It has proven to have the secret."""
    request, payload = STORES[how]
    connection = server.connect()
    connection.prove()
    reply = connection.ask(payload, **request)
    assert ("ok", None) == (reply["status"], reply.get("results", [{}])[0].get("code"))
    assert b"9876543210" == (server.folder / "a-0").read_bytes()
