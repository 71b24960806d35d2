"""How a file is cut into blocks and which data server gets which. Pure."""

from collections.abc import Sequence

from filefly.errors import BadRequest, TooLarge
from filefly.wire.messages import MAX_BLOCK_SIZE, MAX_BLOCKS


def choose_block_size(file_size: int, block_size: int) -> int:
    """Return `block_size`, doubled until the file has at most 20,000 blocks, but at most 64 MiB.

    Raises TooLarge for a file that would still have more.
    """
    while file_size > block_size * MAX_BLOCKS and block_size < MAX_BLOCK_SIZE:
        block_size = min(2 * block_size, MAX_BLOCK_SIZE)
    if file_size > block_size * MAX_BLOCKS:
        raise TooLarge(f"file_size is over the limit of {MAX_BLOCKS} blocks of {MAX_BLOCK_SIZE} bytes")
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
