"""Upload: a source on its way into the cluster, past data servers that fail."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import LoopingCall

from filefly.client.decisions import error_of_all, links_of, offsets_of, replacement_in, short_blocks, took_long
from filefly.client.errors import SourceChanged, SourceFailed
from filefly.client.files import Source, sum_of
from filefly.client.progress import Progress
from filefly.client.remote_catalog import RemoteCatalog
from filefly.client.tickets import RENEWAL_SECONDS, Tickets, tickets_of_plan
from filefly.client.transfer import BlockTransfer, run_all
from filefly.errors import FileFlyError, TimedOut, Unavailable
from filefly.threads import InThread
from filefly.wire.messages import (
    Block,
    BlockReply,
    CompleteFile,
    Metadata,
    MetadataReply,
    ReplaceReplica,
    Replica,
    StoredBlock,
    StoreFile,
)


@define(eq=False)
class _Placing:
    """Where one block goes, and where it is.

    `places` are in the plan's order; one that fails gives its place in it to another, or is dropped. `known` are all
    that there ever were, `stored` tells the sums of those that have the block.
    """

    block: Block
    offset: int
    places: list[str] = field(init=False)
    known: set[str] = field(init=False)
    stored: dict[str, str] = field(factory=dict)
    errors: dict[str, FileFlyError] = field(factory=dict)
    asking: DeferredLock = field(factory=DeferredLock)

    def __attrs_post_init__(self) -> None:
        self.places = [replica.data_server for replica in self.block.replicas]
        self.known = set(self.places)

    @property
    def done(self) -> bool:
        """Whether nothing is left to store."""
        return len(self.stored) == len(self.places)

    def replace(self, place: str, found: str | None) -> None:
        """Put what was `found` in the place of one that failed; raises if no place is left."""
        if found is not None:
            self.places[self.places.index(place)] = found
            self.known.add(found)
            return
        self.places.remove(place)
        if not self.places:
            raise error_of_all(self.block.id, "stored", self.errors)

    def report(self) -> StoredBlock:
        """Return what to tell of the block; raises SourceChanged if its replicas differ."""
        sums = set(self.stored.values())
        if len(sums) != 1:
            raise SourceChanged("the file changed while it was uploaded; upload it again")
        return StoredBlock(id=self.block.id, crc32c=sums.pop(), replicas=[Replica(place) for place in self.places])


@define(eq=False)
class Upload:
    """Stores a source as a file, block by block, each on as many of its data servers as can be had."""

    _catalog: RemoteCatalog
    _transfer: BlockTransfer
    _in_thread: InThread
    _source: Source
    _progress: Progress
    _storage_ids: dict[str, str] = field(factory=dict)
    _failed: dict[str, FileFlyError] = field(factory=dict)
    """What was last wrong with data servers that failed for good."""
    _placings: Sequence[_Placing] = ()
    _tickets: Tickets = field(init=False)

    async def run(self, request: StoreFile, plan: Metadata | None = None) -> Metadata:
        """Plan the file, unless there is a `plan` already, store and commit it and return its metadata."""
        reply = await self._catalog.ask(request, MetadataReply) if plan is None else MetadataReply(plan)
        plan = reply.metadata
        self._progress.started(plan.name, sum(block.size * len(block.replicas) for block in plan.blocks))
        self._storage_ids.update(plan.storage_ids)
        self._placings = [_Placing(block, offset) for block, offset in offsets_of(plan.blocks)]
        self._tickets = tickets_of_plan(self._catalog, plan)
        async with _renewed(self._catalog.reactor, self._tickets):
            if reply.resumes is not None:
                await self._link_blocks(plan, reply.resumes)
            await self._store_blocks(plan)
            await self._in_thread(self._source.check_unchanged)
        blocks = [placing.report() for placing in self._placings]
        done = CompleteFile(file_name=plan.name, generation=plan.generation, blocks=blocks)
        metadata = (await self._catalog.ask(done, MetadataReply)).metadata
        if short := short_blocks(metadata):
            self._progress.short_of_copies(plan.name, short, len(metadata.blocks))
        self._progress.finished(plan.name)
        return metadata

    # What an earlier try has stored

    async def _link_blocks(self, plan: Metadata, older: Metadata) -> None:
        links = links_of(plan, older)
        older_tickets = tickets_of_plan(self._catalog, older)
        jobs = (
            partial(self._link_block, plan, placing, *links[placing.block.id], older_tickets)
            for placing in self._placings
            if placing.block.id in links
        )
        await run_all(jobs, self._transfer.concurrency)
        if kept := sum(placing.block.size for placing in self._placings if placing.done):
            self._progress.kept(plan.name, kept)

    async def _link_block(
        self, plan: Metadata, placing: _Placing, old_id: str, places: Sequence[str], older: Tickets
    ) -> None:
        block = placing.block
        crc32c = await self._in_thread(sum_of, self._source.read, placing.offset, block.size)
        for place in places:
            if place in self._failed:
                continue
            try:
                storage_id = self._storage_ids.get(place)
                await self._transfer.link(place, block, old_id, crc32c, storage_id, self._tickets, older)
            except FileFlyError as error:  # it has to be sent, then
                if took_long(error):
                    self._failed[place] = error
            else:
                placing.stored[place] = crc32c
                self._progress.moved(plan.name, block.size)

    # Storing

    async def _store_blocks(self, plan: Metadata) -> None:
        done = sum(placing.done for placing in self._placings)

        async def store(placing: _Placing, place: str) -> None:
            nonlocal done
            await self._store_replica(plan, placing, place)
            if placing.done:
                done += 1
                block, places = placing.block, ", ".join(placing.stored)
                self._progress.block_done(plan.name, block.id, block.size, places, done, len(self._placings))

        def jobs() -> Iterator[Callable[[], Awaitable[None]]]:
            for placing in self._placings:
                for place in [place for place in placing.places if place not in placing.stored]:
                    yield partial(store, placing, place)

        await run_all(jobs(), self._transfer.concurrency)

    async def _store_replica(self, plan: Metadata, placing: _Placing, place: str) -> None:
        """Store a block in one place, or in another one instead, or not at all if it has other places."""
        looking: str | None = place
        while looking is not None:
            try:
                placing.stored[looking] = await self._try_to_store(plan, placing, looking)
                return
            except SourceFailed:
                raise
            except FileFlyError as error:
                placing.errors[looking] = error
                looking = await self._replacement(plan, placing, looking)

    async def _try_to_store(self, plan: Metadata, placing: _Placing, place: str) -> str:
        """Store a block in one place and return its sum; be less patient with who has failed for good already."""
        earlier = self._failed.get(place)
        if earlier is not None and took_long(earlier):
            raise earlier
        try:
            crc32c = await self._transfer.store(
                place,
                placing.block,
                self._source,
                placing.offset,
                partial(self._progress.moved, plan.name),
                self._storage_ids.get(place),
                patient=not isinstance(earlier, Unavailable),
                tickets=self._tickets,
            )
        except FileFlyError as error:
            self._failed[place] = error
            raise
        self._failed.pop(place, None)
        return crc32c

    async def _replacement(self, plan: Metadata, placing: _Placing, place: str) -> str | None:
        """Return where to store a block instead, None if its other places must do; raises if there are none."""
        request = ReplaceReplica(generation=plan.generation, block_id=placing.block.id, data_server=place)
        await placing.asking.acquire()
        try:
            reply = await self._catalog.ask(request, BlockReply)
            self._storage_ids.update(reply.storage_ids)
            self._tickets.add(reply.tickets)
            found = replacement_in(reply.block, placing.known)
        except (Unavailable, TimedOut):
            found = None
        finally:
            placing.asking.release()
        placing.replace(place, found)
        return found


@asynccontextmanager
async def _renewed(clock: Any, tickets: Tickets) -> AsyncIterator[None]:
    """Renew a plan's tickets, which is its sign of life too, until the end of the block."""
    under_way: list[Deferred[Any]] = []

    async def renew() -> None:
        with suppress(FileFlyError):
            await tickets.renew()

    def begin() -> Deferred[None]:
        under_way[:] = [Deferred.fromCoroutine(renew())]
        return under_way[0]

    renewing = LoopingCall(begin)
    renewing.clock = clock
    renewing.start(RENEWAL_SECONDS, now=False).addErrback(lambda failure: failure.trap(CancelledError))
    try:
        yield
    finally:
        if renewing.running:
            renewing.stop()
        for each in under_way:
            each.cancel()
