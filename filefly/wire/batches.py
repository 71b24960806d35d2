"""Requests and replies about many small files or blocks at once: one exchange where there would be hundreds.

Each item is answered for itself and in order: what one is refused for does not touch the others. A batch has at most
MAX_BATCH items; the bytes of its blocks are at most MAX_BATCH_BYTES.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from filefly.wire.messages import Attributes, Checksum, Metadata, Number, Reply, Request, StoredBlock

MAX_BATCH = 1_000
MAX_BATCH_BYTES = 8 * 1024 * 1024

_BATCH = Meta(max_length=MAX_BATCH)

# The metadata server


class FileToStore(Struct, frozen=True, omit_defaults=True):
    """What `store_file` says of a file, as one of many."""

    file_name: str
    file_size: Number
    replicas: Annotated[int, Meta(ge=1, le=1000)] | None = None
    explicit: bool = False
    if_generation: Number | None = None
    attributes: Attributes = {}


class StoreFiles(Request, frozen=True, tag="store_files"):
    """Plan many files, all in one durable transaction; their blocks are at most MAX_BLOCKS."""

    files: Annotated[Sequence[FileToStore], _BATCH]


class FileToComplete(Struct, frozen=True, omit_defaults=True):
    """What `complete_file` says of a plan, as one of many."""

    generation: Number
    file_name: str | None = None
    blocks: Sequence[StoredBlock] = ()
    if_generation: Number | None = None


class CompleteFiles(Request, frozen=True, tag="complete_files"):
    """Commit many plans."""

    files: Annotated[Sequence[FileToComplete], _BATCH]


class FileResult(Struct, frozen=True, omit_defaults=True):
    """The answer for one file: its metadata, or an error."""

    metadata: Metadata | None = None
    error: str | None = None
    code: str | None = None


class FileResults(Reply, frozen=True, tag="ok"):
    """The answers for many files, in the order of the request."""

    results: Sequence[FileResult]


# The data server


class BlockToStore(Struct, frozen=True, omit_defaults=True):
    """What `store` says of a block, as one of many."""

    block_id: str
    size: Number
    crc32c: Checksum | None = None
    ticket: str | None = None


class StoreBlocks(Request, frozen=True, tag="store_blocks"):
    """Store many blocks, whose bytes, `size` in all, follow the line one block after another."""

    size: Number
    blocks: Annotated[Sequence[BlockToStore], _BATCH]
    storage_id: str | None = None


class BlockToRetrieve(Struct, frozen=True, omit_defaults=True):
    """What `retrieve` says of a whole block, as one of many."""

    block_id: str
    crc32c: Checksum | None = None
    ticket: str | None = None


class RetrieveBlocks(Request, frozen=True, tag="retrieve_blocks"):
    """Read many whole blocks; their bytes follow the reply's line."""

    blocks: Annotated[Sequence[BlockToRetrieve], _BATCH]


class BlockResult(Struct, frozen=True, omit_defaults=True):
    """The answer for one block: its size and checksum, or an error."""

    size: Number | None = None
    crc32c: Checksum | None = None
    error: str | None = None
    code: str | None = None


class BlockResults(Reply, frozen=True, tag="ok"):
    """The answers for many blocks, in the order of the request; the bytes of those retrieved, `size` in all, follow."""

    results: Sequence[BlockResult]
    size: Number | None = None
