"""Requests and replies of the metadata server, and what all messages share.

Those that look after a cluster are in filefly.wire.administration, a data server's in filefly.wire.blocks.

Messages are msgspec structs, not attrs classes: fields that hold their default are left out of the JSON, as the wire
wants it, and a plan of 20,000 blocks is encoded in 1 ms instead of 5. A class's tag is its command or its status.
Numbers are JSON integers from 0 to 2^53-1; unknown fields are ignored.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Checksum = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")]
"""A CRC32C as eight lower-case hex digits."""

Attributes = dict[str, Any]

MAX_BLOCK_SIZE = 64 * 1024 * 1024
MAX_BLOCKS = 20_000
MAX_PAGE = 10_000


class Replica(Struct, frozen=True):
    """One copy of a block: the data server's address, as clients are told it."""

    data_server: str


class Block(Struct, frozen=True, omit_defaults=True):
    """One block of a plan; `data_server` repeats the first of `replicas` for readers that know no replicas."""

    id: str
    size: Number
    data_server: str
    replicas: Sequence[Replica]
    crc32c: Checksum | None = None


class Metadata(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A file as the catalog knows it; while `state` is `pending` it is a plan.

    An explicit plan tells the `storage_ids` behind its data servers' addresses, for its stores to carry. In a closed
    cluster `tickets` has one for each of these addresses.
    """

    name: str
    total_size: Number
    block_size: Number
    generation: Number
    state: str
    replicas: Number
    modified: str | None = None
    attributes: Attributes
    blocks: Sequence[Block]
    storage_ids: Mapping[str, str] = {}
    tickets: Mapping[str, str] = {}


class ListedFile(Struct, frozen=True, omit_defaults=True):
    """One line of `list_files`; its blocks, and in a closed cluster their tickets, only if they were asked for."""

    name: str
    total_size: Number
    generation: Number
    replicas: Number
    modified: str
    attributes: Attributes
    block_size: Number | None = None
    blocks: Sequence[Block] | None = None
    tickets: Mapping[str, str] = {}


class StoredBlock(Struct, frozen=True, omit_defaults=True):
    """What a client says of a block that it has stored; believed only with both checksum and replicas."""

    id: str
    crc32c: Checksum | None = None
    replicas: Sequence[Replica] = ()


class PlannedBlock(Struct, frozen=True):
    """As much of a plan's block as `complete_file` looks at when the plan is handed back."""

    id: str


class HandedBackPlan(Struct, frozen=True):
    """As much of a plan as `complete_file` looks at when it is handed back as `metadata`."""

    name: str | None = None
    generation: Number | None = None
    blocks: Sequence[PlannedBlock] = ()


class ScrubProgress(Struct, frozen=True, omit_defaults=True):
    """How far a data server's blocks were re-read in the pass that is under way, or was last."""

    checked: Number
    total: Number
    bad: Number
    finished: str | None = None


class DataServerState(Struct, frozen=True, omit_defaults=True):
    """One line of `list_data_servers`; times are RFC 3339 in UTC.

    `state` is up, suspect, down, draining or full; `address` is empty while the storage was seen at none.
    """

    address: str
    healthy: bool
    advertised_address: str | None = None
    last_pong: str | None = None
    last_checked: str | None = None
    error: str | None = None
    state: str | None = None
    storage_id: str | None = None
    free_bytes: Number | None = None
    total_bytes: Number | None = None
    scrub: ScrubProgress | None = None


# Requests


class Request(Struct, frozen=True, omit_defaults=True, tag_field="command"):
    """What a client sends; the subclass's tag is the command."""


class Ping(Request, frozen=True, tag="ping"):
    """Ask whether the server is there; both servers answer. Only a data server has an `identity` to tell."""

    identity: bool = False


class StoreFile(Request, frozen=True, tag="store_file"):
    """Plan a file; with `resume` the reply tells the newest open explicit plan of its size, if there is one."""

    file_name: str
    file_size: Number | None = None
    data: str | None = None
    replicas: Annotated[int, Meta(ge=1, le=1000)] | None = None
    explicit: bool = False
    resume: bool = False
    if_generation: Number | None = None
    attributes: Attributes = {}


class CompleteFile(Request, frozen=True, tag="complete_file"):
    """Commit a plan."""

    file_name: str | None = None
    metadata: HandedBackPlan | None = None
    generation: Number | None = None
    blocks: Sequence[StoredBlock] = ()
    if_generation: Number | None = None


class FetchFile(Request, frozen=True, tag="fetch_file"):
    """Read a file, or a range of it, through the metadata server."""

    file_name: str
    offset: Number = 0
    length: Number | None = None
    raw: bool = False


class GetMetadata(Request, frozen=True, tag="get_metadata"):
    """Look a file up."""

    file_name: str


class ListFiles(Request, frozen=True, tag="list_files"):
    """List committed files, a page at a time; with `blocks` a page ends early after MAX_BLOCKS blocks."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 1000
    blocks: bool = False


class DeleteFile(Request, frozen=True, tag="delete_file"):
    """Delete a file and end its open plans."""

    file_name: str


class RenameFile(Request, frozen=True, tag="rename_file"):
    """Give a committed file another name, replacing what has that name."""

    file_name: str
    new_name: str


class ReplaceReplica(Request, frozen=True, tag="replace_replica"):
    """Ask for another data server for a block of an open plan: storing it on `data_server` failed."""

    generation: Number
    block_id: str
    data_server: str


class ReportReplica(Request, frozen=True, tag="report_replica"):
    """Hint that a data server's copy of a block is missing or corrupt; the metadata server looks for itself."""

    block_id: str
    data_server: str


class RenewPlan(Request, frozen=True, tag="renew_plan"):
    """Give a sign of life: the client of this open plan is still at work."""

    generation: Number


class ListDataServers(Request, frozen=True, tag="list_data_servers"):
    """Show the data servers and their health."""


class RegisterDataServer(Request, frozen=True, tag="register_data_server"):
    """Add a data server at run time."""

    data_server_addr: str
    advertised_addr: str | None = None


# Replies


class Reply(Struct, frozen=True, omit_defaults=True, tag_field="status", tag="ok"):
    """What a server answers when all went well."""


class Pong(Reply, frozen=True, tag="ok"):
    """The answer to `ping`; only data servers say `pong`, and who they are if they are asked.

    `generation` is the highest one that their catalog has told them; below `reserve_bytes` free they store nothing.
    `local_socket` is the abstract Unix socket, without its NUL, on which they hand out open files, and `local_uid` the
    user who listens there.
    """

    pong: bool | None = None
    storage_id: str | None = None
    catalog_id: str | None = None
    generation: Number | None = None
    free_bytes: Number | None = None
    total_bytes: Number | None = None
    reserve_bytes: Number | None = None
    local_socket: str | None = None
    local_uid: Number | None = None


class MetadataReply(Reply, frozen=True, tag="ok"):
    """A plan, or a committed file's metadata; a new plan may come with an older one that it `resumes`."""

    metadata: Metadata
    resumes: Metadata | None = None


class BlockReply(Reply, frozen=True, tag="ok"):
    """A block of an open plan with its present places, and the storage ids behind them."""

    block: Block
    storage_ids: Mapping[str, str] = {}
    tickets: Mapping[str, str] = {}


class FileFollows(Reply, frozen=True, tag="ok"):
    """The line before the raw bytes of `fetch_file`."""

    size: Number
    metadata: Metadata


class FileList(Reply, frozen=True, tag="ok"):
    """A page of files; `prefixes` only with a delimiter; `next` goes into `after` for the next page."""

    files: Sequence[ListedFile]
    prefixes: Sequence[str] | None = None
    next: str | None = None


class DataServerList(Reply, frozen=True, tag="ok"):
    """All data servers, and what whoever looks after the cluster should know."""

    servers: Sequence[DataServerState]
    warnings: Sequence[str] = ()


class ErrorReply(Struct, frozen=True, tag_field="status", tag="error"):
    """What a server answers when it says no."""

    error: str
    code: str
