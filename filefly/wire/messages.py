"""Requests and replies of both servers, and their JSON form.

Messages are msgspec structs, not attrs classes: fields that hold their default are left out of the JSON, as the wire
wants it, and a plan of 20,000 blocks is encoded in 1 ms instead of 5. A class's tag is its command or its status.
Numbers are JSON integers from 0 to 2^53-1; unknown fields are ignored.
"""

import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from filefly.errors import BadRequest, Corrupt, FileFlyError, Unavailable, UnknownCommand, error_from_wire

Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Checksum = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")]
"""A CRC32C as eight lower-case hex digits."""

Attributes = dict[str, Any]
JSONObject = dict[str, Any]

MAX_BLOCK_SIZE = 64 * 1024 * 1024
MAX_BLOCKS = 20_000
MAX_PAGE = 10_000
MAX_ATTRIBUTES_BYTES = 8 * 1024
MAX_ATTRIBUTES_DEPTH = 32
MAX_VALUES = 1_000_000
"""JSON values in one request: a plan of the largest size has half as many, a bomb of `[[],[],` many more."""


def crc32c_hex(checksum: int) -> str:
    """Spell a CRC32C as the wire does."""
    return f"{checksum:08x}"


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
    """A file as the catalog knows it; while `state` is `pending` it is a plan."""

    name: str
    total_size: Number
    block_size: Number
    generation: Number
    state: str
    replicas: Number
    modified: str | None = None
    attributes: Attributes
    blocks: Sequence[Block]


class ListedFile(Struct, frozen=True):
    """One line of `list_files`."""

    name: str
    total_size: Number
    generation: Number
    replicas: Number
    modified: str
    attributes: Attributes


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


class DataServerState(Struct, frozen=True, omit_defaults=True):
    """One line of `list_data_servers`; times are RFC 3339 in UTC."""

    address: str
    healthy: bool
    advertised_address: str | None = None
    last_pong: str | None = None
    last_checked: str | None = None
    error: str | None = None


class ListedBlock(Struct, frozen=True):
    """One line of `list_blocks`."""

    id: str
    size: Number


# Requests


class Request(Struct, frozen=True, omit_defaults=True, tag_field="command"):
    """What a client sends; the subclass's tag is the command."""


class Ping(Request, frozen=True, tag="ping"):
    """Ask whether the server is there; both servers answer."""


class StoreFile(Request, frozen=True, tag="store_file"):
    """Plan a file."""

    file_name: str
    file_size: Number | None = None
    data: str | None = None
    replicas: Annotated[int, Meta(ge=1, le=1000)] | None = None
    explicit: bool = False
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
    """List committed files, a page at a time."""

    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 1000


class DeleteFile(Request, frozen=True, tag="delete_file"):
    """Delete a file and end its open plans."""

    file_name: str


class RenameFile(Request, frozen=True, tag="rename_file"):
    """Give a committed file another name, replacing what has that name."""

    file_name: str
    new_name: str


class ListDataServers(Request, frozen=True, tag="list_data_servers"):
    """Show the data servers and their health."""


class RegisterDataServer(Request, frozen=True, tag="register_data_server"):
    """Add a data server at run time."""

    data_server_addr: str
    advertised_addr: str | None = None


class Store(Request, frozen=True, tag="store"):
    """Store a block: `data` in base64, or `size` raw bytes behind the line."""

    block_id: str
    data: str | None = None
    size: Number | None = None
    crc32c: Checksum | None = None


class Retrieve(Request, frozen=True, tag="retrieve"):
    """Read a block or a range of it; `crc32c` is checked over the whole block before a byte leaves."""

    block_id: str
    offset: Number = 0
    length: Number | None = None
    raw: bool = False
    crc32c: Checksum | None = None


class Delete(Request, frozen=True, tag="delete"):
    """Delete a block; fine also when it is not there."""

    block_id: str


class Stat(Request, frozen=True, tag="stat"):
    """Ask for a block's size and, with `verify`, for the checksum of its bytes on disk."""

    block_id: str
    verify: bool = False


class ListBlocks(Request, frozen=True, tag="list_blocks"):
    """List the stored blocks, a page at a time."""

    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 1000


class Status(Request, frozen=True, tag="status"):
    """Ask a data server for its identity and its space."""


# Replies


class Reply(Struct, frozen=True, omit_defaults=True, tag_field="status", tag="ok"):
    """What a server answers when all went well."""


class Pong(Reply, frozen=True, tag="ok"):
    """The answer to `ping`; only data servers say `pong`."""

    pong: bool | None = None


class MetadataReply(Reply, frozen=True, tag="ok"):
    """A plan, or a committed file's metadata."""

    metadata: Metadata


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
    """All data servers."""

    servers: Sequence[DataServerState]


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


class ErrorReply(Struct, frozen=True, tag_field="status", tag="error"):
    """What a server answers when it says no."""

    error: str
    code: str


class NotUnderstood(Unavailable):
    """The server's reply is not understood."""


CommandTable = Mapping[str, type[Request]]
R = TypeVar("R", bound=Reply)

encode = msgspec.json.Encoder().encode
"""Return a message's JSON, without a newline."""


def commands_of(*requests: type[Request]) -> CommandTable:
    """Return the table from command words to the requests that a server understands."""
    return {str(request.__struct_config__.tag): request for request in requests}


def decode_object(line: bytes) -> JSONObject:
    """Return the JSON object on `line`; raise BadRequest if there is none."""
    if _too_many_values(line):
        raise BadRequest(f"more than {MAX_VALUES} JSON values in one request")
    try:
        decoded = msgspec.json.decode(line)
    except msgspec.ValidationError:
        raise BadRequest("a number is out of range") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"not a JSON object: {error}") from None
    except RecursionError:
        raise BadRequest("not a JSON object: nested too deeply") from None
    if not isinstance(decoded, dict):
        raise BadRequest("not a JSON object")
    return decoded


def _too_many_values(line: bytes) -> bool:
    return len(line) > MAX_VALUES and line.count(b",") + line.count(b"[") + line.count(b"{") > MAX_VALUES


def declared_payload(fields: JSONObject) -> int:
    """Return how many raw bytes follow a request's line: those of a `store` with `size` and without `data`.

    Raises BadRequest where nobody can tell where the payload ends.
    """
    if fields.get("command") != "store" or fields.get("data") is not None or "size" not in fields:
        return 0
    if "data" in fields:
        raise BadRequest("data: expected a string, got null")
    size = fields["size"]
    if type(size) is not int or not 0 <= size < 2**53:
        raise BadRequest("size: expected an integer from 0 to 9007199254740991")
    return size


def payload_of_no_request(line: bytes) -> int | None:
    """Return how many raw bytes follow a line that `decode_object` refused, or None where nobody can tell.

    A `store` with a block_id in Latin-1 is no JSON, but its payload follows all the same.
    """
    if b'"store"' not in line or b'"size"' not in line:
        return 0
    if _too_many_values(line):
        return None
    try:
        fields = json.loads(line.decode("latin-1"))  # unlike msgspec takes lone surrogates and NaN
        return declared_payload(fields) if isinstance(fields, dict) else 0
    except (ValueError, RecursionError, BadRequest):
        return None


def decode_request(fields: JSONObject, commands: CommandTable) -> Request:
    """Return the request that `fields` makes; raise UnknownCommand or BadRequest with a sentence."""
    command = fields.get("command")
    if not isinstance(command, str):
        raise BadRequest("missing command")
    if command not in commands:
        raise UnknownCommand
    try:
        request = msgspec.convert(fields, commands[command])
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadRequest(_sentence(str(error))) from None
    return request


def decode_reply(line: bytes, kind: type[R]) -> R:
    """Return the reply on `line`; raise what an error reply says, or NotUnderstood if it is none of ours."""
    try:
        fields = msgspec.json.decode(line, type=JSONObject)
        if fields.get("status") != "error":
            return msgspec.convert(fields, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotUnderstood(f"the server's reply is not understood: {error}") from None
    raise error_from_wire(str(fields.get("code")), str(fields.get("error")))


def error_reply(error: FileFlyError) -> ErrorReply:
    """Return the reply that tells of `error`."""
    return ErrorReply(str(error), error.code)


def check_attributes(attributes: Attributes) -> None:
    """Raise BadRequest unless a file may carry `attributes`: small, and nothing that another reader might not take."""
    pending: list[tuple[Any, int]] = [(attributes, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_ATTRIBUTES_DEPTH:
            raise BadRequest(f"attributes are nested more than {MAX_ATTRIBUTES_DEPTH} deep")
        if isinstance(value, dict):
            pending.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, list):
            pending.extend((each, depth + 1) for each in value)
        elif isinstance(value, float) or (type(value) is int and not 0 <= value < 2**53):
            raise BadRequest("attributes: expected integers from 0 to 9007199254740991; write other numbers as strings")
    if len(encode(attributes)) > MAX_ATTRIBUTES_BYTES:
        raise BadRequest(f"attributes take more than {MAX_ATTRIBUTES_BYTES} bytes of JSON")


def decode_base64(data: str) -> bytes:
    """Return the bytes that `data` stands for; raises BadRequest."""
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise BadRequest("invalid base64 data") from None


def check_sum(wanted: str | None, found: str) -> None:
    """Raise Corrupt unless `found` is the checksum that was `wanted`, if any was."""
    if wanted is not None and wanted != found:
        raise Corrupt(f"crc32c is {found}, expected {wanted}")


_MISSING = re.compile(r"Object missing required field `(\w+)`")
_EXPECTED = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>.*)`", re.DOTALL)

_TYPES_AS_PEOPLE_SAY = {
    "int": "an integer",
    "float": "a fraction",
    "str": "a string",
    "bool": "a boolean",
    "object": "an object",
    "array": "an array",
}
_TYPE = re.compile(rf"\b({'|'.join(_TYPES_AS_PEOPLE_SAY)})\b")


def _sentence(validation_message: str) -> str:
    """Turn msgspec's message into one that names the field as the sender wrote it."""
    if match := _MISSING.match(validation_message):
        return f"missing {match[1]}"
    if match := _EXPECTED.fullmatch(validation_message):
        what = match["what"].replace("`", "").replace(" | null", "")
        what = _TYPE.sub(lambda word: _TYPES_AS_PEOPLE_SAY[word[0]], what)
        return f"{match['where'] or 'request'}: {what[:1].lower()}{what[1:]}"
    return validation_message
