"""Processes are surely ended, and their failures are told."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.processes import Daemon, Failed, Processes, output_of, timed, wait_until

SLEEPS = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{code}']); print('up'); {code}"
FOR_LONG = "import time; time.sleep(600)"


def sleeper(processes: Processes, folder: Path) -> Daemon:
    """Start a process that has started another one."""
    daemon = processes.start("sleeper", [sys.executable, "-c", SLEEPS.format(code=FOR_LONG)], folder)
    wait_until(lambda: daemon.said("up") is not None, "the sleeper")
    return daemon


def test_closing_ends_a_daemon_and_what_it_started(tmp_path: Path) -> None:
    """The whole process group goes."""
    processes = Processes()
    daemon = sleeper(processes, tmp_path)

    processes.close()

    wait_until(lambda: not _group_exists(daemon.process.pid), "its group to end")
    assert -9 == daemon.process.returncode


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_largest_memory_of_each_role_is_kept(tmp_path: Path) -> None:
    """It counts the processes that a daemon started, and outlives them."""
    processes = Processes({"other": 1})
    daemon = sleeper(processes, tmp_path)
    alone = processes.start("alone", [sys.executable, "-c", f"print('up'); {FOR_LONG}"], tmp_path)
    wait_until(lambda: alone.said("up") is not None, "the one alone")
    both = daemon.peak_memory()

    processes.close()

    assert 1 == processes.peaks["other"]
    assert both <= processes.peaks["sleeper"]
    assert processes.peaks["alone"] < processes.peaks["sleeper"]


def test_a_daemon_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    """What it said last is told."""
    processes = Processes()
    daemon = processes.start("brief", [sys.executable, "-c", "raise SystemExit('no room')"], tmp_path)
    try:
        with pytest.raises(Failed, match="brief ended with 1:\nno room"):
            wait_until(lambda: daemon.said("up") is not None, "it")
    finally:
        processes.close()


def test_a_command_that_fails_is_told_with_what_it_said() -> None:
    """A failure has no time."""
    with pytest.raises(Failed, match=r"ended with 3:\nno such thing"):
        timed([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"])


def test_what_a_command_prints_is_returned() -> None:
    """Both its streams."""
    assert output_of([sys.executable, "-c", "print('here')"]) == "here\n"
