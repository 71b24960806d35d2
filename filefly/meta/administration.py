"""The verbs by which a cluster is looked after."""

from typing import ClassVar

from attrs import define

from filefly.catalog.inventory import (
    DataServerRow,
    check_removable,
    forget_data_server,
    holdings,
    named_data_server,
    register_data_server,
    set_draining,
)
from filefly.catalog.replicas import forget_replicas
from filefly.catalog.scrub_passes import ScrubPass, scrub_passes
from filefly.errors import BadRequest, UnknownCommand
from filefly.meta.backup import Backups
from filefly.meta.cluster import Cluster
from filefly.meta.fsck import Inspector
from filefly.meta.health import Health
from filefly.meta.repair import Repairer
from filefly.meta.scrub import Scrubber
from filefly.meta.transactions import Transactions
from filefly.wire.address import check_client_address
from filefly.wire.administration import (
    AcceptCatalog,
    AcceptDataServer,
    BackupCatalog,
    Drain,
    DrainProgress,
    Fsck,
    RemoveDataServer,
    Scrub,
    Undrain,
)
from filefly.wire.codec import CommandTable, commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import (
    DataServerList,
    DataServerState,
    ListDataServers,
    RegisterDataServer,
    Reply,
    Request,
    ScrubProgress,
)

_FORGOTTEN_AT_ONCE = 1000


@define(eq=False)
class Administration:
    """Answers who looks after the data servers and the catalog."""

    commands: ClassVar[CommandTable] = commands_of(
        ListDataServers,
        RegisterDataServer,
        AcceptDataServer,
        Drain,
        Undrain,
        RemoveDataServer,
        Scrub,
        Fsck,
        AcceptCatalog,
        BackupCatalog,
    )

    _transactions: Transactions
    _cluster: Cluster
    _health: Health
    _repairer: Repairer
    _scrubber: Scrubber
    _inspector: Inspector
    _backups: Backups

    async def answer(self, request: Request, conversation: Conversation) -> Reply | None:
        """Carry out `request`; see filefly.daemon.protocol.Verbs."""
        match request:
            case ListDataServers():
                return await self._list()
            case RegisterDataServer():
                return await self._register(request)
            case AcceptDataServer():
                await self._health.accept(request.data_server_addr, request.take_over)
            case Drain():
                return await self._drain(request.data_server_addr)
            case Undrain():
                rows = await self._transactions.write(set_draining, request.data_server_addr, False)
                self._cluster.take(rows)
            case RemoveDataServer():
                await self._remove(request)
            case Scrub():
                await self._scrub(request.data_server_addr)
            case Fsck():
                return await self._inspector.inspect(request)
            case AcceptCatalog():
                await self._health.accept_catalog()
            case BackupCatalog():
                await self._backups.send(conversation)
                return None
            case _:
                raise UnknownCommand
        return Reply()

    async def _list(self) -> DataServerList:
        passes = await self._transactions.read(scrub_passes)
        states = [self._state(row, passes.get(row.key)) for row in self._cluster.servers.values()]
        return DataServerList(states, [self._health.suspended] if self._health.suspended else ())

    def _state(self, row: DataServerRow, scrub: ScrubPass | None) -> DataServerState:
        seen, condition = self._health.seen(row.key), self._cluster.condition(row.key)
        state = condition.state
        if state == "up":
            state = "draining" if row.draining else "full" if condition.full else "up"
        last_pong, last_checked = self._health.told_times(row.key)
        return DataServerState(
            address=row.address or "",
            healthy=condition.state == "up",
            advertised_address=row.advertised,
            last_pong=last_pong,
            last_checked=last_checked,
            error=seen.error if row.address else "its storage is seen at no address",
            state=state,
            storage_id=row.storage_id,
            free_bytes=seen.pong.free_bytes,
            total_bytes=seen.pong.total_bytes,
            scrub=None if scrub is None else _progress_of(scrub),
        )

    async def _register(self, request: RegisterDataServer) -> Reply:
        for address in (request.data_server_addr, request.advertised_addr):
            if address is not None:
                try:
                    check_client_address(address)
                except ValueError as error:
                    raise BadRequest(str(error)) from None
        rows = await self._transactions.write(register_data_server, request.data_server_addr, request.advertised_addr)
        self._cluster.take(rows)
        return Reply()

    async def _drain(self, name: str) -> DrainProgress:
        """Have a data server emptied, and tell how far that is.

        Its replicas go only after the others of each block were verified: once none is left, all were.
        """
        self._cluster.take(await self._transactions.write(set_draining, name, True))
        row = await self._transactions.read(named_data_server, name)
        left = await self._transactions.read(holdings, row.key)
        waiting = await self._repairer.why_still_there(row.key) if left.committed else None
        return DrainProgress(left.committed, left.open_plans, left.none, waiting)

    async def _remove(self, request: RemoveDataServer) -> None:
        row = await self._transactions.read(check_removable, request.data_server_addr, request.lost)
        self._cluster.take(await self._transactions.write(set_draining, request.data_server_addr, True))
        if not request.lost:
            await self._transactions.read(check_removable, request.data_server_addr, False)
        while await self._transactions.write(forget_replicas, row.key, _FORGOTTEN_AT_ONCE):
            pass
        self._cluster.take(await self._transactions.write(forget_data_server, row.key))

    async def _scrub(self, name: str | None) -> None:
        if name is None:
            servers = list(self._cluster.servers)
        else:
            servers = [(await self._transactions.read(named_data_server, name)).key]
        for server in servers:
            await self._scrubber.hurry(server)


def _progress_of(scrub: ScrubPass) -> ScrubProgress | None:
    """Return how far a pass is, once it has come to a block or somebody waits for it."""
    if not scrub.checked and not scrub.hurry and scrub.finished is None:
        return None
    return ScrubProgress(scrub.checked, scrub.total, scrub.bad, scrub.finished)
