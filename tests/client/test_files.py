import io
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.client.files import (
    BytesSource,
    Download,
    FileObjectSource,
    PathSource,
    Source,
    SourceChanged,
    attributes_of,
    mode_of,
    mtime_ns_of,
)
from filefly.errors import FileFlyError, NotFound

DATA = b"0123456789"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


# Sources


@pytest.mark.parametrize("kind", ["bytes", "path", "file object"])
def test_a_source_is_read_from_any_place(path: Path, kind: str) -> None:
    """Whatever it is made from."""
    with path.open("rb") as file:
        sources: dict[str, Source] = {
            "bytes": BytesSource(DATA),
            "path": PathSource(path),
            "file object": FileObjectSource(file),
        }
        source = sources[kind]
        assert (10, b"789", b"012") == (source.size, source.read(7, 3), source.read(0, 3))
        source.check_unchanged()
        for other in sources.values():
            other.close()


def test_a_path_keeps_its_time_and_mode(path: Path) -> None:
    """To the nanosecond."""
    path.chmod(0o640)
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    source = PathSource(path)
    source.close()
    assert {"mtime": "2023-11-14T22:13:20.123456789Z", "mode": "0640"} == source.attributes


def test_a_missing_path_is_told(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(NotFound, match=rf"^{tmp_path}/missing does not exist$"):
        PathSource(tmp_path / "missing")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_regular_file_is_no_source(tmp_path: Path, kind: str) -> None:
    """Its size is not known: it must not be taken for an empty file, nor waited for."""
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(FileFlyError, match=rf"^{path} is not a regular file"):
        PathSource(path)


def test_a_file_that_shrank_is_told(path: Path) -> None:
    """Where the bytes are missing."""
    source = PathSource(path)
    path.write_bytes(b"012")
    with pytest.raises(SourceChanged):
        source.read(0, 10)
    source.close()


@pytest.mark.parametrize("change", ["grew", "was written"])
def test_a_file_that_changed_is_told(path: Path, change: str) -> None:
    """Also where all bytes could be read."""
    source = PathSource(path)
    assert DATA == source.read(0, 10)
    if change == "grew":
        with path.open("ab") as file:
            file.write(b"!")
        os.utime(path, ns=(0, source._found.st_mtime_ns))
    else:
        os.utime(path, ns=(0, 1))
    with pytest.raises(SourceChanged, match=rf"^{path} changed while it was uploaded; upload it again$"):
        source.check_unchanged()
    source.close()


def test_a_closed_path_is_not_read(path: Path) -> None:
    """A thread may come too late for an upload that was given up; its descriptor may be another file by then."""
    source = PathSource(path)
    source.close()
    source.close()
    with pytest.raises(SourceChanged, match=r"^the upload was given up$"):
        source.read(0, 1)


def test_of_a_file_object_the_first_bytes_are_taken(path: Path) -> None:
    """As many as are asked for; it stays open."""
    with path.open("rb") as file:
        source = FileObjectSource(file, 4)
        assert (4, b"0123", {}) == (source.size, source.read(0, 4), source.attributes)
        source.close()
        assert not file.closed


def test_a_file_object_that_ends_early_is_told() -> None:
    """It was said to be longer."""
    source = FileObjectSource(io.BytesIO(DATA), 11)
    with pytest.raises(SourceChanged, match=r"^the file ended before its 11 bytes$"):
        source.read(7, 4)


def test_a_file_object_is_read_by_many_threads() -> None:
    """Each gets the bytes of its place."""
    content = os.urandom(64 * 1000)
    source = FileObjectSource(io.BytesIO(content))
    wrong: list[int] = []

    def read(number: int) -> None:
        for at in range(number * 1000, len(content), 8000):
            if source.read(at, 1000) != content[at : at + 1000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong


# Download


def begun(path: Path) -> Download:
    download = Download(path)
    download.open()
    return download


def test_a_download_appears_when_it_is_finished(tmp_path: Path) -> None:
    """Under a temporary name until then."""
    download = begun(tmp_path / "file")
    download.write(3, [b"34", b"", b"56789"])
    download.write(0, [b"012"])
    assert not (tmp_path / "file").exists()
    download.finish({})
    download.abort()
    assert ["file"] == os.listdir(tmp_path)
    assert DATA == (tmp_path / "file").read_bytes()


def test_a_download_that_is_given_up_leaves_nothing(path: Path) -> None:
    """And what was there before stays."""
    download = begun(path)
    download.write(0, [b"other"])
    download.abort()
    download.abort()
    assert ["file"] == os.listdir(path.parent)
    assert DATA == path.read_bytes()


def test_a_download_replaces(path: Path) -> None:
    """Whole, with its own mode and time."""
    download = begun(path)
    download.write(0, [b"new"])
    download.finish({"mtime": "2023-11-14T22:13:20.123456789Z", "mode": "0600"})
    assert b"new" == path.read_bytes()
    assert (0o600, 1_700_000_000_123_456_789) == (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns)


def test_a_download_that_is_over_is_not_written(tmp_path: Path) -> None:
    """A thread may come too late."""
    download = begun(tmp_path / "file")
    download.abort()
    for late in (lambda: download.write(0, [b"x"]), lambda: download.finish({})):
        with pytest.raises(FileFlyError, match=r"^the download was given up$"):
            late()
    assert [] == os.listdir(tmp_path)


def test_a_download_that_was_given_up_is_not_opened(tmp_path: Path) -> None:
    """A thread may come too late for this, too."""
    download = Download(tmp_path / "file")
    download.abort()
    download.open()
    assert [] == os.listdir(tmp_path)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """By its name, and what to do."""
    with pytest.raises(NotFound, match=rf"^the folder {tmp_path}/missing does not exist; create it first$"):
        begun(tmp_path / "missing" / "file")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """The temporary file is taken away again."""
    (tmp_path / "folder").mkdir()
    download = begun(tmp_path / "folder")
    with pytest.raises(FileFlyError, match=rf"^cannot write {tmp_path}/folder: Is a directory$"):
        download.finish({})
    download.abort()
    assert ["folder"] == os.listdir(tmp_path)


def test_two_downloads_to_one_path_do_not_meet(tmp_path: Path) -> None:
    """The last one to finish stays, whole."""
    one, two = (begun(tmp_path / "file") for _ in range(2))
    one.write(0, [b"one"])
    two.write(0, [b"two!"])
    two.finish({})
    one.finish({})
    assert b"one" == (tmp_path / "file").read_bytes()
    assert ["file"] == os.listdir(tmp_path)


def test_many_small_chunks_are_written(tmp_path: Path) -> None:
    """More than one call of the system takes."""
    download = begun(tmp_path / "file")
    download.write(0, [b"%d" % (number % 10) for number in range(5000)])
    download.finish({})
    assert b"0123456789" * 500 == (tmp_path / "file").read_bytes()


# Attributes


@settings(deadline=None)
@given(mtime=st.integers(0, 4_000_000_000 * 10**9), mode=st.integers(0, 0o777))
def test_time_and_mode_survive(mtime: int, mode: int) -> None:
    """As text and back."""
    attributes = attributes_of(os.stat_result((0o100000 | mode, 0, 0, 0, 0, 0, 0, 0, 0, 0), {"st_mtime_ns": mtime}))
    assert (mtime, mode) == (mtime_ns_of(attributes), mode_of(attributes))


@pytest.mark.parametrize("mtime", [None, "", "yesterday", 12, "2026-13-01T00:00:00Z", "2026-01-01T00:00:00.xZ", [], {}])
def test_a_time_that_makes_no_sense_is_none(mtime: object) -> None:
    """Attributes are whatever some client chose."""
    assert None is mtime_ns_of({"mtime": mtime})
    assert None is mtime_ns_of({})


@pytest.mark.parametrize(("text", "mtime_ns"), [("1970-01-01T00:00:01Z", 10**9), ("1970-01-01T00:00:00.5Z", 5 * 10**8)])
def test_a_time_may_be_shorter(text: str, mtime_ns: int) -> None:
    """With fewer digits behind the point, or none."""
    assert mtime_ns == mtime_ns_of({"mtime": text})


@pytest.mark.parametrize("mode", [None, "", "rw", "999", 1.5, [], "-1x"])
def test_a_mode_that_makes_no_sense_is_none(mode: object) -> None:
    """And one never gives more than permissions."""
    assert None is mode_of({"mode": mode})
    assert 0o755 == mode_of({"mode": "104755"})
