"""catalog backup, catalog accept: the catalog as a whole."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from filefly.cli.options import cluster_options, metadata_addr, quiet_option
from filefly.cli.run import run, say
from filefly.cli.watching import Watch, watching
from filefly.errors import FileFlyError
from filefly.units import format_size

if TYPE_CHECKING:
    from filefly.client.api import Client

_CONCURRENCY = 1
_TIMEOUT_SECONDS = 600.0
"""How long the metadata server may take to make the copy."""


@click.group(short_help="Back the catalog up; accept a restored one.")
@cluster_options()
def catalog() -> None:
    """Back the catalog up, or go on with one that was restored.

    \b
    Examples:
      filefly-client catalog backup catalog.sqlite
      filefly-client catalog accept
    """


@catalog.command(short_help="Write a consistent copy of the catalog to FILE.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@quiet_option
@cluster_options()
def backup(file: Path, quiet: bool) -> None:
    """Write a consistent copy of the catalog to FILE, while everything goes on; `-` is standard output.

    The copy is an SQLite database that only you may read. FILE appears, or is replaced, once the copy is whole,
    verified and on the disk. To restore it, put it where the metadata server's --catalog is, and start that.

    \b
    Examples:
      filefly-client catalog backup /backup/catalog.sqlite
      filefly-client catalog backup - | gzip > catalog.sqlite.gz
    """
    if file.is_dir():
        raise FileFlyError(f"{file} is a folder; name a file in it")
    if file == Path("-") and sys.stdout.isatty():
        raise click.UsageError("Standard output is a terminal; send it into a file or a pipe.")

    async def command(client: "Client") -> None:
        from twisted.internet import reactor

        with watching(reactor, quiet, "backing up the catalog") as watch:
            size = await (_to_stdout(client, watch) if file == Path("-") else _backup(client, file, watch))
        if not quiet:
            where = "standard output" if file == Path("-") else file
            say(f"backed up the catalog to {where}: {format_size(size)}, verified")

    run(metadata_addr(), _CONCURRENCY, command, _TIMEOUT_SECONDS)


async def _backup(client: "Client", path: Path, watch: Watch) -> int:
    def received(done: int, total: int) -> None:
        watch.show(f"{format_size(done)} of {format_size(total)}", done, total)

    return await client.administration.backup_catalog(path, received)


async def _to_stdout(client: "Client", watch: Watch) -> int:
    """Print a copy, once it is verified."""
    with tempfile.TemporaryDirectory(prefix="filefly-") as folder:
        path = Path(folder, "catalog.sqlite")
        size = await _backup(client, path, watch)
        await client.in_thread(_print_thd, path)
    return size


def _print_thd(path: Path) -> None:
    with path.open("rb") as copy, open(os.dup(sys.stdout.fileno()), "wb") as out:
        shutil.copyfileobj(copy, out, 1024 * 1024)


@catalog.command(short_help="Go on with a catalog that is older than its data.")
@cluster_options()
def accept() -> None:
    """Go on with a catalog that is older than its data, as after restoring one: trash and expiry resume.

    Look first at what is missing (filefly-client fsck): files that were stored after the backup was made are not in
    the catalog, but their blocks are still on the data servers.

    \b
    Example:
      filefly-client catalog accept
    """

    async def command(client: "Client") -> None:
        await client.administration.accept_catalog()
        say("accepted: what was deleted goes from the data servers again, and plans expire")

    run(metadata_addr(), _CONCURRENCY, command)
