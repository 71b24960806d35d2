"""fsck: is everything that the catalog knows where it should be, and nothing else?"""

from collections import Counter
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from filefly.cli.options import cluster_options, json_option, metadata_addr, quiet_option
from filefly.cli.output import print_json
from filefly.cli.run import run, say
from filefly.cli.watching import Watch, watching
from filefly.units import counted

if TYPE_CHECKING:
    from filefly.client.administration import Administration
    from filefly.client.api import Client
    from filefly.wire.administration import Finding

_CONCURRENCY = 1
_TIMEOUT_SECONDS = 600.0
"""How long a page may take: its blocks are re-read."""


class FsckSummary(Struct, frozen=True):
    """The last line of `fsck --json`."""

    files: int
    blocks: int
    findings: int
    kind: str = "summary"


@click.command(short_help="Check every file against the data servers; repair.")
@click.option("--repair", is_flag=True, help="Mend what can be mended, and set unknown blocks aside.")
@click.option("--quick", is_flag=True, help="Only look whether blocks are there; do not re-read them.")
@json_option
@quiet_option
@cluster_options()
def fsck(repair: bool, quick: bool, as_json: bool, quiet: bool) -> None:
    """Check every file against the data servers: what is missing, corrupt, has too few copies, or is unknown.

    For each finding it says what mends it. The exit status is 0 only if there is none. Nothing is changed without
    --repair, and nothing is deleted with it: blocks that the catalog does not know are moved to .unknown/.

    \b
    Examples:
      filefly-client fsck --quick
      filefly-client fsck --repair
      filefly-client fsck --json | jq -r 'select(.kind == "lost") | .file_name'
    """

    async def command(client: "Client") -> int:
        from twisted.internet import reactor

        with watching(reactor, quiet, "checking") as watch:
            summary = await check_all(client.administration, watch, as_json, verify=not quick, repair=repair)
        if as_json:
            print_json(summary.for_json)
        else:
            click.echo(str(summary))
        if repair and summary.kinds:
            say("what can be mended is being mended; to see what is left: filefly-client fsck --quick")
        return int(bool(summary.kinds))

    run(metadata_addr(), _CONCURRENCY, command, _TIMEOUT_SECONDS)


class Summary:
    """What was looked at so far, and how many findings of each kind there are."""

    def __init__(self) -> None:
        self.files = self.blocks = 0
        self.kinds: Counter[str] = Counter()

    @property
    def looked_at(self) -> str:
        """Say what was looked at."""
        return f"{counted(self.files, 'file')}, {counted(self.blocks, 'block')}"

    @property
    def for_json(self) -> FsckSummary:
        """The same, for programs."""
        return FsckSummary(self.files, self.blocks, self.kinds.total())

    def __str__(self) -> str:
        kinds = ", ".join(f"{number:,} {_spelled(kind)}" for kind, number in self.kinds.items())
        found = f"{counted(self.kinds.total(), 'finding')} ({kinds})" if kinds else "clean"
        return f"checked {self.looked_at}: {found}"


async def check_all(
    administration: "Administration", watch: Watch, as_json: bool, *, verify: bool, repair: bool
) -> Summary:
    """Check the whole cluster, page by page, and print each finding."""
    summary, after = Summary(), ""
    while True:
        page = await administration.fsck(after, verify=verify, repair=repair)
        summary.files += page.files
        summary.blocks += page.blocks
        summary.kinds.update(finding.kind for finding in page.findings)
        if page.findings:
            with watch.aside():
                for finding in page.findings:
                    _print_finding(finding, as_json)
        if page.next is None:
            return summary
        found = f", {counted(summary.kinds.total(), 'finding')}" if summary.kinds else ""
        watch.show(f"{summary.looked_at}{found}")
        after = page.next


def _print_finding(finding: "Finding", as_json: bool) -> None:
    if as_json:
        print_json(finding)
        return
    click.echo(f"{click.style(f'{_spelled(finding.kind)}:', bold=True)} {finding.sentence}")
    if finding.mend:
        click.echo(f"  to mend it: {finding.mend}")


def _spelled(kind: str) -> str:
    return kind.replace("_", "-")
