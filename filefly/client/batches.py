"""Which small files travel together: what is small, what a batch is, where it is fetched from. Pure."""

from collections.abc import Container, Iterable, Iterator
from typing import Generic, TypeVar

from attrs import define, field

from filefly.client.decisions import addresses_of
from filefly.errors import Unavailable
from filefly.units import KIB, MIB
from filefly.wire.messages import Block, ListedFile, Metadata

T = TypeVar("T")

SMALL_BYTES = 256 * KIB
"""Files up to this size travel together; for larger ones an exchange of their own costs little."""
MOST_FILES = 256
MOST_BYTES = MIB
"""A batch is full once it has so many files, or so many bytes."""
BATCHES_AT_ONCE = 4
FILES_AT_ONCE = 16
"""How many files that travel alone are under way at once."""


@define
class Batch(Generic[T]):
    """Files, each with what belongs to it, that are fetched together from `place`; where that is None, one by one."""

    place: str | None
    files: list[tuple[ListedFile, T]] = field(factory=list)
    size: int = 0

    def add(self, file: ListedFile, belonging: T) -> None:
        """Take one more file."""
        self.files.append((file, belonging))
        self.size += file.total_size

    @property
    def full(self) -> bool:
        """Whether that is enough; bytes count only where they are all in memory at once."""
        return len(self.files) >= MOST_FILES or (self.place is not None and self.size >= MOST_BYTES)


def batches_of(files: Iterable[tuple[ListedFile, T]], avoided: Container[str]) -> Iterator[Batch[T]]:
    """Yield all of `files` in batches, in the order in which these are full.

    A place that is `avoided` when a file's turn comes is not chosen for it.
    """
    filling: dict[str | None, Batch[T]] = {}
    for file, belonging in files:
        place = place_of(file, avoided)
        batch = filling.get(place) or filling.setdefault(place, Batch(place))
        batch.add(file, belonging)
        if batch.full:
            yield filling.pop(place)
    yield from filling.values()


def place_of(file: ListedFile, avoided: Container[str]) -> str | None:
    """Return where to fetch a file from together with others, "" if there is nothing to fetch, None if it goes alone.

    Of its replicas' places the first one that is not `avoided`.
    """
    if file.blocks is None or file.total_size > SMALL_BYTES or not is_one_block(file.blocks, file.total_size):
        return None
    for block in file.blocks:
        try:
            return next((address for address in addresses_of(block) if address not in avoided), None)
        except Unavailable:
            return None
    return ""


def is_one_block(blocks: Iterable[Block], size: int) -> bool:
    """Whether a file of `size` bytes is one block, or none if it is empty."""
    sizes = [block.size for block in blocks]
    return sizes == ([size] if size else [])


def in_groups(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield `items` in lists of as many as a batch has at most."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == MOST_FILES:
            yield group
            group = []
    if group:
        yield group


def cut(chunks: Iterable[bytes], sizes: Iterable[int]) -> Iterator[bytes | memoryview]:
    """Yield what `chunks` hold, one behind the other, in pieces of these sizes; copies only what lies across chunks."""
    coming = iter(chunks)
    chunk = memoryview(b"")
    for size in sizes:
        begun, missing = list[memoryview](), size
        while missing > len(chunk):
            if chunk:
                begun.append(chunk)
            missing -= len(chunk)
            chunk = memoryview(next(coming))
        piece, chunk = chunk[:missing], chunk[missing:]
        yield b"".join([*begun, piece]) if begun else piece


def metadata_of(file: ListedFile) -> Metadata:
    """Return the metadata of a file that was listed with its blocks."""
    return Metadata(
        name=file.name,
        total_size=file.total_size,
        block_size=file.block_size or 0,
        generation=file.generation,
        state="committed",
        replicas=file.replicas,
        modified=file.modified,
        attributes=file.attributes,
        blocks=file.blocks or [],
    )
