"""The verbs of the metadata server: what each asks of the catalog and of the data servers."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.listing import list_files
from filefly.catalog.plans import Plan
from filefly.client.decisions import Slice, slices_of
from filefly.daemon.guard import Session
from filefly.daemon.payloads import send_base64, send_raw
from filefly.errors import FileFlyError, Incomplete, NotFound, Unavailable
from filefly.meta.administration import Administration
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster
from filefly.meta.commits import Committer, TrashDue
from filefly.meta.planning import Planner
from filefly.meta.transactions import Transactions
from filefly.wire.batches import CompleteFiles, FileResult, FileResults, StoreFiles
from filefly.wire.codec import CommandTable, commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import (
    MAX_BLOCK_SIZE,
    MAX_BLOCKS,
    BlockReply,
    CompleteFile,
    DeleteFile,
    FetchFile,
    FileFollows,
    FileList,
    GetMetadata,
    ListedFile,
    ListFiles,
    MetadataReply,
    Ping,
    Pong,
    RenameFile,
    RenewPlan,
    ReplaceReplica,
    Reply,
    ReportReplica,
    Request,
    StoreFile,
)
from filefly.wire.names import check_file_name

_COMMANDS: CommandTable = {
    **Administration.commands,
    **commands_of(
        Ping,
        StoreFile,
        StoreFiles,
        CompleteFile,
        CompleteFiles,
        FetchFile,
        GetMetadata,
        ListFiles,
        DeleteFile,
        RenameFile,
        ReplaceReplica,
        ReportReplica,
        RenewPlan,
    ),
}


class MetadataServer:
    """Answers for the catalog; moves a file's bytes itself only for `fetch_file`."""

    commands = _COMMANDS
    max_payload = MAX_BLOCK_SIZE  # no command here has a payload; one that is sent by mistake is skipped

    def __init__(
        self,
        transactions: Transactions,
        cluster: Cluster,
        planner: Planner,
        committer: Committer,
        checker: Checker,
        administration: Administration,
        trash_due: TrashDue,
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._planner = planner
        self._committer = committer
        self._checker = checker
        self._administration = administration
        self._trash_due = trash_due

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        """Carry out `request`; see filefly.daemon.protocol.Verbs."""
        match request:
            case Ping():
                return Pong()
            case StoreFile():
                return await self._plan(request)
            case StoreFiles() | CompleteFiles() | ListFiles():
                return await self._answer_many(request)
            case CompleteFile():
                return MetadataReply(self._cluster.metadata_of(await self._committer.complete(request)))
            case GetMetadata():
                check_file_name(request.file_name)
                return MetadataReply(self._cluster.metadata_of(await self._committer.look_up(request.file_name)))
            case FetchFile():
                await self._fetch(request, conversation)
                return None
            case DeleteFile():
                check_file_name(request.file_name)
                await self._transactions.write(delete_file, request.file_name, self._trash_due())
                return Reply()
            case RenameFile():
                check_file_name(request.file_name)
                check_file_name(request.new_name)
                await self._transactions.write(rename_file, request.file_name, request.new_name, self._trash_due())
                return Reply()
            case ReplaceReplica():
                return await self._replace(request)
            case ReportReplica():
                self._checker.hint(request.block_id, request.data_server)
                return Reply()
            case RenewPlan():
                await self._planner.renew(request.generation)
                return Reply()
        return await self._administration.answer(request, conversation, session)

    async def _plan(self, request: StoreFile) -> Reply:
        if not request.resume:
            return MetadataReply(self._cluster.metadata_of(await self._planner.plan(request)))
        plan, older = await self._planner.resume(request)
        resumes = None if older is None else self._cluster.metadata_of(older)
        return MetadataReply(self._cluster.metadata_of(plan), resumes)

    async def _answer_many(self, request: StoreFiles | CompleteFiles | ListFiles) -> Reply:
        match request:
            case StoreFiles():
                return self._results(await self._planner.plan_each(request.files))
            case CompleteFiles():
                return self._results(await self._committer.complete_each(request.files))
        most_blocks = MAX_BLOCKS if request.blocks else None
        page = await self._transactions.read(
            list_files, request.prefix, request.delimiter, request.after, request.limit, most_blocks
        )
        files: Sequence[ListedFile] = page.files
        if page.blocks is not None:
            files = [self._cluster.with_blocks(file, blocks) for file, blocks in zip(files, page.blocks, strict=True)]
        return FileList(files, page.prefixes if request.delimiter else None, page.next)

    def _results(self, outcomes: Sequence[Plan | FileFlyError]) -> FileResults:
        return FileResults(
            [
                FileResult(error=str(outcome), code=outcome.code)
                if isinstance(outcome, FileFlyError)
                else FileResult(self._cluster.metadata_of(outcome))
                for outcome in outcomes
            ]
        )

    async def _replace(self, request: ReplaceReplica) -> Reply:
        due = self._trash_due()
        block = await self._planner.replace(request.generation, request.block_id, request.data_server, due)
        return BlockReply(self._cluster.block_of(block, committed=False), self._cluster.storage_ids_of(block.servers))

    async def _fetch(self, request: FetchFile, conversation: Conversation) -> None:
        """Send a file; one that was replaced before its first byte could be read is looked up again."""
        plan = await self._readable(request.file_name)
        while True:
            try:
                await self._send(plan, request, conversation)
                return
            except (NotFound, Unavailable) as error:
                again = await self._readable(request.file_name)
                if again.generation == plan.generation or conversation.lost is not None:
                    raise error from None
                plan = again

    async def _readable(self, name: str) -> Plan:
        check_file_name(name)
        plan = await self._committer.look_up(name)
        if not plan.committed:
            raise Incomplete(f"{plan.name} is not complete: its blocks are not all stored yet")
        return plan

    async def _send(self, plan: Plan, request: FetchFile, conversation: Conversation) -> None:
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
