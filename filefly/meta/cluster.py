"""The data servers as the metadata server knows them: who they are, how they are, and questions to them."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from msgspec.structs import replace

from filefly.catalog.inventory import DataServerRow
from filefly.catalog.plans import Plan, PlanBlock
from filefly.client.connection import ConnectionPool
from filefly.client.transfer import BlockTransfer, Report
from filefly.daemon.secrets import SecretFile, prove_to_data_servers
from filefly.errors import Busy, NotFound, TimedOut, Unauthorized, Unavailable, WrongStorage
from filefly.security.tickets import TICKET_SECONDS, Right, Ticket, issue_ticket
from filefly.threads import InThread
from filefly.wire.address import resolve
from filefly.wire.blocks import (
    Adopt,
    BlockList,
    BlockSum,
    Copy,
    Delete,
    ListBlocks,
    Quarantine,
    Quarantined,
    SetAside,
    Stat,
)
from filefly.wire.messages import Block, ListedFile, Metadata, Ping, Pong, Replica, Reply
from filefly.wire.names import split_block_id
from filefly.wire.tls.files import Tls

CANNOT_BE_ASKED = (Unavailable, TimedOut, WrongStorage, Busy)
"""What says of a data server that it cannot be asked now; other errors are about what it was asked."""

AT_ONCE = 8
"""How many questions to data servers one request may have under way."""

_THIS_MACHINE = "localhost"
_TIMEOUT_SECONDS = 20.0
_WHOLE_BLOCK_TIMEOUT_SECONDS = 120.0
"""For what reads or writes a whole block before it is answered."""

_NO_TICKETS: Mapping[str, str] = {}


def _unheard(_block_id: str, _address: str) -> None:
    """Hear of a bad replica where nobody listens."""


@frozen
class Condition:
    """How a data server is: `state` is up, suspect or down; `away` says that its replicas do not count any more."""

    state: str = "suspect"
    full: bool = False
    away: bool = False


_UNHEARD_OF = Condition()


class Cluster:
    """The data servers of one catalog, by key. `:PORT` in an address means this machine.

    `report` hears of bad replicas that this process itself came across. With a `secret` it proves itself to them.
    """

    def __init__(
        self,
        reactor: Any,
        in_thread: InThread,
        report: Report = _unheard,
        secret: SecretFile | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.servers: dict[int, DataServerRow] = {}
        self.told: dict[int, str] = {}
        """What clients are told of each data server's address."""
        self.conditions: Mapping[int, Condition] = {}
        """As Health sees them; who was not heard of yet is suspect."""
        self._replicas: Mapping[int, Replica] = {}
        self._internal_replicas: Mapping[int, Replica] = {}
        self._reactor = reactor
        self._secret = secret
        sign_in = prove_to_data_servers(secret, self._check_storage)
        self._pool = ConnectionPool(reactor, _THIS_MACHINE, _TIMEOUT_SECONDS, sign_in, tls)
        self._patient_pool = ConnectionPool(reactor, _THIS_MACHINE, _WHOLE_BLOCK_TIMEOUT_SECONDS, sign_in, tls)
        self.transfer = BlockTransfer(reactor, self._pool, in_thread, AT_ONCE, report)

    def take(self, rows: Sequence[DataServerRow]) -> None:
        """Go by these rows of the catalog from now on."""
        self.servers = {row.key: row for row in rows}
        self.told = {row.key: row.told for row in rows}
        self._replicas = {server: Replica(address) for server, address in self.told.items() if address}
        self._internal_replicas = {row.key: Replica(row.address) for row in rows if row.address}

    def condition(self, server: int) -> Condition:
        """Return how a data server is."""
        return self.conditions.get(server, _UNHEARD_OF)

    def up(self) -> list[int]:
        """Return the data servers that answer, with the right storage."""
        return [server for server in self.servers if self.condition(server).state == "up"]

    def placing(self) -> list[int]:
        """Return the data servers that get new blocks, in a stable order: none that is down, draining or full.

        In a closed cluster also none that has not proved yet that it is of this cluster.
        """
        return [row.key for row in self.servers.values() if row.placing and not row.draining and self._takes(row)]

    def _takes(self, row: DataServerRow) -> bool:
        condition = self.condition(row.key)
        known = self._secret is None or row.storage_id is not None
        return known and condition.state != "down" and not condition.full

    def start(self) -> None:
        """Nothing to start: connections are made as they are needed."""

    def stop(self) -> None:
        """Close the connections."""
        self._pool.close()
        self._patient_pool.close()

    # Questions to data servers

    async def ping(self, server: int) -> Pong:
        """Return who a data server is and how much room it has; raises Unavailable or TimedOut."""
        return await self.ping_address(self._address(server))

    async def ping_address(self, address: str) -> Pong:
        """Return who is at an address."""
        return await self._pool.request(address, Ping(identity=True), Pong)

    async def adopt(self, server: int, catalog_id: str, generation: int, force: bool = False) -> None:
        """Tell a storage whose it is, and the highest generation that was given."""
        adopt = Adopt(self._storage_id(server), catalog_id, generation, force)
        await self._pool.request(self._address(server), adopt, Reply)

    async def find(self, server: int, block_id: str, verify: bool) -> BlockSum | None:
        """Return what a data server has of a block, with `verify` its checksum too; None if it has none of it."""
        address = self._address(server)
        stat = Stat(block_id, verify, self.servers[server].storage_id)
        try:
            return await self._patient_pool.request(address, stat, BlockSum)
        except NotFound:
            return None

    async def list_blocks(self, server: int, after: str, limit: int) -> BlockList:
        """Return a page of the blocks that a data server has."""
        return await self._pool.request(self._address(server), ListBlocks(after, limit), BlockList)

    async def delete(self, server: int, block_id: str) -> None:
        """Have a data server delete a block for good."""
        await self._pool.request(self._address(server), Delete(block_id, self._storage_id(server)), Reply)

    async def set_aside(self, server: int, block_id: str) -> None:
        """Have a data server move a block that nobody knows away."""
        await self._pool.request(self._address(server), SetAside(block_id, self._storage_id(server)), Reply)

    async def quarantine(self, server: int, block_id: str, crc32c: str) -> bool:
        """Have a data server move a block away if it is corrupt; return whether it was."""
        quarantine = Quarantine(block_id, crc32c, self._storage_id(server))
        return (await self._patient_pool.request(self._address(server), quarantine, Quarantined)).quarantined

    async def copy(self, block_id: str, crc32c: str, source: int, target: int) -> None:
        """Have the data server `target` fetch a block from `source`; raises Corrupt if that has another one."""
        ticket = self._ticket_to_copy(block_id, source)
        copy = Copy(block_id, self._address(source), crc32c, self._storage_id(target), ticket)
        await self._patient_pool.request(self._address(target), copy, BlockSum)

    def _ticket_to_copy(self, block_id: str, source: int) -> str | None:
        """Return what lets a data server read one block from another."""
        parts = split_block_id(block_id)
        if self._secret is None or parts is None:
            return None
        stem, index, generation = parts
        expires = int(self._reactor.seconds()) + TICKET_SECONDS
        ticket = Ticket(self._storage_id(source), Right.RETRIEVE, stem, generation, 1 << index, 0, 0, expires)
        return issue_ticket(self._secret.keyring, ticket)

    def _address(self, server: int) -> str:
        address = self.servers[server].address if server in self.servers else None
        if address is None:
            raise Unavailable("the storage is seen at no address")
        return address

    def _check_storage(self, address: str, storage_id: str) -> None:
        """Raise Unauthorized where somebody passes on what a data server says that is up at another address."""
        for row in (self.servers[server] for server in self.up()):
            if row.storage_id == storage_id and row.address and resolve(row.address, _THIS_MACHINE) != address:
                raise Unauthorized(f"it says that it is the data server at {row.address}, but that is up there")

    def _storage_id(self, server: int) -> str:
        storage_id = self.servers[server].storage_id
        if storage_id is None:
            raise Unavailable("the data server was not heard from yet")
        return storage_id

    # Plans as clients are told them, and as this process reads them

    def storage_ids_of(self, servers: Sequence[int]) -> dict[str, str]:
        """Return which storages are behind the addresses that clients are told."""
        rows = [self.servers[server] for server in servers if server in self.servers]
        return {row.told: row.storage_id for row in rows if row.storage_id is not None}

    def metadata_of(self, plan: Plan, internal: bool = False, tickets: Mapping[str, str] = _NO_TICKETS) -> Metadata:
        """Return a plan as it goes over the wire, with `internal` addresses for this process's own reads."""
        storage_ids = {}
        if plan.explicit and not plan.committed:
            storage_ids = self.storage_ids_of(list({server for block in plan.blocks for server in block.servers}))
        return Metadata(
            name=plan.name,
            total_size=plan.total_size,
            block_size=plan.block_size,
            generation=plan.generation,
            state=plan.state,
            replicas=plan.replicas,
            blocks=[self.block_of(block, plan.committed, internal) for block in plan.blocks],
            modified=plan.modified,
            attributes=plan.attributes,
            storage_ids=storage_ids,
            tickets=tickets,
        )

    def with_blocks(
        self, file: ListedFile, blocks: Sequence[PlanBlock], tickets: Mapping[str, str] = _NO_TICKETS
    ) -> ListedFile:
        """Return a line of a listing with the file's blocks."""
        told = [self.block_of(block, committed=True) for block in blocks]
        return replace(file, blocks=told, tickets=tickets)

    def block_of(self, block: PlanBlock, committed: bool, internal: bool = False) -> Block:
        """Return a block as it goes over the wire; a committed one's data servers that are down come last."""
        servers: Sequence[int] = block.servers
        if committed and len(servers) > 1:
            servers = sorted(servers, key=lambda server: self.condition(server).state == "down")
        replicas = self._internal_replicas if internal else self._replicas
        places = [replicas[server] for server in servers if server in replicas]
        first = places[0].data_server if places else ""
        return Block(id=block.id, size=block.size, data_server=first, replicas=places, crc32c=block.crc32c)
