"""upload, download, cat: bytes in and out."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from filefly.cli.folders import LocalFile, check_named, files_below, name_of, prefix_of, targets_of, told_if_folder
from filefly.cli.options import cluster_options, concurrency_option, json_option, metadata_addr, quiet_option
from filefly.cli.output import print_json, progress
from filefly.cli.run import run, say
from filefly.errors import Busy, FileFlyError, NotFound, TimedOut, Unavailable
from filefly.units import counted, format_size

if TYPE_CHECKING:
    from filefly.client.api import Client
    from filefly.wire.messages import Metadata

Store = Callable[..., Awaitable["Metadata"]]
"""Client.upload, its options given."""
StoreFiles = Callable[..., Awaitable[None]]
"""Client.upload_files, its options given."""
_READABLE = 300  # characters of a command that somebody may copy


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--file", "files", multiple=True, metavar="PATH", type=click.Path(path_type=Path), help="The same as PATH."
)
@click.option("--file-name", "--name", "name", metavar="NAME", help="Store under this name (with -r: below it).")
@click.option("-r", "--recursive", is_flag=True, help="Upload folders; skip files that are there, same size and time.")
@click.option("--replicas", type=click.IntRange(1, 1000), metavar="N", help="Copies of each block.")
@click.option("--resume", is_flag=True, help="Do not send again what an upload that failed has stored.")
@click.option(
    "--if-generation",
    type=click.IntRange(0, 2**53 - 1),
    metavar="N",
    help="Only replace the file of this generation; 0: only if there is none.",
)
@concurrency_option
@json_option
@quiet_option
@cluster_options()
def upload(
    paths: tuple[Path, ...],
    files: tuple[Path, ...],
    name: str | None,
    recursive: bool,
    replicas: int | None,
    resume: bool,
    if_generation: int | None,
    concurrency: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Store files, each replacing what has its name; `-` reads standard input.

    A file is stored under its own name without folders; with -r, a folder's files under the folder's name and their
    place in it, with modification times and modes.

    \b
    Examples:
      filefly-client upload report.pdf
      filefly-client upload --file ./report.pdf --file-name reports/2026.pdf
      pg_dump shop | filefly-client upload - --name shop.sql
      filefly-client upload -r photos
      filefly-client upload --resume disk.img
    """
    everything = [*paths, *files]
    if not everything:
        raise click.UsageError("Name at least one PATH to upload, or - for standard input.")
    if name is not None and len(everything) > 1:
        raise click.UsageError("--file-name goes with a single PATH.")
    if if_generation is not None and (recursive or len(everything) > 1):
        raise click.UsageError("--if-generation goes with a single file.")
    if Path("-") in everything and (len(everything) > 1 or not name):
        raise click.UsageError("Standard input needs a name and no other PATH: upload - --name NAME")
    from_stdin = everything == [Path("-")]
    skipping = len(everything) > 1 and not recursive  # with -r, files that are complete are not sent again
    # What comes from a pipe may not come again.
    resumed = None if from_stdin else _resumed("upload", resume, *["-r"] * skipping)
    local = [] if from_stdin else list(_local_files(everything, name, recursive))
    _check_names(local)

    async def command(client: "Client") -> None:
        store = partial(client.upload, replicas=replicas, resume=resume, if_generation=if_generation)
        store_files = partial(client.upload_files, replicas=replicas, resume=resume)
        if from_stdin:
            await _upload_stdin(client, store, str(name), as_json, quiet)
        elif recursive:
            await _upload_folders(client, store_files, local, as_json, quiet)
        elif len(local) == 1:
            await _upload_file(store, local[0], as_json, quiet)
        else:
            await _upload_files(store_files, local, as_json, quiet)

    async def told_how_to_go_on(client: "Client") -> None:
        try:
            await command(client)
        except (Unavailable, TimedOut, Busy) as error:
            if resumed is None or "cannot be stored" not in str(error):  # then there is a plan, and blocks of it
                raise
            raise type(error)(f"{error}; {resumed}") from None

    run(metadata_addr(), concurrency, told_how_to_go_on, interrupted=resumed or "upload it again")


def _resumed(word: str, resume: bool, *more: str) -> str:
    """Return how to go on where this command was that is called `word`: by itself, with --resume and `more` options."""
    arguments = sys.argv[1:]
    if word in arguments:
        place = arguments.index(word) + 1
        arguments[place:place] = [*["--resume"] * (not resume), *more]
    command = shlex.join(["filefly-client", *arguments])
    if len(command) > _READABLE:
        command = f"the same command, with {' '.join(['--resume', *more])}"
    return f"to go on where it was: {command}"


def _local_files(paths: Iterable[Path], name: str | None, recursive: bool) -> Iterable[LocalFile]:
    for path in paths:
        if path.is_dir():
            if not recursive:
                raise FileFlyError(f"{path} is a folder; upload it with -r")
            yield from files_below(path, name, skipped=lambda what: say(f"skipped {what}: not a regular file"))
        else:
            yield LocalFile.at(path, name or name_of(path))


def _check_names(local: Iterable[LocalFile]) -> None:
    """Raise FileFlyError where two paths would get one name: which of them would be there in the end?"""
    paths: dict[str, str] = {}
    for file in local:
        if file.name in paths:
            raise FileFlyError(
                f"{paths[file.name]} and {file.path} would both be stored as {file.name}; "
                "upload them one by one, with --file-name"
            )
        paths[file.name] = file.path


async def _upload_folders(
    client: "Client", store_files: StoreFiles, local: list[LocalFile], as_json: bool, quiet: bool
) -> None:
    """Upload what is not in the catalog with the same size and modification time."""
    common = os.path.commonprefix([file.name for file in local])  # noqa: RUF071 - of names, not of paths
    there = {file.name: file async for file in client.list(common)} if local else {}
    changed = [
        file
        for file in local
        if (known := there.get(file.name)) is None or not file.is_same_as(known.total_size, known.attributes)
    ]
    await _upload_files(store_files, changed, as_json, quiet, each=False)
    if not quiet:
        same = len(local) - len(changed)
        were = "1 was" if same == 1 else f"{same:,} were"
        size = format_size(sum(file.size for file in changed))
        say(f"uploaded {counted(len(changed), 'file')}, {size}; {were} there already")


async def _upload_files(
    store_files: StoreFiles, local: list[LocalFile], as_json: bool, quiet: bool, each: bool = True
) -> None:
    from filefly.client.decisions import short_blocks

    told_later: list[Metadata] = []  # a sentence in the middle of a progress bar tears it

    def uploaded(metadata: "Metadata") -> None:
        if as_json:
            print_json(metadata)
        if each or short_blocks(metadata):
            told_later.append(metadata)

    try:
        with progress("stored", quiet, sum(file.size for file in local)) as shown:
            await store_files(((file.name, file.path) for file in local), progress=shown, uploaded=uploaded)
    finally:
        for metadata in told_later:
            _tell(metadata, uploaded=each and not as_json and not quiet)


async def _upload_file(store: Store, file: LocalFile, as_json: bool, quiet: bool) -> None:
    with progress("stored", quiet, file.size) as shown:
        metadata = await store(file.name, file.path, progress=shown)
    _stored(metadata, as_json, quiet)


async def _upload_stdin(client: "Client", store: Store, name: str, as_json: bool, quiet: bool) -> None:
    with tempfile.TemporaryFile(prefix="filefly-") as spool:
        await client.in_thread(_spool_thd, spool)
        with progress("stored", quiet) as shown:
            metadata = await store(name, spool, progress=shown)
        _stored(metadata, as_json, quiet)


def _spool_thd(spool: BinaryIO) -> None:
    try:
        shutil.copyfileobj(sys.stdin.buffer, spool, 1024 * 1024)
    except OSError as error:
        raise FileFlyError(f"cannot spool standard input in {tempfile.gettempdir()}: {error.strerror}") from error


def _stored(metadata: "Metadata", as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(metadata)
    _tell(metadata, uploaded=not as_json and not quiet)


def _tell(metadata: "Metadata", uploaded: bool) -> None:
    """Say that a file is `uploaded`, and warn, also who wants to hear nothing, if it has not all of its copies."""
    from filefly.client.decisions import short_blocks

    if uploaded:
        blocks = counted(len(metadata.blocks), "block")
        say(f"uploaded {metadata.name}: {format_size(metadata.total_size)} in {blocks}")
    if short_blocks(metadata):
        fewest = min(len(block.replicas) for block in metadata.blocks)
        say(
            f"{metadata.name} is stored with only {fewest} of {metadata.replicas} copies of some blocks; "
            "the others are made when a data server is available"
        )


@click.command()
@click.argument("name")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write here; - is standard output.",
)
@click.option("-r", "--recursive", is_flag=True, help="Download all files below NAME into the folder -o.")
@click.option("--resume", is_flag=True, help="Keep what was fetched if this fails, and go on with what is there.")
@concurrency_option
@json_option
@quiet_option
@cluster_options()
def download(
    name: str, output: Path | None, recursive: bool, resume: bool, concurrency: int, as_json: bool, quiet: bool
) -> None:
    """Get a file back; it appears once all of it is there and verified.

    It is written to the last part of its name, or into the folder or the file that -o names. With --resume, what was
    fetched before a failure is kept in a hidden file there.

    \b
    Examples:
      filefly-client download reports/2026.pdf
      filefly-client download shop.sql -o - | psql shop
      filefly-client download -r photos -o restored
      filefly-client download --resume disk.img
    """
    if resume and output == Path("-"):
        raise click.UsageError("--resume needs a file to write to; -o - is standard output.")
    if recursive and (output is None or output == Path("-")):
        raise click.UsageError("-r needs a folder to write to: download -r PREFIX -o FOLDER")
    if resume or recursive:  # files that are complete are in place, and are not fetched again
        interrupted = _resumed("download", resume)
    else:
        interrupted = "nothing was kept (with --resume it would have been)"

    async def command(client: "Client") -> None:
        if recursive:
            await _download_folder(client, name, Path(str(output)), resume, as_json, quiet)
            return
        async with told_if_folder(client, name, "download it with -r, to a folder -o"):
            if output == Path("-"):
                await _to_stdout(client, name)
            else:
                await _download_file(client, name, output or Path(), resume, as_json, quiet)

    run(metadata_addr(), concurrency, command, interrupted=None if output == Path("-") else interrupted)


async def _download_file(client: "Client", name: str, path: Path, resume: bool, as_json: bool, quiet: bool) -> None:
    target = path / name.rsplit("/", 1)[-1] if path.is_dir() else path
    with progress("fetched", quiet) as shown:
        metadata = await client.download(name, target, resume=resume, progress=shown)
    if as_json:
        print_json(metadata)
    elif not quiet:
        say(f"downloaded {metadata.name} to {target}: {format_size(metadata.total_size)}, verified")


async def _download_folder(client: "Client", name: str, folder: Path, resume: bool, as_json: bool, quiet: bool) -> None:
    prefix = prefix_of(name)
    files = [file async for file in client.list(prefix, blocks=True)]
    if not files:
        raise NotFound(f"no file's name begins with {prefix}")
    targets = targets_of([file.name for file in files], prefix, folder)
    total = sum(file.total_size for file in files)
    with progress("fetched", quiet, total) as shown:
        told: dict[str, Any] = {"downloaded": print_json} if as_json else {}
        await client.download_files(zip(files, targets, strict=True), resume=resume, progress=shown, **told)
    if not quiet:
        say(f"downloaded {counted(len(files), 'file')}, {format_size(total)}, to {folder}")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", callback=check_named)
@click.option("--offset", type=click.IntRange(0), default=0, metavar="N", help="Begin at this byte.")
@click.option("--length", type=click.IntRange(0), metavar="N", help="Print at most so many bytes.")
@concurrency_option
@cluster_options()
def cat(names: tuple[str, ...], offset: int, length: int | None, concurrency: int) -> None:
    """Print files, each block verified before a byte of it is printed.

    \b
    Examples:
      filefly-client cat notes/today.txt
      filefly-client cat disk.img --offset 1048576 --length 512 | xxd
    """

    async def command(client: "Client") -> None:
        for name in names:
            async with told_if_folder(client, name, f"see filefly-client ls {name}"):
                await _to_stdout(client, name, offset, length)

    run(metadata_addr(), concurrency, command)


async def _to_stdout(client: "Client", name: str, offset: int = 0, length: int | None = None) -> None:
    async with aclosing(client.stream(name, offset, length)) as chunks:
        async for chunk in chunks:
            await client.in_thread(_print_thd, chunk)


def _print_thd(data: bytes) -> None:
    pending = memoryview(data)
    while pending:
        pending = pending[os.write(sys.stdout.fileno(), pending) :]
