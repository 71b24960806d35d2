"""The verbs of the data server: a thin shell around BlockStore, which does its work on the disk pool."""

from functools import partial

from crc32c import crc32c

from filefly import __version__
from filefly.daemon.payloads import send_base64, send_raw
from filefly.data.blocks import BlockRange, BlockStore, IncomingBlock
from filefly.errors import BadRequest, UnknownCommand
from filefly.threads import InThread
from filefly.wire.codec import check_sum, commands_of, crc32c_hex, decode_base64
from filefly.wire.framing import PIECE_BYTES, Conversation
from filefly.wire.messages import (
    BlockList,
    BlockSum,
    BytesFollow,
    Delete,
    ListBlocks,
    Ping,
    Pong,
    Reply,
    Request,
    Retrieve,
    Stat,
    Status,
    StatusReply,
    Store,
)
from filefly.wire.streaming import pieces_of, receive_into


class DataServer:
    """Answers store, retrieve, delete, stat, list_blocks, status and ping."""

    commands = commands_of(Ping, Store, Retrieve, Delete, Stat, ListBlocks, Status)

    def __init__(self, store: BlockStore, in_thread: InThread) -> None:
        self._store = store
        self._in_thread = in_thread
        self.max_payload = store.max_block_size

    async def answer(self, request: Request, conversation: Conversation) -> Reply | None:
        """Carry out `request`; see filefly.daemon.protocol.Verbs."""
        match request:
            case Ping():
                return Pong(pong=True)
            case Store():
                return await self._store_block(request, conversation)
            case Retrieve():
                await self._retrieve(request, conversation)
                return None
            case Stat():
                return await self._in_thread(self._store.stat, request.block_id, request.verify)
            case Delete():
                await self._in_thread(self._store.delete, request.block_id)
                return Reply()
            case ListBlocks():
                page = await self._in_thread(self._store.list, request.after, request.limit)
                return BlockList(blocks=page.blocks, next=page.next)
            case Status():
                return await self._in_thread(self._status_thd)
        raise UnknownCommand

    async def _store_block(self, request: Store, conversation: Conversation) -> BlockSum:
        if request.data is None and request.size is None:
            raise BadRequest("missing size or data")
        incoming = self._store.begin(request.block_id)
        try:
            if request.data is not None:
                return await self._in_thread(_store_base64_thd, incoming, request.data, request.crc32c)
            commit_thd = partial(incoming.commit, expected=request.crc32c)
            return await receive_into(conversation, self._in_thread, incoming.write, commit_thd)
        except BaseException:
            await self._in_thread(incoming.abort)
            raise

    async def _retrieve(self, request: Retrieve, conversation: Conversation) -> None:
        block, first, checksum = await self._in_thread(self._open_thd, request)
        try:
            head = BytesFollow(size=block.end - block.offset, crc32c=checksum)
            pieces = pieces_of(self._in_thread, block.read, block.offset + len(first), block.end, first)
            if request.raw:
                await send_raw(conversation, head, pieces)
            else:
                await send_base64(conversation, head, pieces)
        finally:
            if not block.closed:
                await self._in_thread(block.close)

    def _open_thd(self, request: Retrieve) -> tuple[BlockRange, bytes, str | None]:
        """Return the wanted range, checked if a checksum is expected, its first piece, and its checksum if known.

        A small range costs this one hop to a thread: it is read to its end and closed.
        """
        block = self._store.open(request.block_id, request.offset, request.length)
        try:
            checksum = None
            if request.crc32c is not None:
                whole, checksum = block.sums()
                check_sum(request.crc32c, whole)
            first = block.read(block.offset, min(PIECE_BYTES, block.end - block.offset))
            if block.offset + len(first) == block.end:
                checksum = crc32c_hex(crc32c(first))
                block.close()
        except BaseException:
            block.close()
            raise
        return block, first, checksum

    def _status_thd(self) -> StatusReply:
        usage = self._store.usage()
        return StatusReply(
            storage_id=self._store.storage.storage_id,
            free_bytes=usage.free_bytes,
            used_bytes=usage.used_bytes,
            block_count=usage.block_count,
            version=__version__,
        )


def _store_base64_thd(incoming: IncomingBlock, data: str, expected: str | None) -> BlockSum:
    return incoming.commit([decode_base64(data)], expected)
