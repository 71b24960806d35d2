"""compose.yaml and Dockerfile say what they must, and compose.yaml's very commands make a working FileFly.

No container is needed for that: the commands run as processes of this machine, and only what differs outside
containers is put in their place: service names, mount points, ports.
"""

import configparser
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import define, field

from tests.docs.volatile import Ports, free_ports
from tests.system.processes import BIN, DEADLINE_SECONDS

ROOT = Path(__file__).parents[1]
PORTS = {"meta": 9100, "data1": 9101, "data2": 9102}


@pytest.fixture(scope="module")
def compose() -> Any:
    """Return what compose.yaml says."""
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


@define(eq=False)
class Machine:
    """The services of compose.yaml as processes of this machine."""

    compose: Any
    folder: Path
    ports: Ports = field(factory=lambda: free_ports(range(9100, 9103)))
    running: dict[str, subprocess.Popen[bytes]] = field(factory=dict)

    def volume(self, service: str) -> Path:
        """Return the folder that stands for the service's volume."""
        name, _mount_point = str(self.compose["services"][service]["volumes"][0]).split(":")
        return self.folder / name

    def up(self) -> None:
        """Start every service, those first that others wait for, and wait until all are healthy."""
        services = self.compose["services"]
        waiting = set(services)
        while waiting:
            ready = sorted(name for name in waiting if not waiting & set(services[name].get("depends_on", {})))
            assert ready, f"{waiting} wait for each other"
            for name in ready:
                self.start(name)
            for name in ready:
                self.wait_until_healthy(name)
            waiting.difference_update(ready)

    def start(self, service: str) -> None:
        """Run the service's command."""
        self.volume(service).mkdir(exist_ok=True)
        with (self.folder / f"{service}.log").open("ab") as log:
            self.running[service] = subprocess.Popen(
                self._outside(service, self.compose["services"][service]["command"]),
                cwd=self.volume(service),
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def wait_until_healthy(self, service: str) -> None:
        """Run the service's health check until it succeeds."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.is_healthy(service):
            log = (self.folder / f"{service}.log").read_text()
            assert self.running[service].poll() is None, f"{service} ended:\n{log}"
            assert time.monotonic() < deadline, f"{service} is not healthy:\n{log}"

    def is_healthy(self, service: str) -> bool:
        """Run the service's health check once."""
        kind, *command = self.compose["services"][service]["healthcheck"]["test"]
        assert "CMD" == kind
        return self.run(self._outside(service, command), check=False).returncode == 0

    def run(self, command: Sequence[str | Path], check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a command as the user of this machine would."""
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, check=check, timeout=60
        )

    def down(self) -> None:
        """Stop every service, as Compose does, those first that wait for others."""
        for service in reversed(self.running):
            self.running[service].terminate()
            self.running[service].wait(DEADLINE_SECONDS)
            assert "Server Shut Down." in (self.folder / f"{service}.log").read_text()
        self.running.clear()

    def _outside(self, service: str, command: Sequence[str]) -> list[str]:
        """Put in place of what only holds inside a container what stands for it here."""
        mount_point = self.compose["services"][service]["volumes"][0].split(":")[1]
        names = "|".join(self.compose["services"])
        outside = []
        for word in command:
            word = re.sub(rf"(?<![\w.-])({names})(?=:\d)", "127.0.0.1", word)
            word = re.sub(rf"(?<!\w){mount_point}(?=/|$)", str(self.volume(service)), word)
            outside.append(self.ports.in_use(word))
        return outside

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}


@contextmanager
def machine(compose: Any, folder: Path) -> Iterator[Machine]:
    """Hand out a machine with nothing running; leave nothing running."""
    made = Machine(compose, folder)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()


def test_the_services_publish_their_ports_and_keep_their_files_in_named_volumes(compose: Any) -> None:
    """Each service has its port on the host's loopback and a volume of its own, declared by name."""
    assert set(PORTS) == set(compose["services"])
    volumes = []
    for name, service in compose["services"].items():
        assert [f"127.0.0.1:{PORTS[name]}:{PORTS[name]}"] == service["ports"]
        [mounted] = service["volumes"]
        volumes.append(mounted.split(":")[0])
    assert sorted(volumes) == sorted(compose["volumes"])


def test_the_services_are_looked_after(compose: Any) -> None:
    """Each has a health check without a shell, comes back after a failure, and gets the time it needs to stop."""
    for name, service in compose["services"].items():
        assert ["CMD", "filefly-client", "ping", f"localhost:{PORTS[name]}", "-q"] == service["healthcheck"]["test"]
        assert "unless-stopped" == service["restart"]
        assert int(service["stop_grace_period"].removesuffix("s")) > 10
        assert ["twistd", "-n", "--pidfile="] == service["command"][:3]
    assert {"data1", "data2"} == set(compose["services"]["meta"]["depends_on"])
    for dependency in compose["services"]["meta"]["depends_on"].values():
        assert "service_healthy" == dependency["condition"]


def test_the_commands_of_compose_yaml_make_a_working_filefly(compose: Any, tmp_path: Path) -> None:
    """A file goes up and comes down by the advertised addresses, lies in both volumes, and outlives a restart."""
    content = os.urandom(9 * 1024 * 1024)  # two blocks of 8 MiB at most: one on each data server
    (tmp_path / "there.bin").write_bytes(content)
    with machine(compose, tmp_path) as running:
        client = ["filefly-client", "--metadata-addr", running.ports.in_use("localhost:9100")]
        running.up()
        stored = yaml.safe_load(running.run([*client, "upload", "there.bin", "--json", "-q"]).stdout)
        blocks = {block["data_server"]: block for block in stored["blocks"]}
        assert {running.ports.in_use(f"localhost:{PORTS[name]}") for name in ("data1", "data2")} == set(blocks)
        for name in ("data1", "data2"):
            block = blocks[running.ports.in_use(f"localhost:{PORTS[name]}")]
            assert block["size"] == (running.volume(name) / block["id"]).stat().st_size
        assert (running.volume("meta") / "catalog.sqlite").stat().st_size > 0
        running.run([*client, "download", "there.bin", "-o", "back.bin"])
        assert content == (tmp_path / "back.bin").read_bytes()
        running.down()
        assert not running.is_healthy("meta")
        running.up()
        running.run([*client, "download", "there.bin", "-o", "again.bin"])
        assert content == (tmp_path / "again.bin").read_bytes()
        running.down()


def _instructions() -> list[tuple[str, list[str]]]:
    """Return the instructions of the Dockerfile, each with its words."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], shlex.split(line)[1:]) for line in lines]


def _copied() -> set[str]:
    return {source for instruction, words in _instructions() if instruction == "COPY" for source in words[:-1]}


def test_the_image_gets_what_packaging_needs() -> None:
    """Every COPY source exists and is let through by .dockerignore, and all that setup.cfg names is copied."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = {package.split(".")[0] for package in setup["options"]["packages"].split()}
    description = setup["metadata"]["long_description"].removeprefix("file:").strip()
    assert {*packages, description, "setup.cfg", "pyproject.toml"} <= _copied()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" == ignored[0]
    for source in _copied():
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_the_image_runs_as_a_user_who_owns_the_volume(compose: Any) -> None:
    """The last USER is not root, and the folder that volumes are mounted on is made for that user before."""
    instructions = _instructions()
    user = next(words[0] for instruction, words in reversed(instructions) if instruction == "USER")
    assert user not in ("root", "0")
    made = [" ".join(words) for instruction, words in instructions if instruction == "RUN"]
    for service in compose["services"].values():
        mount_point = service["volumes"][0].split(":")[1]
        assert any(re.search(rf"install -d -o {user} .*{mount_point}$", run) for run in made)


def test_the_image_has_a_python_that_filefly_runs_on() -> None:
    """It is a slim image of Python 3.11 or newer."""
    [base] = [words[0] for instruction, words in _instructions() if instruction == "FROM"]
    match = re.fullmatch(r"python:3\.(\d+)-slim", base)
    assert match is not None
    assert int(match[1]) >= 11
