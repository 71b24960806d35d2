import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.cli.folders import LocalFile, files_below, name_of, prefix_of, targets_of
from filefly.client.files import attributes_of
from filefly.errors import BadRequest, FileFlyError, NotFound


def fill(folder: Path, *names: str) -> Path:
    """Create files below a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * len(name))
    return folder


def below(folder: Path, name: str | None = None) -> tuple[list[str], list[str]]:
    """Return the names of the files below a folder, and what was skipped."""
    skipped: list[str] = []
    return [file.name for file in files_below(folder, name, skipped.append)], skipped


# files_below


def test_files_are_named_by_their_place_in_the_folder(tmp_path: Path) -> None:
    """Behind the folder's own name."""
    folder = fill(tmp_path / "photos", "a.jpg", "2026/b.jpg", "2026/may/c.jpg")
    assert (["photos/a.jpg", "photos/2026/b.jpg", "photos/2026/may/c.jpg"], []) == below(folder)


@pytest.mark.parametrize(("name", "prefix"), [("x", "x/"), ("x/y", "x/y/"), ("/x/", "x/"), ("", "")])
def test_files_can_be_put_below_another_name(tmp_path: Path, name: str, prefix: str) -> None:
    """In place of the folder's."""
    folder = fill(tmp_path / "photos", "a.jpg", "2026/b.jpg")
    assert [f"{prefix}a.jpg", f"{prefix}2026/b.jpg"] == below(folder, name)[0]


def test_the_files_of_this_folder_have_no_folder_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.` is no name."""
    monkeypatch.chdir(fill(tmp_path, "a", "b/c"))
    assert ["a", "b/c"] == below(Path())[0]


def test_the_order_is_stable(tmp_path: Path) -> None:
    """Whatever order the file system has."""
    names = [f"{letter}{number}" for letter in "cab" for number in (3, 1, 2)]
    assert [f"f/{name}" for name in sorted(names)] == below(fill(tmp_path / "f", *names))[0]


def test_what_is_no_file_is_skipped_and_told(tmp_path: Path) -> None:
    """Pipes, sockets, links to nowhere; an empty folder is nothing."""
    folder = fill(tmp_path / "f", "a")
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to("missing")
    (folder / "empty").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
    assert (["f/a"], [f"{folder}/nowhere", f"{folder}/pipe", f"{folder}/socket"]) == below(folder)


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    """Its content is stored under the link's name."""
    folder = fill(tmp_path / "f", "a")
    (folder / "b").symlink_to("a")
    assert ["f/a", "f/b"] == below(folder)[0]


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    """It might lead round in circles; it is told."""
    folder = fill(tmp_path / "f", "a")
    (folder / "round").symlink_to(folder)
    assert (["f/a"], [f"{folder}/round"]) == below(folder)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A part of a backup must not be left out without a word."""
    folder = fill(tmp_path / "f", "a", "vanishing/b")
    files = files_below(folder, None, lambda _path: None)
    assert "f/a" == next(files).name
    (folder / "vanishing" / "b").unlink()
    (folder / "vanishing").rmdir()
    with pytest.raises(FileFlyError, match=rf"^cannot read {folder}/vanishing: No such file or directory$"):
        list(files)


def test_a_name_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    """It could not be given back as it was."""
    folder = fill(tmp_path / "f", "a")
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff"))).write_bytes(b"")
    with pytest.raises(FileFlyError, match=r"^the name of b'\\xff' is not UTF-8; give it another with --file-name$"):
        below(folder)


def test_a_name_with_a_control_character_is_an_error(tmp_path: Path) -> None:
    """By the rule that the metadata server has, before anything is sent."""
    with pytest.raises(BadRequest, match=r"^file_name has a control character$"):
        below(fill(tmp_path / "f", "a\nb"))


# LocalFile


def test_a_local_file_knows_its_size_and_time(tmp_path: Path) -> None:
    """Which tell whether it is in the catalog already."""
    path = fill(tmp_path, "abc") / "abc"
    os.utime(path, ns=(0, 1_234_567_890_123_456_789))
    file = LocalFile.at(path, "x/abc")
    assert LocalFile(str(path), "x/abc", 3, 1_234_567_890_123_456_789) == file
    attributes = attributes_of(path.stat())
    assert file.is_same_as(3, attributes)
    assert not file.is_same_as(4, attributes)
    assert not file.is_same_as(3, {})
    os.utime(path, ns=(0, 1_234_567_890_123_456_790))
    assert not LocalFile.at(path, "x/abc").is_same_as(3, attributes)


def test_a_missing_local_file_is_told(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(NotFound, match=rf"^cannot read {tmp_path}/missing: No such file or directory$"):
        LocalFile.at(tmp_path / "missing", "a")


@pytest.mark.parametrize("name", ["", "../a", "/a", "a//b", "x" * 1025])
def test_a_name_that_cannot_be_stored_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is sent."""
    with pytest.raises(BadRequest):
        LocalFile.at(fill(tmp_path, "a") / "a", name)


# Names


def test_a_path_is_stored_under_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has none: the folder that it means has a name."""
    monkeypatch.chdir(fill(tmp_path / "here", "a"))
    assert ["c.txt", "a", "here"] == [name_of(Path(path)) for path in ("/a/b/c.txt", "a", ".")]


@pytest.mark.parametrize(
    ("folder", "prefix"), [("", ""), ("/", ""), ("a", "a/"), ("a/", "a/"), ("a/b", "a/b/"), ("a//", "a/")]
)
def test_a_folder_of_the_catalog_is_a_prefix(folder: str, prefix: str) -> None:
    """With one slash at its end: `photos` does not mean `photos2`."""
    assert prefix == prefix_of(folder)


# targets_of


def test_files_go_to_their_places() -> None:
    """Without the prefix that was asked for."""
    assert ["out/a", "out/b/c"] == targets_of(["p/a", "p/b/c"], "p/", Path("out"))


def test_a_file_that_is_a_folder_too_is_told() -> None:
    """No local folder can hold both."""
    with pytest.raises(FileFlyError) as caught:
        targets_of(["p/a", "p/a-b", "p/a/b"], "p/", Path("out"))
    assert (
        "p/a and p/a/b both exist, but a folder cannot hold a file and a folder of one name; "
        "download p/a alone with -o" == str(caught.value)
    )


def test_what_is_not_downloaded_does_not_matter() -> None:
    """The file `p` is none of those below `p/`."""
    assert ["out/a"] == targets_of(["p/a"], "p/", Path("out"))


NAMES = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=3).map("/".join)


@settings(deadline=None)
@given(names=st.sets(NAMES, max_size=8))
def test_targets_can_all_be_written_or_are_refused(names: set[str]) -> None:
    """No two files share a path, and no path lies below another."""
    try:
        targets = targets_of(sorted(names), "", Path("out"))
    except FileFlyError:
        assert any(other.startswith(f"{name}/") for name in names for other in names)
        return
    paths = {Path(target) for target in targets}
    assert len(names) == len(paths)
    assert not any(parent in paths for path in paths for parent in path.parents)
    assert all(Path("out") in path.parents for path in paths)
