"""Options that several commands share, and may stand before or after the command's name."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from filefly.wire.address import check_client_address

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_METADATA_ADDR = "localhost:9000"
_KEY = "filefly.metadata_addr"


def check_address(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return what was given, if it is an address or nothing; for the callback of an option or an argument."""
    try:
        if value is not None:
            check_client_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _remember_address(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if check_address(context, parameter, value) is not None:
        context.meta[_KEY] = value


def metadata_option(envvar: str | None = None) -> Callable[[F], F]:
    """Add `--metadata-addr`, which sets what `metadata_addr` returns: the later one on the command line wins.

    Only the group looks into the environment, or that would win over an option before the command.
    """
    return click.option(
        "--metadata-addr",
        metavar="HOST:PORT",
        envvar=envvar,
        expose_value=False,
        callback=_remember_address,
        help=f"Where the metadata server is; also FILEFLY_METADATA_ADDR.  [default: {DEFAULT_METADATA_ADDR}]",
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
concurrency_option = click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    metavar="N",
    help="Blocks that move at once.",
)


def metadata_addr() -> str:
    """Return the metadata server's address that this command line, or the environment, names."""
    return str(click.get_current_context().meta.get(_KEY, DEFAULT_METADATA_ADDR))
