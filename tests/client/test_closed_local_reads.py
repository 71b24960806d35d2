"""Local reads from a data server of a closed cluster: the local socket wants to see the same tickets."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from filefly.client.tickets import Tickets
from filefly.client.transfer import BlockTransfer
from filefly.daemon.failures import Failures
from filefly.daemon.protocol import ServerFactory
from filefly.daemon.service import DaemonService
from filefly.data.blocks import BlockStore
from filefly.data.local import WithLocalSocket
from filefly.data.rights import DataGuard
from filefly.data.server import DataServer
from filefly.errors import Unauthorized
from filefly.security.tickets import Right
from filefly.threads import WorkerPool
from filefly.wire.address import listening_endpoint
from tests.client.clusters import pooling
from tests.client.faults import Proxy, flip_every_bulk, proxy_of
from tests.client.local import DATA, Written, block_at
from tests.data.closed import NOW, KnownSecret, a_ticket
from tests.data.disks import QuickDisk, take
from tests.data.running import give_unique_id
from tests.descriptors import none_left
from tests.on_reactor import on_reactor
from tests.peer import inline


@asynccontextmanager
async def closed_node(reactor: Any, folder: Path) -> AsyncIterator[tuple[int, str]]:
    """Run a data server that has the block `a-0`, and yield its port and its storage id."""
    give_unique_id(folder)
    (folder / "a-0").write_bytes(DATA)
    storage, pool = take(folder), WorkerPool(reactor, "disk", 1)
    store = BlockStore(storage, QuickDisk())
    guard = DataGuard(KnownSecret(), store.identity, lambda: NOW, Failures(reactor))
    server = DataServer(store, pool, reactor, guard)
    factory = ServerFactory(reactor, server, guard=guard)
    endpoint = WithLocalSocket(
        reactor, listening_endpoint(reactor, "127.0.0.1:0"), storage.storage_id, server.listens_beside
    )
    service = DaemonService(reactor, "filefly-data", endpoint, factory, [pool, server])
    service.startService()
    port: Any = service._port
    try:
        yield port.getHost().port, storage.storage_id
    finally:
        await service.stopService()
        storage.release()


@define(eq=False)
class Fetching:
    """Such a data server behind a proxy over which only lines come unharmed, a transfer, and tickets."""

    proxy: Proxy
    transfer: BlockTransfer
    storage_id: str
    tickets: Tickets = field(init=False)
    asked: int = 0

    def show(self, reactor: Any, first: str) -> None:
        """Begin with this ticket; those that are asked for are valid."""

        async def ask() -> Mapping[str, str]:
            self.asked += 1
            return {self.proxy.address: self.ticket()}

        self.tickets = Tickets(reactor, ask, {self.proxy.address: first})

    def ticket(self, expires: float = NOW + 900) -> str:
        """Return a ticket for the block."""
        size = len(DATA)
        plan: dict[str, Any] = {"storage_id": self.storage_id, "total_size": size, "block_size": size}
        return a_ticket(Right.RETRIEVE, 0, **plan, expires=int(expires))

    async def fetch(self) -> bytes:
        """Fetch the block, which the proxy spoils: it comes as a file, or not at all."""
        written = Written()
        await self.transfer.fetch(block_at(self.proxy), written.write, written.count, self.tickets)
        return bytes(written.data)


@asynccontextmanager
async def fetching(reactor: Any, folder: Path) -> AsyncIterator[Fetching]:
    async with (
        none_left(),
        closed_node(reactor, folder / "data") as (port, storage_id),
        proxy_of(reactor, port) as proxy,
        pooling(reactor) as pool,
    ):
        proxy.always = flip_every_bulk
        yield Fetching(proxy, BlockTransfer(reactor, pool, inline, 4), storage_id)


@on_reactor
async def test_a_block_is_read_by_its_file(reactor: Any, tmp_path: Path) -> None:
    """With the ticket that is shown over TCP elsewhere."""
    async with fetching(reactor, tmp_path) as here:
        here.show(reactor, here.ticket())
        assert DATA == await here.fetch()
        assert 0 == here.asked


@on_reactor
async def test_a_ticket_that_has_expired_does_not_end_local_reads(reactor: Any, tmp_path: Path) -> None:
    """It is renewed; then the block and those that follow still come as files."""
    async with fetching(reactor, tmp_path) as here:
        here.show(reactor, here.ticket(expires=NOW))
        assert [DATA, DATA] == [await here.fetch(), await here.fetch()]
        assert 1 == here.asked


@on_reactor
async def test_without_a_ticket_there_is_no_file(reactor: Any, tmp_path: Path) -> None:
    """Everybody on the machine can reach the local socket."""
    async with fetching(reactor, tmp_path) as here:
        local_socket = await here.transfer._local.socket_of(here.proxy.address)
        assert local_socket is not None
        with pytest.raises(Unauthorized, match=r"^this takes a ticket"):
            async with here.transfer._local.opened(local_socket, "a-0"):
                pass
