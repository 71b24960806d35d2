"""Between names in the catalog and paths in local folders."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from filefly.errors import FileFlyError, NotFound
from filefly.wire.names import check_file_name


@frozen
class LocalFile:
    """A file on disk, and the name that it has, or gets, in the catalog."""

    path: Path
    name: str
    size: int
    mtime_ns: int

    @classmethod
    def at(cls, path: Path, name: str) -> "LocalFile":
        """Look at `path`; raises NotFound, or BadRequest if it cannot be stored under `name`."""
        check_file_name(name)
        try:
            found = path.stat()
        except OSError as error:
            raise NotFound(f"cannot read {path}: {error.strerror}") from None
        return cls(path, name, found.st_size, found.st_mtime_ns)

    def is_same_as(self, total_size: int, attributes: Mapping[str, Any]) -> bool:
        """Whether the catalog's file has this one's size and modification time."""
        from filefly.client.files import mtime_ns_of

        return self.size == total_size and self.mtime_ns == mtime_ns_of(attributes)


def name_of(path: Path) -> str:
    """Return the name under which a path is stored if no other is given: its last part."""
    name = path.name or path.resolve().name
    try:
        name.encode()
    except UnicodeEncodeError:
        raise FileFlyError(
            f"the name of {os.fsencode(path)!r} is not UTF-8; give it another with --file-name"
        ) from None
    return name


def files_below(folder: Path, name: str | None, skipped: Callable[[Path], None]) -> Iterator[LocalFile]:
    """Yield every regular file below `folder`, in a stable order, named by its place in it.

    The names begin with `name`, else with the folder's own; those of `.` begin with nothing. Symbolic links to folders
    are not followed; what is not a regular file is `skipped`. Raises FileFlyError for a folder that cannot be read.
    """
    top = name if name is not None else ("" if folder.name == "" else name_of(folder))
    for where, folders, files in os.walk(folder, onerror=_raise_unreadable):
        folders.sort()
        for path in (Path(where, part) for part in folders):
            if path.is_symlink():
                skipped(path)
        for path in (Path(where, part) for part in sorted(files)):
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except OSError:
                regular = False
            if not regular:
                skipped(path)
                continue
            yield LocalFile.at(path, "/".join(part for part in (top.strip("/"), *_below(folder, path)) if part))


def _raise_unreadable(error: OSError) -> None:
    """Tell of a folder that cannot be listed; os.walk would leave it out without a word."""
    raise FileFlyError(f"cannot read {error.filename}: {error.strerror}") from error


def _below(folder: Path, path: Path) -> Sequence[str]:
    parts = path.relative_to(folder).parts
    for part in parts:
        name_of(Path(part))
    return parts


def prefix_of(folder_name: str) -> str:
    """Return what the names of the files in a folder of the catalog begin with; of the whole catalog, nothing."""
    return f"{folder_name.rstrip('/')}/" if folder_name.strip("/") else ""


def targets_of(names: Sequence[str], prefix: str, folder: Path) -> dict[str, Path]:
    """Return where each of the files of a catalog's folder goes below the local `folder`.

    Raises FileFlyError where a name is both a file and a folder: no local folder can hold both.
    """
    known = set(names)
    for name in names:
        parts = name.split("/")
        for length in range(1, len(parts)):
            both = "/".join(parts[:length])
            if both in known and len(both) >= len(prefix):
                raise FileFlyError(
                    f"{both} and {name} both exist, but a folder cannot hold a file and a folder of one name; "
                    f"download {both} alone with -o"
                )
    return {name: folder / name[len(prefix) :] for name in names}


def make_folder(folder: Path) -> None:
    """Create a folder and those above it; raises FileFlyError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFlyError(f"cannot create the folder {folder}: {error.strerror}") from None
