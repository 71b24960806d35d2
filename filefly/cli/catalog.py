"""ls, stat, mv, rm, undelete, ping: looking at the files in the catalog and changing them."""

from typing import TYPE_CHECKING

import click
from msgspec import Struct

from filefly.cli.folders import check_named, prefix_of, told_if_folder
from filefly.cli.options import cluster_options, json_option, metadata_addr, quiet_option
from filefly.cli.output import minute, print_json, print_table
from filefly.cli.run import run, say
from filefly.errors import BadRequest, FileFlyError, Forbidden, NotFound, Unavailable
from filefly.units import counted, format_size
from filefly.wire.address import check_client_address
from filefly.wire.messages import DataServerState

if TYPE_CHECKING:
    from filefly.client.api import Client

_CONCURRENCY = 1
_ABOUT_ONE_NAME = (BadRequest, Forbidden, NotFound)
"""Errors that say nothing of what would come of another name."""


class ListedFolder(Struct, frozen=True):
    """A folder in `ls --json`; its files are told by `ls PREFIX`."""

    prefix: str


@click.command()
@click.argument("folder", default="", metavar="[FOLDER]")
@click.option("-r", "--recursive", is_flag=True, help="List what is in folders too.")
@json_option
@cluster_options()
def ls(folder: str, recursive: bool, as_json: bool) -> None:
    """List files: size, time of the upload, name. Folders are what names have before a slash.

    \b
    Examples:
      filefly-client ls
      filefly-client ls photos/2026
      filefly-client ls -r --json | jq .name
    """

    async def command(client: "Client") -> None:
        prefix, after, shown = prefix_of(folder), "", 0
        while True:
            page = await client.list_page(prefix, delimiter="" if recursive else "/", after=after)
            rows = [(name, "", "") for name in page.prefixes or ()]
            rows += [(file.name, format_size(file.total_size), minute(file.modified)) for file in page.files]
            if as_json:
                for name in page.prefixes or ():
                    print_json(ListedFolder(name))
                for listed in page.files:
                    print_json(listed)
            else:
                for name, size, time in sorted(rows, key=lambda row: row[0].encode()):
                    click.echo(f"{size:>10}  {time:19}  {name}")
            shown += len(rows)
            if page.next is None:
                break
            after = page.next
        if not shown and prefix:
            try:
                await client.stat(folder)  # says `file not found`, or that the folder is a file:
            except Forbidden:  # the token is for what is in the folder
                raise NotFound(f"no file's name begins with {prefix}") from None
            click.echo(f"{folder} is a file; see filefly-client stat {folder}")

    run(metadata_addr(), _CONCURRENCY, command)


@click.command()
@click.argument("name", callback=check_named)
@json_option
@cluster_options()
def stat(name: str, as_json: bool) -> None:
    """Show what is known of a file, and where its blocks are.

    \b
    Example:
      filefly-client stat report.pdf
    """

    async def command(client: "Client") -> None:
        async with told_if_folder(client, name, f"see filefly-client ls {name}"):
            metadata = await client.stat(name)
        if as_json:
            print_json(metadata)
            return
        size = metadata.total_size
        facts = [
            ("name", metadata.name),
            ("size", f"{format_size(size)} ({size} {'byte' if size == 1 else 'bytes'})"),
            ("state", metadata.state),
            ("modified", minute(metadata.modified)),
            ("generation", str(metadata.generation)),
            ("replicas", str(metadata.replicas)),
            *((f"{key}", str(value)) for key, value in sorted(metadata.attributes.items())),
        ]
        for key, value in facts:
            click.echo(f"{key:12}{value}")
        if metadata.blocks:
            click.echo()
            rows = [
                (
                    block.id,
                    format_size(block.size),
                    block.crc32c or "-",
                    ", ".join(replica.data_server for replica in block.replicas),
                )
                for block in metadata.blocks
            ]
            print_table(("block", "size", "crc32c", "data servers"), rows, right=(1,))

    run(metadata_addr(), _CONCURRENCY, command)


@click.command()
@click.argument("name", callback=check_named)
@click.argument("new_name", callback=check_named)
@cluster_options()
def mv(name: str, new_name: str) -> None:
    """Rename a file, replacing what has the new name. No byte moves.

    \b
    Example:
      filefly-client mv draft.txt letters/final.txt
    """

    async def command(client: "Client") -> None:
        await client.rename(name, new_name)

    run(metadata_addr(), _CONCURRENCY, command)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", callback=check_named)
@click.option("-r", "--recursive", is_flag=True, help="Delete all files below each NAME.")
@quiet_option
@cluster_options()
def rm(names: tuple[str, ...], recursive: bool, quiet: bool) -> None:
    """Delete files. Where one cannot be deleted, it says so and goes on; then the exit status is 1.

    \b
    Examples:
      filefly-client rm draft.txt
      filefly-client rm -r photos/2019
    """

    async def command(client: "Client") -> int:
        status = 0
        for name in names:
            try:
                if recursive:
                    await _delete_below(client, prefix_of(name), quiet)
                else:
                    async with told_if_folder(client, name, "delete it with -r"):
                        await client.delete(name)
            except _ABOUT_ONE_NAME as error:
                if len(names) == 1:
                    raise
                say(str(error))
                status = 1
        return status

    run(metadata_addr(), _CONCURRENCY, command)


async def _delete_below(client: "Client", prefix: str, quiet: bool) -> None:
    names = [file.name async for file in client.list(prefix)]
    if not names:
        raise NotFound(f"no file's name begins with {prefix}")
    for name in names:
        await client.delete(name)
    if not quiet:
        say(f"deleted {counted(len(names), 'file')}")


@click.command(short_help="Bring back a file that was deleted or replaced.")
@click.argument("name", callback=check_named)
@json_option
@cluster_options()
def undelete(name: str, as_json: bool) -> None:
    """Bring back the file that was last deleted or replaced under NAME, within the grace period (--trash-grace).

    What was replaced comes back only once nothing has its name: rename or delete that first.

    \b
    Examples:
      filefly-client undelete report.pdf
      filefly-client mv report.pdf wrong.pdf && filefly-client undelete report.pdf
    """

    async def command(client: "Client") -> None:
        metadata = await client.administration.undelete(name)
        if as_json:
            print_json(metadata)
        else:
            say(f"brought back {metadata.name}: {format_size(metadata.total_size)}, stored {minute(metadata.modified)}")

    run(metadata_addr(), _CONCURRENCY, command)


@click.command(short_help="Ask servers whether they are there.")
@click.argument("addresses", nargs=-1, metavar="[HOST:PORT...]")
@json_option
@quiet_option
@cluster_options()
def ping(addresses: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Ask servers whether they are there: the metadata server, or those that are named.

    \b
    Examples:
      filefly-client ping
      filefly-client ping localhost:9001 localhost:9002
    """
    for address in addresses:
        try:
            check_client_address(address)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    asked = addresses or (metadata_addr(),)

    async def command(client: "Client") -> None:
        silent = 0
        for address in asked:
            state = DataServerState(address=address, healthy=True)
            try:
                await client.ping(address)
            except FileFlyError as error:
                silent += 1
                say(str(error))
                state = DataServerState(address=address, healthy=False, error=str(error))
            if as_json:
                print_json(state)
            elif state.healthy and not quiet:
                click.echo(f"{address} is up")
        if silent:
            raise Unavailable(f"{silent} of {counted(len(asked), 'server')} did not answer")

    run(metadata_addr(), _CONCURRENCY, command)
