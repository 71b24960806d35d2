"""quota: how much the files below a prefix may take."""

from typing import TYPE_CHECKING

import click

from filefly.cli.options import cluster_options, json_option, metadata_addr
from filefly.cli.output import print_json, print_table
from filefly.cli.run import run, say
from filefly.units import counted, format_size, parse_size

if TYPE_CHECKING:
    from filefly.client.api import Client
    from filefly.wire.security import Quota

_CONCURRENCY = 1
_MOST = 2**53 - 1


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    try:
        size = None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if size is not None and size > _MOST:
        raise click.BadParameter(f"{value} is too much; the most is {_MOST} bytes")
    return size


@click.group(short_help="Limit what files below a prefix may take.")
@cluster_options()
def quota() -> None:
    """Limit what files below a prefix may take, and show how much of it they do.

    \b
    Examples:
      filefly-client quota set ana/ --max-bytes 10GiB
      filefly-client quota list
      filefly-client quota remove ana/
    """


@quota.command("set", short_help="Limit what files below PREFIX may take.")
@click.argument("prefix", metavar="PREFIX")
@click.option("--max-bytes", metavar="SIZE", callback=_size, help="Bytes of the files in all, copies not counted.")
@click.option("--max-files", metavar="N", type=click.IntRange(0, _MOST), help="How many files there may be.")
@cluster_options()
def set_(prefix: str, max_bytes: int | None, max_files: int | None) -> None:
    """Limit what the files whose names begin with PREFIX may take in all. It takes the place of an earlier quota.

    A limit that is not named is none. End PREFIX with a slash to mean a folder; "" means all files.

    \b
    Examples:
      filefly-client quota set ana/ --max-bytes 10GiB
      filefly-client quota set inbox/ --max-bytes 1TiB --max-files 100000
    """
    if max_bytes is None and max_files is None:
        raise click.UsageError("Name a limit: --max-bytes, --max-files or both; quota remove takes a quota away.")

    async def command(client: "Client") -> None:
        await client.administration.set_quota(prefix, max_bytes, max_files)
        limits = [
            *([] if max_bytes is None else [format_size(max_bytes)]),
            *([] if max_files is None else [counted(max_files, "file")]),
        ]
        say(f"files that begin with {prefix!r} may take {' and '.join(limits)}; filefly-client quota list shows it")

    run(metadata_addr(), _CONCURRENCY, command)


@quota.command(short_help="Take the quota of PREFIX away.")
@click.argument("prefix", metavar="PREFIX")
@cluster_options()
def remove(prefix: str) -> None:
    """Take the quota of PREFIX away. No file is touched.

    \b
    Example:
      filefly-client quota remove ana/
    """

    async def command(client: "Client") -> None:
        await client.administration.set_quota(prefix)
        say(f"there is no quota for {prefix!r}")

    run(metadata_addr(), _CONCURRENCY, command)


@quota.command("list", short_help="Show the quotas, and how much of them is used.")
@json_option
@cluster_options()
def list_(as_json: bool) -> None:
    """Show the quotas, and how much of them is used.

    \b
    Examples:
      filefly-client quota list
      filefly-client quota list --json | jq 'select(.used_bytes > .max_bytes * 0.9)'
    """

    async def command(client: "Client") -> None:
        quotas = (await client.administration.quotas()).quotas
        if as_json:
            for each in quotas:
                print_json(each)
        elif quotas:
            header = ("prefix", "used", "limit", "files", "limit")
            print_table(header, [_row(each) for each in quotas], right=(1, 2, 3, 4))
        else:
            say("there are no quotas; set one: filefly-client quota set PREFIX --max-bytes SIZE")

    run(metadata_addr(), _CONCURRENCY, command)


def _row(found: "Quota") -> tuple[str, str, str, str, str]:
    return (
        found.prefix or '""',
        format_size(found.used_bytes),
        "-" if found.max_bytes is None else format_size(found.max_bytes),
        f"{found.used_files:,}",
        "-" if found.max_files is None else f"{found.max_files:,}",
    )
