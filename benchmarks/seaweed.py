"""SeaweedFS as its users run it: master, volume server and filer in one `weed server`, used through its own commands.

It does not sync what it stores before it answers. Its gRPC ports are its HTTP ports with 10,000 added; it also leaves
Unix sockets in /tmp.
"""

import json
import os
import re
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path

from attrs import define

from benchmarks.processes import Daemon, Failed, Processes, free_port, output_of, timed, wait_until

_START_SECONDS = 90.0
_CLEARED_SECONDS = 120.0
_ANSWER_SECONDS = 60.0
_COLLECTION = "bench"
_SMALL = 16 * 1024 * 1024  # volumes without files keep a few bytes each, and the catalog of the filer is never empty
_REPORT = re.compile(
    r"(?P<kind>Writing|Reading) Benchmark.*?"
    r"Completed requests:\s+(?P<completed>\d+).*?"
    r"Failed requests:\s+(?P<failed>\d+).*?"
    r"Requests per second:\s+(?P<speed>[\d.]+)",
    re.DOTALL,
)


def requests_per_second(report: str, kind: str, count: int) -> float:
    """Return the speed that `weed benchmark` tells of its `Writing` or `Reading` part.

    Raises Failed if that part is not there, or not all `count` requests succeeded.
    """
    for found in _REPORT.finditer(report):
        if found["kind"] == kind:
            if int(found["completed"]) < count or int(found["failed"]):
                raise Failed(f"weed benchmark completed {found['completed']} of {count}, {found['failed']} failed")
            return float(found["speed"])
    raise Failed(f"weed benchmark told no speed of its {kind} part:\n{report[-2000:]}")


@define(eq=False)
class SeaweedFS:
    """A running `weed server`."""

    program: Path
    folder: Path
    daemon: Daemon
    master: int
    filer: int
    ports: tuple[int, ...]

    @classmethod
    def start(cls, processes: Processes, program: Path, folder: Path) -> "SeaweedFS":
        """Start it in `folder`; it is of no use until `wait_until_ready`, but is to be closed from now on."""
        master, volume, filer = free_port(), free_port(), free_port()
        command: list[str | Path] = [
            program,
            "server",
            f"-dir={folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-master.telemetry=false",
            "-volume.max=50",
            "-master.volumeSizeLimitMB=1024",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
        ]
        daemon = processes.start("SeaweedFS", command, folder)
        ports = tuple(port + offset for port in (master, volume, filer) for offset in (0, 10_000))
        return cls(program, folder, daemon, master, filer, ports)

    def wait_until_ready(self) -> None:
        """Return once its filer takes a file: for seconds after its start it takes none."""
        wait_until(self._takes_files, "SeaweedFS to take a file", _START_SECONDS)

    def _takes_files(self) -> bool:
        self.daemon.said("")  # raises Failed if it has ended
        probe = ["curl", "-s", "-f", "-m", "5", "-F", f"file=@{self.daemon.log}", f"{self.url('probe')}/"]
        return subprocess.run(probe, capture_output=True).returncode == 0

    def close(self) -> None:
        """Remove what it left outside its folder."""
        for kind in ("filer", "filer-grpc", "master-grpc", "volume-grpc"):
            for port in self.ports:
                Path(f"/tmp/seaweedfs-{kind}-{port}.sock").unlink(missing_ok=True)

    def url(self, name: str) -> str:
        """Return where the filer has the file `name`."""
        return f"http://127.0.0.1:{self.filer}/{name}"

    def copy(self, path: Path, name: str, *options: str) -> float:
        """Upload a file or a folder below `name` and return how many seconds the whole process took."""
        return timed([self.program, "filer.copy", *options, path, f"{self.url(name)}/"], self.folder)

    def remove(self, name: str) -> None:
        """Delete a folder and give its room back, so that the next run finds it."""
        self._ask("DELETE", f"{self.url(name)}?recursive=true")
        wait_until(self._vacuumed, f"SeaweedFS to give up the room of {name}", _CLEARED_SECONDS)

    def _vacuumed(self) -> bool:
        self._ask("GET", f"http://127.0.0.1:{self.master}/vol/vacuum?garbageThreshold=0.0001")
        stored = (path for path in self.folder.glob("*.dat") if not path.name.startswith(_COLLECTION))
        sizes = 0
        for path in stored:
            with suppress(FileNotFoundError):
                sizes += path.stat().st_size
        return sizes < _SMALL

    def _ask(self, method: str, url: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=_ANSWER_SECONDS):
            pass

    def writes_per_second(self, count: int, size: int, connections: int) -> float:
        """Run the writing part of `weed benchmark`."""
        return self._benchmark("Writing", "-writeOnly", count, size, connections)

    def reads_per_second(self, count: int, size: int, connections: int) -> float:
        """Run the reading part of `weed benchmark` over what its writing part has left."""
        return self._benchmark("Reading", "-readOnly", count, size, connections)

    def _benchmark(self, kind: str, only: str, count: int, size: int, connections: int) -> float:
        numbers = ("-n", str(count), "-size", str(size), "-c", str(connections))
        place = ("-master", f"127.0.0.1:{self.master}", "-collection", _COLLECTION, "-list", self.folder / "ids")
        return requests_per_second(output_of([self.program, "benchmark", only, *numbers, *place]), kind, count)


def version(program: Path) -> str | None:
    """Return the version of SeaweedFS at `program`, or None if it is not there."""
    if not os.access(program, os.X_OK):
        return None
    found = re.search(r"version \S+ (\S+)", output_of([program, "version"]))
    return found[1] if found else "unknown"


def curl_config(urls: dict[str, Path]) -> str:
    """Return a configuration that has curl save each URL to its file."""
    return "".join(f"url = {json.dumps(url)}\noutput = {json.dumps(str(path))}\n" for url, path in urls.items())
