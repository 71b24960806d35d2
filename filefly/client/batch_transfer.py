"""Many small blocks to or from one data server in one exchange."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from attrs import define

from filefly.client.connection import ConnectionPool
from filefly.client.decisions import worth_a_retry
from filefly.client.retries import with_retries
from filefly.errors import Corrupt
from filefly.wire.batches import BlockResult, BlockResults, BlockToRetrieve, BlockToStore, RetrieveBlocks, StoreBlocks
from filefly.wire.codec import NotUnderstood
from filefly.wire.framing import PIECE_BYTES
from filefly.wire.messages import Block


@define(eq=False)
class BatchTransfer:
    """Moves batches of blocks. What goes wrong with one block is in its result; what is raised concerns all of them."""

    _reactor: Any
    _pool: ConnectionPool

    async def store(
        self,
        address: str,
        blocks: Sequence[BlockToStore],
        data: Sequence[bytes],
        storage_id: str | None = None,
        patient: bool = True,
    ) -> Sequence[BlockResult]:
        """Store `blocks`, whose bytes are `data`, and return a result for each; see BlockTransfer.store."""
        payload = b"".join(data)
        request = StoreBlocks(size=len(payload), blocks=blocks, storage_id=storage_id)
        once = partial(self._store_once, address, request, payload)
        return await (with_retries(self._reactor, worth_a_retry, once) if patient else once())

    async def _store_once(self, address: str, request: StoreBlocks, payload: bytes) -> Sequence[BlockResult]:
        async with self._pool.connection(address) as connection:
            await connection.begin(request)
            for at in range(0, len(payload), PIECE_BYTES):
                await connection.send(payload[at : at + PIECE_BYTES])
            return _one_for_each(request.blocks, (await connection.finish(BlockResults)).results)

    async def retrieve(
        self, address: str, wanted: Sequence[tuple[Block, str | None]]
    ) -> tuple[Sequence[BlockResult], Sequence[bytes]]:
        """Return a result for each block, and the bytes of those that were found as they came, not verified.

        Beside each block that is wanted stands its ticket, if it has one.
        """
        blocks = [block for block, _ticket in wanted]
        request = RetrieveBlocks([BlockToRetrieve(block.id, ticket=ticket) for block, ticket in wanted])
        async with self._pool.connection(address) as connection:
            await connection.begin(request)
            head = await connection.finish(BlockResults, payload_follows=True)
            results = _one_for_each(blocks, head.results)
            _check_sizes(blocks, results, head.size or 0)
            connection.begin_payload(head.size or 0)
            received: list[bytes] = []
            while chunks := await connection.receive_chunks():
                received += chunks
            connection.end_payload()
        return results, received


def _one_for_each(blocks: Sequence[object], results: Sequence[BlockResult]) -> Sequence[BlockResult]:
    if len(results) != len(blocks):
        raise NotUnderstood(f"the server's reply is not understood: {len(results)} results for {len(blocks)} blocks")
    return results


def _check_sizes(blocks: Sequence[Block], results: Sequence[BlockResult], total: int) -> None:
    """Raise Corrupt unless what follows is as much as the results say, and no more than there can be."""
    sizes = [result.size or 0 for result in results]
    if sum(sizes) != total or any(size > block.size for size, block in zip(sizes, blocks, strict=True)):
        raise Corrupt(f"{total} bytes follow, which are not those of the blocks")
