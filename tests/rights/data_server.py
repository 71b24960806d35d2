"""A data server of a closed cluster, in memory but for its folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filefly.daemon.failures import Failures
from filefly.daemon.protocol import ServerFactory
from filefly.data.blocks import BlockStore
from filefly.data.rights import DataGuard
from filefly.data.server import DataServer
from tests.data.disks import QuickDisk, take
from tests.fuzz.nowhere import Nowhere
from tests.peer import inline
from tests.rights.talking import Secret, Server
from tests.rights.tickets import STORAGE


@contextmanager
def closed_data_server(folder: Path) -> Iterator[Server]:
    """Run one, with its blocks in `folder`, until the end of the block."""
    clock, secret = Nowhere(), Secret()
    storage = take(folder)
    assert STORAGE == storage.storage_id
    store = BlockStore(storage, QuickDisk())
    guard = DataGuard(secret, store.identity, lambda: server.now, Failures(clock))
    verbs = DataServer(store, inline, clock, guard)
    server = Server(ServerFactory(clock, verbs, guard=guard), secret, clock.pass_time)
    try:
        yield server
    finally:
        verbs.stop()
        storage.release()
