"""What a client does next: which replica, whether to try again, which blocks. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from filefly.client.errors import Silent, Unreachable
from filefly.errors import (
    BadRange,
    Busy,
    Corrupt,
    FileFlyError,
    Forbidden,
    Incomplete,
    NotFound,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from filefly.wire.messages import Block, DeleteFile, Metadata, RenameFile, ReplaceReplica, Request

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
    for block, begin in offsets_of(metadata.blocks):
        first, last = max(offset - begin, 0), min(end - begin, block.size)
        if first < last:
            slices.append(Slice(block, first, last))
    return slices


def offsets_of(blocks: Iterable[Block]) -> Iterator[tuple[Block, int]]:
    """Yield each block with its place in the file."""
    offset = 0
    for block in blocks:
        yield block, offset
        offset += block.size


def check_readable(metadata: Metadata) -> None:
    """Raise Incomplete unless the file is committed, and Corrupt unless its blocks make up all of it."""
    if metadata.state != "committed":
        raise Incomplete(f"{metadata.name} is not complete: its blocks are not all stored yet")
    if sum(block.size for block in metadata.blocks) != metadata.total_size:
        raise Corrupt(f"the metadata of {metadata.name} does not add up: its blocks do not make up its size")


def changed_since(before: Metadata, now: Metadata) -> bool:
    """Whether reading by `now` may go well where it failed by `before`: the file was replaced, or its blocks moved."""
    return _places(before) != _places(now)


def _places(metadata: Metadata) -> Sequence[tuple[str, Collection[str]]]:
    return [(block.id, {replica.data_server for replica in block.replicas}) for block in metadata.blocks]


def addresses_of(block: Block) -> list[str]:
    """Return where to ask for a block, the preferred place first; raises Unavailable if no place is known."""
    addresses = [replica.data_server for replica in block.replicas] or [block.data_server]
    if not any(addresses):
        raise Unavailable(f"block {block.id} cannot be read: none of the data servers that have it was seen lately")
    return [address for address in addresses if address]


def worth_a_retry(error: FileFlyError) -> bool:
    """Whether the same request to a data server may succeed a little later."""
    return isinstance(error, Unavailable | TimedOut | Busy | Corrupt)


def took_long(error: FileFlyError) -> bool:
    """Whether it has taken long to find out that a server does not answer: not again, where there is another."""
    return isinstance(error, TimedOut | Silent)


def worth_asking_again(request: Request, error: FileFlyError) -> bool:
    """Whether to send the same request to the metadata server again a little later.

    It may have been carried out, and only its answer lost: so none that would then fail, or mean something else. That
    no other data server is left is an answer like any other.
    """
    if isinstance(request, DeleteFile | RenameFile) or isinstance(error, Silent):
        return False
    if isinstance(request, ReplaceReplica):
        return isinstance(error, Unreachable | TimedOut)
    return isinstance(error, Unavailable | TimedOut)


def worth_rereading(error: FileFlyError) -> bool:
    """Whether a reader that met with `error` should look whether the metadata it reads by is still right."""
    return isinstance(error, NotFound | Unavailable | TimedOut | Corrupt | Unauthorized)


def replacement_in(block: Block, known: Collection[str]) -> str | None:
    """Return the place of a block that was not `known` before, or None if there is none."""
    return next((replica.data_server for replica in block.replicas if replica.data_server not in known), None)


def short_blocks(metadata: Metadata) -> int:
    """Return how many blocks of a file have fewer replicas than it should have."""
    return sum(len(block.replicas) < metadata.replicas for block in metadata.blocks)


def links_of(plan: Metadata, older: Metadata) -> dict[str, tuple[str, Sequence[str]]]:
    """Return for the id of each block of `plan` that `older` has too its id there, and the places that both name."""
    links: dict[str, tuple[str, Sequence[str]]] = {}
    for new, old in zip(plan.blocks, older.blocks, strict=False):
        places = {replica.data_server for replica in old.replicas}
        shared = [replica.data_server for replica in new.replicas if replica.data_server in places]
        if new.size == old.size and shared:
            links[new.id] = (old.id, shared)
    return links


def error_of_all(block_id: str, done: str, errors: Mapping[str, FileFlyError]) -> FileFlyError:
    """Return the one error that tells of every place where a block cannot be `done` (read, stored).

    Unavailable comes before corrupt before not_found: a replica that cannot be reached, or shown to who asks, may still
    come back; one that is corrupt may be repaired from a copy elsewhere.
    """
    kinds: Sequence[type[FileFlyError]] = (Unavailable, TimedOut, Busy, Unauthorized, Forbidden, Corrupt, NotFound)
    found = list(errors.values())
    kind = next((kind for kind in kinds if any(isinstance(error, kind) for error in found)), type(found[0]))
    reasons = "; ".join(f"{address}: {error}" for address, error in errors.items())
    return kind(f"block {block_id} cannot be {done} ({reasons})")
