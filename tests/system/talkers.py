"""The programs that a person talks to FileFly with, run by a real shell as that person would."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

TALKERS = {
    "nc": 'nc -N 127.0.0.1 "$1"',
    "ncat": 'ncat 127.0.0.1 "$1"',
    "socat": 'socat -t 60 - "TCP:127.0.0.1:$1"',
}
"""What each program is told, `$1` being the port. `-t`: how long socat waits for replies after its input's end."""


def need(program: str) -> None:
    """Skip the test if a program is missing here; in CI it must not be."""
    if shutil.which(program) is None:
        missing = f"{program} is not installed"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


def shell(folder: Path, script: str, talker: str = "nc", stdin: bytes = b"", **variables: Any) -> str:
    """Run a shell script in which `talk PORT` is `talker`, and return what it prints."""
    need(talker)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"talk() {{ {TALKERS[talker]}; }}\n{script}"],
        cwd=folder,
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
    )
    assert (0, b"") == (done.returncode, done.stderr), done
    return done.stdout.decode()
