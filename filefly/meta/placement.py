"""How a file is cut into blocks, which data server gets which, and what to repair. Pure."""

from collections.abc import Collection, Sequence

from attrs import frozen

from filefly.catalog.replicas import StoredBlock
from filefly.errors import BadRequest, TooLarge
from filefly.wire.messages import MAX_BLOCK_SIZE, MAX_BLOCKS


def choose_block_size(file_size: int, block_size: int, most_blocks: int = MAX_BLOCKS) -> int:
    """Return `block_size`, doubled until the file has at most `most_blocks` blocks, but at most 64 MiB.

    Raises TooLarge for a file that would still have more.
    """
    while file_size > block_size * most_blocks and block_size < MAX_BLOCK_SIZE:
        block_size = min(2 * block_size, MAX_BLOCK_SIZE)
    if file_size > block_size * most_blocks:
        raise TooLarge(
            f"file_size is over the limit of {most_blocks} blocks of {MAX_BLOCK_SIZE} bytes (--max-blocks-per-file)"
        )
    return block_size


def cut(file_size: int, block_size: int) -> list[int]:
    """Return the sizes of the blocks of a file, in order; an empty file has none."""
    whole, rest = divmod(file_size, block_size)
    return [block_size] * whole + ([rest] if rest else [])


def place(block_count: int, replicas: int, servers: Sequence[int], cursor: int) -> list[tuple[int, ...]]:
    """Return for each block the servers that get its replicas: distinct ones, round-robin from `cursor`.

    Each block begins one server further than the last, so that first replicas, which readers prefer, are spread as
    well as all of them. The next file's cursor is `cursor + block_count`. Raises BadRequest if there are too few.
    """
    if replicas > len(servers):
        raise BadRequest(f"replica count {replicas} exceeds available data servers ({len(servers)})")
    return [
        tuple(servers[(cursor + block + replica) % len(servers)] for replica in range(replicas))
        for block in range(block_count)
    ]


# Repair


@frozen
class Servers:
    """What data servers can be used for, by key.

    `answering` ones can be read; `placing` ones get new blocks, in a stable order; replicas on `away` ones do not
    count; `draining` ones are to have none.
    """

    answering: frozenset[int]
    placing: tuple[int, ...]
    away: frozenset[int]
    draining: frozenset[int]


@frozen
class Settled:
    """Nothing is to be done."""


@frozen
class Stuck:
    """Something should be done, but cannot be as things are."""

    why: str


@frozen
class CopyBlock:
    """A copy is to be put on `target`, from the first of `sources` that has a good one."""

    sources: tuple[int, ...]
    target: int


@frozen
class TakeBack:
    """What lies on `server` as trash is to be a replica again, if it is good."""

    server: int


@frozen
class GiveUp:
    """The replica on `server` is to go, once the others that `keep` the block were verified."""

    server: int
    keep: tuple[int, ...]


Step = Settled | Stuck | CopyBlock | TakeBack | GiveUp


def next_step(block: StoredBlock, servers: Servers, busy: Collection[int] = (), trashed: Collection[int] = ()) -> Step:
    """Return what is to be done next about a block's replicas.

    `busy` data servers cannot take it now; on `trashed` ones it waits for the end of its grace. First as many good
    replicas as wanted: what is trash is taken back, or a copy made, where possible on a data server whose own is bad.
    Then bad replicas, those on draining servers and surplus ones go, one at a time.
    """
    kept = [server for server in block.good if server not in servers.away and server not in servers.draining]
    if len(kept) < block.wanted:
        return _take_back(block, servers, trashed) or _copy(block, servers, busy)
    leaving = [server for server in block.servers if server in block.bad and server not in servers.away]
    leaving += [server for server in block.good if server in servers.draining]
    if not leaving and len(kept) > block.wanted:
        leaving = kept[-1:]
    if not leaving:
        return Settled()
    keep = tuple(server for server in kept if server != leaving[0] and server in servers.answering)
    if len(keep) < block.wanted:
        return Stuck("the other replicas cannot be verified: a data server does not answer")
    return GiveUp(leaving[0], keep)


def _take_back(block: StoredBlock, servers: Servers, trashed: Collection[int]) -> Step | None:
    there = sorted(servers.answering & set(trashed) - set(block.servers))
    staying = [server for server in there if server not in servers.draining]
    if staying:
        return TakeBack(staying[0])
    last = not any(server in servers.answering for server in block.good)
    return TakeBack(there[0]) if there and last else None


def _copy(block: StoredBlock, servers: Servers, busy: Collection[int]) -> Step:
    sources = tuple(server for server in block.good if server in servers.answering)
    if not sources:
        return Stuck("no good replica can be reached")
    damaged = [server for server in servers.placing if server in block.bad]
    fresh = [server for server in servers.placing if server not in block.servers]
    targets = [server for server in (*damaged, *_rotated(fresh, block)) if server in servers.answering]
    targets = [server for server in targets if server not in busy]
    if not targets:
        return Stuck("no other data server can take a copy: each has one, is down, draining or full")
    return CopyBlock(sources, targets[0])


def _rotated(servers: Sequence[int], block: StoredBlock) -> Sequence[int]:
    """Spread copies over the data servers: each block prefers another one."""
    first = (block.place.generation + block.place.position) % len(servers) if servers else 0
    return [*servers[first:], *servers[:first]]
