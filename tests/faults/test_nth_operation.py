"""Every operation on a data server's disk fails once: an error, nothing half there, and the next try works."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen
from crc32c import crc32c

from filefly.data.blocks import BlockStore
from filefly.errors import FileFlyError, NotFound, Unavailable
from filefly.wire.codec import crc32c_hex
from tests.data.disks import open_store
from tests.data.running import asking
from tests.faults.nth_disk import CLOSE_AFTER_READING, Fault, NthDisk
from tests.on_reactor import on_reactor

ERRORS = [errno.EIO, errno.ENOSPC, errno.EACCES]
OLD, NEW, KEPT = b"the old bytes", b"the new bytes, more of them", b"what nobody touches"
OLD_SUM, OTHER_SUM = crc32c_hex(crc32c(OLD)), "00000000"

Visible = dict[str, bytes]


def store(opened: BlockStore, block_id: str) -> None:
    """Store a block in two pieces, as the server does."""
    incoming = opened.begin(block_id, len(NEW))
    try:
        incoming.write([NEW[:9]])
        incoming.commit([NEW[9:]])
    except BaseException:
        incoming.abort()
        raise


def keep(opened: BlockStore, block_id: str) -> None:
    """Store the old bytes as a client with a ticket does, which replaces nothing."""
    incoming = opened.begin(block_id, len(OLD), replaces=False)
    try:
        incoming.commit([OLD])
    except BaseException:
        incoming.abort()
        raise


def read(opened: BlockStore, block_id: str) -> bytes:
    block = opened.open(block_id)
    try:
        return block.read(0, block.size)
    finally:
        block.close()


@frozen
class Action:
    """Something that a data server is asked for, and the operations whose failure does not keep it from that."""

    name: str
    do: Callable[[BlockStore], Any]
    harmless: frozenset[str] = frozenset()
    no_links: bool = False


ACTIONS = [
    Action("store", lambda opened: store(opened, "new-0")),
    Action("store again", lambda opened: store(opened, "old-0")),
    Action("store the same, and keep what is there", lambda opened: keep(opened, "old-0")),
    Action("delete", lambda opened: opened.delete("old-0")),
    # Removing the temporary name is for the one case that there is nothing to remove.
    Action("link", lambda opened: opened.link("new-0", "old-0", OLD_SUM), frozenset({"unlink"})),
    Action("copy", lambda opened: opened.link("new-0", "old-0", OLD_SUM), no_links=True),
    # A block that the disk cannot read is moved away as well.
    Action("quarantine", lambda opened: opened.quarantine("old-0", OTHER_SUM), frozenset({"read", "drop_cached"})),
    Action("set aside", lambda opened: opened.set_aside("old-0")),
    # What an earlier failure may have left is removed first; there is nothing.
    Action("adopt", lambda opened: opened.identity.adopt("catalog", 7, False)),
    Action("read", lambda opened: read(opened, "old-0")),
    Action("stat", lambda opened: opened.stat("old-0", verify=True)),
    Action("list", lambda opened: opened.list("", 10)),
    Action("usage", lambda opened: opened.usage()),
]


@define(eq=False)
class Trial:
    """A storage directory on a disk that fails, and one action there."""

    action: Action
    folder: Path
    disk: NthDisk = field(factory=NthDisk)
    opened: BlockStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._open()
        for name, data in (("old-0", OLD), ("kept-0", KEPT)):
            (self.folder / name).write_bytes(data)
        if self.action.no_links:
            self.disk.fail("link", errno.EPERM)

    def _open(self) -> None:
        self.opened = open_store(self.folder, self.disk, reserve_bytes=1)

    def run(self, fault: Fault | None = None) -> FileFlyError | None:
        """Carry the action out and return its error, if it is one."""
        self.disk.watch(fault)
        try:
            self.action.do(self.opened)
        except FileFlyError as error:
            return error
        finally:
            self.operations = list(self.disk.operations)
            self.disk.watch()
        return None

    operations: list[str] = field(factory=list)

    def reopen(self) -> None:
        """Restart the data server."""
        self.close()
        self._open()

    def close(self) -> None:
        self.opened.storage.release()

    def visible(self) -> Visible:
        """Return all that is in the folder but for stores under way and the lock, which is empty."""
        files = [file for file in self.folder.rglob("*") if file.is_file() and ".incoming" not in file.parts]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}

    def unfinished(self) -> list[str]:
        return os.listdir(self.folder / ".incoming")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def good_run(action: Action, folder: Path) -> tuple[Visible, Visible, list[str]]:
    """Return what is there before and after an action that goes well, and its operations."""
    trial = Trial(action, folder)
    before = trial.visible()
    assert trial.run() is None
    trial.close()
    return before, trial.visible(), trial.operations


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_an_operation_that_fails_once_leaves_all_as_it_was(tmp_path: Path, action: Action, error: int) -> None:
    """Whichever it is: an error, nothing half there, the old blocks still read, and the next try works.

    After a failed sync of a directory nothing more is written until the data server is restarted.
    """
    before, after, operations = good_run(action, tmp_path / "good" / "blocks")
    for number, operation in enumerate(operations):
        trial = Trial(action, tmp_path / f"{number}" / "blocks")
        descriptors = open_descriptors()
        failed = trial.run(Fault(number, error))
        case = f"{action.name}, {number}: {operation} of {operations}, {failed!r}"
        assert descriptors == open_descriptors(), case
        assert [] == trial.unfinished(), case
        assert KEPT == read(trial.opened, "kept-0"), case
        visible = trial.visible()
        if failed is None:
            assert operation in (*action.harmless, CLOSE_AFTER_READING), case
            assert after == visible, case
        elif operation == "fsync_directory":
            assert visible in (before, after), case
            assert isinstance(trial.run(), Unavailable | NotFound), case
            assert visible == trial.visible(), case
            trial.reopen()
        else:
            assert before == visible, case
        again = trial.run()
        assert again is None or (isinstance(again, NotFound) and visible == after), f"{case}, then {again!r}"
        assert (after, []) == (trial.visible(), trial.unfinished()), case
        trial.close()


CODES = {errno.EIO: "internal", errno.ENOSPC: "disk_full", errno.EACCES: "internal"}


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@on_reactor
async def test_a_client_hears_of_an_operation_that_failed(reactor: Any, tmp_path: Path, error: int) -> None:
    """A store's answer is an error with the right code, and on the same connection the next try works."""
    disk = NthDisk()
    request = {"command": "store", "block_id": "a-0", "size": len(NEW)}
    async with asking(reactor, tmp_path / "recorded", disk) as (_server, caller):
        disk.watch()
        assert "ok" == (await caller.ask(NEW, **request))["status"]
        operations = list(disk.operations)
    for number, operation in enumerate(operations):
        async with asking(reactor, tmp_path / f"{number}", disk) as (server, caller):
            disk.watch(Fault(number, error))
            reply = await caller.ask(NEW, **request)
            code = "unavailable" if operation == "fsync_directory" else CODES[error]
            assert ("error", code) == (reply["status"], reply["code"]), operation
            if operation != "fsync_directory":
                assert [] == server.blocks(), operation
                assert "ok" == (await caller.ask(NEW, **request))["status"], operation
                assert ["a-0"] == server.blocks(), operation
