"""What heals a cluster, on a real catalog, with data servers that are dictionaries: tests interfere at any time."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from sqlalchemy import insert, select
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock

from filefly.catalog.commits import StoredReplicas
from filefly.catalog.database import Database
from filefly.catalog.inventory import data_server_rows, set_draining
from filefly.catalog.plans import Plan
from filefly.catalog.repairs import Place, note_repairs
from filefly.catalog.replicas import StoredBlock, stored_block
from filefly.catalog.schema import repairs, trash
from filefly.errors import Corrupt, FileFlyError, NotFound, Unavailable
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster, Condition
from filefly.meta.repair import Repairer
from filefly.meta.running_time import RunningTime
from filefly.meta.scrub import Scrubber
from filefly.meta.transactions import Transactions
from filefly.threads import WorkerPool
from filefly.wire.blocks import BlockSum
from tests.catalog.catalogs import BLOCK_SIZE, commit, done, open_catalog, plan, seen, trashed
from tests.meta.running import sum_of
from tests.on_reactor import next_turn

GRACE = 600
RATE = 7
SCRUB_PERIOD = 1000
UP, SUSPECT = Condition("up"), Condition("suspect")
DOWN, AWAY = Condition("down"), Condition("down", away=True)
FULL = Condition("up", full=True)

Interference = Callable[..., Awaitable[None]]


class SimulatedCluster(Cluster):
    """A cluster whose data servers are dictionaries of blocks; those that do not answer cannot be reached.

    `before` and `after` have what happens around a question, by its name; it gets the question's arguments.
    """

    def __init__(self, reactor: Any, pool: WorkerPool) -> None:
        super().__init__(reactor, pool)
        self.blocks: dict[int, dict[str, bytes]] = {}
        self.quarantined: list[tuple[int, str]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.before: dict[str, Interference] = {}
        self.after: dict[str, Interference] = {}

    def become(self, **states: Condition) -> None:
        """Set how data servers are, by their key: `s1=DOWN`."""
        changed = {int(name[1:]): condition for name, condition in states.items()}
        self.conditions = {**self.conditions, **changed}

    async def find(self, server: int, block_id: str, verify: bool) -> BlockSum | None:
        await self._begin("find", server, block_id)
        data = self._held(server).get(block_id)
        await self._end("find", server, block_id)
        return None if data is None else BlockSum(len(data), sum_of(data) if verify else None)

    async def quarantine(self, server: int, block_id: str, crc32c: str) -> bool:
        await self._begin("quarantine", server, block_id)
        held = self._held(server)
        if block_id not in held:
            raise NotFound("block not found")
        if sum_of(held[block_id]) == crc32c:
            return False
        del held[block_id]
        self.quarantined.append((server, block_id))
        return True

    async def copy(self, block_id: str, crc32c: str, source: int, target: int) -> None:
        await self._begin("copy", source, target, block_id)
        data = self._held(source).get(block_id)
        if data is None:
            raise NotFound("block not found")
        if sum_of(data) != crc32c:
            raise Corrupt
        self._held(target)[block_id] = data
        await self._end("copy", source, target, block_id)

    async def _begin(self, question: str, *args: Any) -> None:
        self.asked.append((question, *args))
        if question in self.before:
            await self.before[question](*args)
        await next_turn()

    async def _end(self, question: str, *args: Any) -> None:
        if question in self.after:
            await self.after[question](*args)

    def _held(self, server: int) -> dict[str, bytes]:
        if self.condition(server).state != "up":
            raise Unavailable("cannot reach it")
        return self.blocks.setdefault(server, {})

    def copies(self) -> list[tuple[int, int, str]]:
        """Return what was copied: from where, to where, which block."""
        return [tuple(args) for question, *args in self.asked if question == "copy"]


@define(eq=False)
class Healing:
    """A catalog, simulated data servers, and what checks, repairs and scrubs them; time passes when a test says so."""

    reactor: Any
    folder: Path
    servers: int
    now: float = 1000.0
    clock: Clock = field(factory=Clock)
    database: Database = field(init=False)
    transactions: Transactions = field(init=False)
    cluster: SimulatedCluster = field(init=False)
    checker: Checker = field(init=False)
    repairer: Repairer = field(init=False)
    scrubber: Scrubber = field(init=False)
    _parts: list[Any] = field(factory=list)

    def start(self) -> None:
        """Start all but the loops."""
        blocks = self.cluster.blocks if self._parts else {}
        self.database = open_catalog(self.folder, self.servers)
        pool = WorkerPool(self.reactor, "compute", 1)
        self.transactions = Transactions(self.reactor, self.database)
        self.cluster = SimulatedCluster(self.reactor, pool)
        self.cluster.blocks = blocks
        self.cluster.take(seen(self.database, data_server_rows))
        self.cluster.become(**{f"s{key}": UP for key in self.cluster.servers})
        self.checker = Checker(self.transactions, self.cluster)
        time = RunningTime(lambda: self.now, 0)
        time._origin = 0.0  # running time is `now`
        self.repairer = Repairer(
            self.clock, self.transactions, self.cluster, self.checker, time, lambda: int(self.now) + GRACE, RATE
        )
        self.scrubber = Scrubber(self.clock, self.transactions, self.cluster, self.checker, time, SCRUB_PERIOD)
        self._parts = [pool, self.transactions, self.cluster, self.checker]
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """Stop all but the loops."""
        for part in reversed(self._parts):
            part.stop()

    def store(
        self, name: str, data: bytes, servers: tuple[int, ...], stored: tuple[int, ...] | None = None, **fields: Any
    ) -> Plan:
        """Store a file on `servers`, though only `stored` ones have its blocks."""
        found = servers if stored is None else stored
        parts = [data[at : at + BLOCK_SIZE] for at in range(0, len(data), BLOCK_SIZE)]
        planned = plan(self.database, name, len(data), servers, **fields)
        committed = commit(self.database, planned, stored=[StoredReplicas(sum_of(part), found) for part in parts])
        for block, part in zip(planned.blocks, parts, strict=True):
            for server in found:
                self.cluster.blocks.setdefault(server, {})[block.id] = part
        return committed

    def flip(self, server: int, block_id: str) -> None:
        """Let a disk rot: another last byte."""
        held = self.cluster.blocks[server]
        held[block_id] = held[block_id][:-1] + bytes([held[block_id][-1] ^ 1])

    def lose(self, server: int, block_id: str) -> None:
        """Let a block file be deleted by hand."""
        del self.cluster.blocks[server][block_id]

    def block(self, stored: Plan, position: int = 0) -> StoredBlock:
        """Return what the catalog says of a block that there is."""
        found = seen(self.database, stored_block, Place(stored.generation, position))
        assert found is not None
        return found

    def holders(self, block_id: str) -> list[int]:
        """Return which data servers have a block."""
        return [server for server, held in sorted(self.cluster.blocks.items()) if block_id in held]

    def note(self, stored: Plan, position: int = 0) -> None:
        """Note a block for repair."""
        done(self.database, note_repairs, [Place(stored.generation, position)])

    def drain(self, server: int, draining: bool = True) -> None:
        """Have a data server drained, or not."""
        name = self.cluster.servers[server].address
        self.cluster.take(done(self.database, set_draining, name, draining))

    def displaced(self) -> list[int]:
        """Return the data servers whose replicas were replaced."""
        return [row.key for row in seen(self.database, data_server_rows) if row.displaced]

    def queue(self) -> list[tuple[int, int, int, int]]:
        """Return the repairs: generation, position, remaining and due."""
        c = repairs.c
        query = select(c.generation, c.position, c.remaining, c.due).order_by(c.generation, c.position)
        return [tuple(row) for row in seen(self.database, lambda connection: connection.execute(query).all())]

    def trash(self) -> list[tuple[str, int]]:
        """Return the replicas that are trash."""
        return seen(self.database, trashed)

    def put_trash(self, block_id: str, server: int) -> None:
        """Have a data server get rid of something, soon."""
        row = {"block_id": block_id, "server": server, "due": 0}
        done(self.database, lambda connection: connection.execute(insert(trash).values(row)) and None)

    async def heal(self, rounds: int = 3) -> None:
        """Let repair go round some times, as fast as its clock is turned."""
        for _ in range(rounds):
            await self.until_done(self.repairer.round())

    async def scrub(self) -> None:
        """Let the scrub go round once."""

        async def go_round() -> None:
            await self.scrubber.round()
            await DeferredList(list(self.scrubber.under_way.values()))

        await self.until_done(go_round())

    async def until_done(self, doing: Any) -> Any:
        """Let what waits for the clock go on until it is done, and return its result."""
        outcome = Deferred.fromCoroutine(doing)
        while not outcome.called:
            if self.clock.getDelayedCalls():
                self.clock.advance(0.5)
            await next_turn()
        return await outcome


@asynccontextmanager
async def healing(reactor: Any, folder: Path, servers: int = 3) -> AsyncIterator[Healing]:
    """Run what heals, with so many data servers, until the end of the block."""
    found = Healing(reactor, folder, servers)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def raising(error: FileFlyError, *arguments: Any) -> Interference:
    """Raise `error` when a question has these first arguments."""

    async def interfere(*args: Any) -> None:
        if args[: len(arguments)] == arguments:
            raise error

    return interfere


def once(interfere: Callable[[], Any]) -> Interference:
    """Do something the first time only."""
    left = [interfere]

    async def first(*_args: Any) -> None:
        if left:
            left.pop()()

    return first
