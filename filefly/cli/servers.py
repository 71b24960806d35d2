"""servers: which data servers there are, how they are, and which of them belong."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from filefly.cli.options import check_address, cluster_options, json_option, metadata_addr
from filefly.cli.output import minute, print_json, print_table
from filefly.cli.run import run, say
from filefly.errors import FileFlyError
from filefly.units import format_size
from filefly.wire.messages import DataServerState, ScrubProgress

if TYPE_CHECKING:
    from filefly.client.api import Client
    from filefly.wire.messages import DataServerList

_CONCURRENCY = 1
_ACCEPT = "filefly-client servers accept"


@click.group(invoke_without_command=True, short_help="Show the data servers; add, accept, remove one.")
@json_option
@cluster_options()
@click.pass_context
def servers(context: click.Context, as_json: bool) -> None:
    """Show the data servers and how they are; or add, accept or remove one.

    \b
    A data server is
      up        it answers
      suspect   it did not answer just now
      down      it has not answered for a while, or has another storage than it should
      draining  everything is being moved off it
      full      it has no room for new blocks
    disk used and free tell of its whole disk, whoever filled it; scrub of the
    re-reading of all blocks: how far it is or when it last ended, what was bad.
    The exit status is 1 if one is down, or there is a warning.

    \b
    Examples:
      filefly-client servers
      filefly-client servers --json | jq 'select(.state != "up")'
      filefly-client servers add nas2:9001
      filefly-client servers remove nas1:9001
    """
    if context.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    async def command(client: "Client") -> int:
        found = await client.administration.data_servers()
        if as_json:
            for server in found.servers:
                print_json(server)
        elif found.servers:
            print_servers(found.servers)
        else:
            say("there are no data servers yet; add one: filefly-client servers add HOST:PORT")
        warnings = _warnings(found)
        for warning in warnings:
            say(f"warning: {warning}")
        return int(bool(warnings) or any(state_of(server) == "down" for server in found.servers))

    run(metadata_addr(), _CONCURRENCY, command)


def _warnings(found: "DataServerList") -> Sequence[str]:
    """Return what should not be overlooked: about the catalog, and about storages that are refused."""
    return [*found.warnings, *(f"{server.address} {server.error}" for server in found.servers if _refused(server))]


def state_of(server: DataServerState) -> str:
    """Return how a data server is, also as a metadata server tells it that knows only two states."""
    return server.state or ("up" if server.healthy else "down")


def name_of_server(server: DataServerState) -> str:
    """Return what a data server is called: its address, or its storage id while it was seen at none."""
    return server.address or server.storage_id or "-"


def _refused(server: DataServerState) -> bool:
    return _ACCEPT in (server.error or "")


def _error(server: DataServerState) -> str:
    """Return what is wrong; what to do about a storage that is refused is said below the table."""
    error = server.error or ""
    return error.partition("; ")[0] if _refused(server) else error


def print_servers(servers: Sequence[DataServerState]) -> None:
    """Print a table of data servers; columns that are not always of use only where there is something in them."""
    errors = [_error(server) for server in servers]
    columns: dict[str, Sequence[str]] = {
        "address": [name_of_server(server) for server in servers],
        "advertised": [server.advertised_address or "-" for server in servers],
        "state": [state_of(server) for server in servers],
        "disk used": [_used(server) for server in servers],
        "free": [_size(server.free_bytes) for server in servers],
        "last answer": [minute(server.last_pong) for server in servers],
        "scrub": [_scrub(server.scrub) for server in servers],
        "last error": errors,
    }
    if not any(server.advertised_address for server in servers):
        del columns["advertised"]
    if not any(errors):
        del columns["last error"]
    header = list(columns)
    print_table(
        header, list(zip(*columns.values(), strict=True)), right=(header.index("disk used"), header.index("free"))
    )


def _size(size: int | None) -> str:
    return "-" if size is None else format_size(size)


def _used(server: DataServerState) -> str:
    if server.total_bytes is None or server.free_bytes is None:
        return "-"
    return format_size(max(server.total_bytes - server.free_bytes, 0))


def _scrub(scrub: ScrubProgress | None) -> str:
    """Return how far the pass is, or the day on which the last one ended."""
    if scrub is None or (scrub.finished is None and not scrub.total):
        return "-"
    part = f"{100 * min(scrub.checked, scrub.total) // max(scrub.total, 1)}%"
    bad = f", {scrub.bad:,} bad" if scrub.bad else ""
    return f"{scrub.finished[:10] if scrub.finished else part}{bad}"


@servers.command(short_help="Add the data server at ADDR.")
@click.argument("address", metavar="ADDR", callback=check_address)
@click.option("--advertised", metavar="ADDR", callback=check_address, help="What clients are told instead of ADDR.")
@cluster_options()
def add(address: str, advertised: str | None) -> None:
    """Add the data server at ADDR, as the metadata server reaches it; or change what clients are told of it.

    It stays one also after a restart; the metadata server's --data-servers need not name it.

    \b
    Examples:
      filefly-client servers add nas2:9001
      filefly-client servers add 10.0.0.2:9001 --advertised files.example.org:9001
    """

    async def command(client: "Client") -> None:
        await client.administration.register(address, advertised)
        say(f"added {address}; filefly-client servers shows whether it answers")

    run(metadata_addr(), _CONCURRENCY, command)


@servers.command(short_help="Take the storage that is now at ADDR for what it is.")
@click.argument("address", metavar="ADDR")
@click.option("--take-over", is_flag=True, help="Also one of another catalog, which cannot use it any more.")
@cluster_options()
def accept(address: str, take_over: bool) -> None:
    """Take the storage that is now at ADDR for what it is, though another one was expected there.

    Look first whether its disk is mounted! What the storage that was there before has is not forgotten: it is found
    again where that shows up, and copied from elsewhere meanwhile.

    \b
    Example:
      filefly-client servers accept nas1:9001
    """

    async def command(client: "Client") -> None:
        await client.administration.accept(address, take_over)
        say(f"accepted what is at {address}; filefly-client servers shows it")

    run(metadata_addr(), _CONCURRENCY, command)


@servers.command(short_help="Retire a data server for good.")
@click.argument("address", metavar="ADDR")
@click.option("--lost", is_flag=True, help="It will not come back: give up what only it has.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@cluster_options()
def remove(address: str, lost: bool, yes: bool) -> None:
    """Retire a data server for good: one that was drained, or whose disk is lost.

    \b
    Examples:
      filefly-client drain nas1:9001 && filefly-client servers remove nas1:9001
      filefly-client servers remove nas1:9001 --lost
    """
    if lost and not yes:
        _confirm_loss(address)

    async def command(client: "Client") -> None:
        await client.administration.remove(address, lost)
        say(f"removed {address}; take it out of the metadata server's --data-servers too, if it is there")
        if lost:
            say("what other data servers have too is being copied; to see what is lost: filefly-client fsck --quick")

    run(metadata_addr(), _CONCURRENCY, command)


def _confirm_loss(address: str) -> None:
    warning = f"Blocks that only {address} has are lost for good, and files with them."
    if not sys.stdin.isatty():
        raise click.UsageError(f"{warning} Say that you mean it: servers remove {address} --lost --yes")
    if not click.confirm(f"{warning} Remove it?", err=True):
        raise FileFlyError("nothing was changed")
