"""Between messages and their JSON: what is understood, what is refused and with which sentence."""

import binascii
import codecs
import json
import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any, TypeVar

import msgspec

from filefly.errors import BadRequest, Corrupt, FileFlyError, Unavailable, UnknownCommand, error_from_wire
from filefly.wire.batches import StoreBlocks
from filefly.wire.blocks import Store
from filefly.wire.messages import Attributes, ErrorReply, Reply, Request

JSONObject = dict[str, Any]

MAX_ATTRIBUTES_BYTES = 8 * 1024
MAX_ATTRIBUTES_DEPTH = 32
MAX_VALUES = 500_000
"""JSON values in one request: a plan of the largest size has a third of that, a bomb of `[[],[],` many more."""
_VALUE_BYTES = 64  # what one may take more than its share of the line

LONG_LINE_BYTES = 64 * 1024
"""A request's line of more bytes is understood without making anything of it that nobody asks for."""

Line = bytes | bytearray
"""A line as it came, without its end: a bytearray where it was gathered piece by piece."""


def crc32c_hex(checksum: int) -> str:
    """Spell a CRC32C as the wire does."""
    return f"{checksum:08x}"


class NotUnderstood(Unavailable):
    """The server's reply is not understood."""


_MOST_GUESSED_BYTES = 1024 * 1024  # of a line that is no JSON; a store whose payload follows takes far less

CommandTable = Mapping[str, type[Request]]
R = TypeVar("R", bound=Reply)

encode = msgspec.json.Encoder().encode
"""Return a message's JSON, without a newline."""


def commands_of(*requests: type[Request]) -> CommandTable:
    """Return the table from command words to the requests that a server understands."""
    return {str(request.__struct_config__.tag): request for request in requests}


def decode_object(line: Line) -> JSONObject:
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


def _too_many_values(line: Line) -> bool:
    return len(line) > MAX_VALUES and _values_in(line) > MAX_VALUES


def _values_in(line: Line) -> int:
    return line.count(b",") + line.count(b"[") + line.count(b"{")


def weight(line: Line) -> int:
    """Return the length of a line of one long text that takes as much memory as `line` while it is understood."""
    return len(line) + _VALUE_BYTES * _values_in(line)


def declared_payload(fields: JSONObject) -> int:
    """Return how many raw bytes follow a request's line: those of a store with `size` and without `data`.

    Raises BadRequest where nobody can tell where the payload ends.
    """
    command = fields.get("command")
    if command not in ("store", "store_blocks") or "size" not in fields:
        return 0
    if command == "store" and "data" in fields:
        if fields["data"] is not None:
            return 0
        raise BadRequest("data: expected a string, got null")
    size = fields["size"]
    if type(size) is not int or not 0 <= size < 2**53:
        raise BadRequest("size: expected an integer from 0 to 9007199254740991")
    return size


def payload_of_no_request(line: Line) -> int | None:
    """Return how many raw bytes follow a line that `decode_object` refused, or None where nobody can tell.

    A `store` with a block_id in Latin-1 is no JSON, but its payload follows all the same.
    """
    if b'"store' not in line or b'"size"' not in line:
        return 0
    if len(line) > _MOST_GUESSED_BYTES or _too_many_values(line):
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


Understood = tuple[int | None, Request | FileFlyError]
"""How many raw bytes follow a line, None where nobody can tell; and the request on it, or why there is none."""


class RequestDecoder:
    """Understands the lines that are sent to a server that knows `commands`."""

    def __init__(self, commands: CommandTable) -> None:
        self._commands = commands
        self._decode = msgspec.json.Decoder(reduce(or_, commands.values())).decode

    def understand(self, line: Line) -> Understood:
        """Return what `line` says; one that says what it should is decoded in one step."""
        if len(line) > LONG_LINE_BYTES:
            return self._understand_long(line)
        try:
            if not line.isascii():
                line.decode()  # in fields that it does not know the decoder would overlook what is no UTF-8
            request: Request = self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._look_closer(line)
        if isinstance(request, Store) and request.data is None:
            return self._look_closer(line) if b"null" in line else (request.size or 0, request)
        return request.size if isinstance(request, StoreBlocks) else 0, request

    def _look_closer(self, line: Line) -> Understood:
        try:
            fields = decode_object(line)
        except BadRequest as error:
            return payload_of_no_request(line), _bare(error)
        try:
            payload = declared_payload(fields)
        except BadRequest as error:
            return None, _bare(error)
        try:
            return payload, decode_request(fields, self._commands)
        except FileFlyError as error:
            return payload, _bare(error)

    def _understand_long(self, line: Line) -> Understood:
        """Make nothing of what only takes memory: neither unknown fields nor what cannot be a request."""
        try:
            fields = _head_of(line)
        except BadRequest as error:
            return payload_of_no_request(line), _bare(error)
        try:
            payload = declared_payload(fields)
        except BadRequest as error:
            return None, _bare(error)
        command = fields.get("command")
        if not isinstance(command, str):
            return payload, BadRequest("missing command")
        if command not in self._commands:
            return payload, UnknownCommand()
        try:
            return payload, self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return payload, BadRequest(_sentence(str(error))[:_MOST_OF_SENTENCE])


class _Head(msgspec.Struct):
    """The fields that say what a line is and what follows it, where they stand in it: no copies."""

    command: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    size: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_head = msgspec.json.Decoder(_Head).decode
_MOST_OF_HEAD_BYTES = 256  # more than a command or a size can have
_MOST_OF_SENTENCE = 200  # it may repeat a command that stands before the one that counts


def _head_of(line: Line) -> JSONObject:
    """Return what `declared_payload` looks at, and check what `decode_object` does; raises BadRequest."""
    if _too_many_values(line):
        raise BadRequest(f"more than {MAX_VALUES} JSON values in one request")
    try:
        _check_characters(line)
        head = _decode_head(line)
    except msgspec.ValidationError:
        raise BadRequest("not a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"not a JSON object: {error}") from None
    except RecursionError:
        raise BadRequest("not a JSON object: nested too deeply") from None
    found = {"command": head.command, "size": head.size, "data": head.data}
    return {field: _small(raw) for field, raw in found.items() if isinstance(raw, msgspec.Raw)}


def _small(raw: msgspec.Raw) -> Any:
    """Return the value, or what is no number, not null and no command if there is much of it."""
    if len(raw) > _MOST_OF_HEAD_BYTES:
        return "" if bytes(memoryview(raw)[:1]) == b'"' else ()
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return ()


_LONG_STRING = re.compile(rb'[^"]{%d,}' % LONG_LINE_BYTES)
_WIDE = re.compile(rb"[\x80-\xff]|\\u(?!00)")


def _check_characters(line: Line) -> None:
    """Raise UnicodeDecodeError for what is no UTF-8, BadRequest for a long string that would take far more memory.

    One wide character makes each of its string's take four bytes. What is long is the `data` of a store, in base64.
    """
    if line.isascii() and b"\\u" not in line:
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(line)
    for begin in range(0, len(line), LONG_LINE_BYTES):
        decoder.decode(view[begin : begin + LONG_LINE_BYTES])
    decoder.decode(b"", final=True)
    text = line.replace(b'\\"', b"")  # so that a quote ends a string
    if any(_WIDE.search(text, *found.span()) for found in _LONG_STRING.finditer(text)):
        raise BadRequest(f"a string of more than {LONG_LINE_BYTES} bytes must be ASCII")


def _bare(error: FileFlyError) -> FileFlyError:
    """Let go of the frames that an error comes from: they hold the line, which may be long, and who holds the error."""
    error.__traceback__ = error.__context__ = None
    return error


def decode_reply(line: Line, kind: type[R]) -> R:
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
    if len(encode(attributes)) > MAX_ATTRIBUTES_BYTES:
        raise BadRequest(f"attributes take more than {MAX_ATTRIBUTES_BYTES} bytes of JSON")
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
