"""Blocks fetched from other data servers, when a metadata server says from where."""

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from filefly.client.connection import ConnectionPool
from filefly.data.blocks import BlockStore
from filefly.errors import BadRequest, FileFlyError, TimedOut, TooLarge, error_from_wire
from filefly.threads import InThread
from filefly.wire.address import check_client_address, resolve
from filefly.wire.blocks import BlockSum, BytesFollow, Copy, Retrieve
from filefly.wire.codec import check_sum
from filefly.wire.names import check_block_id
from filefly.wire.streaming import receive_into
from filefly.wire.tls.files import Tls

_SILENCE_SECONDS = 20.0
_COPY_SECONDS = 110.0
"""After so long a copy is given up, though bytes still trickle in; who asked for it waits for two minutes."""


class Peers:
    """The other data servers, and the connections to them; what comes from there is stored like any other block."""

    def __init__(self, store: BlockStore, in_thread: InThread, reactor: Any, tls: Tls | None = None) -> None:
        self._store = store
        self._in_thread = in_thread
        self._reactor = reactor
        self._pool = ConnectionPool(reactor, "localhost", _SILENCE_SECONDS, tls=tls)

    def close(self) -> None:
        """Close the connections that are idle."""
        self._pool.close()

    async def copy(self, request: Copy, asked_from: str) -> BlockSum:
        """Fetch a block and store it if its checksum is the wanted one; `:PORT` as its source is on `asked_from`.

        Raises what the source says, Unavailable or TimedOut if it says nothing, Corrupt, and what a store may raise.
        """
        check_block_id(request.block_id)
        try:
            check_client_address(request.source)
        except ValueError as error:
            raise BadRequest(f"source: {error}") from None
        source = resolve(request.source, asked_from)
        copying = Deferred.fromCoroutine(self._copy(request, source))
        late = TimedOut(f"the copy from {source} took more than {_COPY_SECONDS:g} seconds")
        return await copying.addTimeout(_COPY_SECONDS, self._reactor, lambda *_: Failure(late))

    async def _copy(self, request: Copy, source: str) -> BlockSum:
        async with self._pool.connection(source) as connection:
            await connection.begin(Retrieve(request.block_id, raw=True, ticket=request.ticket))
            try:
                head = await connection.finish(BytesFollow, payload_follows=True)
            except FileFlyError as error:
                raise error_from_wire(error.code, f"{source}: {error}") from None
            if head.crc32c is not None:
                check_sum(request.crc32c, head.crc32c)
            if head.size > self._store.max_block_size:
                limit = self._store.max_block_size
                raise TooLarge(f"the block at {source} is over the limit of {limit} bytes (--max-block-size)")
            connection.begin_payload(head.size)
            incoming = self._store.begin(request.block_id, head.size)
            try:
                commit_thd = partial(incoming.commit, expected=request.crc32c)
                stored = await receive_into(connection, self._in_thread, incoming.write, commit_thd)
            except BaseException:
                await self._in_thread(incoming.abort)
                raise
            connection.end_payload()
            return stored
