"""Looking at a replica: is it there, is it what the catalog says, and noting it if it is not."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from filefly.catalog.inventory import catalog_row
from filefly.catalog.repairs import Place
from filefly.catalog.replicas import Bad, StoredBlock, mark, place_of, stored_block
from filefly.errors import Conflict, FileFlyError, Internal, NotFound, Unavailable
from filefly.meta.cluster import Cluster
from filefly.meta.transactions import Transactions
from filefly.wire.blocks import BlockSum
from filefly.wire.names import check_block_id

_MOST_HINTS = 1000
_HINTS_AT_ONCE = 4


class Checker:
    """Checks replicas of committed blocks; what is bad is marked, moved out of the way if corrupt, and repaired."""

    log = Logger()

    def __init__(self, transactions: Transactions, cluster: Cluster) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._hints: dict[tuple[str, str], Deferred[Any]] = {}
        self._turns = DeferredSemaphore(_HINTS_AT_ONCE)

    async def check(self, block: StoredBlock, server: int, verify: bool = True) -> Bad | None:
        """Look at a replica and return what is wrong with it; raises Unavailable, TimedOut, WrongStorage.

        Without `verify`, only its presence and its size are looked at. A replica that was given up meanwhile is fine.
        Raises Conflict for one that differs from a catalog that comes from a backup: it may be what came after that.
        """
        if server not in self._cluster.servers:
            raise Unavailable("the data server is not known any more")
        told = self._cluster.servers[server].told
        bad = await self._look(block, server, verify)
        if bad is not None or (verify and server in block.bad):
            await self._transactions.write(mark, block.place, server, bad)
        if bad is not None:
            self.log.warn(
                "block {block_id} of {name} is {bad} on {server}",
                block_id=block.id,
                name=block.name,
                bad=bad,
                server=told,
            )
        return bad

    async def _look(self, block: StoredBlock, server: int, verify: bool) -> Bad | None:
        try:
            found = await self._cluster.find(server, block.id, verify)
        except Internal as error:  # the disk cannot read it
            self.log.info("block {block_id} cannot be read: {error}", block_id=block.id, error=error)
            found = BlockSum(0)
        else:
            if found and found.size == block.size and (not verify or found.crc32c == block.crc32c):
                return None
        now = await self._transactions.read(stored_block, block.place)
        if now is None or server not in now.servers:
            return None  # the id may be another file's by now
        return "missing" if found is None else await self._quarantine(block, server)

    async def _quarantine(self, block: StoredBlock, server: int) -> Bad | None:
        if (await self._transactions.read(catalog_row)).suspended is not None:
            raise Conflict("it is not what the catalog knows, but that is older than its data: nothing is moved")
        try:
            return "corrupt" if await self._cluster.quarantine(server, block.id, block.crc32c) else None
        except NotFound:
            return "missing"
        except Internal as error:  # neither can it be moved; nobody can read it all the same
            self.log.warn("cannot move {block_id} out of the way: {error}", block_id=block.id, error=error)
            return "corrupt"

    def hint(self, block_id: str, address: str) -> None:
        """Check, soon, a replica that somebody found bad; too many hints at once are forgotten. Raises BadRequest."""
        check_block_id(block_id)
        if (block_id, address) in self._hints or len(self._hints) >= _MOST_HINTS:
            return
        rows = self._cluster.servers.values()
        server = next((row.key for row in rows if address in (row.told, row.address)), None)
        if server is None:
            return
        checking = Deferred.fromCoroutine(self._check_hint(block_id, server))
        self._hints[block_id, address] = checking
        checking.addErrback(self._hint_failed)
        checking.addCallback(self._hint_ended, (block_id, address))

    async def _check_hint(self, block_id: str, server: int) -> None:
        async with self._turns:
            place: Place | None = await self._transactions.read(place_of, block_id)
            block = None if place is None else await self._transactions.read(stored_block, place)
            if block is None or server not in block.servers:
                return
            try:
                await self.check(block, server)
            except FileFlyError as error:
                self.log.info("cannot check {block_id}: {error}", block_id=block_id, error=error)

    def _hint_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # a background job logs and goes on
            self.log.failure("checking a hint failed", failure)

    def _hint_ended(self, _result: None, hint: tuple[str, str]) -> None:
        del self._hints[hint]

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Give up the checks that are under way."""
        for checking in list(self._hints.values()):
            checking.cancel()
