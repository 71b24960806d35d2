"""What `filefly-client` shows: progress on a terminal or as log lines, tables, JSON lines."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import replace

from filefly.client.progress import Progress
from filefly.units import format_size
from filefly.wire.codec import encode
from filefly.wire.messages import Metadata


class LogLines(Progress):
    """One line on stderr for each block."""

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def kept(self, name: str, size: int) -> None:
        """Say how much does not have to move again."""
        click.echo(_kept(name, size), err=True)

    def block_done(self, name: str, block_id: str, size: int, server: str, done: int, total: int) -> None:
        """Say where the block went, or came from."""
        preposition = "on" if self._verb == "stored" else "from"
        click.echo(f"{self._verb} {block_id} ({format_size(size)}) {preposition} {server} [{done}/{total}]", err=True)


class Bar(Progress):
    """A progress bar on stderr for all files together, with speed and time left."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=0)
        self._total = 0
        self._expected = 0

    def expect(self, total_size: int) -> None:
        """Say how much is to come in all, as far as that is known before the files begin: one copy of each."""
        self._expected = total_size
        self._bar.update(self._task, total=total_size)

    def started(self, name: str, total_size: int) -> None:
        """Show the file's name."""
        self._total += total_size
        name = click.format_filename(name, shorten=True)
        self._bar.update(self._task, description=name, total=max(self._expected, self._total))

    def kept(self, name: str, size: int) -> None:
        """Say above the bar how much does not have to move again."""
        self._bar.console.print(_kept(name, size), markup=False, highlight=False, soft_wrap=True)

    def moved(self, name: str, size: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, size)


def _kept(name: str, size: int) -> str:
    return f"{click.format_filename(name)}: {format_size(size)} were there already"


@contextmanager
def progress(verb: str, quiet: bool, expected: int | None = None) -> Iterator[Progress]:
    """Yield what a transfer should tell of itself: a bar on a terminal, else log lines, or nothing if `quiet`.

    `verb` is what happens to a block: stored or fetched. `expected` bytes are to come in all, if that is known.
    """
    if quiet:
        yield Progress()
    elif not sys.stderr.isatty():
        yield LogLines(verb)
    else:
        from rich import progress as rich_progress
        from rich.console import Console
        from rich.text import Text

        class Speed(rich_progress.ProgressColumn):
            """In the units of everything else; rich's own column counts in thousands."""

            def render(self, task: rich_progress.Task) -> Text:
                return Text(_speed(task.finished_speed or task.speed), style="progress.data.speed")

        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            rich_progress.DownloadColumn(binary_units=True),
            Speed(),
            rich_progress.TimeRemainingColumn(),
        )
        with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            bar = Bar(shown)
            if expected is not None:
                bar.expect(expected)
            yield bar


def _speed(bytes_per_second: float | None) -> str:
    return "?" if bytes_per_second is None else f"{format_size(bytes_per_second)}/s"


def print_json(message: Struct) -> None:
    """Print a message as one JSON line, without tickets: who reads them could use them."""
    if isinstance(message, Metadata):
        message = replace(message, tickets={})
    click.echo(encode(message))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print `rows` in columns under `header`; the columns numbered in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def minute(time: str | None) -> str:
    """Return an RFC 3339 time as a person reads it."""
    return "-" if time is None else f"{time[:10]} {time[11:19]}"
