"""Shows on stderr how far something is that goes on elsewhere: a bar on a terminal, else a line now and then."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from filefly.cli.run import say

POLL_SECONDS = 1.0
LINE_SECONDS = 10.0
"""How much time passes at least before a line."""


class Watch:
    """Shows nothing; see Bar and Lines."""

    def show(self, state: str, done: int = 0, total: int | None = None) -> None:
        """Show how far it is; `total` is None where nobody knows how much there is."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let something else be printed."""
        yield

    def note(self, sentence: str) -> None:
        """Say something that should not be overlooked."""


class Lines(Watch):
    """A line now and then, when something has changed; none about what is over soon."""

    def __init__(self, clock: Any, what: str) -> None:
        self._clock = clock
        self._what = what
        self._shown = ""
        self._due = clock.seconds() + LINE_SECONDS

    def show(self, state: str, done: int = 0, total: int | None = None) -> None:
        """See Watch."""
        line, now = f"{self._what}: {state}", self._clock.seconds()
        if line != self._shown and now >= self._due:
            self._shown, self._due = line, now + LINE_SECONDS
            click.echo(line, err=True)

    def note(self, sentence: str) -> None:
        """See Watch."""
        say(sentence)


class Bar(Watch):
    """A bar that ends without a trace."""

    def __init__(self, drawn: Any, what: str) -> None:
        self._drawn = drawn
        self._task = drawn.add_task(what, total=None, state="")

    def show(self, state: str, done: int = 0, total: int | None = None) -> None:
        """See Watch."""
        self._drawn.update(self._task, completed=done, total=total, state=state)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away for so long."""
        self._drawn.stop()
        try:
            yield
        finally:
            self._drawn.start()

    def note(self, sentence: str) -> None:
        """See Watch."""
        with self.aside():
            say(sentence)


@contextmanager
def watching(clock: Any, quiet: bool, what: str) -> Iterator[Watch]:
    """Yield what shows how far `what` is: nothing if `quiet`, a bar on a terminal, else lines."""
    if quiet:
        yield Watch()
    elif not sys.stderr.isatty():
        yield Lines(clock, what)
    else:
        from rich import progress as rich_progress
        from rich.console import Console

        columns = (
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[state]}", markup=False),
            rich_progress.TimeElapsedColumn(),
        )
        # What is printed goes where it should, not through the bar's console, which is stderr.
        drawn = rich_progress.Progress(
            *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        with drawn:
            yield Bar(drawn, what)
