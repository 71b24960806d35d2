"""Options that several commands share, and may stand before or after the command's name."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from filefly.cli.tls_options import tls_options
from filefly.cli.token_files import GivenToken, given_token
from filefly.wire.address import check_client_address

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_METADATA_ADDR = "localhost:9000"
_ADDRESS = "filefly.metadata_addr"
_TOKEN_FILE = "filefly.token_file"  # noqa: S105 - where the option is kept


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
        context.meta[_ADDRESS] = value


def _remember_token_file(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[_TOKEN_FILE] = value


def cluster_options(from_environment: bool = False) -> Callable[[F], F]:
    """Add the options that say which cluster it is, and who asks: the later one on the command line wins.

    Only the group looks into the environment, or that would win over an option before the command.
    """

    def of_environment(name: str) -> str | None:
        return name if from_environment else None

    options = [
        click.option(
            "--metadata-addr",
            metavar="[tls://]HOST:PORT",
            envvar=of_environment("FILEFLY_METADATA_ADDR"),
            expose_value=False,
            callback=_remember_address,
            help=f"Where the metadata server is; also FILEFLY_METADATA_ADDR.  [default: {DEFAULT_METADATA_ADDR}]",
        ),
        click.option(
            "--token-file",
            metavar="FILE",
            envvar=of_environment("FILEFLY_TOKEN_FILE"),
            expose_value=False,
            callback=_remember_token_file,
            help="The token to sign in with; also FILEFLY_TOKEN_FILE or, the token itself, FILEFLY_TOKEN.",
        ),
        *tls_options(of_environment),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


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
    return str(click.get_current_context().meta.get(_ADDRESS, DEFAULT_METADATA_ADDR))


def token_file() -> str | None:
    """Return the file that this command line, or the environment, names for the token."""
    found: str | None = click.get_current_context().meta.get(_TOKEN_FILE)
    return found


def token() -> GivenToken | None:
    """Return the token that this command line, or the environment, gives; raises FileFlyError if it cannot be read."""
    return given_token(token_file())
