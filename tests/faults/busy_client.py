"""A program that stores, replaces, deletes and reads files by the client library until it is told to end.

`python -m tests.faults.busy_client ADDRESS NUMBER JOURNAL TIMEOUT_SECONDS`: it ends once there is a file
`JOURNAL.stop`. What it does, and how that ended, is in the journal; see tests.faults.manifest.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from attrs import define, field
from twisted.internet.defer import Deferred

from filefly.client.api import Client
from filefly.errors import FileFlyError, NotFound, TimedOut
from tests.faults.manifest import begun, content, ended, version_of

OWN_FILES = 6
SHARED_FILES = 3
"""Files that every such program stores, replaces and deletes."""


def replicas_of(name: str) -> int:
    """Return how many replicas a file is to have: half of the files have two."""
    return 1 + int(name[-1]) % 2


@define(eq=False)
class BusyClient:
    """Goes on and on."""

    client: Client
    number: str
    journal: TextIO
    stop: Path
    chance: random.Random = field()
    _versions: int = 0

    async def work(self) -> None:
        """Do one thing after the other."""
        while not self.stop.exists():
            name = self.chance.choice([*self._own, *(f"shared {at}" for at in range(SHARED_FILES))])
            match self.chance.choices(["store", "delete", "read"], [5, 1, 4])[0]:
                case "store":
                    await self._store(name)
                case "delete":
                    await self._delete(name)
                case _:
                    await self._read(name)

    @property
    def _own(self) -> list[str]:
        return [f"client {self.number} file {at}" for at in range(OWN_FILES)]

    async def _store(self, name: str) -> None:
        self._versions += 1
        version = f"{self.number}.{self._versions}"
        line = self._begin("store", name, version)
        try:
            await self.client.upload(name, content(name, version), replicas=replicas_of(name))
        except FileFlyError as error:
            self._failed(line, error)
        else:
            self._end(line, "ok")

    async def _delete(self, name: str) -> None:
        line = self._begin("delete", name, None)
        try:
            await self.client.delete(name)
        except NotFound:
            self._end(line, "absent")
        except FileFlyError as error:
            self._failed(line, error)
        else:
            self._end(line, "ok")

    async def _read(self, name: str) -> None:
        line = self._begin("read", name, None)
        try:
            data = await self.client.read(name)
        except FileFlyError as error:
            if str(error) == f"{name}: file not found":
                self._end(line, "absent")
            else:
                self._failed(line, error)
            return
        version = version_of(name, data)
        if version is None:
            self._end(line, "wrong", size=len(data), first=data[:40].decode(errors="replace"))
        else:
            self._end({**line, "version": version}, "ok")

    def _begin(self, operation: str, name: str, version: str | None) -> dict[str, Any]:
        line = begun(operation, name, version, time.monotonic())
        self._write(line)
        return line

    def _failed(self, line: dict[str, Any], error: FileFlyError) -> None:
        self._end(line, "late" if isinstance(error, TimedOut) else "error", error=str(error), code=error.code)

    def _end(self, line: dict[str, Any], outcome: str, **more: Any) -> None:
        self._write(ended(line, outcome, time.monotonic(), **more))

    def _write(self, line: dict[str, Any]) -> None:
        self.journal.write(json.dumps(line) + "\n")
        self.journal.flush()


def main(address: str, number: str, journal: str, timeout_seconds: str) -> None:
    """Work until the end; a failure that is no FileFlyError ends the process with its traceback."""
    from twisted.internet import reactor as twisted_reactor

    reactor: Any = twisted_reactor
    client = Client(reactor, address, concurrency=2, timeout_seconds=float(timeout_seconds))
    failures: list[Any] = []

    def begin() -> None:
        with_journal = BusyClient(client, number, file, Path(f"{journal}.stop"), random.Random(f"client {number}"))
        working = Deferred.fromCoroutine(with_journal.work())
        working.addErrback(failures.append)
        working.addBoth(lambda _result: reactor.stop())

    with open(journal, "a") as file:
        reactor.callWhenRunning(begin)
        reactor.run()
    client.close()
    for failure in failures:
        failure.raiseException()


if __name__ == "__main__":
    main(*sys.argv[1:])
