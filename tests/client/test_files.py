import io
import os
import threading
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.client.errors import SourceChanged
from filefly.client.files import (
    BytesSource,
    FileObjectSource,
    PathSource,
    Source,
    attributes_of,
    mode_of,
    mtime_ns_of,
    sum_of,
)
from filefly.errors import FileFlyError, NotFound
from filefly.wire.codec import crc32c_hex

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


# Sums


@pytest.mark.parametrize(("offset", "size"), [(0, 10), (3, 4), (10, 0), (0, 3 * 2**20 + 5)])
def test_a_sum_is_that_of_the_bytes(offset: int, size: int) -> None:
    """Whatever the pieces in which they are read."""
    content = os.urandom(10 if size < 100 else 4 * 2**20)
    assert crc32c_hex(crc32c(content[offset : offset + size])) == sum_of(BytesSource(content).read, offset, size)


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
