"""The verbs of the metadata server: what each asks of the catalog and of the data servers."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from filefly.client.decisions import Slice, slices_of
from filefly.daemon.payloads import send_base64, send_raw
from filefly.errors import BadRequest, Incomplete, UnknownCommand
from filefly.meta.catalog import delete_file, rename_file
from filefly.meta.cluster import Cluster
from filefly.meta.commits import Committer, TrashDue
from filefly.meta.health import Health
from filefly.meta.inventory import register_data_server
from filefly.meta.listing import list_files
from filefly.meta.planning import Planner
from filefly.meta.transactions import Transactions
from filefly.wire.address import check_client_address
from filefly.wire.codec import commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import (
    MAX_BLOCK_SIZE,
    CompleteFile,
    DataServerList,
    DeleteFile,
    FetchFile,
    FileFollows,
    FileList,
    GetMetadata,
    ListDataServers,
    ListFiles,
    MetadataReply,
    Ping,
    Pong,
    RegisterDataServer,
    RenameFile,
    Reply,
    Request,
    StoreFile,
)
from filefly.wire.names import check_file_name


class MetadataServer:
    """Answers for the catalog; moves a file's bytes itself only for `fetch_file`."""

    commands = commands_of(
        Ping,
        StoreFile,
        CompleteFile,
        FetchFile,
        GetMetadata,
        ListFiles,
        DeleteFile,
        RenameFile,
        ListDataServers,
        RegisterDataServer,
    )
    max_payload = MAX_BLOCK_SIZE  # no command here has a payload; one that is sent by mistake is skipped

    def __init__(
        self,
        transactions: Transactions,
        cluster: Cluster,
        planner: Planner,
        committer: Committer,
        health: Health,
        trash_due: TrashDue,
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._planner = planner
        self._committer = committer
        self._health = health
        self._trash_due = trash_due

    async def answer(self, request: Request, conversation: Conversation) -> Reply | None:
        """Carry out `request`; see filefly.daemon.protocol.Verbs."""
        match request:
            case Ping():
                return Pong()
            case StoreFile():
                return MetadataReply(self._cluster.metadata_of(await self._planner.plan(request)))
            case CompleteFile():
                return MetadataReply(self._cluster.metadata_of(await self._committer.complete(request)))
            case GetMetadata():
                check_file_name(request.file_name)
                return MetadataReply(self._cluster.metadata_of(await self._committer.look_up(request.file_name)))
            case FetchFile():
                await self._fetch(request, conversation)
                return None
            case ListFiles():
                page = await self._transactions.read(
                    list_files, request.prefix, request.delimiter, request.after, request.limit
                )
                return FileList(page.files, page.prefixes if request.delimiter else None, page.next)
            case DeleteFile():
                check_file_name(request.file_name)
                await self._transactions.write(delete_file, request.file_name, self._trash_due())
                return Reply()
            case RenameFile():
                check_file_name(request.file_name)
                check_file_name(request.new_name)
                await self._transactions.write(rename_file, request.file_name, request.new_name, self._trash_due())
                return Reply()
            case ListDataServers():
                return DataServerList(self._health.states())
            case RegisterDataServer():
                return await self._register(request)
        raise UnknownCommand

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

    async def _fetch(self, request: FetchFile, conversation: Conversation) -> None:
        check_file_name(request.file_name)
        plan = await self._committer.look_up(request.file_name)
        if not plan.committed:
            raise Incomplete(f"{plan.name} is not complete: its blocks are not all stored yet")
        slices = slices_of(self._cluster.metadata_of(plan, internal=True), request.offset, request.length)
        head = self._cluster.metadata_of(plan)
        pieces = self._pieces(slices)
        if request.raw:
            size = sum(part.end - part.offset for part in slices)
            await send_raw(conversation, FileFollows(size=size, metadata=head), pieces)
        else:
            await send_base64(conversation, MetadataReply(head), pieces)

    async def _pieces(self, slices: Sequence[Slice]) -> AsyncGenerator[bytes, None]:
        for part in slices:
            async with aclosing(self._cluster.transfer.pieces(part)) as pieces:
                async for piece in pieces:
                    yield piece
