"""Many small blocks at once: stored from one stream, or read into one. Blocking calls; knows no network.

Every block is stored or refused by itself, with all that a store promises; what they share is the wait for the disk.
Some files at a time are written and only then synced, when the file system has a part of the work behind it (1.4 times
faster than one file after another), and the directory is synced once.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import methodcaller
from typing import Any

from attrs import define
from crc32c import crc32c

from filefly.data.blocks import BlockStore
from filefly.data.incoming import IncomingBlock
from filefly.errors import BadRequest, FileFlyError, TooLarge
from filefly.units import KIB, Chunks
from filefly.wire.batches import MAX_BATCH_BYTES, BlockResult, BlockToRetrieve, BlockToStore
from filefly.wire.codec import check_sum, crc32c_hex

_OPEN_AT_ONCE = 64
"""How many files of a batch are written before they are synced: more are no faster, and each takes a descriptor."""

_PIECE_BYTES = 512 * KIB  # of a large block that is read

NONE: Mapping[int, BlockResult] = {}
"""The blocks of a batch that are refused, where none is."""


@define(eq=False)
class _Part:
    """One block of a batch: its store, or why it is refused."""

    wanted: BlockToStore
    state: IncomingBlock | BlockResult

    def attempt(self, step: Callable[[IncomingBlock], Any]) -> None:
        """Do `step`; if it fails nothing is left of this block, and nothing more is done for it."""
        if isinstance(self.state, IncomingBlock):
            try:
                step(self.state)
            except FileFlyError as error:
                self.refuse(error)

    def refuse(self, error: FileFlyError) -> None:
        """Give this block up because of `error`, unless it was given up before."""
        if isinstance(self.state, IncomingBlock):
            self.state.abort()
            self.state = refusal(error)

    def result(self) -> BlockResult:
        """Return what became of it, now that all is over."""
        if isinstance(self.state, IncomingBlock):
            stored = self.state.sum
            return BlockResult(size=stored.size, crc32c=stored.crc32c)
        return self.state


class IncomingBatch:
    """Stores under way whose bytes come one after another: `write` as often as need be, then `commit` or `abort`.

    One thread at a time. Making it touches no disk.
    """

    def __init__(
        self,
        store: BlockStore,
        blocks: Sequence[BlockToStore],
        size: int,
        refused: Mapping[int, BlockResult] = NONE,
        replaces: bool = True,
    ) -> None:
        """Begin to store `blocks` but for those at the places that are `refused`: their bytes are dropped.

        What is there under their ids stays unless the batch `replaces` it; see BlockStore.begin.
        Raises BadRequest or TooLarge if their bytes are not `size` in all, or too many.
        """
        if size > MAX_BATCH_BYTES:
            raise TooLarge(f"the blocks are over the limit of {MAX_BATCH_BYTES} bytes in all")
        if sum(block.size for block in blocks) != size:
            raise BadRequest(f"the sizes of the blocks do not add up to {size}")
        self._store = store
        self._replaces = replaces
        self._parts = [
            _Part(block, refused[place]) if place in refused else self._begin(block)
            for place, block in enumerate(blocks)
        ]
        self._coming = deque(self._parts)
        self._got = 0  # bytes of the first that is coming
        self._written: list[_Part] = []  # whole, but not on stable storage

    def _begin(self, block: BlockToStore) -> _Part:
        try:
            return _Part(block, self._store.begin(block.block_id, block.size, self._replaces))
        except FileFlyError as error:
            return _Part(block, refusal(error))

    def write(self, chunks: Chunks) -> None:
        """Take the next bytes; what goes wrong concerns single blocks."""
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                self._end_whole_blocks()
                part = self._coming[0]
                piece = rest[: part.wanted.size - self._got]
                rest = rest[len(piece) :]
                self._got += len(piece)
                part.attempt(methodcaller("write", [piece]))

    def commit(self, chunks: Chunks = ()) -> list[BlockResult]:
        """Take the last bytes and put the blocks in place, durably; return what became of each, in order."""
        self.write(chunks)
        self._end_whole_blocks()
        self._sync_written()
        for part in self._parts:
            part.attempt(IncomingBlock.publish)
        try:
            if any(isinstance(part.state, IncomingBlock) for part in self._parts):
                self._store.sync_names()
        except FileFlyError as error:  # what is durable now nobody knows
            for part in self._parts:
                part.refuse(error)
        return [part.result() for part in self._parts]

    def abort(self) -> None:
        """Leave nothing behind of what is not committed; fine also after `commit`."""
        for part in self._parts:
            part.attempt(IncomingBlock.abort)

    def _end_whole_blocks(self) -> None:
        while self._coming and self._got == self._coming[0].wanted.size:
            self._written.append(self._coming.popleft())
            self._got = 0
            if len(self._written) == _OPEN_AT_ONCE:
                self._sync_written()

    def _sync_written(self) -> None:
        for part in self._written:
            part.attempt(methodcaller("seal", part.wanted.crc32c))
        self._written.clear()


def read_batch(
    store: BlockStore, wanted: Sequence[BlockToRetrieve], refused: Mapping[int, BlockResult] = NONE
) -> tuple[list[BlockResult], list[bytes]]:
    """Read whole blocks but for those at the places that are `refused`; return what became of each, and their bytes.

    Those are in pieces: what is sent of a large block need not be kept until the rest is.
    """
    results: list[BlockResult] = []
    found: list[bytes] = []
    room = MAX_BATCH_BYTES
    for place, each in enumerate(wanted):
        if place in refused:
            results.append(refused[place])
            continue
        try:
            pieces = _read(store, each.block_id, room)
            checksum = crc32c_hex(reduce(_add_to_sum, pieces, 0))
            check_sum(each.crc32c, checksum)
        except FileFlyError as error:
            results.append(refusal(error))
        else:
            size = sum(map(len, pieces))
            results.append(BlockResult(size=size, crc32c=checksum))
            found += pieces
            room -= size
    return results, found


def _add_to_sum(summed: int, piece: bytes) -> int:
    return crc32c(piece, summed)


def _read(store: BlockStore, block_id: str, room: int) -> list[bytes]:
    data = store.read_in_memory(block_id)
    if data is not None and len(data) <= room:
        return [data]
    block = store.open(block_id)
    try:
        if block.size > room:
            raise TooLarge(f"the blocks are over the limit of {MAX_BATCH_BYTES} bytes in all; ask for this one alone")
        places = range(0, block.size, _PIECE_BYTES)
        return [block.read(at, min(_PIECE_BYTES, block.size - at)) for at in places]
    finally:
        block.close()


def refusal(error: FileFlyError) -> BlockResult:
    """Return the answer for a block that `error` was the end of."""
    return BlockResult(error=str(error), code=error.code)
