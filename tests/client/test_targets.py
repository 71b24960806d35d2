import fcntl
import os
import stat
from pathlib import Path

import pytest

from filefly.client.errors import SourceFailed
from filefly.client.targets import ResumableFile, TargetFile, part_of
from filefly.errors import Busy, FileFlyError, NotFound

DATA = b"0123456789"
KINDS = pytest.mark.parametrize("kind", [TargetFile, ResumableFile])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"what was there before")
    return path


def begun(path: Path, kind: type[TargetFile] = TargetFile, **attributes: str) -> TargetFile:
    target = kind(path, attributes)
    target.open()
    return target


def resumed(path: Path) -> ResumableFile:
    target = ResumableFile(path, {})
    target.open()
    return target


@KINDS
def test_a_file_appears_when_it_is_finished(tmp_path: Path, kind: type[TargetFile]) -> None:
    """Under a temporary name until then."""
    target = begun(tmp_path / "file", kind)
    target.write(3, [b"34", b"", b"56789"])
    target.write(0, [b"012"])
    assert not (tmp_path / "file").exists()
    target.finish(10)
    target.abort()
    assert ["file"] == os.listdir(tmp_path)
    assert DATA == (tmp_path / "file").read_bytes()


def test_a_file_that_is_given_up_leaves_nothing(path: Path) -> None:
    """And what was there before stays."""
    target = begun(path)
    target.write(0, [b"other"])
    target.abort()
    target.abort()
    assert ["file"] == os.listdir(path.parent)
    assert b"what was there before" == path.read_bytes()


@KINDS
def test_a_file_replaces(path: Path, kind: type[TargetFile]) -> None:
    """Whole, with its own mode and time."""
    target = begun(path, kind, mtime="2023-11-14T22:13:20.123456789Z", mode="0400")
    target.write(0, [b"new"])
    target.finish(3)
    assert b"new" == path.read_bytes()
    assert (0o400, 1_700_000_000_123_456_789) == (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns)


@KINDS
def test_a_private_file_is_private_from_the_start(path: Path, kind: type[TargetFile]) -> None:
    """Nobody reads it while it is under way; one without a mode gets what the user's umask leaves."""
    private, public = begun(path, kind, mode="0400"), begun(path.with_name("other"), kind)
    plain = path.with_name("plain")
    plain.touch()
    modes = [stat.S_IMODE(target._temporary.stat().st_mode) for target in (private, public)]
    assert [0o600, stat.S_IMODE(plain.stat().st_mode)] == modes
    private.abort()
    public.abort()


@KINDS
def test_a_file_that_is_over_is_not_written(tmp_path: Path, kind: type[TargetFile]) -> None:
    """A thread may come too late."""
    target = begun(tmp_path / "file", kind)
    target.abort()
    for late in (lambda: target.write(0, [b"x"]), lambda: target.finish(1)):
        with pytest.raises(FileFlyError, match=r"^the download was given up$"):
            late()
    assert [] == os.listdir(tmp_path)


@KINDS
def test_a_file_that_was_given_up_is_not_opened(tmp_path: Path, kind: type[TargetFile]) -> None:
    """A thread may come too late for this, too."""
    target = kind(tmp_path / "file", {})
    target.abort()
    target.open()
    assert [] == os.listdir(tmp_path)


@KINDS
def test_a_missing_folder_is_told(tmp_path: Path, kind: type[TargetFile]) -> None:
    """By its name, and what to do."""
    with pytest.raises(NotFound, match=rf"^the folder {tmp_path}/missing does not exist; create it first$"):
        begun(tmp_path / "missing" / "file", kind)


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """The temporary file is taken away again."""
    (tmp_path / "folder").mkdir()
    target = begun(tmp_path / "folder")
    with pytest.raises(FileFlyError, match=rf"^cannot write {tmp_path}/folder: Is a directory$"):
        target.finish(0)
    target.abort()
    assert ["folder"] == os.listdir(tmp_path)


def test_two_downloads_to_one_path_do_not_meet(tmp_path: Path) -> None:
    """The last one to finish stays, whole."""
    one, two = (begun(tmp_path / "file") for _ in range(2))
    one.write(0, [b"one"])
    two.write(0, [b"two!"])
    two.finish(4)
    one.finish(3)
    assert b"one" == (tmp_path / "file").read_bytes()
    assert ["file"] == os.listdir(tmp_path)


def test_many_small_chunks_are_written(tmp_path: Path) -> None:
    """More than one call of the system takes."""
    target = begun(tmp_path / "file")
    target.write(0, [b"%d" % (number % 10) for number in range(5000)])
    target.finish(5000)
    assert b"0123456789" * 500 == (tmp_path / "file").read_bytes()


# What stays for the next try


def test_what_was_written_stays_for_the_next_try(path: Path) -> None:
    """Under a name that depends on the file's alone; what was there before stays, too."""
    first = resumed(path)
    first.write(3, [b"345"])
    first.abort()
    second = resumed(path)
    assert b"345" == second.read(3, 3)
    second.abort()
    assert [".file.filefly-part", "file"] == sorted(os.listdir(path.parent))
    assert b"what was there before" == path.read_bytes()


def test_nothing_stays_where_nothing_was_written(path: Path) -> None:
    """An empty part would only be in the way."""
    resumed(path).abort()
    assert ["file"] == os.listdir(path.parent)


def test_what_is_not_there_is_not_read(path: Path) -> None:
    """A part may be shorter than the file."""
    target = resumed(path)
    target.write(0, [b"012"])
    with pytest.raises(SourceFailed, match=r"\.file\.filefly-part ended early$"):
        target.read(1, 3)
    target.abort()


def test_a_part_that_is_longer_is_cut(path: Path) -> None:
    """It may be of another generation of the file."""
    part_of(path).write_bytes(DATA)
    target = resumed(path)
    target.finish(4)
    assert b"0123" == path.read_bytes()


def test_one_download_at_a_time_has_the_part(path: Path) -> None:
    """Two would write into each other's file."""
    first = resumed(path)
    first.write(0, [b"012"])
    with pytest.raises(Busy, match=rf"^{path} is being downloaded already$"):
        resumed(path)
    first.abort()
    resumed(path).abort()


def test_a_part_that_was_finished_meanwhile_is_not_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited at the lock has in hand what is the file by now: it begins a part of its own."""
    first = resumed(path)
    first.write(0, [DATA])

    def finish_first(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        first.finish(10)
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    second = resumed(path)
    second.write(0, [b"other"])
    second.abort()
    assert DATA == path.read_bytes()
    assert b"other" == part_of(path).read_bytes()


def test_a_part_that_is_a_link_is_not_followed(path: Path) -> None:
    """It could lead to a file of somebody else."""
    victim = path.with_name("victim")
    victim.write_bytes(DATA)
    part_of(path).symlink_to(victim)
    with pytest.raises(FileFlyError, match=rf"^cannot write {path}: "):
        resumed(path)
    assert DATA == victim.read_bytes()


def test_a_part_of_a_long_name_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Where the usual one would be too long; those of two such names differ."""
    one, other = tmp_path / ("ä" * 127), tmp_path / ("ä" * 126 + "o")
    for path in (one, other):
        target = resumed(path)
        target.write(0, [b"x"])
        target.abort()
    assert 2 == len(os.listdir(tmp_path))
    assert all(name.endswith(".filefly-part") for name in os.listdir(tmp_path))
