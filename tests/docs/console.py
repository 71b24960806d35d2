"""Runs the terminal sessions that a document shows in ```console blocks.

    ```console
    $ twistd --pidfile=data.pid filefly-data --addr :9001 --storage_dir /tmp/filefly-blocks
    $ nc -N localhost 9001 <<'END'
    > {"command":"ping"}
    > END
    {"status":"ok","pong":true}
    ```

- `$ ` begins a command; lines that begin with `>` right behind it continue it (here-documents, `\\` at a line's end).
- What follows is all that the command prints, standard error included. A line `...` stands for any lines, also none;
  `...` within a line for any text.
- JSON objects are compared as data; times, speeds, storage ids and free space may differ (`tests/docs/volatile.py`).
- A command must end with exit status 0 unless output is shown for it: an error's sentence is output.
- Commands run in bash in one folder, one after another through the whole document. Variables and `cd` last. `~` is that
  folder; `/tmp/` and `/srv/` are folders of their own beside it.
- The ports 9000 to 9002 and 9100 to 9102 stand for free ones, in output too, and where a command leaves out --addr or
  --metadata-addr, whose defaults they are.
- Daemons run until the end of the document or until the session stops them. `twistd -n` (as in a terminal of its own)
  is left running once it listens; what it logged until then is its output. `^C` as the last line of that output ends
  it there.

Blocks in another language (```sh) are not run.
"""

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, frozen

from tests.docs.markdown import Block, fenced_blocks
from tests.docs.volatile import Ports, free_ports, steady_line
from tests.system.processes import BIN, DEADLINE_SECONDS, listening_ports, talk

DOCUMENTED_PORTS = (range(9000, 9003), range(9100, 9103))
_OWN_FOLDERS = ("tmp", "srv")
_MARK = "FILEFLY_CONSOLE"
_TIMEOUT_SECONDS = 120
_FOREGROUND_DAEMON = re.compile(r"^(?:\w+=\S* )*twistd (?:-\S+ )*(?:-n|--nodaemon) (?:-\S+ )*(?P<plugin>filefly\S*)")
_DAEMON_ON_ITS_DEFAULT_PORT = re.compile(
    r"(twistd (?:-\S+ )*(?:filefly|filefly-meta|filefly-data))(?!\S)(?!.* --addr\b)", re.MULTILINE
)
_DEFAULT_ADDRESSES = {"filefly": "localhost:9000", "filefly-meta": ":9000", "filefly-data": ":9001"}


@frozen
class Step:
    """A command and what it should print; `number` is its line in the document."""

    number: int
    command: str
    expected: tuple[str, ...]


def steps_of(block: Block) -> list[Step]:
    """Return the commands of a ```console block."""
    steps: list[Step] = []
    command, expected, number = list[str](), list[str](), 0
    for line in block.lines:
        if line.text.startswith("$ "):
            if command:
                steps.append(Step(number, "\n".join(command), tuple(expected)))
            command, expected, number = [line.text.removeprefix("$ ")], [], line.number
        elif not command:
            raise AssertionError(f"line {line.number}: a console block begins with `$ `")
        elif line.text.startswith(">") and not expected:
            command.append(line.text[1:].removeprefix(" "))
        else:
            expected.append(line.text)
    if command:
        steps.append(Step(number, "\n".join(command), tuple(expected)))
    return steps


@define(eq=False)
class Session:
    """A terminal in a folder of its own."""

    folder: Path
    ports: Ports
    mark: str

    @property
    def home(self) -> Path:
        """Where commands run."""
        return self.folder / "home"

    def run(self, step: Step) -> None:
        """Run a command; raises AssertionError if it does something other than what is shown."""
        foreground = _FOREGROUND_DAEMON.match(step.command)
        shown = step.expected
        if foreground:
            interrupted = bool(shown) and shown[-1].strip() == "^C"
            shown = shown[:-1] if interrupted else shown
            status, output = self._start_daemon(step.command, foreground["plugin"], interrupted)
        else:
            status, output = self._run_to_its_end(step.command)
        printed = self._as_documented(output).splitlines()
        difference = _first_difference([*shown], printed)
        assert difference is None, f"{difference}\n--- printed (exit status {status}) ---\n" + "\n".join(printed)
        assert status == 0 or shown, f"exit status {status}, and nothing is shown of it"

    def _run_to_its_end(self, command: str) -> tuple[int, str]:
        state = self.folder / "state"
        script = f'. "{state}"; cd "$PWD"; set -a\n{self._in_use(command)}\n_status=$?\n'
        script += f'export -p > "{state}"; exit $_status'
        state.touch()
        output = self.folder / "output"  # a file, not a pipe: something left running would keep a pipe open
        with output.open("wb") as written:
            ended = subprocess.run(
                ["bash", "-c", script],
                cwd=self.home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT_SECONDS,
            )
        return ended.returncode, output.read_text(errors="backslashreplace")

    def _start_daemon(self, command: str, plugin: str, interrupted: bool) -> tuple[int, str]:
        output = self.folder / f"daemon-{secrets.token_hex(4)}"
        state = self.folder / "state"
        state.touch()
        script = f'. "{state}"; cd "$PWD"; exec {self._in_use(command).rstrip(" &")}'
        with output.open("wb") as written:
            daemon = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                preexec_fn=_heed_interrupts,
            )
        services = 3 if plugin == "filefly" else 1
        deadline = time.monotonic() + DEADLINE_SECONDS
        while output.read_text().count(" is listening on ") < services and daemon.poll() is None:
            assert time.monotonic() < deadline, f"does not listen:\n{output.read_text()}"
            time.sleep(0.02)
        if interrupted:
            for port in listening_ports(output.read_text()):
                talk(port, b'{"command":"ping"}\n')  # its reactor runs: it handles signals
            daemon.send_signal(signal.SIGINT)
            daemon.wait(DEADLINE_SECONDS)
        return daemon.poll() or 0, output.read_text()

    @property
    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FILEFLY_")}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.home), "PWD": str(self.home), "LC_ALL": "C.UTF-8", _MARK: self.mark}
        default = self.ports.in_use("localhost:9000")
        return kept | own | {"PYTHONUNBUFFERED": "1", "COLUMNS": "120", "FILEFLY_METADATA_ADDR": default}

    def _in_use(self, command: str) -> str:
        for name in _OWN_FOLDERS:
            command = re.sub(rf"(?<![\w/.])/{name}\b", str(self.folder / name), command)
        command = _DAEMON_ON_ITS_DEFAULT_PORT.sub(_with_address, command)
        return self.ports.in_use(command)

    def _as_documented(self, output: str) -> str:
        for name in _OWN_FOLDERS:
            output = output.replace(str(self.folder / name), f"/{name}")
        return self.ports.as_documented(output.replace(str(self.home), "~"))

    def end(self) -> None:
        """End every process that was started here and still runs."""
        processes = self._own_processes()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in processes:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + DEADLINE_SECONDS
            while processes and time.monotonic() < deadline:
                time.sleep(0.02)
                processes = self._own_processes()

    def _own_processes(self) -> list[int]:
        """Return the processes, daemonised ones too, whose environment came from here."""
        own = f"{_MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    ended = b"\nState:\tZ" in (entry / "status").read_bytes()
                    if not ended and own in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


def _heed_interrupts() -> None:
    """Undo what a shell does to its background jobs, and these tests may be one: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _with_address(daemon: re.Match[str]) -> str:
    return f"{daemon[1]} --addr {_DEFAULT_ADDRESSES[daemon[1].split()[-1]]}"


def _first_difference(shown: Sequence[str], printed: Sequence[str]) -> str | None:
    """Return what is wrong, or None: `...` lines in `shown` stand for any lines."""
    expected = [line.rstrip() for line in shown]
    while expected and not expected[-1]:
        expected.pop()
    if "..." not in expected:
        for number, line in enumerate(expected):
            if number == len(printed):
                return f"shown, but not printed: {line}"
            if not _same(line, printed[number]):
                return f"shown:   {line}\nprinted: {printed[number]}"
        rest = [line for line in printed[len(expected) :] if line.strip()]
        return f"printed, but not shown: {rest[0]}" if rest else None
    return None if _matches(expected, list(printed)) else "shown:\n" + "\n".join(expected)


def _matches(expected: Sequence[str], printed: Sequence[str]) -> bool:
    if not expected:
        return not any(line.strip() for line in printed)
    first, rest = expected[0], expected[1:]
    if first == "...":
        return any(_matches(rest, printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and _same(first, printed[0]) and _matches(rest, printed[1:])


def _same(shown: str, printed: str) -> bool:
    wanted: Any = steady_line(shown)
    if isinstance(wanted, str) and "..." in wanted:
        found = _steady_text(printed)
        return re.fullmatch(".*".join(map(re.escape, wanted.split("..."))), found) is not None
    return bool(wanted == steady_line(printed))


def _steady_text(printed: str) -> str:
    """Return a printed line as text, also where it is JSON, for comparison with one that has `...` in it."""
    return str(steady_line(" " + printed))[1:]


@contextmanager
def session(folder: Path) -> Iterator[Session]:
    """Open a session in `folder`, and end all that it started."""
    opened = Session(folder, free_ports(*DOCUMENTED_PORTS), secrets.token_hex(8))
    for name in ("home", *_OWN_FOLDERS):
        (folder / name).mkdir()
    try:
        yield opened
    finally:
        opened.end()


def run_document(document: Path, folder: Path) -> None:
    """Run all sessions of a document, as one, in `folder`; raises AssertionError that tells the line."""
    with session(folder) as opened:
        for block in fenced_blocks(document, "console"):
            for step in steps_of(block):
                try:
                    opened.run(step)
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    raise AssertionError(f"{document.name}:{step.number}: $ {step.command}\n{error}") from None
