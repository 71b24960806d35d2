import json
import os
import stat
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application, Service
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.python.usage import Options

from filefly.daemon import logs
from filefly.daemon.audit import AuditEvent
from filefly.daemon.logs import LOG_PARAMETERS, LogWriter, TextFormat, format_json, with_log


class Log:
    """A log of one form."""

    def __init__(self, form: str) -> None:
        self.file = StringIO()
        self.clock = Clock()
        self.writer = LogWriter(self.clock, self.file, format_json if form == "json" else TextFormat())
        self.logger = Logger("some.where", observer=self.writer)

    @property
    def lines(self) -> list[str]:
        """What is in the file, by its newlines alone."""
        return self.file.getvalue().split("\n")[:-1]

    def audit(self, **fields: Any) -> None:
        """Log a change."""
        self.logger.emit(LogLevel.info, "{audit}", audit=AuditEvent(command="store", **fields, result="ok"))


ODD = ["\n", "\r\n", "\r", "\x1b[2J", "\x85", "\x9b", "\u2028", "\u202e", "\x00", "\x7f", "\ud800", "{x}", "é"]


@pytest.mark.parametrize("odd", ODD)
def test_an_event_is_a_json_object_on_a_line(odd: str) -> None:
    """Whatever is in it, and readable by whoever reads ASCII."""
    log = Log("json")
    log.logger.info("a {name} b", name=odd)
    [line] = log.lines
    said = json.loads(line)
    assert ("info", "some.where", f"a {odd} b") == (said["level"], said["namespace"], said["text"])
    assert {"time", "level", "namespace", "text"} == set(said)
    assert line.isascii()


def test_json_tells_the_time_in_utc() -> None:
    """To the millisecond."""
    event: Any = {"log_time": 1_000_000_000.25, "log_format": "x"}
    assert "2001-09-09T01:46:40.250Z" == json.loads(format_json(event) or "")["time"]


@pytest.mark.parametrize("odd", ODD)
def test_a_change_is_json_with_its_fields(odd: str) -> None:
    """They are beside the others, as they are."""
    log = Log("json")
    log.audit(file_name=odd, count=7, files=["a", odd])
    log.logger.info("go on")
    said = json.loads(log.lines[0])
    assert ("store: ok", odd, 7, ["a", odd]) == (said["text"], said["file_name"], said["count"], said["files"])


@pytest.mark.parametrize("odd", ODD)
def test_nothing_in_an_event_makes_another_line_of_text(odd: str) -> None:
    """Where a newline was the text goes on behind a tab; nothing is left that a terminal would obey."""
    log = Log("text")
    log.logger.info("a {name}2026-01-01 [forged] b", name=odd)
    assert [log.lines[0], *(line for line in log.lines[1:] if line.startswith("\t"))] == log.lines
    assert all(line.lstrip("\t").isprintable() or odd == "\ud800" for line in log.lines)


def test_text_is_as_twistd_writes_it() -> None:
    """With time, system and level."""
    event: Any = {
        "log_time": 0.5,
        "log_level": LogLevel.warn,
        "log_namespace": "some.where",
        "log_format": "a {b}",
        "b": "c",
    }
    spelled = TextFormat()(event)
    assert spelled is not None
    assert " [some.where#warn] a c\n" == spelled[spelled.index(" ") :]
    assert spelled.startswith(("1970-01-01T", "1969-12-31T"))


def test_an_event_that_says_nothing_is_no_line() -> None:
    """Neither in text nor in JSON."""
    assert (None, None) == (TextFormat()({}), format_json({}))


def fail(data: str) -> Failure:
    try:
        raise ValueError("a bug")
    except ValueError:
        return Failure()


def test_a_traceback_is_a_field() -> None:
    """Of the same object."""
    log = Log("json")
    log.logger.failure("it failed", fail("contents"))
    [line] = log.lines
    said = json.loads(line)
    assert "it failed" == said["text"]
    assert "ValueError: a bug" in said["traceback"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_has_no_values(form: str) -> None:
    """The variables of its frames may be a token, or a file's contents."""
    log = Log(form)
    log.logger.failure("it failed", fail("con" + "tents"))
    assert "ValueError: a bug" in log.file.getvalue()
    assert "contents" not in log.file.getvalue()


def test_changes_are_written_together() -> None:
    """Soon."""
    log = Log("text")
    log.audit()
    log.audit()
    before = log.lines
    log.clock.advance(1)
    assert ([], 2) == (before, len(log.lines))


def test_changes_are_in_order_with_the_rest() -> None:
    """What else is logged is written at once, and what came before it, too."""
    log = Log("json")
    log.audit(count=1)
    log.logger.info("go on")
    assert ["store: ok", "go on"] == [json.loads(line)["text"] for line in log.lines]


def test_many_changes_do_not_wait() -> None:
    """They would take memory."""
    log = Log("text")
    for _ in range(100):
        log.audit()
    assert 64 == len(log.lines)


# twistd


class Twistd(Options):
    """As much of twistd's options as is looked at."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.update({"nodaemon": True, "logfile": None, "syslog": False, **given})


class Daemon(Options):
    """A daemon's options."""

    optParameters = LOG_PARAMETERS


def application(twistd: Twistd | None, *given: str) -> Any:
    """Return what twistd would run."""
    options = Daemon()
    options.parent = twistd
    options.parseOptions(list(given))
    made = Application("filefly")
    with_log("filefly", Service(), options).setServiceParent(made)
    return made


def test_the_log_goes_where_twistd_is_told(tmp_path: Path) -> None:
    """In the form that is asked for."""
    observer = application(Twistd(logfile=str(tmp_path / "log")), "--log-format", "json").getComponent(ILogObserver)
    Logger("some.where", observer=observer).info("hello")
    assert "hello" == json.loads((tmp_path / "log").read_text())["text"]


def test_a_new_log_is_not_for_everyone(tmp_path: Path) -> None:
    """It has names in it; an old one keeps the mode that somebody gave it."""
    (tmp_path / "old").touch(mode=0o600)
    umask = os.umask(0o022)
    try:
        for name in ("new", "old"):
            application(Twistd(logfile=str(tmp_path / name)))
    finally:
        os.umask(umask)
    assert [0o640, 0o600] == [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")]


def test_a_log_is_not_made_through_a_link(tmp_path: Path) -> None:
    """That somebody has put there; one that leads to a file is followed."""
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=r"^filefly: .*/link is a link that leads nowhere; remove it, or name another"):
        application(Twistd(logfile=str(tmp_path / "link")))
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "elsewhere").touch()
    application(Twistd(logfile=str(tmp_path / "link")))


def test_old_logs_do_not_fill_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were begun first are deleted."""
    monkeypatch.setattr(logs, "_ROTATED_BYTES", 1)
    monkeypatch.setattr(logs, "_MOST_ROTATED", 2)
    observer = application(Twistd(logfile=str(tmp_path / "log"))).getComponent(ILogObserver)
    for number in range(5):
        Logger("some.where", observer=observer).info(f"event {number}")
    assert ["log", "log.1", "log.2"] == sorted(path.name for path in tmp_path.iterdir())
    assert "event 4" in (tmp_path / "log").read_text()
    assert {0o640} == {stat.S_IMODE(path.stat().st_mode) | 0o640 for path in tmp_path.iterdir()}


@pytest.mark.parametrize("twistd", [None, Twistd(syslog=True)])
def test_where_twistd_logs_elsewhere_it_is_let(twistd: Twistd | None) -> None:
    """The system's log has a form of its own."""
    assert application(twistd).getComponent(ILogObserver) is None


def test_a_log_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    """At start."""
    with pytest.raises(SystemExit, match=r"^filefly: cannot write to .*: No such file or directory; name another"):
        application(Twistd(logfile=str(tmp_path / "nowhere" / "log")))


def test_a_daemon_in_the_background_has_no_terminal() -> None:
    """It says so."""
    with pytest.raises(SystemExit, match="cannot log to the terminal; name a --logfile"):
        application(Twistd(nodaemon=False, logfile="-"))


@pytest.mark.parametrize(
    ("option", "sentence"), [("--log-format", "must be text or json"), ("--audit", "must be all, changes, off")]
)
def test_an_unknown_form_is_refused(option: str, sentence: str) -> None:
    """With those that there are."""
    with pytest.raises(Exception, match=sentence):
        Daemon().parseOptions([option, "xml"])
