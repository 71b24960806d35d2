"""Client: files in and out of a FileFly cluster. Public methods return Deferreds, which can be awaited."""

import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, BinaryIO, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer

from filefly.client.connection import ConnectionPool
from filefly.client.decisions import check_readable, slices_of
from filefly.client.files import BytesSource, Download, FileObjectSource, PathSource, Source, SourceChanged
from filefly.client.progress import Progress
from filefly.client.transfer import BlockTransfer, run_all
from filefly.errors import NotFound
from filefly.threads import WorkerPool
from filefly.wire.address import host_of
from filefly.wire.framing import SendingGate
from filefly.wire.messages import (
    Attributes,
    Block,
    CompleteFile,
    DataServerList,
    DataServerState,
    DeleteFile,
    FileList,
    GetMetadata,
    ListDataServers,
    ListedFile,
    ListFiles,
    Metadata,
    MetadataReply,
    Ping,
    Pong,
    RenameFile,
    Replica,
    Reply,
    Request,
    StoredBlock,
    StoreFile,
)

R = TypeVar("R", bound=Reply)
Readable = str | os.PathLike[str] | bytes | BinaryIO

DEFAULT_CONCURRENCY = 4
_PAGE = 1000


class Client:
    """A FileFly cluster, reached through its metadata server at `metadata_addr` (`HOST:PORT`).

    At most `concurrency` blocks move at once, in pieces: memory stays at a few MiB for each. Every method's Deferred
    fails with a FileFlyError, and can be cancelled; a cancelled upload or download leaves nothing visible. Call `close`
    at the end.
    """

    def __init__(
        self,
        reactor: Any,
        metadata_addr: str = "localhost:9000",
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._metadata_addr = metadata_addr
        self._pool = ConnectionPool(reactor, host_of(metadata_addr), timeout_seconds)
        self.in_thread = WorkerPool(reactor, "filefly-client", concurrency + 1)
        """Runs a blocking function beside the transfers."""
        self.in_thread.start()
        self._transfer = BlockTransfer(reactor, self._pool, self.in_thread, concurrency)

    def close(self) -> None:
        """Close all connections and wait for the threads; after the last Deferred has fired."""
        self._pool.close()
        self.in_thread.stop()

    # Whole files

    def upload(
        self,
        name: str,
        source: Readable,
        *,
        size: int | None = None,
        replicas: int | None = None,
        attributes: Attributes | None = None,
        if_generation: int | None = None,
        progress: Progress | None = None,
    ) -> Deferred[Metadata]:
        """Store `source` as file `name`, replacing it whole, and fire with its metadata once it is durable.

        `source` is a path, bytes, or a binary file that can seek (of `size` bytes, else to its end). A path's
        modification time and mode are kept as attributes; `attributes` adds to them. `if_generation` makes it fail
        with Conflict unless the file has that generation (0: does not exist).
        """
        return Deferred.fromCoroutine(
            self._upload(name, source, size, replicas, attributes or {}, if_generation, progress or Progress())
        )

    async def _upload(
        self,
        name: str,
        readable: Readable,
        size: int | None,
        replicas: int | None,
        attributes: Attributes,
        if_generation: int | None,
        progress: Progress,
    ) -> Metadata:
        source = await self.in_thread(_open_source_thd, readable, size)
        try:
            request = StoreFile(
                file_name=name,
                file_size=source.size,
                explicit=True,
                replicas=replicas,
                attributes={**source.attributes, **attributes},
                if_generation=if_generation,
            )
            plan = (await self._ask(request, MetadataReply)).metadata
            progress.started(name, source.size)
            stored = await self._store_blocks(plan, source, progress)
            await self.in_thread(source.check_unchanged)
        finally:
            await self.in_thread(source.close)
        done = CompleteFile(file_name=name, generation=plan.generation, blocks=stored)
        metadata = (await self._ask(done, MetadataReply)).metadata
        progress.finished(name)
        return metadata

    async def _store_blocks(self, plan: Metadata, source: Source, progress: Progress) -> list[StoredBlock]:
        sums: dict[str, dict[str, str]] = {block.id: {} for block in plan.blocks}
        done = 0

        async def store(block: Block, offset: int, address: str) -> None:
            nonlocal done
            moved = partial(progress.moved, plan.name)
            sums[block.id][address] = await self._transfer.store(address, block, source, offset, moved)
            if len(sums[block.id]) == len(block.replicas):
                done += 1
                progress.block_done(plan.name, block.id, block.size, ", ".join(sums[block.id]), done, len(plan.blocks))

        def jobs() -> Iterator[Callable[[], Awaitable[None]]]:
            offset = 0
            for block in plan.blocks:
                for replica in block.replicas:
                    yield partial(store, block, offset, replica.data_server)
                offset += block.size

        await run_all(jobs(), self._transfer.concurrency)
        return [_stored_block(block, sums[block.id]) for block in plan.blocks]

    def download(
        self, name: str, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> Deferred[Metadata]:
        """Write file `name` to `path`, which appears once all of it is there and verified; fire with its metadata.

        Its modification time and mode are those in the file's attributes, if there are any.
        """
        return Deferred.fromCoroutine(self._download(name, path, progress or Progress()))

    async def _download(self, name: str, path: str | os.PathLike[str], progress: Progress) -> Metadata:
        metadata = await self._readable(name)
        while True:
            try:
                return await self._download_generation(metadata, path, progress)
            except NotFound:
                # Deleted, or replaced while it was read: a new generation means starting over.
                again = await self._readable(name)
                if again.generation == metadata.generation:
                    raise
                metadata = again

    async def _download_generation(
        self, metadata: Metadata, path: str | os.PathLike[str], progress: Progress
    ) -> Metadata:
        target = Download(path)
        try:
            await self.in_thread(target.open)
            progress.started(metadata.name, metadata.total_size)
            await self._fetch_blocks(metadata, target, progress)
            await self.in_thread(target.finish, metadata.attributes)
        finally:
            await self.in_thread(target.abort)
        progress.finished(metadata.name)
        return metadata

    async def _fetch_blocks(self, metadata: Metadata, target: Download, progress: Progress) -> None:
        done = 0

        async def fetch(block: Block, offset: int) -> None:
            nonlocal done

            def write_at(at: int, chunks: Sequence[bytes]) -> None:
                target.write(offset + at, chunks)

            server = await self._transfer.fetch(block, write_at, partial(progress.moved, metadata.name))
            done += 1
            progress.block_done(metadata.name, block.id, block.size, server, done, len(metadata.blocks))

        def jobs() -> Iterator[Callable[[], Awaitable[None]]]:
            offset = 0
            for block in metadata.blocks:
                yield partial(fetch, block, offset)
                offset += block.size

        await run_all(jobs(), self._transfer.concurrency)

    # Streams and ranges

    async def stream(self, name: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file, or of a range of it, in order, each block verified before a byte of it is.

        Blocks are read ahead: memory is `concurrency` times the block size. Close it (`contextlib.aclosing`) when you
        stop early.
        """
        metadata = await self._readable(name)
        waiting: deque[Deferred[list[bytes]]] = deque()
        slices = iter(slices_of(metadata, offset, length))
        try:
            while True:
                while len(waiting) < self._transfer.concurrency and (part := next(slices, None)):
                    waiting.append(Deferred.fromCoroutine(self._transfer.read(part)))
                if not waiting:
                    return
                for chunk in await waiting.popleft():
                    yield chunk
        finally:
            for read in waiting:
                read.addErrback(lambda _failure: None)
                read.cancel()

    def download_to(self, name: str, consumer: IConsumer, offset: int = 0, length: int | None = None) -> Deferred[None]:
        """Write a file, or a range of it, to a Twisted consumer, at the pace at which it takes the bytes."""
        return Deferred.fromCoroutine(self._download_to(name, consumer, offset, length))

    async def _download_to(self, name: str, consumer: IConsumer, offset: int, length: int | None) -> None:
        gate = SendingGate()
        consumer.registerProducer(gate, True)
        try:
            async with aclosing(self.stream(name, offset, length)) as chunks:
                async for chunk in chunks:
                    consumer.write(chunk)
                    if not gate.open:
                        await gate.passed()
        finally:
            consumer.unregisterProducer()

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Deferred[bytes]:
        """Return the bytes of a file, or of a range; raises BadRange if that begins beyond the end."""
        return Deferred.fromCoroutine(self._read(name, offset, length))

    async def _read(self, name: str, offset: int, length: int | None) -> bytes:
        async with aclosing(self.stream(name, offset, length)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    # The catalog

    def stat(self, name: str) -> Deferred[Metadata]:
        """Return a file's metadata; `state` is `pending` for a plan whose blocks are not all stored yet."""
        return Deferred.fromCoroutine(self._stat(name))

    async def _stat(self, name: str) -> Metadata:
        return (await self._ask_about(name, GetMetadata(file_name=name), MetadataReply)).metadata

    async def _readable(self, name: str) -> Metadata:
        metadata = await self._stat(name)
        check_readable(metadata)
        return metadata

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ListedFile]:
        """Yield the committed files whose names begin with `prefix`, in byte order."""
        page = FileList(files=(), next=after)
        while page.next is not None:
            page = await self.list_page(prefix, after=page.next)
            for file in page.files:
                yield file

    def list_page(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = _PAGE
    ) -> Deferred[FileList]:
        """Return one page of a listing; with a `delimiter`, names that have it behind the prefix are rolled up."""
        request = ListFiles(prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        return Deferred.fromCoroutine(self._ask(request, FileList))

    def delete(self, name: str) -> Deferred[Reply]:
        """Delete a file and end its open plans; raises NotFound."""
        return Deferred.fromCoroutine(self._ask_about(name, DeleteFile(file_name=name), Reply))

    def rename(self, name: str, new_name: str) -> Deferred[Reply]:
        """Give a file another name, replacing what has that name; raises NotFound."""
        return Deferred.fromCoroutine(self._ask_about(name, RenameFile(file_name=name, new_name=new_name), Reply))

    def data_servers(self) -> Deferred[Sequence[DataServerState]]:
        """Return the data servers and their health."""

        async def ask() -> Sequence[DataServerState]:
            return (await self._ask(ListDataServers(), DataServerList)).servers

        return Deferred.fromCoroutine(ask())

    def ping(self, address: str | None = None) -> Deferred[Reply]:
        """Ask the metadata server, or the server at `address`, whether it is there."""
        return Deferred.fromCoroutine(self._pool.request(address or self._metadata_addr, Ping(), Pong))

    async def _ask_about(self, name: str, request: Request, kind: type[R]) -> R:
        try:
            return await self._ask(request, kind)
        except NotFound as error:
            raise NotFound(f"{name}: {error}") from None

    async def _ask(self, request: Request, kind: type[R]) -> R:
        return await self._pool.request(self._metadata_addr, request, kind)


def _stored_block(block: Block, sums: Mapping[str, str]) -> StoredBlock:
    if len(set(sums.values())) != 1:
        raise SourceChanged("the file changed while it was uploaded; upload it again")
    places = [Replica(replica.data_server) for replica in block.replicas]
    return StoredBlock(id=block.id, crc32c=next(iter(sums.values())), replicas=places)


def _open_source_thd(readable: Readable, size: int | None) -> Source:
    if isinstance(readable, bytes):
        return BytesSource(readable)
    if isinstance(readable, str | os.PathLike):
        return PathSource(readable)
    return FileObjectSource(readable, size)
