"""The parts of a metadata server with real data servers, their loops left to the test."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.task import Clock

from filefly.catalog.commits import StoredReplicas
from filefly.catalog.database import Database
from filefly.catalog.inventory import take_data_servers
from filefly.catalog.plans import Plan
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster
from filefly.meta.commits import Committer
from filefly.meta.health import Health
from filefly.meta.repair import Repairer
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.meta.trash import TrashCollector
from filefly.threads import WorkerPool
from filefly.units import MIB
from tests.catalog.catalogs import BLOCK_SIZE, MODIFIED, commit, done, open_catalog, plan
from tests.meta.running import DataNode, sum_of

GRACE_SECONDS = 600
DAY_SECONDS = 86400


@define
class Monotonic:
    """A monotonic clock that the test turns."""

    now: float = 5_000_000.0

    def __call__(self) -> float:
        return self.now


@define(eq=False)
class Bench:
    """A catalog, data servers with the keys 1, 2, ..., and what looks after them; nothing happens by itself."""

    reactor: Any
    folder: Path
    nodes: list[DataNode]
    monotonic: Monotonic = field(factory=Monotonic)
    clock: Clock = field(factory=Clock)
    database: Database = field(init=False)
    compute: WorkerPool = field(init=False)
    transactions: Transactions = field(init=False)
    cluster: Cluster = field(init=False)
    time: RunningTime = field(init=False)
    health: Health = field(init=False)
    checker: Checker = field(init=False)
    trash: TrashCollector = field(init=False)
    repairer: Repairer = field(init=False)

    def start(self) -> None:
        """Make all parts, and start what has threads."""
        self.database = open_catalog(self.folder, servers=0)
        self.compute = WorkerPool(self.reactor, "compute", 1)
        self.transactions = Transactions(self.reactor, self.database)
        self.cluster = Cluster(self.reactor, self.compute)
        self.cluster.take(done(self.database, take_data_servers, {node.address: None for node in self.nodes}))
        self.time = RunningTime(self.monotonic, 0)
        parts = (self.clock, self.transactions, self.cluster)
        self.health = Health(*parts, self.time, 5, 15, GRACE_SECONDS)
        self.trash = TrashCollector(
            *parts, self.health, self.time, GRACE_SECONDS, DAY_SECONDS, lambda generation: committer.settle(generation)
        )
        committer = Committer(self.transactions, self.cluster, self.time, lambda: MODIFIED, self.trash.due)
        self.checker = Checker(self.transactions, self.cluster)
        self.repairer = Repairer(*parts, self.checker, self.time, self.trash.due, 100 * MIB)
        self.compute.start()
        self.transactions.start()

    def stop(self) -> None:
        """Stop what has threads."""
        self.cluster.stop()
        self.compute.stop()
        self.transactions.stop()

    def node(self, server: int) -> DataNode:
        """Return the data server with a key."""
        return self.nodes[server - 1]

    # Files

    def plan(self, name: str, data: bytes, servers: tuple[int, ...] = (1,), **fields: Any) -> Plan:
        """Plan a file and put its blocks on the data servers."""
        planned = plan(self.database, name, len(data), servers, **fields)
        for block, part in zip(planned.blocks, parts_of(data), strict=True):
            for server in servers:
                self.node(server).put(block.id, part)
        return planned

    def put(self, name: str, data: bytes, servers: tuple[int, ...] = (1,), **fields: Any) -> Plan:
        """Store a file: plan it, put its blocks on the data servers, commit it."""
        planned = self.plan(name, data, servers, **fields)
        stored = [StoredReplicas(sum_of(part), servers) for part in parts_of(data)]
        return commit(self.database, planned, stored=stored)

    async def down(self, server: int) -> None:
        """Stop a data server, and let it be noticed."""
        await self.node(server).stop()
        self.monotonic.now += 15
        await self.health.round()


def parts_of(data: bytes) -> Sequence[bytes]:
    """Cut a file's bytes into its blocks."""
    return [data[at : at + BLOCK_SIZE] for at in range(0, len(data), BLOCK_SIZE)]


@asynccontextmanager
async def on_a_bench(reactor: Any, folder: Path, data_servers: int = 2) -> AsyncIterator[Bench]:
    """Run data servers, all up, and the parts of a metadata server until the end of the block."""
    nodes = [DataNode(reactor, folder / f"data{number}").start() for number in range(1, data_servers + 1)]
    bench = Bench(reactor, folder, nodes)
    bench.start()
    try:
        await bench.health.round()
        yield bench
    finally:
        bench.stop()
        for node in nodes:
            await node.stop()
