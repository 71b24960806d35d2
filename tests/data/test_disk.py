import os
from pathlib import Path

import pytest

from filefly.data.disk import Disk


def test_many_chunks_are_written_in_order(tmp_path: Path) -> None:
    """More chunks than one call of the system takes, and empty ones, are no obstacle."""
    disk, path = Disk(), os.fsencode(tmp_path / "f")
    chunks = [bytes([n % 256]) * (n % 3) for n in range(5000)]
    descriptor = disk.create(path)
    disk.write(descriptor, chunks)
    disk.write(descriptor, [])
    disk.close(descriptor)
    assert b"".join(chunks) == (tmp_path / "f").read_bytes()


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """The system may take fewer bytes than it is given, in the middle of a chunk."""
    monkeypatch.setattr(os, "writev", lambda fd, chunks: os.write(fd, b"".join(chunks)[:at_once]))
    disk, path = Disk(), os.fsencode(tmp_path / "f")
    descriptor = disk.create(path)
    disk.write(descriptor, [b"abc", b"", b"defgh", b"i"])
    disk.close(descriptor)
    assert b"abcdefghi" == (tmp_path / "f").read_bytes()


def test_an_existing_file_is_not_created_again(tmp_path: Path) -> None:
    """Two stores never share a temporary file."""
    (tmp_path / "f").touch()
    with pytest.raises(FileExistsError):
        Disk().create(os.fsencode(tmp_path / "f"))


def test_a_link_is_not_opened(tmp_path: Path) -> None:
    """A link in the storage directory does not lead out of it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "f").symlink_to("secret")
    with pytest.raises(OSError, match="symbolic links"):
        Disk().open(os.fsencode(tmp_path / "f"))


def test_reading_ends_with_the_file(tmp_path: Path) -> None:
    """Fewer bytes than were asked for mean the end."""
    (tmp_path / "f").write_bytes(b"0123456789")
    disk = Disk()
    descriptor = disk.open(os.fsencode(tmp_path / "f"))
    assert [b"234", b"89", b""] == [disk.read(descriptor, 3, at) for at in (2, 8, 10)]
    disk.close(descriptor)


def test_a_folder_is_synced(tmp_path: Path) -> None:
    """The real call works on a folder, and only there."""
    Disk().fsync_directory(os.fsencode(tmp_path))
    (tmp_path / "f").touch()
    with pytest.raises(NotADirectoryError):
        Disk().fsync_directory(os.fsencode(tmp_path / "f"))
