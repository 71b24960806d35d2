"""The command line: `filefly-client` and its commands."""

import sys

import click

from filefly import __version__
from filefly.cli.catalog import ls, mv, ping, rm, servers, stat
from filefly.cli.options import metadata_option
from filefly.cli.run import INTERRUPTED, say
from filefly.cli.transfers import cat, download, upload
from filefly.errors import FileFlyError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@metadata_option(envvar="FILEFLY_METADATA_ADDR")
@click.version_option(__version__)
def cli() -> None:
    """Put files into a FileFly cluster, look at them, and get them back.

    \b
    Examples:
      filefly-client upload report.pdf
      filefly-client ls
      filefly-client download report.pdf -o copy.pdf
      filefly-client --metadata-addr nas:9000 cat notes/today.txt
    """


for command in (upload, download, cat, ls, stat, mv, rm, servers, ping):
    cli.add_command(command)


def main() -> None:
    """Run `filefly-client`; exit status 0, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except FileFlyError as error:
        say(str(error))
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
