import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from filefly.data.disk import Disk
from filefly.data.storage import StorageUnusable, open_storage
from tests.data.disks import QuickDisk, WatchedDisk, take


def never() -> str:
    raise AssertionError("a storage has one identity")


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    """The folder is created where its parent exists, and gets an identity."""
    storage = take(tmp_path / "blocks")
    assert (os.fsencode(tmp_path / "blocks"), "id of blocks") == (storage.root, storage.storage_id)
    storage.release()


def test_a_new_folder_is_not_for_everyone(tmp_path: Path) -> None:
    """Others on the machine cannot read the blocks."""
    take(tmp_path / "blocks").release()
    assert 0 == (tmp_path / "blocks").stat().st_mode & 0o007


def test_an_existing_folder_is_taken(tmp_path: Path) -> None:
    """A folder with blocks is a storage as well."""
    (tmp_path / "hello.txt-0").write_bytes(b"hello")
    take(tmp_path).release()
    assert b"hello" == (tmp_path / "hello.txt-0").read_bytes()


def test_the_identity_is_kept(tmp_path: Path) -> None:
    """A storage is the same one after a restart."""
    take(tmp_path).release()
    storage = open_storage(tmp_path, never, QuickDisk())
    assert f"id of {tmp_path.name}" == storage.storage_id
    storage.release()


def test_the_identity_moves_with_the_folder(tmp_path: Path) -> None:
    """A disk may be mounted elsewhere."""
    take(tmp_path / "one").release()
    (tmp_path / "one").rename(tmp_path / "two")
    storage = open_storage(tmp_path / "two", never, QuickDisk())
    assert "id of one" == storage.storage_id
    storage.release()


def test_the_identity_can_be_read_by_a_person(tmp_path: Path) -> None:
    """It is one line of JSON."""
    take(tmp_path).release()
    assert f'{{"storage_id":"id of {tmp_path.name}"}}\n' == (tmp_path / ".filefly.json").read_text()


def test_the_identity_is_durable_before_it_is_used(tmp_path: Path) -> None:
    """A crash leaves a whole identity or none, and a new folder is entered in its parent."""
    disk = WatchedDisk()
    take(tmp_path / "blocks", disk).release()
    assert ["create", "write", "fsync", "close", "rename", "fsync_directory", "fsync_directory"] == disk.calls[2:]
    assert ["open", "unlink"] == disk.calls[:2]  # is there one, or what a failed one left?


def test_a_second_daemon_is_kept_out(tmp_path: Path) -> None:
    """The sentence says what to do."""
    storage = take(tmp_path)
    with pytest.raises(StorageUnusable, match=r"is in use by another data server; stop that one first$"):
        take(tmp_path)
    storage.release()


def test_a_second_daemon_changes_nothing(tmp_path: Path) -> None:
    """The stores under way of the first one are not cleared."""
    storage = take(tmp_path)
    (tmp_path / ".incoming" / "7").write_bytes(b"x")
    with pytest.raises(StorageUnusable):
        take(tmp_path)
    assert b"x" == (tmp_path / ".incoming" / "7").read_bytes()
    storage.release()


def test_the_lock_ends_with_its_release(tmp_path: Path) -> None:
    """A daemon can be started again at once."""
    take(tmp_path).release()
    take(tmp_path).release()


def test_what_crashed_stores_left_is_cleared(tmp_path: Path) -> None:
    """Nothing of a store that was not acknowledged takes space."""
    take(tmp_path).release()
    (tmp_path / ".incoming" / "7").write_bytes(b"half a block")
    (tmp_path / ".incoming" / "identity").write_bytes(b"{")
    take(tmp_path).release()
    assert [] == list((tmp_path / ".incoming").iterdir())


def test_a_missing_parent_is_not_made(tmp_path: Path) -> None:
    """A disk that is not mounted is not taken for an empty one."""
    with pytest.raises(StorageUnusable, match=r"/mnt does not exist; create it, or name another --storage-dir$"):
        take(tmp_path / "mnt" / "blocks")
    assert not (tmp_path / "mnt").exists()


def a_file(path: Path) -> None:
    path.touch()


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [a_file, a_dangling_link, a_pipe])
def test_what_is_no_folder_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """The sentence says what to do."""
    make(tmp_path / "blocks")
    with pytest.raises(StorageUnusable, match=r"/blocks is not a folder; name another --storage-dir$"):
        take(tmp_path / "blocks")


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    """The system's own words are in the sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnusable, match=r"^cannot create .*/file/blocks: Not a directory$"):
        take(tmp_path / "file" / "blocks")


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    """The storage directory itself may be a link to a larger disk."""
    (tmp_path / "large").mkdir()
    (tmp_path / "blocks").symlink_to("large")
    take(tmp_path / "blocks").release()
    assert (tmp_path / "large" / ".filefly.json").exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b'{"storage_id":7}', b'{"storage_id":null}', b"\xff", b"\0" * 50]
)
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """Whose replicas these are is for a person to decide; the sentence says how."""
    (tmp_path / ".filefly.json").write_bytes(content)
    with pytest.raises(
        StorageUnusable, match=r"json is damaged; restore it from a copy, or delete it to make this a new"
    ):
        take(tmp_path)
    assert content == (tmp_path / ".filefly.json").read_bytes()


def test_an_identity_with_more_to_it_is_read(tmp_path: Path) -> None:
    """A newer version may have added something."""
    (tmp_path / ".filefly.json").write_bytes(b'{"format":2,"storage_id":"mine"}')
    storage = take(tmp_path)
    assert "mine" == storage.storage_id
    storage.release()


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "rename", "fsync_directory"])
def test_a_disk_that_cannot_be_written_is_refused(tmp_path: Path, operation: str) -> None:
    """The sentence has the system's own words, and says where to look."""
    disk = WatchedDisk()
    disk.fail(operation, errno.EROFS)
    with pytest.raises(
        StorageUnusable, match=r"^cannot write to .*: Read-only file system; check its owner and its mount$"
    ):
        take(tmp_path, disk)


@pytest.mark.parametrize("operation", ["create", "write", "fsync", "rename", "fsync_directory"])
def test_a_refused_folder_can_be_taken_later(tmp_path: Path, operation: str) -> None:
    """Nothing that failed at start keeps the next start from working, and the lock is given back."""
    disk = WatchedDisk()
    disk.fail(operation, errno.ENOSPC)
    with pytest.raises(StorageUnusable):
        take(tmp_path, disk)
    disk.mend()
    storage = take(tmp_path, disk)
    assert f"id of {tmp_path.name}" == storage.storage_id
    storage.release()


def test_a_folder_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is the first thing that is written."""

    def refuse(*_args: object, **_kwargs: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageUnusable, match=r": Permission denied; check its owner and its mount$"):
        take(tmp_path)


def test_a_lock_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    """A link in place of the lock is not followed."""
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageUnusable, match=r"^cannot write to "):
        take(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def pretend(monkeypatch: pytest.MonkeyPatch, same: Callable[[str], str]) -> None:
    """Let names be the same in a folder if `same` makes the same of them, as on another file system."""

    def exists(path: Path, **_kwargs: object) -> bool:
        return same(path.name) in {same(name) for name in os.listdir(path.parent)}

    monkeypatch.setattr(Path, "exists", exists)


def test_a_file_system_that_folds_case_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ids could name one file there."""
    pretend(monkeypatch, str.casefold)
    with pytest.raises(StorageUnusable, match=r"takes upper and lower case for the same; use another$"):
        take(tmp_path)
    assert [] == list((tmp_path / ".incoming").iterdir())


def test_a_file_system_that_changes_unicode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is read back as another one would be no block."""
    import unicodedata

    pretend(monkeypatch, lambda name: unicodedata.normalize("NFC", name))
    with pytest.raises(StorageUnusable, match=r"changes Unicode names; use another$"):
        take(tmp_path)


def test_the_real_disk_is_fit_for_a_storage(tmp_path: Path) -> None:
    """Without any fake, on the file system that the tests run on."""
    take(tmp_path, Disk()).release()
    assert {".filefly.json", ".incoming", ".lock"} == set(os.listdir(tmp_path))
