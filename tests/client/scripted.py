"""A cluster that says what a test wants: servers in memory behind real ports, which note what they were asked."""

import io
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import msgspec
from attrs import define
from twisted.internet.defer import maybeDeferred

from filefly.client.api import Client
from filefly.daemon.guard import Session
from filefly.daemon.protocol import ServerFactory, Verbs
from filefly.errors import FileFlyError, NotFound, Unavailable
from filefly.wire.address import listening_endpoint
from filefly.wire.batches import (
    BlockResult,
    BlockResults,
    BlockToRetrieve,
    BlockToStore,
    CompleteFiles,
    FileResult,
    FileResults,
    FileToComplete,
    FileToStore,
    RetrieveBlocks,
    StoreBlocks,
    StoreFiles,
)
from filefly.wire.blocks import BlockSum, BytesFollow, Link, Retrieve, Store
from filefly.wire.codec import CommandTable, check_sum, commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import (
    MAX_BLOCK_SIZE,
    Block,
    BlockReply,
    CompleteFile,
    DeleteFile,
    GetMetadata,
    Metadata,
    MetadataReply,
    Ping,
    Pong,
    RenameFile,
    RenewPlan,
    ReplaceReplica,
    Replica,
    Reply,
    ReportReplica,
    Request,
    StoreFile,
)
from tests.meta.running import TIMEOUT_SECONDS, sum_of

R = TypeVar("R", BlockResult, FileResult)

BLOCK_SIZE = 7

Answer = Callable[[Any], Exception | None]
"""What goes wrong with a request, if anything does."""


def no(_request: Any) -> None:
    """Let all go well."""


def always(error: Exception) -> Answer:
    """Let nothing go well."""
    return lambda _request: error


def for_kind(kind: type[Request], error: Exception) -> Answer:
    """Let one kind of request fail."""
    return lambda request: error if isinstance(request, kind) else None


def for_the_first(times: int, answer: Answer) -> Answer:
    """Let requests fail so many times."""
    left = [times]

    def once(request: Any) -> Exception | None:
        error = answer(request) if left[0] else None
        left[0] -= error is not None
        return error

    return once


class Scripted:
    """A server that notes what it is asked; `fault` says what goes wrong, and if it is no FileFlyError, hangs up."""

    max_payload = MAX_BLOCK_SIZE
    commands: CommandTable

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.fault: Answer = no
        self.item_fault: Answer = no
        """What goes wrong with one file, or one block, of many."""
        self.address = ""

    def forget(self, words: Collection[str]) -> None:
        """Do not know these commands any more."""
        self.commands = {word: kind for word, kind in self.commands.items() if word not in words}

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the requests of one kind."""
        return [request for request in self.asked if isinstance(request, kind)]

    def _note(self, request: Request, conversation: Conversation) -> None:
        self.asked.append(request)
        error = self.fault(request)
        if isinstance(error, FileFlyError):
            raise error
        if error is not None:
            conversation.abort()

    def each(self, kind: type[R], items: Sequence[Any], answer: Callable[[Any], R]) -> Sequence[R]:
        """Return a result for each item: what `answer` returns, or the error that it, or `item_fault`, has for it."""
        results = []
        for item in items:
            try:
                if (error := self.item_fault(item)) is not None:
                    raise error
                results.append(answer(item))
            except FileFlyError as error:
                results.append(kind(error=str(error), code=error.code))
        return results


class ScriptedData(Scripted):
    """A data server that keeps its blocks in memory."""

    commands = commands_of(Store, Retrieve, Link, Ping, StoreBlocks, RetrieveBlocks)

    def __init__(self) -> None:
        super().__init__()
        self.blocks: dict[str, bytes] = {}

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        self._note(request, conversation)
        match request:
            case Store():
                data = b"".join(await conversation.receive_chunks(at_least=MAX_BLOCK_SIZE))
                self.blocks[request.block_id] = data
                return BlockSum(size=len(data), crc32c=sum_of(data))
            case Link():
                data = self._block(request.source_block_id)
                check_sum(request.crc32c, sum_of(data))
                self.blocks[request.block_id] = data
                return BlockSum(size=len(data), crc32c=sum_of(data))
            case Retrieve():
                data = self._block(request.block_id)
                check_sum(request.crc32c, sum_of(data))
                end = len(data) if request.length is None else request.offset + request.length
                part = data[request.offset : end]
                await conversation.send(
                    msgspec.json.encode(BytesFollow(size=len(part), crc32c=sum_of(part))) + b"\n", part
                )
                return None
            case StoreBlocks():
                payload = io.BytesIO(b"".join(await conversation.receive_chunks(at_least=MAX_BLOCK_SIZE)))
                received = {block.block_id: payload.read(block.size) for block in request.blocks}

                def store(block: BlockToStore) -> BlockResult:
                    self.blocks[block.block_id] = data = received[block.block_id]
                    return BlockResult(size=len(data), crc32c=sum_of(data))

                return BlockResults(self.each(BlockResult, request.blocks, store))
            case RetrieveBlocks():
                found: list[bytes] = []

                def retrieve(block: BlockToRetrieve) -> BlockResult:
                    found.append(self._block(block.block_id))
                    return BlockResult(size=len(found[-1]))

                results = self.each(BlockResult, request.blocks, retrieve)
                reply = BlockResults(results, size=sum(map(len, found)))
                await conversation.send(msgspec.json.encode(reply) + b"\n", *found)
                return None
        return Pong(pong=True)

    def _block(self, block_id: str) -> bytes:
        if block_id not in self.blocks:
            raise NotFound("block not found")
        return self.blocks[block_id]


@define
class _Open:
    """An open plan: its metadata, and the places that its blocks have, and all that they ever had."""

    metadata: Metadata
    places: dict[str, list[str]]
    known: dict[str, set[str]]


class ScriptedCatalog(Scripted):
    """A metadata server; each of its plans has blocks on the first of `addresses`, the others are spare.

    Whatever file is asked for, it tells of the one that was committed last.
    """

    commands = commands_of(
        StoreFile,
        CompleteFile,
        GetMetadata,
        ReplaceReplica,
        ReportReplica,
        RenewPlan,
        DeleteFile,
        RenameFile,
        StoreFiles,
        CompleteFiles,
    )

    def __init__(self, addresses: Sequence[str], replicas: int) -> None:
        super().__init__()
        self.addresses = addresses
        self.replicas = replicas
        self.resumes: Metadata | None = None
        self.committed: Metadata | None = None
        self.open: dict[int, _Open] = {}
        self.generation = 0

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        self._note(request, conversation)
        match request:
            case StoreFile():
                return MetadataReply(self._plan(request), self.resumes if request.resume else None)
            case ReplaceReplica():
                return self._replace(request)
            case CompleteFile():
                return MetadataReply(self._complete(request))
            case StoreFiles():
                return FileResults(self.each(FileResult, request.files, lambda file: FileResult(self._plan(file))))
            case CompleteFiles():
                return FileResults(self.each(FileResult, request.files, lambda file: FileResult(self._complete(file))))
            case GetMetadata():
                if self.committed is None:
                    raise NotFound
                return MetadataReply(self.committed)
        return Reply()

    def ids_of(self, addresses: Sequence[str]) -> dict[str, str]:
        """Return the storage ids of data servers."""
        return {address: f"storage-{self.addresses.index(address)}" for address in addresses}

    def _plan(self, request: StoreFile | FileToStore) -> Metadata:
        self.generation += 1
        size, places = request.file_size or 0, self.addresses[: self.replicas]
        blocks = [
            Block(
                id=f"a-{at // BLOCK_SIZE}.{self.generation}",
                size=min(BLOCK_SIZE, size - at),
                data_server=places[0],
                replicas=[Replica(place) for place in places],
            )
            for at in range(0, size, BLOCK_SIZE)
        ]
        metadata = Metadata(
            name=request.file_name,
            total_size=size,
            block_size=BLOCK_SIZE,
            generation=self.generation,
            state="pending",
            replicas=self.replicas,
            attributes=request.attributes,
            blocks=blocks,
            storage_ids=self.ids_of(places),
        )
        self.open[self.generation] = _Open(
            metadata, {block.id: list(places) for block in blocks}, {block.id: set(places) for block in blocks}
        )
        return metadata

    def _replace(self, request: ReplaceReplica) -> BlockReply:
        plan, failed = self.open[request.generation], request.data_server
        places, known = plan.places[request.block_id], plan.known[request.block_id]
        assert failed in known
        if failed in places:
            found = next((address for address in self.addresses if address not in known), None)
            if found is None:
                raise Unavailable("no other data server is available")
            places[places.index(failed)] = found
            known.add(found)
        block = Block(request.block_id, 1, places[0], [Replica(place) for place in places])
        return BlockReply(block, self.ids_of(places))

    def _complete(self, request: CompleteFile | FileToComplete) -> Metadata:
        plan = self.open[request.generation or 0].metadata
        told = {block.id: block for block in request.blocks}
        blocks = [
            msgspec.structs.replace(block, crc32c=told[block.id].crc32c, replicas=told[block.id].replicas)
            for block in plan.blocks
        ]
        self.committed = msgspec.structs.replace(plan, state="committed", blocks=blocks, storage_ids={})
        return self.committed


@define(eq=False)
class ScriptedCluster:
    """A metadata server, data servers, a client, and another one who does things meanwhile."""

    catalog: ScriptedCatalog
    data: Sequence[ScriptedData]
    client: Client
    other_client: Client
    _ends: Sequence[Callable[[], Any]]

    def blocks(self, number: int) -> list[str]:
        """Return what a data server has, without the generations."""
        return sorted(block_id.partition(".")[0] for block_id in self.data[number].blocks)

    async def kill(self, number: int) -> None:
        """End a data server."""
        await self._ends[number]()


@asynccontextmanager
async def _listening(reactor: Any, verbs: Verbs) -> AsyncIterator[Any]:
    factory = ServerFactory(reactor, verbs)
    port: Any = await listening_endpoint(reactor, "127.0.0.1:0").listen(factory)

    async def end() -> None:
        await maybeDeferred(port.stopListening)
        for conversation, gone in list(factory.conversations.items()):
            conversation.abort()
            await gone

    try:
        yield port.getHost().port, end
    finally:
        await end()


@asynccontextmanager
async def scripted(
    reactor: Any,
    data_servers: int = 3,
    replicas: int = 1,
    concurrency: int = 1,
    timeout_seconds: float = TIMEOUT_SECONDS,
    unknown: Collection[str] = (),
) -> AsyncIterator[ScriptedCluster]:
    """Run such a cluster until the end of the block; older servers than ours do not know some commands."""
    async with AsyncExitStack() as stack:
        servers, ends = [ScriptedData() for _ in range(data_servers)], []
        for server in servers:
            server.forget(unknown)
            port, end = await stack.enter_async_context(_listening(reactor, server))
            server.address = f"127.0.0.1:{port}"
            ends.append(end)
        catalog = ScriptedCatalog([server.address for server in servers], replicas)
        catalog.forget(unknown)
        port, _end = await stack.enter_async_context(_listening(reactor, catalog))
        catalog.address = f"127.0.0.1:{port}"
        client, other = (
            Client(reactor, catalog.address, concurrency=concurrency, timeout_seconds=timeout_seconds) for _ in range(2)
        )
        stack.callback(client.close)
        stack.callback(other.close)
        yield ScriptedCluster(catalog, servers, client, other, ends)
