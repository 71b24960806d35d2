import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from filefly.daemon.protocol import ServerFactory
from filefly.data.batches import read_batch
from filefly.data.blocks import BlockStore
from filefly.data.disk import Disk
from filefly.data.linux import LinuxDisk, system_disk
from filefly.data.server import DataServer
from filefly.errors import BadRequest
from filefly.wire.batches import BlockToRetrieve
from tests.data.disks import WatchedDisk, open_store
from tests.data.running import DIGITS, asking, error, sum_of
from tests.on_reactor import on_reactor
from tests.peer import HeldThreads, Peer

KIB = 1024


# The disk


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], bytes]:
    """Write a file and return its path; skips where the file system tells nothing of what is in memory."""

    def write(name: str, data: bytes) -> bytes:
        (tmp_path / name).write_bytes(data)
        return os.fsencode(tmp_path / name)

    if LinuxDisk().read_in_memory(write("probe", b"x"), 1) is None:
        pytest.skip("this file system, or this system, has no reads that wait for nothing")
    return write


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(64 * KIB)])
def test_what_is_in_memory_is_read(put: Callable[[str, bytes], bytes], data: bytes) -> None:
    """Whole, and again and again."""
    path = put("a-0", data)
    assert [data, data] == [LinuxDisk().read_in_memory(path, 64 * KIB) for _ in range(2)]


def test_only_small_files_are_read(put: Callable[[str, bytes], bytes]) -> None:
    """The limit itself is allowed."""
    path = put("a-0", b"abc")
    assert (b"abc", None) == (LinuxDisk().read_in_memory(path, 3), LinuxDisk().read_in_memory(path, 2))


def test_what_was_dropped_from_memory_is_not_read(put: Callable[[str, bytes], bytes]) -> None:
    """Nobody waits for the disk here. Of what was just written the system may let go only after a moment."""
    path = put("a-0", os.urandom(64 * KIB))
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        for _attempt in range(1000):
            Disk().drop_cached(file.fileno())
            if LinuxDisk().read_in_memory(path, 64 * KIB) is None:
                return
            time.sleep(0.01)
    pytest.fail("it was still read from memory")


def test_a_file_in_tmpfs_is_read() -> None:
    """It lies in memory, whatever was dropped."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("this system has no /dev/shm")
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(DIGITS)
        file.flush()
        Disk().drop_cached(file.fileno())
        assert [DIGITS, None] == [LinuxDisk().read_in_memory(os.fsencode(file.name), most) for most in (10, 9)]


def test_what_is_no_file_is_not_read(put: Callable[[str, bytes], bytes], tmp_path: Path) -> None:
    """Neither a folder, nor a link to a file, nor a pipe, nor nothing; and no descriptor is left open."""
    put("a-0", b"x")
    (tmp_path / "link").symlink_to("a-0")
    os.mkfifo(tmp_path / "pipe")
    descriptors = len(os.listdir("/proc/self/fd"))
    for name in ("", "link", "pipe", "missing", "a-0/x"):
        assert LinuxDisk().read_in_memory(os.fsencode(tmp_path / name), 100) is None, name
    assert descriptors == len(os.listdir("/proc/self/fd"))


def test_a_replaced_file_is_seen(put: Callable[[str, bytes], bytes], tmp_path: Path) -> None:
    """A block may be deleted or replaced by hand at any time."""
    path = put("a-0", b"old")
    before = LinuxDisk().read_in_memory(path, 100)
    os.replace(put("b-0", b"new"), path)
    after = LinuxDisk().read_in_memory(path, 100)
    os.unlink(path)
    assert (b"old", b"new", None) == (before, after, LinuxDisk().read_in_memory(path, 100))


def test_the_system_has_a_disk() -> None:
    """Whatever it can do."""
    assert isinstance(system_disk(), Disk)
    assert Disk().read_in_memory(b"/etc/passwd", 1 << 20) is None


def test_a_file_that_the_system_began_to_write_is_the_same(tmp_path: Path) -> None:
    """Also if there is nothing to write, or no such descriptor."""
    disk = LinuxDisk()
    descriptor = disk.create(os.fsencode(tmp_path / "a-0"))
    disk.begin_sync(descriptor)
    disk.write(descriptor, [b"abc"])
    disk.begin_sync(descriptor)
    disk.write(descriptor, [b"def"])
    disk.fsync(descriptor)
    disk.close(descriptor)
    disk.begin_sync(descriptor)
    assert b"abcdef" == (tmp_path / "a-0").read_bytes()


# The store and the server


class MemoryDisk(WatchedDisk):
    """A disk of which everything small is in memory."""

    def read_in_memory(self, path: bytes, most: int) -> bytes | None:
        try:
            data = Path(os.fsdecode(path)).read_bytes()
        except OSError:
            return None
        return data if len(data) <= most else None


class Served:
    """A data server whose threads are held, and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = MemoryDisk()
        self.store = open_store(folder, self.disk)
        self.threads = HeldThreads()
        server = DataServer(self.store, self.threads, Clock())
        self.peer = Peer(ServerFactory(Clock(), server).buildProtocol(None))
        self.disk.calls.clear()


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    served = Served(folder)
    yield served
    served.peer.hang_up()
    served.store.storage.release()


def answer(data: bytes) -> bytes:
    return b'{"status":"ok","size":%d,"crc32c":"%s"}\n' % (len(data), sum_of(data).encode()) + data


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (b"", DIGITS),
        (b',"offset":3', b"3456789"),
        (b',"offset":3,"length":4', b"3456"),
        (b',"length":100', DIGITS),
        (b',"offset":10', b""),
        (b',"crc32c":"%s"' % sum_of(DIGITS).encode(), DIGITS),
        (b',"offset":8,"crc32c":"%s"' % sum_of(DIGITS).encode(), b"89"),
    ],
)
def test_a_small_block_in_memory_is_answered_without_a_thread(served: Served, fields: bytes, wanted: bytes) -> None:
    """As it would be with one, ranges and checksums included."""
    (served.folder / "a-0").write_bytes(DIGITS)
    served.peer.give(b'{"command":"retrieve","block_id":"a-0","raw":true%s}\n' % fields)
    assert (answer(wanted), 0, []) == (served.peer.transport.value(), served.threads.held, served.disk.calls)


@pytest.mark.parametrize("size", [64 * KIB, 64 * KIB + 1])
def test_only_small_blocks_are_answered_without_a_thread(served: Served, size: int) -> None:
    """The reactor has others to see to."""
    (served.folder / "a-0").write_bytes(bytes(size))
    served.peer.give(b'{"command":"retrieve","block_id":"a-0","raw":true}\n')
    held = served.threads.held
    served.threads.run_all()
    assert (int(size > 64 * KIB), answer(bytes(size))) == (held, served.peer.transport.value())


def test_a_changed_block_in_memory_is_not_answered(served: Served) -> None:
    """The checksum is compared here, too."""
    (served.folder / "a-0").write_bytes(DIGITS)
    served.peer.give(b'{"command":"retrieve","block_id":"a-0","raw":true,"crc32c":"00000000"}\n')
    assert [error(f"crc32c is {sum_of(DIGITS)}, expected 00000000", "corrupt")] == served.peer.replies()


@pytest.mark.parametrize(
    ("request_fields", "reply"),
    [
        (b'"block_id":"x-0"', error("block not found", "not_found")),
        (b'"block_id":"a-0","offset":11', error("offset 11 is beyond the block's 10 bytes", "bad_range")),
    ],
)
def test_what_is_wrong_is_told_by_a_thread(served: Served, request_fields: bytes, reply: dict[str, str]) -> None:
    """Memory alone does not tell whether a block is missing."""
    (served.folder / "a-0").write_bytes(DIGITS)
    served.peer.give(b'{"command":"retrieve","raw":true,%s}\n' % request_fields)
    before = served.peer.replies()
    served.threads.run_all()
    assert ([], [reply]) == (before, served.peer.replies())


def test_a_bad_id_is_refused(served: Served) -> None:
    """No id leaves the storage directory, whatever it is used for."""
    with pytest.raises(BadRequest):
        served.store.read_in_memory("../a-0")


def test_a_batch_is_read_from_memory_where_it_can_be(served: Served) -> None:
    """The others are read from the disk."""
    for name, data in (("a-0", DIGITS), ("b-0", bytes(64 * KIB + 1))):
        (served.folder / name).write_bytes(data)
    _results, found = read_batch(served.store, [BlockToRetrieve("a-0"), BlockToRetrieve("b-0")])
    assert ([DIGITS, bytes(64 * KIB + 1)], ["open", "read", "close"]) == (found, served.disk.calls)


@on_reactor
async def test_a_block_in_memory_is_read_without_the_disk(reactor: Any, tmp_path: Path) -> None:
    """Whatever the disk says."""
    disk = MemoryDisk()
    async with asking(reactor, tmp_path, disk) as (server, caller):
        server.put("a-0", DIGITS)
        disk.fail("open", 5)
        head = await caller.ask(command="retrieve", block_id="a-0", raw=True)
        assert {"status": "ok", "size": 10, "crc32c": sum_of(DIGITS)} == head
        assert DIGITS == await caller.hear_bytes(10)


def test_the_store_has_no_say_in_what_is_in_memory(folder: Path) -> None:
    """A disk that tells nothing is asked in a thread."""
    store: BlockStore = open_store(folder)
    (folder / "a-0").write_bytes(DIGITS)
    assert store.read_in_memory("a-0") is None
    store.storage.release()
