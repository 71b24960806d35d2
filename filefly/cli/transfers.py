"""upload, download, cat: bytes in and out."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from filefly.cli.folders import LocalFile, files_below, make_folder, name_of, prefix_of, targets_of
from filefly.cli.options import concurrency_option, json_option, metadata_addr, metadata_option, quiet_option
from filefly.cli.output import print_json, progress
from filefly.cli.run import run, say
from filefly.errors import FileFlyError, NotFound
from filefly.units import format_size

if TYPE_CHECKING:
    from filefly.client.api import Client
    from filefly.wire.messages import Metadata

FILES_AT_ONCE = 16
"""How many files of a folder are under way at once; how many of their blocks move, `--concurrency` says."""


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--file", "files", multiple=True, metavar="PATH", type=click.Path(path_type=Path), help="The same as PATH."
)
@click.option("--file-name", "--name", "name", metavar="NAME", help="Store under this name (with -r: below it).")
@click.option("-r", "--recursive", is_flag=True, help="Upload folders; skip files that are there, same size and time.")
@click.option("--replicas", type=click.IntRange(1, 1000), metavar="N", help="Copies of each block.")
@concurrency_option
@json_option
@quiet_option
@metadata_option()
def upload(
    paths: tuple[Path, ...],
    files: tuple[Path, ...],
    name: str | None,
    recursive: bool,
    replicas: int | None,
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
    """
    everything = [*paths, *files]
    if not everything:
        raise click.UsageError("Name at least one PATH to upload, or - for standard input.")
    if name is not None and len(everything) > 1:
        raise click.UsageError("--file-name goes with a single PATH.")
    if Path("-") in everything and (len(everything) > 1 or not name):
        raise click.UsageError("Standard input needs a name and no other PATH: upload - --name NAME")
    from_stdin = everything == [Path("-")]
    local = [] if from_stdin else list(_local_files(everything, name, recursive))

    async def command(client: "Client") -> None:
        if from_stdin:
            await _upload_stdin(client, str(name), replicas, as_json, quiet)
        elif recursive:
            await _upload_folders(client, local, replicas, as_json, quiet)
        else:
            await _upload_files(client, local, replicas, as_json, quiet)

    run(metadata_addr(), concurrency, command)


def _local_files(paths: Iterable[Path], name: str | None, recursive: bool) -> Iterable[LocalFile]:
    for path in paths:
        if path.is_dir():
            if not recursive:
                raise FileFlyError(f"{path} is a folder; upload it with -r")
            yield from files_below(path, name, skipped=lambda what: say(f"skipped {what}: not a regular file"))
        else:
            yield LocalFile.at(path, name or name_of(path))


async def _upload_folders(
    client: "Client", local: list[LocalFile], replicas: int | None, as_json: bool, quiet: bool
) -> None:
    """Upload what is not in the catalog with the same size and modification time."""
    common = os.path.commonprefix([file.name for file in local])  # noqa: RUF071 - of names, not of paths
    there = {file.name: file async for file in client.list(common)} if local else {}
    changed = [
        file
        for file in local
        if (known := there.get(file.name)) is None or not file.is_same_as(known.total_size, known.attributes)
    ]
    await _upload_files(client, changed, replicas, as_json, quiet, each=False)
    if not quiet:
        same = len(local) - len(changed)
        size = format_size(sum(file.size for file in changed))
        say(f"uploaded {len(changed)} files, {size}; {same} were there already")


async def _upload_files(
    client: "Client", local: list[LocalFile], replicas: int | None, as_json: bool, quiet: bool, each: bool = True
) -> None:
    from filefly.client.transfer import run_all

    told_later: list[Metadata] = []  # a sentence in the middle of a progress bar tears it
    try:
        with progress("stored", quiet, sum(file.size for file in local)) as shown:

            async def upload_one(file: LocalFile) -> None:
                metadata = await client.upload(file.name, file.path, replicas=replicas, progress=shown)
                if as_json:
                    print_json(metadata)
                elif each:
                    told_later.append(metadata)

            await run_all((partial(upload_one, file) for file in local), FILES_AT_ONCE)
    finally:
        for metadata in told_later:
            _uploaded(metadata, as_json, quiet)


async def _upload_stdin(client: "Client", name: str, replicas: int | None, as_json: bool, quiet: bool) -> None:
    with tempfile.TemporaryFile(prefix="filefly-") as spool:
        await client.in_thread(_spool_thd, spool)
        with progress("stored", quiet) as shown:
            metadata = await client.upload(name, spool, replicas=replicas, progress=shown)
        _uploaded(metadata, as_json, quiet)


def _spool_thd(spool: BinaryIO) -> None:
    try:
        shutil.copyfileobj(sys.stdin.buffer, spool, 1024 * 1024)
    except OSError as error:
        raise FileFlyError(f"cannot spool standard input in {tempfile.gettempdir()}: {error.strerror}") from error


def _uploaded(metadata: "Metadata", as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(metadata)
    elif not quiet:
        count = len(metadata.blocks)
        blocks = "1 block" if count == 1 else f"{count} blocks"
        say(f"uploaded {metadata.name}: {format_size(metadata.total_size)} in {blocks}")


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
@concurrency_option
@json_option
@quiet_option
@metadata_option()
def download(name: str, output: Path | None, recursive: bool, concurrency: int, as_json: bool, quiet: bool) -> None:
    """Get a file back; it appears once all of it is there and verified.

    It is written to the last part of its name, or into the folder or the file that -o names.

    \b
    Examples:
      filefly-client download reports/2026.pdf
      filefly-client download shop.sql -o - | psql shop
      filefly-client download -r photos -o restored
    """
    if recursive and (output is None or output == Path("-")):
        raise click.UsageError("-r needs a folder to write to: download -r PREFIX -o FOLDER")

    async def command(client: "Client") -> None:
        if output == Path("-"):
            await _to_stdout(client, name)
        elif recursive:
            await _download_folder(client, name, Path(str(output)), as_json, quiet)
        else:
            path = output or Path()
            target = path / name.rsplit("/", 1)[-1] if path.is_dir() else path
            with progress("fetched", quiet) as shown:
                metadata = await client.download(name, target, progress=shown)
            _downloaded(metadata, target, as_json, quiet)

    run(metadata_addr(), concurrency, command)


async def _download_folder(client: "Client", name: str, folder: Path, as_json: bool, quiet: bool) -> None:
    from filefly.client.transfer import run_all

    prefix = prefix_of(name)
    files = {file.name: file async for file in client.list(prefix)}
    if not files:
        raise NotFound(f"no file's name begins with {prefix}")
    targets = targets_of(list(files), prefix, folder)
    total = sum(file.total_size for file in files.values())
    with progress("fetched", quiet, total) as shown:

        async def download_one(file_name: str, target: Path) -> None:
            make_folder(target.parent)
            metadata = await client.download(file_name, target, progress=shown)
            if as_json:
                print_json(metadata)

        await run_all((partial(download_one, *item) for item in targets.items()), FILES_AT_ONCE)
    if not quiet:
        say(f"downloaded {len(files)} files, {format_size(total)}, to {folder}")


def _downloaded(metadata: "Metadata", target: Path, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(metadata)
    elif not quiet:
        say(f"downloaded {metadata.name} to {target}: {format_size(metadata.total_size)}, verified")


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--offset", type=click.IntRange(0), default=0, metavar="N", help="Begin at this byte.")
@click.option("--length", type=click.IntRange(0), metavar="N", help="Print at most so many bytes.")
@concurrency_option
@metadata_option()
def cat(names: tuple[str, ...], offset: int, length: int | None, concurrency: int) -> None:
    """Print files, each block verified before a byte of it is printed.

    \b
    Examples:
      filefly-client cat notes/today.txt
      filefly-client cat disk.img --offset 1048576 --length 512 | xxd
    """

    async def command(client: "Client") -> None:
        for name in names:
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
