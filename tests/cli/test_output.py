import io
import sys
from typing import Any

import pytest
from rich import progress as rich_progress
from rich.console import Console

from filefly.cli.output import Bar, LogLines, _speed, minute, print_json, print_table, progress
from filefly.client.progress import Progress
from filefly.wire.messages import DataServerState


def test_a_stored_block_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Block, size, data servers, how many of how many."""
    LogLines("stored").block_done("a", "a-0", 1536, "x:1, y:1", 1, 3)
    assert ("", "stored a-0 (1.5 KiB) on x:1, y:1 [1/3]\n") == capsys.readouterr()


def test_a_fetched_block_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """The data goes to stdout, perhaps."""
    LogLines("fetched").block_done("a", "a-0", 7, "x:1", 2, 2)
    assert ("", "fetched a-0 (7 B) from x:1 [2/2]\n") == capsys.readouterr()


def test_who_is_quiet_hears_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever stderr is."""
    with progress("stored", quiet=True) as shown:
        assert type(shown) is Progress
        shown.block_done("a", "a-0", 7, "x:1", 1, 1)
    assert ("", "") == capsys.readouterr()


def test_without_a_terminal_there_are_lines() -> None:
    """A log has no use for a bar."""
    with progress("stored", quiet=False) as shown:
        assert isinstance(shown, LogLines)


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn on stderr."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("stored", quiet=False, expected=100) as shown:
        assert isinstance(shown, Bar)
        shown.started("report.pdf", 100)
        shown.moved("report.pdf", 50)
    assert "report.pdf" in terminal.getvalue()


@pytest.mark.parametrize(("speed", "shown"), [(None, "?"), (0.0, "0 B/s"), (750_000_000.0, "715.3 MiB/s")])
def test_a_speed_has_the_units_of_a_size(speed: float | None, shown: str) -> None:
    """Powers of 1024, like the sizes beside it."""
    assert shown == _speed(speed)


def bar_of() -> tuple[Bar, Any]:
    drawn = rich_progress.Progress(console=Console(file=io.StringIO()), auto_refresh=False)
    return Bar(drawn), drawn


def test_a_bar_of_one_file_goes_to_its_size() -> None:
    """And back where bytes must move again."""
    bar, drawn = bar_of()
    bar.started("a", 100)
    bar.moved("a", 60)
    bar.moved("a", -20)
    [task] = drawn.tasks
    assert ("a", 100, 40) == (task.description, task.total, task.completed)


def test_a_bar_of_many_files_goes_to_what_is_expected() -> None:
    """From the start, not file by file."""
    bar, drawn = bar_of()
    bar.expect(1000)
    bar.started("a", 100)
    bar.started("b", 200)
    [task] = drawn.tasks
    assert ("b", 1000) == (task.description, task.total)


def test_a_table_has_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """As wide as they must be; numbers to the right, no blanks at the end."""
    print_table(("name", "size", "state"), [("a", "7 B", "up"), ("long name", "1.5 KiB", "")], right=(1,))
    assert capsys.readouterr().out == "name          size  state\na              7 B  up\nlong name  1.5 KiB\n"


def test_json_is_one_line(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Without what is not known."""
    print_json(DataServerState("x:1", healthy=False))
    assert b'{"address":"x:1","healthy":false}\n' == capsysbinary.readouterr().out


@pytest.mark.parametrize(("time", "shown"), [("2026-01-02T03:04:05.678Z", "2026-01-02 03:04:05"), (None, "-")])
def test_a_time_is_shown_to_the_second(time: str | None, shown: str) -> None:
    """As a person reads it."""
    assert shown == minute(time)
