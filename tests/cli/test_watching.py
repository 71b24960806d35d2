import io
import sys
from typing import Any

import pytest
from rich import progress as rich_progress
from rich.console import Console
from twisted.internet.task import Clock

from filefly.cli.watching import LINE_SECONDS, Bar, Lines, Watch, watching


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_who_is_quiet_sees_and_hears_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever stderr is."""
    with watching(Clock(), quiet=True, what="checking") as watch:
        assert type(watch) is Watch
        watch.show("1 of 2 blocks", 1, 2)
        watch.note("look")
    assert ("", "") == capsys.readouterr()


def test_without_a_terminal_there_are_lines() -> None:
    """A log has no use for a bar."""
    with watching(Clock(), quiet=False, what="checking") as watch:
        assert isinstance(watch, Lines)


def test_what_is_over_soon_needs_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """And what lasts gets one now and then, if something has changed."""
    clock = Clock()
    lines = Lines(clock, "checking")
    lines.show("1 file")
    assert "" == capsys.readouterr().err
    clock.advance(LINE_SECONDS)
    lines.show("2 files")
    lines.show("3 files")
    assert "checking: 2 files\n" == capsys.readouterr().err
    clock.advance(LINE_SECONDS)
    lines.show("2 files")
    assert "" == capsys.readouterr().err
    lines.show("4 files")
    assert "checking: 4 files\n" == capsys.readouterr().err


def test_a_note_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr."""
    lines = Lines(Clock(), "checking")
    lines.note("look")
    assert ("", "filefly-client: look\n") == capsys.readouterr()


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr; what is printed meanwhile goes to stdout all the same."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with watching(Clock(), quiet=False, what="checking [a]") as watch:
        assert isinstance(watch, Bar)
        watch.show("1 of 2 blocks [b]", 1, 2)
        with watch.aside():
            print("a finding")
    assert "checking [a]" in terminal.getvalue()
    assert "1 of 2 blocks [b]" in terminal.getvalue()
    assert "a finding\n" == capsys.readouterr().out


def test_a_bar_shows_how_much_is_done() -> None:
    """Of how much, if that is known."""
    drawn = rich_progress.Progress(console=Console(file=io.StringIO()), auto_refresh=False)
    bar = Bar(drawn, "checking")
    bar.show("1 file")
    [task] = drawn.tasks
    assert ("checking", None, "1 file") == (task.description, task.total, task.fields["state"])
    bar.show("3 of 7 blocks", 3, 7)
    assert (3, 7, "3 of 7 blocks") == (task.completed, task.total, task.fields["state"])


def test_a_bar_makes_way(capsys: pytest.CaptureFixture[str]) -> None:
    """While something else is printed it is not there, and then it is again, also after an error."""
    drawn = rich_progress.Progress(console=Console(file=io.StringIO()), auto_refresh=False)
    live: Any = drawn.live
    with drawn:
        bar = Bar(drawn, "checking")
        with bar.aside():
            assert not live.is_started
        assert live.is_started
        bar.note("look")
        assert live.is_started
        with pytest.raises(KeyError), bar.aside():
            raise KeyError
        assert live.is_started
    assert "filefly-client: look\n" == capsys.readouterr().err
