"""How a daemon's log is written: as text, or as JSON for programs. For use in `makeService`.

| JSON field | what it is |
| --- | --- |
| `time` | when, in UTC (RFC 3339) |
| `level` | `debug`, `info`, `warn`, `error` or `critical` |
| `namespace` | which part of the program; `filefly.audit` for changes |
| `text` | what happened |
| `traceback` | of a failure |
| others | those of filefly.daemon.audit |

Either form has one line for an event (in text what follows a line's end begins with a tab). What strangers made part of
an event, a name with a newline or a terminal's escape sequence in it, neither ends a line nor forges one.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver, LogEvent, formatEvent, formatTime
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile
from zope.interface import implementer

from filefly.daemon.audit import Audited, AuditEvent
from filefly.daemon.service import refuse
from filefly.units import MIB
from filefly.wire.codec import encode

_ROTATED_BYTES = 64 * MIB
"""A log file that is longer gets a number; twistd's own megabyte would mean thousands of files on a busy day."""
_MOST_ROTATED = 16
"""So many of those are kept: nobody fills a disk with what is logged of them."""

_LATER_SECONDS = 0.1
_MOST_EVENTS = 64

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class TextFormat:
    """Spells events as lines of text, as twistd does."""

    def __init__(self) -> None:
        self._second = -1
        self._time = ""

    def __call__(self, event: LogEvent) -> str | None:
        """Return the line of an event, None if it says nothing."""
        audit: AuditEvent | None = event.get("audit")
        if audit is not None:
            return f"{self._told_time(event)} [{event['log_namespace']}#info] {audit}\n"
        text, traceback = formatEvent(event), _traceback_of(event)
        if not text and not traceback:
            return None
        if not text.isprintable():
            text = _UNPRINTABLE.sub(lambda match: json.dumps(match[0])[1:-1], text.replace("\r\n", "\n"))
        whole = "\n".join(filter(None, (text, traceback))).replace("\n", "\n\t")
        return f"{self._told_time(event)} [{_system_of(event)}] {whole}\n"

    def _told_time(self, event: LogEvent) -> str:
        seconds = int(event.get("log_time", 0))
        if seconds != self._second:
            self._second, self._time = seconds, formatTime(seconds)
        return self._time


def format_json(event: LogEvent) -> str | None:
    """Return an event as a JSON object on a line, None if it says nothing."""
    audit: AuditEvent | None = event.get("audit")
    text, traceback = formatEvent(event) if audit is None else audit.title, _traceback_of(event)
    if not text and not traceback:
        return None
    level = event.get("log_level")
    fields = {
        "time": _utc(event.get("log_time", 0)),
        "level": "info" if level is None else level.name,
        "namespace": event.get("log_namespace", "-"),
        "text": text,
    }
    if traceback:
        fields["traceback"] = traceback
    return _line_of(fields if audit is None else {**fields, **audit})


def _utc(time: float) -> str:
    seconds, part = divmod(int(time * 1000), 1000)
    return f"{_utc_seconds(seconds)}.{part:03}Z"


@lru_cache(maxsize=2)
def _utc_seconds(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _line_of(fields: Mapping[str, Any]) -> str:
    """Return a JSON object in ASCII, so that nothing in it can be taken for a line's end or a terminal's command."""
    with suppress(UnicodeEncodeError):  # half of a character
        line = encode(fields) + b"\n"
        if line.isascii():
            return line.decode()
    return json.dumps(fields, separators=(",", ":")) + "\n"


Spell = Callable[[LogEvent], str | None]

_FORMS: Mapping[str, Callable[[], Spell]] = {
    "text": TextFormat,
    "json": lambda: format_json,
}


def _traceback_of(event: LogEvent) -> str | None:
    failure = event.get("log_failure")
    return None if failure is None else str(failure.getTraceback())  # its default is without the frames' variables


def _system_of(event: LogEvent) -> str:
    system = event.get("log_system")
    if system is not None:
        return str(system)
    level = event.get("log_level")
    return f"{event.get('log_namespace', '-')}#{'-' if level is None else level.name}"


def _form(text: str) -> str:
    if text not in _FORMS:
        raise ValueError(f"must be {' or '.join(_FORMS)}")
    return text


def _audited(text: str) -> Audited:
    try:
        return Audited(text)
    except ValueError:
        raise ValueError(f"must be {', '.join(Audited)}") from None


LOG_PARAMETERS: Sequence[Sequence[Any]] = [
    ["log-format", None, "text", "How the log is written: text, or json, an object a line.", _form],
    ["audit", None, Audited.CHANGES, "What it tells of requests: changes (and refusals), all, or off.", _audited],
]
"""What every daemon takes."""


@implementer(ILogObserver)
class LogWriter:
    """Writes events to a file, those of the audit log some at a time: alone each would cost three times as much.

    They are there a moment later, or when something else is logged. Only `reactor`'s thread may log those.
    """

    def __init__(self, reactor: Any, file: IO[str], spell: Spell) -> None:
        self._reactor = reactor
        self._file = file
        self._spell = spell
        self._events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        """Write `event`, or have it written soon."""
        self._events.append(event)
        if "audit" not in event or len(self._events) == _MOST_EVENTS:
            self._write()
        elif len(self._events) == 1:
            self._reactor.callLater(_LATER_SECONDS, self._write)

    def _write(self) -> None:
        events, self._events = self._events, []
        lines = "".join(filter(None, map(self._spell, events)))
        if lines:
            self._file.write(lines)
            self._file.flush()


class _Logged(MultiService):
    """A daemon, and the observer that writes its log."""

    def __init__(self, service: IService, observer: ILogObserver) -> None:
        super().__init__()
        self._observer = observer
        service.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:  # noqa: N802 - Twisted's name
        """Leave the observer where twistd looks for it before it logs its first event."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)


def with_log(daemon: str, service: IService, options: Any) -> IService:
    """Return `service` with a log as `--log-format` says, where twistd's options want it.

    `--syslog` is twistd's own, and so is what its `--logger` names.
    """
    from twisted.internet import reactor

    twistd = options.parent
    if twistd is None or twistd.get("syslog"):
        return service
    form = _FORMS[options["log-format"]]()
    name = twistd.get("logfile")
    if name == "-" or (twistd["nodaemon"] and not name):
        if not twistd["nodaemon"]:
            refuse(daemon, "a daemon in the background cannot log to the terminal; name a --logfile")
        return _Logged(service, LogWriter(reactor, sys.stdout, form))
    return _Logged(service, LogWriter(reactor, _log_file(daemon, name or "twistd.log"), form))


def _mode_of_new(name: str) -> int | None:
    """Return the mode of a log file that is to be made: names are not for everybody; an umask may forbid more."""
    if os.path.exists(name):
        return None
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o640 & ~umask


class _RotatedFile(LogFile):
    """A log file that is never made through a link that somebody has put in its place."""

    def _openFile(self) -> None:  # noqa: N802 - Twisted's name
        if not os.path.exists(self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(self.path, flags, self.defaultMode or 0o600))
        super()._openFile()


def _log_file(daemon: str, name: str) -> Any:
    try:
        file: Any = _RotatedFile.fromFullPath(name, _ROTATED_BYTES, _mode_of_new(name), _MOST_ROTATED)
    except FileExistsError:
        refuse(daemon, f"{name} is a link that leads nowhere; remove it, or name another --logfile")
    except OSError as error:
        refuse(daemon, f"cannot write to {name}: {error.strerror}; name another --logfile")
    if not signal.getsignal(signal.SIGUSR1):  # as twistd does

        def rotate(_signal: int, _frame: Any) -> None:
            from twisted.internet import reactor

            reactor.callFromThread(file.rotate)  # type: ignore[attr-defined]

        signal.signal(signal.SIGUSR1, rotate)
    return file
