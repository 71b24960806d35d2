"""The command line: `filefly-client` and its commands."""

from collections.abc import Mapping, Sequence

import click

from filefly import __version__
from filefly.cli.backup import catalog
from filefly.cli.care import drain, scrub, undrain
from filefly.cli.catalog import ls, mv, ping, rm, stat, undelete
from filefly.cli.fsck import fsck
from filefly.cli.options import cluster_options
from filefly.cli.quotas import quota
from filefly.cli.secrets import secret
from filefly.cli.servers import servers
from filefly.cli.tls import tls
from filefly.cli.tokens import token
from filefly.cli.transfers import cat, download, upload

SECTIONS: Mapping[str, Sequence[click.Command]] = {
    "Files": (upload, download, cat, ls, stat, mv, rm, undelete),
    "Cluster": (servers, ping, drain, undrain, scrub, fsck, catalog),
    "Security": (secret, token, quota, tls),
}
"""The commands in the order in which help lists them."""

_WHOLE = 200  # a sentence goes on in the next line, instead of being cut


class _Sectioned(click.Group):
    """A group whose help lists its commands by what they are about."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click."""
        width = max(len(name) for name in self.commands)
        for title, commands in SECTIONS.items():
            rows = [(f"{command.name}".ljust(width), command.get_short_help_str(_WHOLE)) for command in commands]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=_Sectioned, context_settings={"help_option_names": ["-h", "--help"]})
@cluster_options(from_environment=True)
@click.version_option(__version__)
def cli() -> None:
    """Put files into a FileFly cluster, look at them, get them back, and look after the cluster.

    \b
    Examples:
      filefly-client upload report.pdf
      filefly-client ls
      filefly-client download report.pdf -o copy.pdf
      filefly-client --metadata-addr nas:9000 cat notes/today.txt
      filefly-client servers
      filefly-client fsck --quick
    """


for _commands in SECTIONS.values():
    for _command in _commands:
        cli.add_command(_command)
