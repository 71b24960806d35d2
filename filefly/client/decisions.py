"""What a client does next: which replica, whether to try again, which blocks. Pure."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from filefly.errors import BadRange, Busy, Corrupt, FileFlyError, Incomplete, NotFound, TimedOut, Unavailable
from filefly.wire.messages import Block, Metadata

RETRY_DELAYS_SECONDS = (0.2, 1.0)
"""How long to wait before each further round of tries."""


@frozen
class Slice:
    """The bytes from `offset` to `end` of one block."""

    block: Block
    offset: int
    end: int

    @property
    def whole(self) -> bool:
        """Whether it is the whole block."""
        return self.offset == 0 and self.end == self.block.size


def slices_of(metadata: Metadata, offset: int = 0, length: int | None = None) -> list[Slice]:
    """Return the parts of blocks that make up a range of a file, in order; the range's end is clipped.

    Blocks may differ in size. Raises BadRange if the range begins beyond the end.
    """
    if offset > metadata.total_size:
        raise BadRange(f"offset {offset} is beyond the file's {metadata.total_size} bytes")
    end = metadata.total_size if length is None else min(metadata.total_size, offset + length)
    slices = []
    begin = 0
    for block in metadata.blocks:
        first, last = max(offset - begin, 0), min(end - begin, block.size)
        if first < last:
            slices.append(Slice(block, first, last))
        begin += block.size
    return slices


def check_readable(metadata: Metadata) -> None:
    """Raise Incomplete unless the file is committed, and Corrupt unless its blocks make up all of it."""
    if metadata.state != "committed":
        raise Incomplete(f"{metadata.name} is not complete: its blocks are not all stored yet")
    if sum(block.size for block in metadata.blocks) != metadata.total_size:
        raise Corrupt(f"the metadata of {metadata.name} does not add up: its blocks do not make up its size")


def addresses_of(block: Block) -> list[str]:
    """Return where to ask for a block, the preferred place first."""
    return [replica.data_server for replica in block.replicas] or [block.data_server]


def worth_a_retry(error: FileFlyError) -> bool:
    """Whether the same request may succeed a little later."""
    return isinstance(error, Unavailable | TimedOut | Busy | Corrupt)


def error_of_all(block_id: str, errors: Mapping[str, FileFlyError]) -> FileFlyError:
    """Return the one error that tells of every place that failed: unavailable before corrupt before not_found.

    A replica that cannot be reached may still come back; one that is corrupt may be repaired from a copy elsewhere.
    """
    kinds: Sequence[type[FileFlyError]] = (Unavailable, TimedOut, Busy, Corrupt, NotFound)
    found = list(errors.values())
    kind = next((kind for kind in kinds if any(isinstance(error, kind) for error in found)), type(found[0]))
    reasons = "; ".join(f"{address}: {error}" for address, error in errors.items())
    return kind(f"block {block_id} cannot be read ({reasons})")
