"""A data server for tests, with its own disk threads and a clock that stands still."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from crc32c import crc32c
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from filefly.daemon.protocol import ServerFactory
from filefly.daemon.service import DaemonService
from filefly.data.blocks import BlockStore
from filefly.data.disk import Disk
from filefly.data.local import WithLocalSocket
from filefly.data.server import DataServer
from filefly.threads import WorkerPool
from filefly.wire.address import listening_endpoint
from tests.caller import Caller, calling
from tests.data.disks import QuickDisk, WatchedDisk, take

MIB = 1024 * 1024
DIGITS = b"0123456789"


def sum_of(data: bytes) -> str:
    return f"{crc32c(data):08x}"


def error(sentence: str, code: str) -> dict[str, str]:
    return {"status": "error", "error": sentence, "code": code}


class DiallingClock(Clock):
    """Connects over TCP as the reactor does, but its time is the test's."""

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.connectTCP = reactor.connectTCP


class Running:
    """A data server with its own disk threads, on a port of this machine."""

    def __init__(self, reactor: Any, folder: Path, disk: Disk, local_reads: bool = False) -> None:
        if local_reads:
            give_unique_id(folder)
        self.clock = DiallingClock(reactor)
        self.folder = folder
        self.storage = take(folder)
        pool = WorkerPool(reactor, "disk", 4)
        server = DataServer(BlockStore(self.storage, disk), pool, self.clock)
        self.factory = ServerFactory(self.clock, server)
        endpoint = listening_endpoint(reactor, "127.0.0.1:0")
        if local_reads:
            endpoint = WithLocalSocket(reactor, endpoint, self.storage.storage_id, server.listens_beside)
        self.service = DaemonService(self.clock, "filefly-test", endpoint, self.factory, [pool, server])
        self.service.startService()
        port: Any = self.service._port
        self.port: int = port.getHost().port

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def blocks(self) -> list[str]:
        """Return what is in its folder, stores under way and what was moved out of the way included."""
        found = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()]
        return sorted({*found} - {".filefly.json", ".lock"})

    def put(self, block_id: str, data: bytes) -> None:
        (self.folder / block_id).write_bytes(data)


@asynccontextmanager
async def running(
    reactor: Any, folder: Path, disk: Disk | None = None, local_reads: bool = False
) -> AsyncIterator[Running]:
    """Run a data server, and stop it in the end."""
    server = Running(reactor, folder, disk or QuickDisk(), local_reads)
    try:
        yield server
    finally:
        if server.service.running:
            await server.service.stopService()
        server.storage.release()


@asynccontextmanager
async def asking(reactor: Any, folder: Path, disk: Disk | None = None) -> AsyncIterator[tuple[Running, Caller]]:
    """Run a data server, with a client."""
    async with running(reactor, folder, disk) as server, calling(reactor, server.port) as caller:
        yield server, caller


def give_unique_id(folder: Path) -> None:
    """Make a storage whose local socket no other run of the tests has."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".filefly.json").write_text(f'{{"storage_id":"{uuid4().hex}"}}')


class HeldDisk(WatchedDisk):
    """Waits in one operation until the test lets it go on."""

    def __init__(self, reactor: Any, operation: str) -> None:
        super().__init__()
        self.begun: Deferred[None] = Deferred()
        self.go_on = threading.Event()
        self._reactor = reactor
        self.before[operation] = self._hold

    def _hold(self) -> None:
        self.before.clear()
        self._reactor.callFromThread(self.begun.callback, None)
        self.go_on.wait(60)
