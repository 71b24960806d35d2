"""The verbs of the metadata server: what each asks of the catalog and of the data servers."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.listing import list_files
from filefly.catalog.plans import Plan, PlanBlock, plan_of_generation
from filefly.catalog.undeletion import bring_back
from filefly.client.decisions import Slice, slices_of
from filefly.daemon.guard import Session
from filefly.daemon.payloads import send_base64, send_raw
from filefly.errors import FileFlyError, Incomplete, NotFound, QuotaExceeded, Unavailable, UnknownCommand
from filefly.meta.access import Access
from filefly.meta.administration import Administration
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster
from filefly.meta.commits import Committer, TrashDue
from filefly.meta.planning import Planner
from filefly.meta.rights import Grant, grant_of
from filefly.meta.tickets import NONE, Claim, TicketOffice
from filefly.meta.transactions import Transactions
from filefly.security.tickets import Right
from filefly.wire.administration import UndeleteFile
from filefly.wire.batches import CompleteFiles, FileResult, FileResults, StoreFiles
from filefly.wire.codec import CommandTable, commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import (
    MAX_BLOCK_SIZE,
    MAX_BLOCKS,
    MAX_PAGE,
    BlockReply,
    CompleteFile,
    DeleteFile,
    FetchFile,
    FileFollows,
    FileList,
    GetMetadata,
    ListedFile,
    ListFiles,
    Metadata,
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
from filefly.wire.security import PlanRenewed

_COMMANDS: CommandTable = {
    **Administration.commands,
    **Access.commands,
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
        UndeleteFile,
        ReplaceReplica,
        ReportReplica,
        RenewPlan,
    ),
}


class MetadataServer:
    """Answers for the catalog; moves a file's bytes itself only for `fetch_file`.

    A page of a listing has at most `max_page` files, also where more are asked for: `next` says that there are more.
    """

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
        access: Access,
        tickets: TicketOffice,
        trash_due: TrashDue,
        max_page: int = MAX_PAGE,
    ) -> None:
        self._transactions = transactions
        self._cluster = cluster
        self._planner = planner
        self._committer = committer
        self._checker = checker
        self._administration = administration
        self._access = access
        self._tickets = tickets
        self._trash_due = trash_due
        self._max_page = max_page

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        """Carry out `request`; see filefly.daemon.protocol.Verbs."""
        grant = grant_of(session)
        try:
            return await self._answer(request, conversation, session, grant)
        except QuotaExceeded as error:
            raise grant.without_others(error) from None

    async def _answer(
        self, request: Request, conversation: Conversation, session: Session, grant: Grant
    ) -> Reply | None:
        match request:
            case Ping():
                return Pong()
            case StoreFile() | StoreFiles() | CompleteFile() | CompleteFiles() | ReplaceReplica() | RenewPlan():
                return await self._answer_uploader(request, grant)
            case GetMetadata():
                check_file_name(request.file_name)
                return MetadataReply(await self._told(await self._committer.look_up(request.file_name), grant))
            case FetchFile():
                await self._fetch(request, conversation, grant)
                return None
            case ListFiles():
                return await self._list(request, grant)
            case ReportReplica():
                self._checker.hint(request.block_id, request.data_server)
                return Reply()
            case DeleteFile() | RenameFile() | UndeleteFile():
                return await self._change(request, grant)
        if isinstance(request, tuple(Access.commands.values())):
            return await self._access.answer(request)
        return await self._administration.answer(request, conversation)

    # Uploads

    async def _answer_uploader(self, request: Request, grant: Grant) -> Reply:
        match request:
            case StoreFile():
                return await self._plan(request, grant)
            case StoreFiles():
                return await self._results(await self._planner.plan_each(request.files, grant), grant)
            case CompleteFile():
                return MetadataReply(await self._told(await self._committer.complete(request, grant), grant))
            case CompleteFiles():
                return await self._results(await self._committer.complete_each(request.files, grant), grant)
            case ReplaceReplica():
                return await self._replace(request, grant)
            case RenewPlan():
                return await self._renew(request.generation, grant)
        raise UnknownCommand

    async def _plan(self, request: StoreFile, grant: Grant) -> Reply:
        if not request.resume:
            return MetadataReply(await self._told(await self._planner.plan(request, grant), grant))
        plan, older = await self._planner.resume(request, grant)
        if older is None:
            return MetadataReply(await self._told(plan, grant))
        resumes = self._cluster.metadata_of(older, tickets=await self._tickets.to_read(older, grant))
        return MetadataReply(await self._told(plan, grant), resumes)

    async def _results(self, outcomes: Sequence[Plan | FileFlyError], grant: Grant) -> FileResults:
        outcomes = [outcome if isinstance(outcome, Plan) else grant.without_others(outcome) for outcome in outcomes]
        plans = [outcome for outcome in outcomes if isinstance(outcome, Plan)]
        tickets = iter(await self._tickets.for_plans(plans, grant))
        return FileResults(
            [
                FileResult(self._cluster.metadata_of(outcome, tickets=next(tickets)))
                if isinstance(outcome, Plan)
                else FileResult(error=str(outcome), code=outcome.code)
                for outcome in outcomes
            ]
        )

    async def _replace(self, request: ReplaceReplica, grant: Grant) -> Reply:
        await self._check_plan(request.generation, grant)
        due = self._trash_due()
        block = await self._planner.replace(request.generation, request.block_id, request.data_server, due)
        told = self._cluster.block_of(block, committed=False)
        storage_ids = self._cluster.storage_ids_of(block.servers)
        plan = await self._check_plan(request.generation, grant)
        tickets = NONE if plan is None else await self._tickets.for_plan(plan, grant)
        return BlockReply(
            told, storage_ids, {address: tickets[address] for address in storage_ids if address in tickets}
        )

    async def _renew(self, generation: int, grant: Grant) -> Reply:
        plan = await self._check_plan(generation, grant)
        await self._planner.renew(generation)
        return PlanRenewed(NONE if plan is None else await self._tickets.for_plan(plan, grant))

    async def _check_plan(self, generation: int, grant: Grant) -> Plan | None:
        """Return a plan, in a closed cluster, if there is one and one may go on with it; raises Forbidden."""
        if self._tickets.is_open:
            return None
        plan = await self._transactions.read(plan_of_generation, generation)
        if plan is not None:
            grant.check_plan(plan)
        return plan

    # Files

    async def _told(self, plan: Plan, grant: Grant) -> Metadata:
        """Return a plan or a file as the client is told it."""
        return self._cluster.metadata_of(plan, tickets=await self._tickets.for_plan(plan, grant))

    async def _change(self, request: DeleteFile | RenameFile | UndeleteFile, grant: Grant) -> Reply:
        check_file_name(request.file_name)
        match request:
            case DeleteFile():
                await self._transactions.write(delete_file, request.file_name, self._trash_due())
            case RenameFile():
                check_file_name(request.new_name)
                await self._transactions.write(rename_file, request.file_name, request.new_name, self._trash_due())
            case UndeleteFile():
                return MetadataReply(
                    await self._told(await self._transactions.write(bring_back, request.file_name), grant)
                )
        return Reply()

    async def _list(self, request: ListFiles, grant: Grant) -> Reply:
        limit = min(request.limit, self._max_page)
        most_blocks = MAX_BLOCKS if request.blocks else None
        all_names = await self._transactions.read(
            list_files, request.prefix, request.delimiter, request.after, limit, most_blocks
        )
        page = all_names.only(grant.may_see)
        files = page.files if page.blocks is None else await self._with_blocks(page.files, page.blocks, grant)
        return FileList(files, page.prefixes if request.delimiter else None, page.next)

    async def _with_blocks(
        self, files: Sequence[ListedFile], blocks: Sequence[Sequence[PlanBlock]], grant: Grant
    ) -> Sequence[ListedFile]:
        claims = [
            Claim(Right.RETRIEVE, of_file, file.total_size, file.block_size or 0)
            for file, of_file in zip(files, blocks, strict=True)
        ]
        tickets = await self._tickets.issue(claims, grant)
        return [self._cluster.with_blocks(*each) for each in zip(files, blocks, tickets, strict=True)]

    async def _fetch(self, request: FetchFile, conversation: Conversation, grant: Grant) -> None:
        """Send a file; one that was replaced before its first byte could be read is looked up again."""
        plan = await self._readable(request.file_name)
        while True:
            try:
                await self._send(plan, request, conversation, grant)
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

    async def _send(self, plan: Plan, request: FetchFile, conversation: Conversation, grant: Grant) -> None:
        slices = slices_of(self._cluster.metadata_of(plan, internal=True), request.offset, request.length)
        head = await self._told(plan, grant)
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
