import os
from pathlib import Path

import pytest

from filefly.client.batches import MOST_BYTES, SMALL_BYTES
from filefly.client.files import attributes_of
from filefly.client.small_files import SmallFile, SmallTargets, is_begun, make_folder, read_small_files
from filefly.client.targets import part_of
from filefly.errors import FileFlyError
from tests.meta.running import sum_of

DATA = b"0123456789"
OLD = b"what was there before"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def written(path: Path, data: bytes, **attributes: str) -> None:
    SmallTargets(set()).write(path, attributes, data)


# Reading


@pytest.mark.parametrize("data", [DATA, b"", b"x" * SMALL_BYTES])
def test_a_small_file_is_read_whole(path: Path, data: bytes) -> None:
    """With its sum, its mode and its time."""
    path.write_bytes(data)
    path.chmod(0o640)
    found = read_small_files([("a", path)])
    assert [SmallFile("a", path, data, sum_of(data), attributes_of(path.stat()))] == found.read
    assert ([], ()) == (found.others, found.rest)


def test_what_cannot_be_read_so_is_left(tmp_path: Path) -> None:
    """Large files, and what is missing or no file; the others are read."""
    (tmp_path / "large").write_bytes(b"x" * (SMALL_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "small").write_bytes(DATA)
    names = ["large", "missing", "pipe", "folder", "small"]
    found = read_small_files([(name, tmp_path / name) for name in names])
    assert (["small"], names[:-1]) == ([file.name for file in found.read], [name for name, _path in found.others])


@pytest.mark.parametrize("change", [b"01234", b"0123456789abc", b"9876543210"])
def test_a_file_that_changes_meanwhile_is_left(path: Path, change: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what was and half of what is would be neither."""
    path.write_bytes(DATA)
    os.utime(path, ns=(0, 0))
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        data = real(descriptor, size)
        path.write_bytes(change)
        return data

    monkeypatch.setattr(os, "read", read)
    found = read_small_files([("a", path)])
    assert ([], [("a", path)]) == (found.read, found.others)


def test_a_file_that_grew_before_it_was_read_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size and its bytes are not of one moment."""
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        with path.open("ab") as file:
            file.write(b"more")
        os.utime(path, ns=(0, found.st_mtime_ns))
        return found

    monkeypatch.setattr(os, "fstat", fstat)
    assert [("a", path)] == read_small_files([("a", path)]).others


def test_a_file_that_cannot_be_read_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is its descriptor."""

    def read(_descriptor: int, _size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", read)
    before = os.listdir("/proc/self/fd")
    assert [("a", path)] == read_small_files([("a", path)]).others
    assert before == os.listdir("/proc/self/fd")


def test_no_more_is_read_than_a_batch_has(tmp_path: Path) -> None:
    """What is left has its turn later."""
    files = [(f"{number}", tmp_path / f"{number}") for number in range(7)]
    for _name, path in files:
        path.write_bytes(b"x" * SMALL_BYTES)
    found = read_small_files(files)
    fit = MOST_BYTES // SMALL_BYTES
    assert (files[:fit], files[fit:]) == ([(file.name, file.path) for file in found.read], found.rest)


# Writing


@pytest.mark.parametrize("data", [DATA, b""])
def test_a_file_is_written_with_its_mode_and_time(path: Path, data: bytes) -> None:
    """In place of what was there, and nothing else is there."""
    written(path, data, mode="0604", mtime="2009-02-13T23:31:30.123456789Z")
    assert (data, ["file"]) == (path.read_bytes(), os.listdir(path.parent))
    assert (0o604, 1_234_567_890_123_456_789) == (path.stat().st_mode & 0o777, path.stat().st_mtime_ns)


def test_a_file_without_attributes_is_like_any_other(tmp_path: Path) -> None:
    """The umask decides."""
    written(tmp_path / "file", DATA)
    (tmp_path / "other").touch()
    assert (tmp_path / "other").stat().st_mode == (tmp_path / "file").stat().st_mode


def test_a_private_file_is_private_all_the_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before it has its name."""
    seen = []
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        seen.append(os.fstat(descriptor).st_mode & 0o777)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    written(path, DATA, mode="0400")
    assert ([0o600], 0o400) == (seen, path.stat().st_mode & 0o777)


def test_folders_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With those above them; those that are known are not looked at."""
    made = []
    real = os.makedirs

    def makedirs(folder: str, **options: bool) -> None:
        made.append(folder)
        real(folder, **options)

    monkeypatch.setattr(os, "makedirs", makedirs)
    folders = set[str]()
    for name in ("b/1", "b/c/2", "b/3", "b/c/4"):
        SmallTargets(folders).write(tmp_path / name, {}, DATA)
    assert [f"{tmp_path}/b", f"{tmp_path}/b/c"] == made
    assert set(made) == folders
    assert DATA == (tmp_path / "b/c/4").read_bytes()


def test_a_path_in_the_working_folder_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names no folder."""
    monkeypatch.chdir(tmp_path)
    written(Path("file"), DATA)
    assert DATA == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize("call", ["write", "chmod", "utime", "close", "replace"])
def test_a_call_that_fails_leaves_what_was_there(path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else, no descriptor either."""
    real = getattr(os, call)

    def fail(*arguments: object, **options: object) -> None:
        if call == "close":
            real(*arguments)
        raise OSError(28, "No space left on device")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left on device"):
        written(path, DATA, mode="0600", mtime="2009-02-13T23:31:30Z")
    monkeypatch.undo()
    assert (OLD, ["file"], before) == (path.read_bytes(), os.listdir(path.parent), os.listdir("/proc/self/fd"))


def test_half_a_file_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes only a part of it is full."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    with pytest.raises(OSError, match="No space left on device"):
        written(path, DATA)
    assert (OLD, ["file"]) == (path.read_bytes(), os.listdir(path.parent))


def test_who_gave_up_writes_nothing_more(tmp_path: Path) -> None:
    """A thread cannot be stopped, but it can be told."""
    targets = SmallTargets(set())
    targets.write(tmp_path / "one", {}, DATA)
    targets.abort()
    with pytest.raises(FileFlyError, match=r"^the download was given up$"):
        targets.write(tmp_path / "two", {}, DATA)
    assert ["one"] == os.listdir(tmp_path)


# Folders, and what is there already


def test_a_folder_is_made_with_those_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again is fine, and so is the working folder."""
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "a" / "b" / "file", tmp_path / "a" / "b" / "file", "file"):
        make_folder(path)
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_told(path: Path) -> None:
    """Where a file is in its way."""
    with pytest.raises(FileFlyError, match=rf"^cannot create the folder {path}/a: Not a directory$"):
        make_folder(path / "a" / "b")


def test_a_download_is_begun_if_there_is_anything_of_it(path: Path) -> None:
    """The file, a part that an earlier one left, or a link to nowhere."""
    part_of(path.with_name("parted")).touch()
    path.with_name("linked").symlink_to("missing")
    expected = {"file": True, "parted": True, "linked": True, "other": False}
    assert expected == {name: is_begun(path.with_name(name)) for name in expected}
