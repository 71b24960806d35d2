"""A whole cluster in this process: real servers on loopback ports, real files below one folder."""

import json
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from crc32c import crc32c

from filefly.client.api import Client
from filefly.daemon.options import defaults_of
from filefly.daemon.protocol import ServerFactory
from filefly.daemon.service import DaemonService
from filefly.data.blocks import BlockStore
from filefly.data.local import WithLocalSocket
from filefly.data.server import DataServer
from filefly.data.storage import Storage
from filefly.meta.health import Health
from filefly.meta.tap import META_PARAMETERS, meta_service, take_catalog
from filefly.meta.trash import TrashCollector
from filefly.threads import WorkerPool
from filefly.wire.address import listening_endpoint
from filefly.wire.messages import MAX_BLOCK_SIZE
from tests.caller import Caller, calling
from tests.catalog.catalogs import url_of
from tests.data.disks import QuickDisk, take
from tests.data.running import give_unique_id
from tests.on_reactor import quiet

T = TypeVar("T")

BLOCK_SIZE = 7
TIMEOUT_SECONDS = 20


def _port_of(service: DaemonService) -> int:
    port: Any = service._port
    return int(port.getHost().port)


@define(eq=False)
class DataNode:
    """A data server; it comes back at its port."""

    reactor: Any
    folder: Path
    max_block_size: int = MAX_BLOCK_SIZE
    reserve_bytes: int = 0
    local_reads: bool = False
    port: int = 0
    connections: int = 0
    _service: DaemonService | None = None
    _storage: Storage | None = None

    @property
    def address(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> "DataNode":
        """Start it."""
        if self.local_reads and not self.folder.exists():
            give_unique_id(self.folder)
        self._storage = take(self.folder)
        pool = WorkerPool(self.reactor, "disk", 4)
        store = BlockStore(self._storage, QuickDisk(), self.max_block_size, self.reserve_bytes)
        server = DataServer(store, pool, self.reactor)
        factory = _CountingFactory(self.reactor, server)
        factory.node = self
        endpoint = listening_endpoint(self.reactor, self.address)
        if self.local_reads:
            endpoint = WithLocalSocket(self.reactor, endpoint, self._storage.storage_id, server.listens_beside)
        self._service = DaemonService(self.reactor, "filefly-data", endpoint, factory, [pool, server])
        self._service.startService()
        self.port = _port_of(self._service)
        return self

    async def stop(self) -> None:
        """Stop it, if it runs; who was connected to it has noticed."""
        service, self._service = self._service, None
        if service is not None and self._storage is not None:
            await service.stopService()
            self._storage.release()
        await quiet()

    def block_ids(self) -> list[str]:
        """Return what it holds, as its files are named."""
        return sorted(file.name for file in self.folder.iterdir() if not file.name.startswith("."))

    def block(self, name: str) -> Path:
        """Return a block's file."""
        return self.folder / name

    def put(self, name: str, data: bytes) -> None:
        """Write a block file by hand."""
        self.block(name).write_bytes(data)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what its storage says of itself."""
        found: dict[str, Any] = json.loads((self.folder / ".filefly.json").read_bytes())
        return found


@asynccontextmanager
async def data_node(reactor: Any, folder: Path, local_reads: bool = False) -> AsyncIterator[DataNode]:
    """Run one data server, alone, until the end of the block."""
    node = DataNode(reactor, folder / "data", local_reads=local_reads).start()
    try:
        yield node
    finally:
        await node.stop()


class _CountingFactory(ServerFactory):
    node: DataNode

    def buildProtocol(self, addr: Any) -> Any:
        self.node.connections += 1
        return super().buildProtocol(addr)


@define(eq=False)
class RunningCluster:
    """A metadata server and data servers, and ways to talk to them."""

    reactor: Any
    folder: Path
    data: Sequence[DataNode]
    advertised: Sequence[str | None]
    options: dict[str, Any]
    monotonic: Callable[[], float]
    port: int = 0
    _meta: DaemonService | None = None
    _clients: list[Client] = field(factory=list)

    @property
    def address(self) -> str:
        """Where the metadata server is."""
        return f"127.0.0.1:{self.port}"

    def start_meta(self) -> None:
        """Start the metadata server, at the port that it had before."""
        database = take_catalog("filefly-meta", url_of(self.folder))
        listed = {node.address: told for node, told in zip(self.data, self.advertised, strict=True)}
        endpoint = listening_endpoint(self.reactor, self.address)
        self._meta = meta_service(self.reactor, database, endpoint, self.options, listed, self.monotonic)
        self._meta.startService()
        self.port = _port_of(self._meta)

    async def stop_meta(self) -> None:
        """Stop the metadata server."""
        meta, self._meta = self._meta, None
        if meta is not None:
            await meta.stopService()

    def part(self, kind: type[T]) -> T:
        """Return the part of the metadata server that is of this kind."""
        assert self._meta is not None
        [found] = [part for part in self._meta._parts if isinstance(part, kind)]
        return found

    async def check_health(self) -> None:
        """Ask every data server how it is."""
        await self.part(Health).round()

    async def collect_trash(self) -> None:
        """Delete what is due now, where that can be."""
        await self.check_health()
        await self.part(TrashCollector).round()

    def calling(self) -> Any:
        """Connect to the metadata server, as `nc` does."""
        return calling(self.reactor, self.port)

    def client(self, concurrency: int = 4) -> Client:
        """Make a client, which is closed in the end."""
        client = Client(self.reactor, self.address, concurrency=concurrency, timeout_seconds=TIMEOUT_SECONDS)
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        """Stop everything."""
        for client in self._clients:
            client.close()
        await self.stop_meta()
        for node in self.data:
            await node.stop()

    def nodes(self, *addresses: str) -> list[DataNode]:
        """Return the data servers at `addresses`."""
        return [node for address in addresses for node in self.data if node.address == address]

    def block_ids(self) -> list[str]:
        """Return what is on all data servers, a replica an entry."""
        return sorted(block_id for node in self.data for block_id in node.block_ids())


@asynccontextmanager
async def running(
    reactor: Any,
    folder: Path,
    data_servers: int = 2,
    advertised: Sequence[str | None] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    local_reads: bool = False,
    **options: Any,
) -> AsyncIterator[RunningCluster]:
    """Run a cluster with blocks of 7 bytes until the end of the block; `options` are the metadata server's.

    Its running time goes by `monotonic`.
    """
    nodes = [
        DataNode(reactor, folder / f"data{number}", local_reads=local_reads).start()
        for number in range(1, data_servers + 1)
    ]
    chosen = defaults_of(META_PARAMETERS)
    # Health is looked at once, at the start: a test that is about it asks again itself.
    chosen |= {"block-size": BLOCK_SIZE, "health-interval": 3600}
    chosen |= {name.replace("_", "-"): value for name, value in options.items()}
    cluster = RunningCluster(reactor, folder, nodes, advertised or [None] * data_servers, chosen, monotonic)
    try:
        cluster.start_meta()
        yield cluster
    finally:
        await cluster.stop()


@asynccontextmanager
async def asking(
    reactor: Any, folder: Path, data_servers: int = 2, **options: Any
) -> AsyncIterator[tuple[RunningCluster, Caller]]:
    """Run a cluster and talk to its metadata server."""
    async with running(reactor, folder, data_servers, **options) as cluster, cluster.calling() as caller:
        yield cluster, caller


async def pass_time(cluster: RunningCluster, seconds: float) -> None:
    """Let time pass on the metadata server, and what is over end."""
    clock: Any = cluster.monotonic
    clock.now += seconds
    await cluster.collect_trash()


async def push(cluster: RunningCluster, metadata: Any, data: bytes, only: Sequence[int] | None = None) -> None:
    """Store the blocks of a plan, or those numbered `only`, on every planned data server, as a person would by `nc`."""
    offset = 0
    for number, block in enumerate(metadata["blocks"]):
        part = data[offset : offset + block["size"]]
        offset += block["size"]
        if only is None or number in only:
            for replica in block["replicas"]:
                port = int(replica["data_server"].rpartition(":")[2])
                async with calling(cluster.reactor, port) as caller:
                    reply = await caller.ask(part, command="store", block_id=block["id"], size=len(part))
                    assert reply["status"] == "ok", reply


async def plan_of(caller: Caller, name: str = "a", size: int = 10, **fields: object) -> Any:
    """Plan a file and return its metadata; the data is to be pushed."""
    reply = await caller.ask(command="store_file", file_name=name, file_size=size, **fields)
    assert reply["status"] == "ok", reply
    return reply["metadata"]


async def put(cluster: RunningCluster, caller: Caller, name: str, data: bytes, **fields: object) -> Any:
    """Store a file as a program does, explicitly, and return its metadata."""
    plan = await plan_of(caller, name, len(data), explicit=True, **fields)
    await push(cluster, plan, data)
    reply = await caller.ask(command="complete_file", file_name=name, generation=plan["generation"])
    assert reply["status"] == "ok", reply
    return reply["metadata"]


async def bytes_of(caller: Caller, name: str) -> bytes:
    """Return what readers see of a file."""
    reply = await caller.ask(command="fetch_file", file_name=name)
    assert reply["status"] == "ok", reply
    return b64decode(reply["data"], validate=True)


def sum_of(data: bytes) -> str:
    """Return a CRC32C as the wire spells it."""
    return f"{crc32c(data):08x}"


def error(sentence: str, code: str) -> dict[str, str]:
    """Return the reply that says no."""
    return {"status": "error", "error": sentence, "code": code}


NOT_FOUND = error("file not found", "not_found")


async def state_of(caller: Caller, name: str = "a") -> tuple[str, int]:
    """Return whether a file is committed, and its generation."""
    reply = await caller.ask(command="get_metadata", file_name=name)
    return reply["metadata"]["state"], reply["metadata"]["generation"]


def reports(plan: Any, data: bytes) -> list[dict[str, Any]]:
    """Say of each block that it is stored everywhere."""
    stored, offset = [], 0
    for block in plan["blocks"]:
        crc32c = sum_of(data[offset : offset + block["size"]])
        stored.append({"id": block["id"], "crc32c": crc32c, "replicas": block["replicas"]})
        offset += block["size"]
    return stored


def not_open(plan: Any) -> dict[str, str]:
    """Return the reply that says that a plan is over."""
    return error(f"plan {plan['generation']} is not open: it was ended, replaced or deleted", "conflict")
