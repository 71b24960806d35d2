"""Client: files in and out of a FileFly cluster. Public methods return Deferreds, which can be awaited."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, BinaryIO

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer

from filefly.client.administration import Administration
from filefly.client.batch_downloads import BatchDownload, Target
from filefly.client.batch_transfer import BatchTransfer
from filefly.client.batch_uploads import BatchUpload
from filefly.client.connection import STAY_UNKNOWN, ConnectionPool
from filefly.client.downloads import Download
from filefly.client.errors import SourceChanged
from filefly.client.files import BytesSource, FileObjectSource, PathSource, Source
from filefly.client.progress import Progress
from filefly.client.readers import Reader
from filefly.client.remote_catalog import RemoteCatalog
from filefly.client.reports import Reports
from filefly.client.small_files import Local, NamedPath, make_folder
from filefly.client.tokens import TokenFor
from filefly.client.transfer import BlockTransfer
from filefly.client.uploads import Upload
from filefly.errors import FileFlyError
from filefly.threads import WorkerPool
from filefly.wire.address import host_of, resolve
from filefly.wire.gates import SendingGate
from filefly.wire.messages import (
    Attributes,
    DataServerList,
    DataServerState,
    DeleteFile,
    FileList,
    ListDataServers,
    ListedFile,
    ListFiles,
    Metadata,
    Ping,
    Pong,
    RenameFile,
    Reply,
    StoreFile,
)
from filefly.wire.tls.files import Tls, TlsFiles

Readable = str | os.PathLike[str] | bytes | BinaryIO

DEFAULT_CONCURRENCY = 4
_PAGE = 1000


class Client:
    """A FileFly cluster, reached through its metadata server at `metadata_addr` (`HOST:PORT`).

    At most `concurrency` blocks move at once, in pieces: memory stays at a few MiB for each. Every method's Deferred
    fails with a FileFlyError, and can be cancelled; a cancelled upload or download leaves nothing visible. `token` is
    what a closed cluster wants to see: a line that `filefly-client token new` prints. `tls` says whom to believe at
    `tls://HOST:PORT`, by default whom the system trusts; who names a CA there shows the token under TLS only. Call
    `close` at the end.
    """

    def __init__(
        self,
        reactor: Any,
        metadata_addr: str = "localhost:9000",
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout_seconds: float = 60.0,
        token: str | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        host = host_of(metadata_addr)
        tls = tls or TlsFiles()
        sign_in = STAY_UNKNOWN if token is None else TokenFor(resolve(metadata_addr, host), token, tls.ca is not None)
        self._pool = ConnectionPool(reactor, host, timeout_seconds, sign_in, Tls(tls))
        self.in_thread = WorkerPool(reactor, "filefly-client", concurrency + 1)
        """Runs a blocking function beside the transfers."""
        self.in_thread.start()
        self._catalog = RemoteCatalog(reactor, metadata_addr, self._pool)
        self._reports = Reports(self._catalog)
        self._transfer = BlockTransfer(reactor, self._pool, self.in_thread, concurrency, self._reports.report)
        self._batches = BatchTransfer(reactor, self._pool)
        self._reader = Reader(self._catalog, self._transfer, self._reports)
        self.administration = Administration(reactor, self._pool, metadata_addr, self.in_thread)
        """Looks after the cluster."""

    def close(self) -> None:
        """Close all connections and wait for the threads; after the last Deferred has fired."""
        self._reports.close()
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
        resume: bool = False,
        progress: Progress | None = None,
    ) -> Deferred[Metadata]:
        """Store `source` as file `name`, replacing it whole, and fire with its metadata once it is durable.

        `source` is a path, bytes, or a binary file that can seek (of `size` bytes, else to its end). A path's
        modification time and mode are kept as attributes; `attributes` adds to them. `if_generation` makes it fail
        with Conflict unless the file has that generation (0: does not exist). With `resume`, what an upload of this
        name and size that failed has stored is not sent again. Data servers that fail are replaced by others; where
        none is left, the upload goes on as long as each block is on one.
        """
        request = StoreFile(
            file_name=name,
            explicit=True,
            replicas=replicas,
            resume=resume,
            if_generation=if_generation,
            attributes=attributes or {},
        )
        return Deferred.fromCoroutine(self._upload(request, source, size, progress or Progress(), {}))

    async def _upload(
        self,
        request: StoreFile,
        readable: Readable,
        size: int | None,
        progress: Progress,
        failed: dict[str, FileFlyError],
        plan: Metadata | None = None,
    ) -> Metadata:
        source = await self.in_thread(_open_source_thd, readable, size)
        try:
            upload = Upload(self._catalog, self._transfer, self.in_thread, source, progress, failed=failed)
            attributes = {**source.attributes, **request.attributes}
            if plan is not None and (plan.total_size, plan.attributes) != (source.size, attributes):
                raise SourceChanged(f"{readable!s} changed while it was uploaded; upload it again")
            return await upload.run(replace(request, file_size=source.size, attributes=attributes), plan)
        finally:
            await self.in_thread(source.close)

    def upload_files(
        self,
        files: Iterable[NamedPath],
        *,
        replicas: int | None = None,
        resume: bool = False,
        progress: Progress | None = None,
        uploaded: Callable[[Metadata], None] = lambda _metadata: None,
    ) -> Deferred[None]:
        """Upload many local files, given as pairs of name and path, each as `upload` does it; small ones together.

        `uploaded` hears of each file once it is durable. The first error ends it all; what is durable by then stays.
        Memory is a few MiB however many there are, and `files` may be a generator.
        """
        shown, failed = progress or Progress(), dict[str, FileFlyError]()

        def alone(name: str, path: Local, plan: Metadata | None) -> Awaitable[Metadata]:
            request = StoreFile(file_name=name, explicit=True, replicas=replicas, resume=resume)
            return self._upload(request, path, None, shown, failed, plan)

        batches = BatchUpload(
            self._catalog,
            self._batches,
            self.in_thread,
            alone,
            self._transfer.concurrency,
            replicas,
            shown,
            uploaded,
            failed,
            together=not resume,
        )
        return Deferred.fromCoroutine(batches.run(files))

    def download(
        self,
        name: str,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> Deferred[Metadata]:
        """Write file `name` to `path`, which appears once all of it is there and verified; fire with its metadata.

        Its modification time and mode are those in the file's attributes, if there are any. With `resume`, what was
        fetched before a failure stays in a hidden file beside `path`, and what is there already, in that or in `path`,
        is verified and not fetched again; two such downloads of one path at once are Busy.
        """
        download = Download(self._transfer, self.in_thread, path, resume, progress or Progress())
        return Deferred.fromCoroutine(self._reader.by_metadata(name, download.run))

    def download_files(
        self,
        files: Iterable[Target],
        *,
        resume: bool = False,
        progress: Progress | None = None,
        downloaded: Callable[[Metadata], None] = lambda _metadata: None,
    ) -> Deferred[None]:
        """Download many files, each to its path as `download` does it, and make the folders; small ones together.

        `files` are pairs: a file as `list` with `blocks` yields it (without, each is looked up), and the path. So what
        is written is what was listed, or newer. `downloaded` hears of each file once it is in place. The first error
        ends it all; what is in place by then stays.
        """
        shown = progress or Progress()

        async def alone(name: str, path: Local) -> Metadata:
            await self.in_thread(make_folder, path)
            return await self.download(name, path, resume=resume, progress=shown)

        batches = BatchDownload(
            self._batches, self.in_thread, alone, self._transfer.concurrency, resume, shown, downloaded
        )
        return Deferred.fromCoroutine(batches.run(files))

    # Streams and ranges

    def stream(self, name: str, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file, or of a range of it, in order, each block verified before a byte of it is.

        Blocks are read ahead: memory is `concurrency` times the block size. Close it (`contextlib.aclosing`) when you
        stop early. A file that is replaced meanwhile is begun anew or, if bytes of it were yielded, a Conflict.
        """
        return self._reader.stream(name, offset, length)

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
        read = partial(self._reader.whole, offset=offset, length=length)
        return Deferred.fromCoroutine(self._reader.by_metadata(name, read))

    # The catalog

    def stat(self, name: str) -> Deferred[Metadata]:
        """Return a file's metadata; `state` is `pending` for a plan whose blocks are not all stored yet."""
        return Deferred.fromCoroutine(self._catalog.stat(name))

    async def list(self, prefix: str = "", after: str = "", blocks: bool = False) -> AsyncIterator[ListedFile]:
        """Yield the committed files whose names begin with `prefix`, in byte order; on request with their blocks."""
        page = FileList(files=(), next=after)
        while page.next is not None:
            page = await self.list_page(prefix, after=page.next, blocks=blocks)
            for file in page.files:
                yield file

    def list_page(
        self, prefix: str = "", *, delimiter: str = "", after: str = "", limit: int = _PAGE, blocks: bool = False
    ) -> Deferred[FileList]:
        """Return one page of a listing; with a `delimiter`, names that have it behind the prefix are rolled up."""
        request = ListFiles(prefix=prefix, delimiter=delimiter, after=after, limit=limit, blocks=blocks)
        return Deferred.fromCoroutine(self._catalog.ask(request, FileList))

    def delete(self, name: str) -> Deferred[Reply]:
        """Delete a file and end its open plans; raises NotFound."""
        return Deferred.fromCoroutine(self._catalog.ask_about(name, DeleteFile(file_name=name), Reply))

    def rename(self, name: str, new_name: str) -> Deferred[Reply]:
        """Give a file another name, replacing what has that name; raises NotFound."""
        request = RenameFile(file_name=name, new_name=new_name)
        return Deferred.fromCoroutine(self._catalog.ask_about(name, request, Reply))

    def data_servers(self) -> Deferred[Sequence[DataServerState]]:
        """Return the data servers and their health."""

        async def ask() -> Sequence[DataServerState]:
            return (await self._catalog.ask(ListDataServers(), DataServerList)).servers

        return Deferred.fromCoroutine(ask())

    def ping(self, address: str | None = None) -> Deferred[Reply]:
        """Ask the metadata server, or the server at `address`, whether it is there."""
        return Deferred.fromCoroutine(self._pool.request(address or self._catalog.address, Ping(), Pong))


def _open_source_thd(readable: Readable, size: int | None) -> Source:
    if isinstance(readable, bytes):
        return BytesSource(readable)
    if isinstance(readable, str | os.PathLike):
        return PathSource(readable)
    return FileObjectSource(readable, size)
