"""Requests and replies of a data server, about blocks.

In a closed cluster a request carries the `ticket` that allows it (filefly.security.tickets); an open one ignores it.
`copy` carries the one that the source wants to see.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from filefly.wire.messages import MAX_PAGE, Checksum, Number, Reply, Request

# Requests


class Store(Request, frozen=True, tag="store"):
    """Store a block: `data` in base64, or `size` raw bytes behind the line."""

    block_id: str
    data: str | None = None
    size: Number | None = None
    crc32c: Checksum | None = None
    storage_id: str | None = None
    ticket: str | None = None


class Retrieve(Request, frozen=True, tag="retrieve"):
    """Read a block or a range of it; `crc32c` is checked over the whole block before a byte leaves.

    With `descriptor`, on a data server's local socket, the whole block comes as an open file.
    """

    block_id: str
    offset: Number = 0
    length: Number | None = None
    raw: bool = False
    crc32c: Checksum | None = None
    descriptor: bool = False
    ticket: str | None = None


class Delete(Request, frozen=True, tag="delete"):
    """Delete a block; fine also when it is not there."""

    block_id: str
    storage_id: str | None = None


class Stat(Request, frozen=True, tag="stat"):
    """Ask for a block's size and, with `verify`, for the checksum of its bytes on disk."""

    block_id: str
    verify: bool = False
    storage_id: str | None = None
    ticket: str | None = None


class Copy(Request, frozen=True, tag="copy"):
    """Have a data server fetch a block from another one, at `source`; only with the sum `crc32c` is it stored."""

    block_id: str
    source: str
    crc32c: Checksum
    storage_id: str
    ticket: str | None = None


class Link(Request, frozen=True, tag="link"):
    """Give a stored block a second id, if `crc32c` is its sum: how a resumed upload keeps what is in place."""

    block_id: str
    source_block_id: str
    crc32c: Checksum
    storage_id: str | None = None
    ticket: str | None = None
    source_ticket: str | None = None


class Quarantine(Request, frozen=True, tag="quarantine"):
    """Move a block whose sum is not `crc32c` out of the way, into `.corrupt/`; one whose sum it is stays."""

    block_id: str
    crc32c: Checksum
    storage_id: str


class SetAside(Request, frozen=True, tag="set_aside"):
    """Move a block that no catalog knows out of the way, into `.unknown/`; fine also when it is not there."""

    block_id: str
    storage_id: str


class Adopt(Request, frozen=True, tag="adopt"):
    """Make a storage one of a catalog's, and tell it the catalog's highest generation.

    A storage of another catalog, or of another id, is `wrong_storage`; `force` takes it from its catalog.
    """

    storage_id: str
    catalog_id: str
    generation: Number
    force: bool = False


class ListBlocks(Request, frozen=True, tag="list_blocks"):
    """List the stored blocks, a page at a time."""

    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 1000


class Status(Request, frozen=True, tag="status"):
    """Ask a data server for its identity and its space."""


# Replies


class ListedBlock(Struct, frozen=True):
    """One line of `list_blocks`."""

    id: str
    size: Number


class Quarantined(Reply, frozen=True, tag="ok"):
    """Whether a block was moved out of the way."""

    quarantined: bool


class BlockSum(Reply, frozen=True, tag="ok"):
    """A block's size and, where it was computed, its checksum: the answer to `store` and `stat`."""

    size: Number
    crc32c: Checksum | None = None


class BytesFollow(Reply, frozen=True, tag="ok"):
    """The line before the raw bytes of `retrieve`; `crc32c` is that of the bytes sent."""

    size: Number
    crc32c: Checksum | None = None


class BlockList(Reply, frozen=True, tag="ok"):
    """A page of blocks."""

    blocks: Sequence[ListedBlock]
    next: str | None = None


class StatusReply(Reply, frozen=True, tag="ok"):
    """A data server's identity and space; `used_bytes` is what the blocks hold."""

    storage_id: str
    free_bytes: Number
    used_bytes: Number
    block_count: Number
    version: str
