"""Blocks to and from data servers: concurrency, retries, other replicas, verification."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from attrs import define, field
from crc32c import crc32c
from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, FirstError

from filefly.client.connection import ConnectionPool
from filefly.client.decisions import Slice, addresses_of, error_of_all, took_long, worth_a_retry
from filefly.client.files import Source
from filefly.client.local_reads import WORTH_A_FILE, LocalReads, LocalSocket
from filefly.client.retries import with_retries
from filefly.client.tickets import Tickets
from filefly.errors import Corrupt, FileFlyError, NotFound
from filefly.threads import InThread
from filefly.units import Chunks
from filefly.wire.blocks import BlockSum, BytesFollow, Link, Retrieve, Store
from filefly.wire.codec import check_sum, crc32c_hex
from filefly.wire.messages import Block
from filefly.wire.streaming import receive_into, send_from

_AVOIDED_SECONDS = 60.0

T = TypeVar("T")
Moved = Callable[[int], None]
WriteAt = Callable[[int, Chunks], None]
"""Writes chunks from an offset on; runs in a thread."""
Report = Callable[[str, str], None]
"""Hears of a block's id and an address whose copy of it is missing or corrupt."""


@define(eq=False)
class _Summed:
    """Counts and checksums what passes through, in whatever thread it passes."""

    size: int = 0
    checksum: int = 0
    announced: str | None = None

    def add(self, chunks: Chunks) -> None:
        for chunk in chunks:
            self.size += len(chunk)
            self.checksum = crc32c(chunk, self.checksum)

    @property
    def crc32c(self) -> str:
        return crc32c_hex(self.checksum)


@define(eq=False)
class BlockTransfer:
    """Moves single blocks; at most `concurrency` at once, whoever asks. `report` hears of bad replicas.

    A data server that did not answer is asked last for a while. Without `tickets` data servers know who asks.
    """

    _reactor: Any
    _pool: ConnectionPool
    _in_thread: InThread
    concurrency: int
    _report: Report = lambda _block_id, _address: None
    _turns: DeferredSemaphore = field(init=False)
    _local: LocalReads = field(init=False)
    _silent_until: dict[str, float] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """Make the turns that blocks wait for."""
        self._turns = DeferredSemaphore(self.concurrency)
        self._local = LocalReads(self._pool)

    async def store(
        self,
        address: str,
        block: Block,
        source: Source,
        offset: int,
        moved: Moved,
        storage_id: str | None = None,
        patient: bool = True,
        tickets: Tickets | None = None,
    ) -> str:
        """Store the bytes of `source` from `offset` as `block` on one data server and return their checksum.

        `storage_id` is the storage that is meant to have it. If `patient`, what may succeed a little later is tried
        again; the last error is raised.
        """
        async with _turn(self._turns):
            request = Store(block_id=block.id, size=block.size, storage_id=storage_id)
            once = partial(_shown, tickets, address, partial(self._store_once, address, request, source, offset, moved))
            return await (with_retries(self._reactor, worth_a_retry, once) if patient else once())

    async def _store_once(
        self, address: str, request: Store, source: Source, offset: int, moved: Moved, ticket: str | None
    ) -> str:
        summed = _Summed()

        def read_thd(at: int, size: int) -> bytes:
            piece = source.read(at, size)
            summed.add([piece])
            return piece

        async with self._pool.connection(address) as connection, _counting(moved) as count:
            await connection.begin(replace(request, ticket=ticket))
            await send_from(connection, self._in_thread, read_thd, offset, offset + (request.size or 0), count)
            reply = await connection.finish(BlockSum)
            check_sum(summed.crc32c, reply.crc32c or "absent")
        return summed.crc32c

    async def link(
        self,
        address: str,
        block: Block,
        source_block_id: str,
        crc32c: str,
        storage_id: str | None = None,
        tickets: Tickets | None = None,
        source_tickets: Tickets | None = None,
    ) -> None:
        """Have what one data server holds as `source_block_id` count as `block` too, if it has the sum `crc32c`."""

        async def link(ticket: str | None, source_ticket: str | None) -> BlockSum:
            request = Link(block.id, source_block_id, crc32c, storage_id, ticket, source_ticket)
            return await self._pool.request(address, request, BlockSum)

        async with _turn(self._turns):
            found = await _shown(
                tickets, address, lambda ticket: _shown(source_tickets, address, partial(link, ticket))
            )
            _check_size(found.size, block.size)

    async def fetch(self, block: Block, write_at: WriteAt, moved: Moved, tickets: Tickets | None = None) -> str:
        """Read a whole block, hand its bytes to `write_at` (offsets are the block's), and verify them.

        Return the address that had it. What was written before an error is to be ignored.
        """
        async with _turn(self._turns):
            return await self._from_any_replica(block, tickets, partial(self._fetch_once, block, write_at, moved))

    async def _fetch_once(self, block: Block, write_at: WriteAt, moved: Moved, address: str, ticket: str | None) -> str:
        local_socket = await self._local.socket_of(address) if block.size >= WORTH_A_FILE else None
        if local_socket is not None:
            try:
                await self._fetch_file(block, write_at, moved, local_socket, ticket)
                return address
            except FileFlyError:
                pass  # what the data server says over TCP counts
        await self._fetch_bytes(block, write_at, moved, address, ticket)
        if local_socket is not None:
            self._local.give_up(address)  # the block is all right
        return address

    async def _fetch_file(
        self, block: Block, write_at: WriteAt, moved: Moved, local_socket: LocalSocket, ticket: str | None
    ) -> None:
        summed = _Summed()
        async with self._local.opened(local_socket, block.id, ticket) as (file, size), _counting(moved) as count:
            _check_size(size, block.size)
            await self._in_thread(file.read, size, _writing(write_at, summed))
            check_sum(block.crc32c, summed.crc32c)
            count(size)

    async def _fetch_bytes(
        self, block: Block, write_at: WriteAt, moved: Moved, address: str, ticket: str | None
    ) -> None:
        summed = _Summed()
        write_thd = _writing(write_at, summed)
        async with self._pool.connection(address) as connection, _counting(moved) as count:
            await connection.begin(Retrieve(block_id=block.id, raw=True, ticket=ticket))
            head = await connection.finish(BytesFollow, payload_follows=True)
            _check_size(head.size, block.size)
            connection.begin_payload(head.size)
            await receive_into(connection, self._in_thread, write_thd, write_thd, count)
            connection.end_payload()
            check_sum(block.crc32c, summed.crc32c)

    async def read(self, part: Slice, tickets: Tickets | None = None) -> list[bytes]:
        """Return the verified bytes of `part` of a block, as chunks."""
        async with _turn(self._turns):
            return await self._from_any_replica(part.block, tickets, partial(self._read_once, part))

    async def _read_once(self, part: Slice, address: str, ticket: str | None) -> list[bytes]:
        chunks = []
        async with aclosing(self._pieces_once(part, part.offset, address, _Summed(), ticket)) as pieces:
            async for piece in pieces:
                chunks.append(piece)
        return chunks

    async def pieces(self, part: Slice) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of `part` as they arrive, going on with another replica where one fails.

        The data server verifies the block before a byte leaves; what is yielded is checked again at the end, and
        Corrupt raised if it differs: then the bytes must not be used.
        """
        summed, errors = _Summed(), dict[str, FileFlyError]()
        for address in self._in_order(part.block):
            try:
                async with aclosing(self._pieces_once(part, part.offset + summed.size, address, summed)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except FileFlyError as error:
                errors[address] = error
                self._note_failed(part.block.id, address, error)
        raise error_of_all(part.block.id, "read", errors)

    async def _pieces_once(
        self, part: Slice, offset: int, address: str, summed: _Summed, ticket: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield what `part` still lacks from `offset` on; `summed` holds what came before."""
        wanted = Retrieve(
            block_id=part.block.id,
            offset=offset,
            length=part.end - offset,
            raw=True,
            crc32c=part.block.crc32c,
            ticket=ticket,
        )
        async with self._pool.connection(address) as connection:
            await connection.begin(wanted)
            head = await connection.finish(BytesFollow, payload_follows=True)
            _check_size(head.size, part.end - offset)
            connection.begin_payload(head.size)
            if offset == part.offset:
                summed.announced = head.crc32c
            while chunks := await connection.receive_chunks(at_least=1):
                summed.add(chunks)
                for chunk in chunks:
                    yield chunk
            connection.end_payload()
        # A range has no checksum in the catalog; the replica that began it has said what all of it adds up to.
        check_sum(part.block.crc32c if part.whole else summed.announced or "absent", summed.crc32c)

    async def _from_any_replica(
        self, block: Block, tickets: Tickets | None, once: Callable[[str, str | None], Awaitable[T]]
    ) -> T:
        noted = set[str]()

        async def one_round() -> T:
            errors: dict[str, FileFlyError] = {}
            for address in self._in_order(block):
                try:
                    return await _shown(tickets, address, partial(once, address))
                except FileFlyError as error:
                    errors[address] = error
                    if address not in noted:
                        noted.add(address)
                        self._note_failed(block.id, address, error)
            raise error_of_all(block.id, "read", errors)

        return await with_retries(self._reactor, worth_a_retry, one_round)

    def _in_order(self, block: Block) -> list[str]:
        now = self._reactor.seconds()
        return sorted(addresses_of(block), key=lambda address: self._silent_until.get(address, now) > now)

    def _note_failed(self, block_id: str, address: str, error: FileFlyError) -> None:
        if took_long(error):
            self._silent_until[address] = self._reactor.seconds() + _AVOIDED_SECONDS
        elif isinstance(error, NotFound | Corrupt):
            self._report(block_id, address)


async def _shown(tickets: Tickets | None, address: str, once: Callable[[str | None], Awaitable[T]]) -> T:
    return await (once(None) if tickets is None else tickets.shown(address, once))


async def run_all(jobs: Iterable[Callable[[], Awaitable[None]]], at_once: int) -> None:
    """Run `jobs`, at most `at_once` at a time; the first error, or being cancelled, ends them all and is raised."""
    remaining = iter(jobs)

    async def work() -> None:
        for job in remaining:
            await job()

    workers = [Deferred.fromCoroutine(work()) for _ in range(at_once)]
    ended: Deferred[Any] = Deferred()  # to cancel this does not cancel the workers: twice would disturb their clean-up

    def end(outcome: Any) -> None:
        if not ended.called:
            ended.callback(outcome)

    DeferredList(workers, fireOnOneErrback=True, consumeErrors=True).addBoth(end)
    try:
        await ended
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for worker in workers:
            worker.cancel()
        await DeferredList(workers, consumeErrors=True)


def _writing(write_at: WriteAt, summed: _Summed) -> Callable[[Chunks], None]:
    def write_thd(chunks: Chunks) -> None:
        at = summed.size
        summed.add(chunks)
        write_at(at, chunks)

    return write_thd


def _check_size(found: int, wanted: int) -> None:
    if found != wanted:
        raise Corrupt(f"block has {found} bytes, expected {wanted}")


@asynccontextmanager
async def _turn(turns: DeferredSemaphore) -> AsyncIterator[None]:
    await turns.acquire()
    try:
        yield
    finally:
        turns.release()


@asynccontextmanager
async def _counting(moved: Moved) -> AsyncIterator[Moved]:
    """Count what is said to have moved, and take it back if it all was in vain."""
    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        moved(size)

    try:
        yield count
    except BaseException:
        moved(-total)
        raise
