"""Processes that are surely ended, each in a process group of its own, and how long and how large they were."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field

BIN = Path(sys.executable).parent
"""Where `twistd` and `filefly-client` of this environment are."""

_ROOT = Path(__file__).parent.parent
_COMMAND_SECONDS = 400.0  # a hung command ends the run with a sentence
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
_GRPC_OFFSET = 10_000
_LOWEST_PORT, _HIGHEST_PORT = 10_000, 22_000  # with the offset still below those that the kernel hands out

Command = Sequence[str | Path]


class Failed(Exception):
    """A benchmark cannot go on; its text is for people."""


def environment() -> dict[str, str]:
    """Return the environment of every process: modules are compiled once, as where FileFly is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return once `condition` holds; raises Failed, naming `what` was waited for, if that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:g} seconds for {what}")
        time.sleep(_POLL_SECONDS)


def timed(command: Command, folder: Path | None = None) -> float:
    """Run a command to its end and return how many seconds the whole process took; raises Failed."""
    return _run(command, folder)[0]


def output_of(command: Command, folder: Path | None = None) -> str:
    """Run a command to its end and return what it printed; raises Failed."""
    return _run(command, folder)[1]


def load(module: str, *arguments: str | Path) -> Any:
    """Run a program of `benchmarks.load` as a process and return the JSON it prints."""
    return json.loads(output_of([sys.executable, "-m", f"benchmarks.load.{module}", *arguments], _ROOT))


def _run(command: Command, folder: Path | None) -> tuple[float, str]:
    begun = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=environment(),
    ) as process:
        try:
            output, _nothing = process.communicate(timeout=_COMMAND_SECONDS)
            seconds = time.perf_counter() - begun
        except subprocess.TimeoutExpired:
            raise Failed(f"{command[0]} did not end in {_COMMAND_SECONDS:g} seconds") from None
        finally:
            _kill_group(process)
    if process.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{output[-2000:]}")
    return seconds, output


def _kill_group(process: subprocess.Popen[Any]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """Return a loopback port that is free now, and free with 10,000 added: where SeaweedFS's gRPC listens."""
    while True:
        port = random.randint(_LOWEST_PORT, _HIGHEST_PORT)
        try:
            for each in (port, port + _GRPC_OFFSET):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", each))
        except OSError:
            continue
        return port


@define(eq=False)
class Daemon:
    """A process that runs until it is stopped; `role` is what its memory is counted under."""

    role: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self, pattern: str) -> re.Match[str] | None:
        """Return the first match in its log; raises Failed if the process has ended."""
        text = self.log.read_text(errors="replace")
        if self.process.poll() is not None:
            raise Failed(f"{self.role} ended with {self.process.returncode}:\n{text[-2000:]}")
        return re.search(pattern, text)

    def peak_memory(self) -> int:
        """Return the most bytes that it, and the processes it started, ever had resident."""
        return sum(_peak_memory(pid) for pid in _with_children(self.process.pid))


def _with_children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(below for child in children for below in _with_children(int(child)))]
    return []


def _peak_memory(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) * 1024
    return 0


@define(eq=False)
class Processes:
    """The daemons of a run. `peaks` is the most memory that one of each role had, once it was stopped."""

    peaks: dict[str, int] = field(factory=dict)
    _running: list[Daemon] = field(factory=list)

    def start(self, role: str, command: Command, folder: Path, also: Mapping[str, str] | None = None) -> Daemon:
        """Start a daemon in `folder`, where its log goes, too."""
        log = folder / f"{role.replace(' ', '-')}-{time.monotonic_ns()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**environment(), **(also or {})},
            )
        daemon = Daemon(role, process, log)
        self._running.append(daemon)
        return daemon

    def note_peaks(self) -> None:
        """Take down how much memory the running daemons had so far."""
        for daemon in self._running:
            self.peaks[daemon.role] = max(self.peaks.get(daemon.role, 0), daemon.peak_memory())

    def kill(self, daemon: Daemon) -> None:
        """End a daemon, and all that it started, as a power cut would."""
        self.note_peaks()
        _kill_group(daemon.process)
        daemon.process.wait(_STOP_SECONDS)
        self._running.remove(daemon)

    def close(self) -> None:
        """End all of them."""
        for daemon in list(self._running):
            self.kill(daemon)
