"""Busy clients in processes of their own, and the judgement of what came of their work."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from tests.faults.inspection import (
    SETTLED_SECONDS,
    check_block_files,
    findings,
    wait_for_replicas,
    wait_until_clean,
    wait_until_up,
)
from tests.faults.manifest import ABSENT, manifests, read_journal, version_of, wrong_bytes
from tests.system.processes import DEADLINE_SECONDS, Processes, wait_until

_PROJECT = Path(__file__).parents[2]
_BACKUPS = ".filefly/"
"""The catalog's, which come and go."""


@define(eq=False)
class BusyProcess:
    """A client at work in a process of its own."""

    process: subprocess.Popen[bytes]
    journal: Path

    @classmethod
    def start(cls, cluster: Processes, number: int, timeout_seconds: float) -> "BusyProcess":
        journal = cluster.folder / f"client{number}"
        program = [sys.executable, "-m", "tests.faults.busy_client"]
        command = [*program, cluster.meta.address, f"{number}", f"{journal}", f"{timeout_seconds}"]
        with journal.with_suffix(".log").open("wb") as log:
            env = {**os.environ, "PYTHONPATH": str(_PROJECT)}
            return cls(subprocess.Popen(command, stdout=log, stderr=log, env=env), journal)

    @property
    def log(self) -> Path:
        """What it prints: nothing, if all goes well."""
        return self.journal.with_suffix(".log")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it do nothing until the end of the block."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def steps(self) -> int:
        """Return how often it began or ended something."""
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def stop(self) -> None:
        """Let it end what it is at."""
        self.journal.with_suffix(".stop").touch()
        status = self.process.wait(2 * DEADLINE_SECONDS)
        assert 0 == status, self.log.read_text()


@define(eq=False)
class Crowd:
    """Some busy clients of one cluster."""

    cluster: Processes
    clients: list[BusyProcess] = field(factory=list)

    def start(self, count: int, timeout_seconds: float) -> None:
        """Let them begin."""
        self.clients = [BusyProcess.start(self.cluster, number, timeout_seconds) for number in range(count)]

    def wait_for_steps(self, count: int) -> None:
        """Wait until they have begun or ended something so many times more."""
        wanted = self.steps() + count

        def reached() -> bool:
            for client in self.clients:
                assert client.process.poll() is None, client.log.read_text()
            return self.steps() >= wanted

        wait_until(reached, f"{count} steps of the clients", SETTLED_SECONDS)

    def steps(self) -> int:
        """Return how often something was begun or ended."""
        return sum(client.steps() for client in self.clients)

    def stop(self) -> list[dict[str, Any]]:
        """Let them end what they are at, and return all that they did."""
        for client in self.clients:
            client.stop()
        return [operation for client in self.clients for operation in read_journal(client.journal)]

    def kill(self) -> None:
        """End them at once."""
        for client in self.clients:
            client.process.kill()
            client.process.wait()


def check(cluster: Processes, operations: list[dict[str, Any]]) -> str:
    """Check all that was read, and all that is there; return the figures."""
    assert [] == wrong_bytes(operations)
    wait_until_up(cluster)
    found = len(findings(cluster, repair=True))
    wait_until_clean(cluster)
    there = [name for name in cluster.names() if not name.startswith(_BACKUPS)]
    wait_for_replicas(cluster, there)
    blocks = check_block_files(cluster, there)
    changed = manifests(operations)
    for name, manifest in changed.items():
        assert [] == manifest.wrong_readings(), name
        version: str | None = ABSENT
        if name in there:
            version = version_of(name, cluster.fetch(name))
            assert version is not None, f"{name} is no version at all"
        assert manifest.finally_may_be(version), f"{name} has version {version}; {manifest.changes}"
    assert {*there} <= changed.keys()
    outcomes = [operation.get("outcome", "none") for operation in operations]
    counts = ", ".join(f"{outcomes.count(outcome):,} {outcome}" for outcome in sorted(set(outcomes)))
    checked = f"{len(there)} files, {blocks} block files, {found} findings mended"
    return f"{len(operations):,} operations ({counts}); {checked}"
