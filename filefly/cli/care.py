"""drain, undrain, scrub: what data servers do for as long as it takes, watched."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from filefly.cli.options import cluster_options, json_option, metadata_addr, quiet_option
from filefly.cli.output import print_json
from filefly.cli.run import run, say
from filefly.cli.servers import name_of_server, state_of
from filefly.cli.watching import POLL_SECONDS, Watch, watching
from filefly.errors import FileFlyError
from filefly.units import counted

if TYPE_CHECKING:
    from filefly.client.administration import Administration
    from filefly.client.api import Client
    from filefly.wire.administration import DrainProgress
    from filefly.wire.messages import DataServerState

_CONCURRENCY = 1
no_wait_option = click.option("--no-wait", is_flag=True, help="Start it and return at once.")


@click.command(short_help="Move everything off a data server.")
@click.argument("address", metavar="ADDR")
@no_wait_option
@json_option
@quiet_option
@cluster_options()
def drain(address: str, no_wait: bool, as_json: bool, quiet: bool) -> None:
    """Move everything off a data server, and say when it is safe to remove.

    It gets no new blocks meanwhile, and files stay readable. Only what other data servers have, re-read and
    verified, goes from it. Ctrl-C ends the watching, not the draining; the same command watches again.

    \b
    Examples:
      filefly-client drain nas1:9001
      filefly-client drain nas1:9001 --no-wait
      filefly-client drain nas1:9001 -q && filefly-client servers remove nas1:9001
    """

    async def command(client: "Client") -> None:
        from twisted.internet import reactor

        if no_wait:
            found = await client.administration.drain(address)
        else:
            with watching(reactor, quiet, f"draining {address}") as watch:
                found = await watch_drain(client.administration, address, reactor, watch)
        if as_json:
            print_json(found)
        elif not quiet:
            click.echo(_verdict(address, found))

    run(metadata_addr(), _CONCURRENCY, command)


async def watch_drain(administration: "Administration", address: str, clock: Any, watch: Watch) -> "DrainProgress":
    """Drain a data server, and ask again and again until nothing names it; return the last answer."""
    from twisted.internet.defer import CancelledError
    from twisted.internet.task import deferLater

    found, most, told = None, 0, None
    try:
        while True:
            found = await administration.drain(address)
            most = max(most, found.remaining_blocks)
            watch.show(_left(found), most - found.remaining_blocks, most)
            if found.safe_to_remove:
                return found
            why = _why_it_waits(address, found)
            if why is not None and why != told:
                watch.note(why)
                told = why
            await deferLater(clock, POLL_SECONDS)
    except (CancelledError, FileFlyError):
        if found is not None:
            with watch.aside():
                say(
                    f"the draining of {address} goes on; to watch it: filefly-client drain {address}, "
                    f"to take it back: filefly-client undrain {address}"
                )
        raise


def _left(found: "DrainProgress") -> str:
    uploads = f" and {counted(found.open_plans, 'upload')}" if found.open_plans else ""
    return f"{counted(found.remaining_blocks, 'block')}{uploads} left"


def _why_it_waits(address: str, found: "DrainProgress") -> str | None:
    if found.waiting:
        return (
            f"waiting: {found.waiting} (filefly-client servers shows them, servers add HOST:PORT adds one); "
            f"to take it back: filefly-client undrain {address}"
        )
    if found.open_plans and not found.remaining_blocks:
        return (
            f"waiting: {counted(found.open_plans, 'upload')} may still store blocks there; each is over once it is "
            "complete, or has given no sign of life for the metadata server's --pending-ttl"
        )
    return None


def _verdict(address: str, found: "DrainProgress") -> str:
    if found.safe_to_remove:
        return (
            f"safe to remove: nothing needs {address} any more; to retire it: filefly-client servers remove {address}"
        )
    return f"draining {address}: {_left(found)}; to watch it: filefly-client drain {address}"


@click.command(short_help="Let a data server keep what it has.")
@click.argument("address", metavar="ADDR")
@cluster_options()
def undrain(address: str) -> None:
    """Let a data server keep what it still has, and give it new blocks again.

    \b
    Example:
      filefly-client undrain nas1:9001
    """

    async def command(client: "Client") -> None:
        await client.administration.undrain(address)
        say(f"{address} is not drained any more: it keeps what it has and gets new blocks")

    run(metadata_addr(), _CONCURRENCY, command)


@click.command(short_help="Re-read all blocks now and compare their checksums.")
@click.argument("address", required=False, metavar="[ADDR]")
@no_wait_option
@json_option
@quiet_option
@cluster_options()
def scrub(address: str | None, no_wait: bool, as_json: bool, quiet: bool) -> None:
    """Re-read every block now, on one data server or on all, and compare it with its checksum.

    That happens by itself too, within the metadata server's --scrub-period. What is bad is repaired at once where
    there is a good copy. The exit status is 1 if something was bad, or could not be read. Ctrl-C ends the watching,
    not the reading.

    \b
    Examples:
      filefly-client scrub
      filefly-client scrub nas1:9001 --no-wait
    """

    async def command(client: "Client") -> int:
        from twisted.internet import reactor

        await client.administration.scrub(address)
        if no_wait:
            if not quiet:
                say("scrubbing; to see how far it is: filefly-client servers")
            return 0
        with watching(reactor, quiet, f"scrubbing {address or 'all data servers'}") as watch:
            servers = await watch_scrub(client.administration, address, reactor, watch)
        if as_json:
            for server in servers:
                print_json(server)
        return _tell_scrubbed(servers, as_json or quiet)

    run(metadata_addr(), _CONCURRENCY, command)


async def watch_scrub(
    administration: "Administration", address: str | None, clock: Any, watch: Watch
) -> "Sequence[DataServerState]":
    """Ask again and again until the data servers are through, but for those that are down; return how they are."""
    from twisted.internet.defer import CancelledError
    from twisted.internet.task import deferLater

    try:
        while True:
            servers = _named((await administration.data_servers()).servers, address)
            passes = [server.scrub for server in servers if server.scrub is not None]
            checked, bad = sum(each.checked for each in passes), sum(each.bad for each in passes)
            total = sum(max(each.total, each.checked) for each in passes)
            state = f"{checked:,} of {counted(total, 'block')}" + (f", {bad:,} bad" if bad else "")
            watch.show(state, checked, total)
            if all(_is_through(server) or state_of(server) == "down" for server in servers):
                return servers
            await deferLater(clock, POLL_SECONDS)
    except (CancelledError, FileFlyError):
        with watch.aside():
            say("the scrub goes on all the same; to see how far it is: filefly-client servers")
        raise


def _named(servers: "Sequence[DataServerState]", name: str | None) -> "Sequence[DataServerState]":
    """Return all data servers, or the one that is called `name`, as the metadata server understands it."""
    if name is None:
        return servers
    own = [server for server in servers if name in (server.address, server.storage_id)]
    return own[:1] or [server for server in servers if name == server.advertised_address][:1]


def _is_through(server: "DataServerState") -> bool:
    return server.scrub is not None and server.scrub.finished is not None


def _tell_scrubbed(servers: "Sequence[DataServerState]", quiet: bool) -> int:
    """Say what was found, and return the exit status."""
    through = [server.scrub for server in servers if server.scrub is not None and _is_through(server)]
    checked, bad = sum(each.checked for each in through), sum(each.bad for each in through)
    left = [name_of_server(server) for server in servers if not _is_through(server)]
    if not quiet:
        on = counted(len(through), "data server")
        click.echo(f"checked {counted(checked, 'block')} on {on}: {f'{bad:,} bad' if bad else 'all good'}")
    if bad:
        say("what is bad is being repaired; to see what is left: filefly-client fsck --quick")
    for name in left:
        say(f"{name} is down; what it has is checked once it is back")
    return int(bool(bad or left))
