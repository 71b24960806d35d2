"""The verbs of the data server: a thin shell around BlockStore, which does its work on the disk pool."""

import threading
from functools import partial
from typing import Any

from crc32c import crc32c
from msgspec.structs import replace
from twisted.internet.defer import DeferredSemaphore
from twisted.python.failure import Failure

from filefly import __version__
from filefly.daemon.guard import Session
from filefly.daemon.payloads import send_base64, send_file
from filefly.data.batches import IncomingBatch, read_batch
from filefly.data.blocks import BlockStore
from filefly.data.incoming import IncomingBlock
from filefly.data.local import LocalSocket, send_open_file
from filefly.data.peers import Peers
from filefly.data.ranges import BlockRange
from filefly.data.rights import OpenRights, Rights
from filefly.errors import BadRequest, TimedOut, UnknownCommand
from filefly.threads import InThread
from filefly.units import KIB
from filefly.wire.address import has_one_address
from filefly.wire.batches import BlockResults, RetrieveBlocks, StoreBlocks
from filefly.wire.blocks import (
    Adopt,
    BlockList,
    BlockSum,
    BytesFollow,
    Copy,
    Delete,
    Link,
    ListBlocks,
    Quarantine,
    Quarantined,
    Retrieve,
    SetAside,
    Stat,
    Status,
    StatusReply,
    Store,
)
from filefly.wire.codec import check_sum, commands_of, crc32c_hex, decode_base64, encode
from filefly.wire.framing import PIECE_BYTES, Conversation
from filefly.wire.messages import Ping, Pong, Reply, Request
from filefly.wire.streaming import pieces_of, receive_into
from filefly.wire.tls.files import Tls

_FIRST_BYTES = 256 * KIB  # of what is too long for one piece
_BASE64_PIECE_BYTES = 256 * KIB  # each is there several times over until it is sent
_BATCHES_IN_HAND = 2  # read as a whole before their first byte is sent
_DISK_DEADLINE_SECONDS = 10.0


class DataServer:
    """Answers for the blocks of one storage, and fetches blocks from other data servers when it is told to.

    `reactor` dials them and keeps time; `rights` says what is allowed of what it is asked for.
    """

    commands = commands_of(
        Ping,
        Store,
        Retrieve,
        StoreBlocks,
        RetrieveBlocks,
        Delete,
        Stat,
        ListBlocks,
        Status,
        Copy,
        Link,
        Quarantine,
        SetAside,
        Adopt,
    )

    def __init__(
        self,
        store: BlockStore,
        in_thread: InThread,
        reactor: Any,
        rights: Rights | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._store = store
        self._rights = rights or OpenRights()
        self._identity = store.identity
        self._in_thread = in_thread
        self._reactor = reactor
        self._peers = Peers(store, in_thread, reactor, tls)
        self._batches_in_hand = DeferredSemaphore(_BATCHES_IN_HAND)
        self._late: threading.Event | None = None
        """Is set when the disk answers the last ping that it did not answer in time."""
        self.max_payload = store.max_block_size
        self._local_socket: LocalSocket | None = None

    def listens_beside(self, local_socket: LocalSocket) -> None:
        """Hear of the Unix socket beside the port."""
        self._local_socket = local_socket

    def start(self) -> None:
        """Nothing to start: connections are made as they are needed."""

    def stop(self) -> None:
        """Close the connections to other data servers."""
        self._peers.close()

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        """Carry out `request`; see filefly.daemon.protocol.Verbs."""
        self._identity.check(getattr(request, "storage_id", None))  # who names a storage means this one
        match request:
            case Store():
                return await self._store_block(request, conversation, session)
            case Retrieve():
                await self._retrieve(request, conversation)
                return None
            case Ping():
                return await self._ping(request, conversation, session)
            case StoreBlocks():
                return await self._store_blocks(request, conversation, session)
            case RetrieveBlocks():
                await self._retrieve_blocks(request, conversation, session)
                return None
            case Link():
                replaces = self._rights.may_replace(session)
                return await self._in_thread(
                    self._store.link, request.block_id, request.source_block_id, request.crc32c, replaces
                )
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
        return await self._look_after(request, conversation)

    async def _look_after(self, request: Request, conversation: Conversation) -> Reply | None:
        """Carry out what a metadata server asks for to keep its blocks well."""
        match request:
            case Copy():
                peer = conversation.transport.getPeer()
                return await self._peers.copy(request, getattr(peer, "host", "localhost"))
            case Quarantine():
                return Quarantined(await self._in_thread(self._store.quarantine, request.block_id, request.crc32c))
            case SetAside():
                await self._in_thread(self._store.set_aside, request.block_id)
                return Reply()
            case Adopt():
                adopt = partial(self._identity.adopt, request.catalog_id, request.generation, request.force)
                await self._in_thread(adopt)
                return Reply()
        raise UnknownCommand

    async def _ping(self, request: Ping, conversation: Conversation, session: Session) -> Pong:
        """Answer only if the disk does, with the storage that was there at start, and still takes blocks."""
        local = None
        if request.identity and has_one_address(conversation.transport):  # which may be gone when the disk has answered
            local = self._local_socket
        pong = await self._ping_disk(request.identity and self._rights.may_ask_who(session))
        return pong if local is None else replace(pong, local_socket=local.name, local_uid=local.uid)

    async def _ping_disk(self, with_identity: bool) -> Pong:
        no_answer = TimedOut(f"the disk did not answer for {_DISK_DEADLINE_SECONDS:g} seconds")
        if self._late is not None and not self._late.is_set():
            raise no_answer  # one thread that waits for the disk is enough
        answered = threading.Event()

        def too_late(*_: Any) -> Failure:
            self._late = answered
            return Failure(no_answer)

        ponging = self._in_thread(self._pong_thd, with_identity, answered)
        return await ponging.addTimeout(_DISK_DEADLINE_SECONDS, self._reactor, too_late)

    def _pong_thd(self, with_identity: bool, answered: threading.Event) -> Pong:
        try:
            identity = self._identity.read(afresh=True)
            self._store.check_writable()
            if not with_identity:
                return Pong(pong=True)
            space = self._store.space()
        finally:
            answered.set()
        return Pong(
            pong=True,
            storage_id=identity.storage_id,
            catalog_id=identity.catalog_id,
            generation=identity.generation,
            free_bytes=space.free_bytes,
            total_bytes=space.total_bytes,
            reserve_bytes=space.reserve_bytes,
        )

    async def _store_block(self, request: Store, conversation: Conversation, session: Session) -> BlockSum:
        if request.data is None and request.size is None:
            raise BadRequest("missing size or data")
        incoming = self._store.begin(request.block_id, request.size or 0, self._rights.may_replace(session))
        try:
            if request.data is not None:
                return await self._in_thread(_store_base64_thd, incoming, request.data, request.crc32c)
            commit_thd = partial(incoming.commit, expected=request.crc32c)
            return await receive_into(conversation, self._in_thread, incoming.write, commit_thd)
        except BaseException:
            await self._in_thread(incoming.abort)
            raise

    async def _store_blocks(self, request: StoreBlocks, conversation: Conversation, session: Session) -> BlockResults:
        refused = self._rights.refusals(request.blocks, session)
        batch = IncomingBatch(self._store, request.blocks, request.size, refused, self._rights.may_replace(session))
        try:
            return BlockResults(await receive_into(conversation, self._in_thread, batch.write, batch.commit))
        except BaseException:
            await self._in_thread(batch.abort)
            raise

    async def _retrieve_blocks(self, request: RetrieveBlocks, conversation: Conversation, session: Session) -> None:
        refused = self._rights.refusals(request.blocks, session)
        await self._batches_in_hand.acquire()
        try:
            results, found = await self._in_thread(read_batch, self._store, request.blocks, refused)
            head = BlockResults(results, size=sum(map(len, found)))
            sending = conversation.send(encode(head) + b"\n", *found)
        finally:
            self._batches_in_hand.release()
        del found  # from now on it counts as unsent
        await sending

    async def _retrieve(self, request: Retrieve, conversation: Conversation) -> None:
        if request.descriptor:
            await send_open_file(request, conversation, self._in_thread, self._store)
            return
        if request.raw:
            data = self._store.read_in_memory(request.block_id)
            if data is not None and request.offset <= len(data):
                await conversation.send(*_small_reply(request, data))
                return
        block, first, checksum = await self._in_thread(self._open_thd, request)
        try:
            head = BytesFollow(size=block.end - block.offset, crc32c=checksum)
            at = block.offset + len(first)
            if request.raw:
                await send_file(conversation, self._in_thread, head, first, block.read, at, block.end)
                return
            pieces = pieces_of(self._in_thread, block.read, at, block.end, first, _BASE64_PIECE_BYTES)
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
            size = block.end - block.offset
            first = block.read(block.offset, size if size <= PIECE_BYTES else _FIRST_BYTES)
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


def _small_reply(request: Retrieve, block: bytes) -> tuple[bytes, bytes]:
    """Return the line and the bytes that answer `request`, given the whole block; raises Corrupt."""
    if request.crc32c is not None:
        check_sum(request.crc32c, crc32c_hex(crc32c(block)))
    length = len(block) if request.length is None else request.length
    wanted = block[request.offset : request.offset + length]
    head = BytesFollow(size=len(wanted), crc32c=crc32c_hex(crc32c(wanted)))
    return encode(head) + b"\n", wanted


def _store_base64_thd(incoming: IncomingBlock, data: str, expected: str | None) -> BlockSum:
    return incoming.commit([decode_base64(data)], expected)
