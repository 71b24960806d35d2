"""Between names in the catalog and paths in local folders."""

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from filefly.errors import BadRequest, FileFlyError, NotFound
from filefly.wire.names import check_file_name

if TYPE_CHECKING:
    from filefly.client.api import Client


@frozen
class LocalFile:
    """A file on disk, and the name that it has, or gets, in the catalog."""

    path: str
    name: str
    size: int
    mtime_ns: int

    @classmethod
    def at(cls, path: Path, name: str) -> "LocalFile":
        """Look at `path`; raises NotFound, or BadRequest if it cannot be stored under `name`."""
        try:
            found = path.stat()
        except OSError as error:
            raise NotFound(f"cannot read {path}: {error.strerror}") from None
        return cls.of(str(path), name, found)

    @classmethod
    def of(cls, path: str, name: str, found: os.stat_result) -> "LocalFile":
        """Take what was found at `path`; raises BadRequest if it cannot be stored under `name`."""
        check_file_name(name)
        return cls(path, name, found.st_size, found.st_mtime_ns)

    def is_same_as(self, total_size: int, attributes: Mapping[str, Any]) -> bool:
        """Whether the catalog's file has this one's size and modification time."""
        from filefly.client.files import mtime_ns_of

        return self.size == total_size and self.mtime_ns == mtime_ns_of(attributes)


def name_of(path: Path) -> str:
    """Return the name under which a path is stored if no other is given: its last part."""
    name = path.name or path.resolve().name
    _check_utf8(name, path)
    return name


def _check_utf8(name: str, path: Path | None = None) -> None:
    """Raise FileFlyError if a name, the last part of `path` if that is more, could not be given back as it was."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise FileFlyError(
            f"the name of {os.fsencode(path or name)!r} is not UTF-8; give it another with --file-name"
        ) from None


def files_below(folder: Path, name: str | None, skipped: Callable[[str], None]) -> Iterator[LocalFile]:
    """Yield every regular file below `folder`, in a stable order, named by its place in it.

    The names begin with `name`, else with the folder's own; those of `.` begin with nothing. Symbolic links to folders
    are not followed; what is not a regular file is `skipped`. Raises FileFlyError for a folder that cannot be read.
    """
    top = name if name is not None else ("" if folder.name == "" else name_of(folder))
    yield from _below("" if folder == Path() else str(folder), prefix_of(top.strip("/")), skipped)


def _below(folder: str, prefix: str, skipped: Callable[[str], None]) -> Iterator[LocalFile]:
    """Do it for the folder at a path, "" for the working folder; what is in it gets names that begin with `prefix`."""
    folders, files = list[os.DirEntry[str]](), list[os.DirEntry[str]]()
    for entry in _entries(folder):
        (folders if _is_folder(entry) else files).append(entry)
    for entry in folders:
        if entry.is_symlink():
            skipped(os.path.join(folder, entry.name))
    for entry in files:
        path = os.path.join(folder, entry.name)
        try:
            found = entry.stat()
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            skipped(path)
            continue
        _check_utf8(entry.name)
        yield LocalFile.of(path, prefix + entry.name, found)
    for entry in folders:
        if not entry.is_symlink():
            _check_utf8(entry.name)
            yield from _below(os.path.join(folder, entry.name), f"{prefix}{entry.name}/", skipped)


def _entries(folder: str) -> Sequence[os.DirEntry[str]]:
    """Return what is in a folder, in a stable order."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            return sorted(entries, key=attrgetter("name"))
    except OSError as error:
        raise FileFlyError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def check_named(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Return the name or names that were given, if each names something; for the callback of an argument.

    A shell variable that is not set leaves nothing, or a slash: to `rm -r` that would mean every file there is.
    """
    for name in value if isinstance(value, tuple) else (value,):
        if not name.strip("/"):
            raise click.BadParameter(f"{name!r} names nothing; is a shell variable empty?")
    return value


@asynccontextmanager
async def told_if_folder(client: "Client", name: str, instead: str) -> AsyncIterator[None]:
    """Say, where there is no file `name` but a folder, that it is one, and what to do `instead`."""
    try:
        yield
    except (BadRequest, NotFound) as error:
        if (name.endswith("/") or str(error) == f"{name}: file not found") and await _is_folder_there(client, name):
            raise NotFound(f"{name} is a folder; {instead}") from None
        raise


async def _is_folder_there(client: "Client", name: str) -> bool:
    """Whether there is a file in a folder of the catalog, as far as one may know."""
    try:
        page = await client.list_page(prefix_of(name), limit=1)
    except FileFlyError:
        return False
    return bool(page.files)


def prefix_of(folder_name: str) -> str:
    """Return what the names of the files in a folder of the catalog begin with; of the whole catalog, nothing."""
    return f"{folder_name.rstrip('/')}/" if folder_name.strip("/") else ""


def targets_of(names: Sequence[str], prefix: str, folder: Path) -> list[str]:
    """Return the paths below the local `folder` at which the files of a catalog's folder go.

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
    return [os.path.join(folder, name[len(prefix) :]) for name in names]
