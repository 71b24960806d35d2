"""Reader: the bytes of files, also while these are replaced or their blocks move."""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from attrs import define
from twisted.internet.defer import Deferred

from filefly.client.decisions import changed_since, slices_of, worth_rereading
from filefly.client.remote_catalog import RemoteCatalog
from filefly.client.reports import Reports
from filefly.client.tickets import Tickets, tickets_of_file
from filefly.client.transfer import BlockTransfer
from filefly.errors import Conflict, FileFlyError, NotFound
from filefly.wire.messages import Metadata

T = TypeVar("T")


@define(eq=False)
class Reader:
    """Reads by a file's metadata, and by newer metadata where what that names is gone."""

    _catalog: RemoteCatalog
    _transfer: BlockTransfer
    _reports: Reports

    async def by_metadata(self, name: str, read: Callable[[Metadata, Tickets], Awaitable[T]]) -> T:
        """Return what `read` makes of a file's metadata; where it fails, of that which there is by then."""
        async with self._reports.given_in_the_end():
            metadata = await self._catalog.readable(name)
            while True:
                try:
                    return await read(metadata, tickets_of_file(self._catalog, metadata))
                except FileFlyError as error:
                    metadata = await self._newer(metadata, error)

    async def _newer(self, metadata: Metadata, error: FileFlyError) -> Metadata:
        """Return the file's metadata if it is other by now, raise `error` if that is no reason to go on."""
        if not worth_rereading(error):
            raise error
        try:
            again = await self._catalog.readable(metadata.name)
        except NotFound:
            raise
        except FileFlyError:
            raise error from None
        if not changed_since(metadata, again):
            raise error
        return again

    async def whole(self, metadata: Metadata, tickets: Tickets, offset: int, length: int | None) -> bytes:
        """Return the bytes of a range by this metadata alone."""
        async with aclosing(self._chunks(metadata, tickets, offset, length)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def stream(self, name: str, offset: int, length: int | None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a range; raises Conflict if the file was replaced after the first of them was yielded."""
        async with self._reports.given_in_the_end():
            metadata, yielded = await self._catalog.readable(name), 0
            while True:
                left = None if length is None else length - yielded
                tickets = tickets_of_file(self._catalog, metadata)
                try:
                    async with aclosing(self._chunks(metadata, tickets, offset + yielded, left)) as chunks:
                        async for chunk in chunks:
                            yielded += len(chunk)
                            yield chunk
                    return
                except FileFlyError as error:
                    again = await self._newer(metadata, error)
                if yielded and again.generation != metadata.generation:
                    raise Conflict(f"{name} was replaced while it was read; read it again")
                metadata = again

    async def _chunks(
        self, metadata: Metadata, tickets: Tickets, offset: int, length: int | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a range in order, each block verified before a byte of it is, others read ahead."""
        waiting: deque[Deferred[list[bytes]]] = deque()
        slices = iter(slices_of(metadata, offset, length))
        try:
            while True:
                while len(waiting) < self._transfer.concurrency and (part := next(slices, None)):
                    waiting.append(Deferred.fromCoroutine(self._transfer.read(part, tickets)))
                if not waiting:
                    return
                for chunk in await waiting.popleft():
                    yield chunk
        finally:
            for read in waiting:
                read.addErrback(lambda _failure: None)
                read.cancel()
