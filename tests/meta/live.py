"""All that looks after a cluster, on real data servers; its loops go round, and time passes, when a test says so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock

from filefly.catalog.commits import StoredReplicas
from filefly.catalog.database import Database
from filefly.catalog.inventory import catalog_row, take_data_servers
from filefly.catalog.plans import Plan
from filefly.catalog.repairs import Place, count_repairs
from filefly.catalog.replicas import StoredBlock, stored_block
from filefly.meta.administration import Administration
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster
from filefly.meta.health import Health
from filefly.meta.repair import Repairer
from filefly.meta.running_time import RunningTime
from filefly.meta.scrub import Scrubber
from filefly.meta.transactions import Transactions
from filefly.meta.trash import TrashCollector
from filefly.threads import WorkerPool
from filefly.units import MIB
from filefly.wire.messages import DataServerList, DataServerState, ListDataServers, Request
from tests.catalog.catalogs import BLOCK_SIZE, commit, done, open_catalog, plan, seen, trashed
from tests.meta.running import DataNode, sum_of
from tests.on_reactor import next_turn

GRACE = 600
DOWN_AFTER = 15
REPAIR_DELAY = 100
SCRUB_PERIOD = 1000
PENDING_TTL = 86400
_A_MOMENT = 0.01


@define(eq=False)
class Live:
    """A catalog, data servers whose keys are 1, 2, ..., and everything that looks after them."""

    reactor: Any
    folder: Path
    nodes: list[DataNode]
    now: float = 1000.0
    clock: Clock = field(factory=Clock)
    database: Database = field(init=False)
    cluster: Cluster = field(init=False)
    health: Health = field(init=False)
    trash: TrashCollector = field(init=False)
    repairer: Repairer = field(init=False)
    scrubber: Scrubber = field(init=False)
    administration: Administration = field(init=False)
    _parts: list[Any] = field(factory=list)

    def start(self) -> None:
        """Start all but the loops."""
        self.database = open_catalog(self.folder, servers=0)
        pool = WorkerPool(self.reactor, "compute", 1)
        transactions = Transactions(self.reactor, self.database)
        self.cluster = Cluster(self.reactor, pool)
        self.cluster.take(done(self.database, take_data_servers, {node.address: None for node in self.nodes}))
        started = self.now - seen(self.database, catalog_row).running_seconds
        time = RunningTime(lambda: self.now - started, 0)
        self.health = Health(self.clock, transactions, self.cluster, time, 5, DOWN_AFTER, REPAIR_DELAY)
        unused: Any = None  # fsck, backups and implicit plans
        self.trash = TrashCollector(
            self.clock, transactions, self.cluster, self.health, time, GRACE, PENDING_TTL, unused
        )
        checker = Checker(transactions, self.cluster)
        due = self.trash.due
        self.repairer = Repairer(self.clock, transactions, self.cluster, checker, time, due, 100 * MIB)
        self.scrubber = Scrubber(self.clock, transactions, self.cluster, checker, time, SCRUB_PERIOD)
        self.administration = Administration(
            transactions, self.cluster, self.health, self.repairer, self.scrubber, unused, unused
        )
        self._parts = [pool, transactions, self.cluster, checker]
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """Stop all but the loops."""
        for part in reversed(self._parts):
            part.stop()

    def store(self, name: str, data: bytes, servers: tuple[int, ...], **fields: Any) -> Plan:
        """Store a file on `servers`."""
        parts = [data[at : at + BLOCK_SIZE] for at in range(0, len(data), BLOCK_SIZE)]
        planned = plan(self.database, name, len(data), servers, **fields)
        for block, part in zip(planned.blocks, parts, strict=True):
            for server in servers:
                self.nodes[server - 1].put(block.id, part)
        return commit(self.database, planned, stored=[StoredReplicas(sum_of(part), servers) for part in parts])

    def block(self, stored: Plan, position: int = 0) -> StoredBlock:
        """Return what the catalog says of a block that there is."""
        found = seen(self.database, stored_block, Place(stored.generation, position))
        assert found is not None
        return found

    def file(self, server: int, block_id: str) -> Path:
        """Return a block's file."""
        return self.nodes[server - 1].block(block_id)

    def flip(self, server: int, block_id: str) -> bytes:
        """Let a disk rot: another last byte; return what is there now."""
        file = self.file(server, block_id)
        data = file.read_bytes()
        rotten = data[:-1] + bytes([data[-1] ^ 1])
        file.write_bytes(rotten)
        return rotten

    async def stop_server(self, server: int) -> None:
        """Stop a data server; who was connected to it has noticed."""
        await self.nodes[server - 1].stop()

    def start_server(self, server: int) -> None:
        """Start a data server again, at its address."""
        self.nodes[server - 1].start()

    def address(self, server: int) -> str:
        """Return where a data server is."""
        return self.nodes[server - 1].address

    @property
    def there(self) -> list[list[str]]:
        """What each data server holds."""
        return [node.block_ids() for node in self.nodes]

    def trashed(self) -> list[tuple[str, int]]:
        """Return the replicas that are trash."""
        return seen(self.database, trashed)

    def waiting(self) -> int:
        """Count the blocks that wait for repair."""
        return seen(self.database, count_repairs)

    async def look(self, after: float = 0) -> None:
        """Let time pass, and the data servers be pinged."""
        self.now += after
        await self.until_done(self.health.round())

    async def heal(self, after: float = 0) -> None:
        """Let time pass, the data servers be pinged, and repair go round some times."""
        await self.look(after)
        for _ in range(3):
            await self.until_done(self.repairer.round())

    async def scrub(self, after: float = 0) -> None:
        """Let time pass, and the scrub go round."""
        self.now += after

        async def go_round() -> None:
            await self.scrubber.round()
            await DeferredList(list(self.scrubber.under_way.values()))

        await self.until_done(go_round())

    async def collect(self, after: float = 0) -> None:
        """Let time pass, and the trash be collected."""
        self.now += after
        await self.until_done(self.trash.round())

    async def ask(self, request: Request) -> Any:
        """Ask for something as who looks after the cluster does; raises what it says."""
        nobody: Any = None
        return await self.until_done(self.administration.answer(request, nobody))

    async def listed(self) -> list[DataServerState]:
        """Return what is shown of the data servers."""
        reply = await self.ask(ListDataServers())
        assert isinstance(reply, DataServerList)
        return list(reply.servers)

    async def until_done(self, doing: Any) -> Any:
        """Let what waits for its pace go on until it is done, and return its result; time-outs do not come nearer."""
        outcome = Deferred.fromCoroutine(doing)
        while not outcome.called:
            if any(call.getTime() <= self.clock.seconds() + _A_MOMENT for call in self.clock.getDelayedCalls()):
                self.clock.advance(_A_MOMENT)
            await next_turn()
        return await outcome


@asynccontextmanager
async def living(reactor: Any, folder: Path, servers: int = 3) -> AsyncIterator[Live]:
    """Run so many data servers and what looks after them, all of which are up, until the end of the block."""
    nodes = [DataNode(reactor, folder / f"data{number}").start() for number in range(1, servers + 1)]
    live = Live(reactor, folder, nodes)
    live.start()
    try:
        await live.look()
        yield live
    finally:
        live.stop()
        for node in nodes:
            await node.stop()
