"""FileFly at work: two data servers, a metadata server, a real file up and down. Run by `make demo`.

Usage: demo.py [FILE]   (default: the standard library of this Python, packed into one file)
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

BIN = Path(sys.executable).parent
MIB = 1024 * 1024
START_SECONDS = 30
T = TypeVar("T")


def main() -> None:
    """Run the demo in a temporary folder and leave nothing behind."""
    if len(sys.argv) > 1 and not Path(sys.argv[1]).is_file():
        sys.exit(f"{sys.argv[1]} is not a file; run: make demo FILE=path")
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="filefly-demo-") as name:
        folder = Path(name)
        try:
            show(folder, Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else standard_library(folder), running)
        finally:
            for daemon in reversed(running):
                daemon.terminate()
                daemon.wait()


def show(folder: Path, file: Path, running: list[subprocess.Popen[bytes]]) -> None:
    """Take a file through a cluster and say what happens."""
    say(f"the file: {file} ({file.stat().st_size / MIB:.1f} MiB)")

    say("starting two data servers and a metadata server with twistd")
    data = [
        start(folder, running, "filefly-data", "--addr", "127.0.0.1:0", "--storage-dir", f"blocks{number}")
        for number in (1, 2)
    ]
    meta = start(folder, running, "filefly-meta", "--addr", "127.0.0.1:0", "--data-servers", ",".join(data))
    os.environ["FILEFLY_METADATA_ADDR"] = meta

    say("uploading: the client asks for a plan, then sends the blocks straight to the data servers")
    _output, seconds = timed(lambda: client("upload", str(file), "--name", "demo.bin", show_lines=True))
    up = file.stat().st_size / MIB / seconds

    plan = json.loads(client("stat", "demo.bin", "--json"))
    say(f"the plan spreads {len(plan['blocks'])} blocks over the data servers")
    for server in data:
        ids = [block["id"] for block in plan["blocks"] if block["data_server"] == server]
        print(f"    {server}: {len(ids)} blocks, {', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}")

    say("on disk each block is a plain file")
    for number in (1, 2):
        blocks = sorted((folder / f"blocks{number}").glob("demo.bin-*"))
        for block in blocks[:3]:
            print(f"    blocks{number}/{block.name}  {block.stat().st_size} bytes")
        if len(blocks) > 3:
            print(f"    blocks{number}/...  and {len(blocks) - 3} more")

    say("downloading, every block verified")
    copy = folder / "copy.bin"
    _output, seconds = timed(lambda: client("download", "demo.bin", "-o", str(copy), "--quiet"))
    down = file.stat().st_size / MIB / seconds

    before, after = digest(file), digest(copy)
    print(f"    sha256 before  {before}\n    sha256 after   {after}")
    if before != after:
        sys.exit("the digests differ: this is a bug, please report it")
    say(f"the same bytes. Up {up:.0f} MiB/s (synced to disk), down {down:.0f} MiB/s, whole client processes")


def standard_library(folder: Path) -> Path:
    """Pack what every Python ships into one file of some tens of MiB."""
    packed = folder / "python-standard-library.tar"
    left_out = {"site-packages", "dist-packages", "__pycache__", "test"}
    with tarfile.open(packed, "w") as tar:
        tar.add(
            sysconfig.get_paths()["stdlib"],
            arcname="python",
            filter=lambda entry: None if Path(entry.name).name in left_out else entry,
        )
    return packed


def start(folder: Path, running: list[subprocess.Popen[bytes]], *arguments: str) -> str:
    """Start a daemon on a free port of this machine and return its address, which it writes to its log."""
    log = folder / f"daemon{len(running)}.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [BIN / "twistd", "-n", "--pidfile=", *arguments], cwd=folder, stdout=output, stderr=output
        )
    running.append(daemon)
    deadline = time.monotonic() + START_SECONDS
    while daemon.poll() is None and time.monotonic() < deadline:
        if listening := re.search(r"is listening on (\S+)", log.read_text()):
            print(f"    {arguments[0]} on {listening[1]}")
            return listening[1]
        time.sleep(0.05)
    sys.exit(f"{arguments[0]} did not start; its log says:\n{log.read_text()}")


def client(*arguments: str, show_lines: bool = False) -> str:
    """Run filefly-client and return what it prints; its messages go to the terminal, indented."""
    done = subprocess.run([BIN / "filefly-client", *arguments], capture_output=True, text=True)
    if show_lines or done.returncode:
        for line in done.stderr.splitlines():
            print(f"    {line}")
    if done.returncode:
        sys.exit(f"filefly-client {arguments[0]} failed")
    return done.stdout


def timed(action: Callable[[], T]) -> tuple[T, float]:
    """Return what `action` returns, and how many seconds it took."""
    before = time.monotonic()
    result = action()
    return result, time.monotonic() - before


def digest(file: Path) -> str:
    """Return a file's SHA-256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def say(sentence: str) -> None:
    """Print a step."""
    print(f"\n-- {sentence}", flush=True)


if __name__ == "__main__":
    main()
