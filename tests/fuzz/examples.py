"""What fuzzing begins with: the conversations of docs/protocol.md, and the words that requests are made of."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.docs.wire import conversations

_PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
_CONVERSATIONS = conversations(_PROTOCOL)


def sent_to(server: str) -> list[bytes]:
    """Return what clients send in the document's conversations with a kind of server, `meta` or `data`."""
    sent = []
    for block in _CONVERSATIONS:
        if block.words[0].startswith(server):
            lines = [_bytes_of(line.text) for line in block.lines if line.text.startswith(">")]
            sent.append(b"".join(lines))
    return [each for each in sent if each]


def _bytes_of(line: str) -> bytes:
    mark, _space, text = line.partition(" ")
    if mark == ">":
        return text.encode() + b"\n"
    return text.replace("\\r", "\r").replace("\\n", "\n").encode()


def requests_to(server: str) -> list[bytes]:
    """Return the single lines of these conversations."""
    return sorted({line for sent in sent_to(server) for line in sent.splitlines() if line.startswith(b"{")})


def replies() -> list[bytes]:
    """Return the lines that come back."""
    lines = [line.text for block in _CONVERSATIONS for line in block.lines]
    return sorted({line.removeprefix("< ").encode() for line in lines if line.startswith("< {")})


VALUES = [
    *(b"null", b"true", b"false", b"0", b"1", b"-1", b"7.0", b"1e3", b"NaN", b"9007199254740991", b"9007199254740992"),
    *(b'""', b'"a"', b'"../x"', b'"/"', b'"a-0"', b'"a-0.1"', b'"hello.txt-0"', b'"hello.txt"', b'"%2e"', b'"\\ud800"'),
    *(b'"\\u0000"', b"[]", b"{}", b"[[]]", b'[{"block_id":"a-0","size":1}]', b'"00000000"', b'"10.0.0.9:1"', b'":0"'),
    *('"é\u202e日"'.encode(), b'"YQ=="', b'"*"', b'"unix:/x"', b'"ssl:h:1"', b'"tcp:h:1"', b'"h:1"', b"1" * 30),
]
"""What a field's value is replaced by: what is near an edge, or of another type."""

_MARKS = [
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"-0",
    b"//",
]


def words_of(commands: Iterable[tuple[str, type[msgspec.Struct]]]) -> list[bytes]:
    """Return the commands, the fields and the values that requests may have, as they stand in JSON."""
    words = [b'"command"', *_MARKS, *VALUES]
    for command, kind in commands:
        words.append(f'"{command}"'.encode())
        words += [f'"{name}"'.encode() for name in kind.__struct_fields__]
        words.append(msgspec.json.encode({"command": command, **_fields(kind)}) + b"\n")
    return sorted(set(words))


def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: "a-0" for field in msgspec.structs.fields(kind) if field.required}


def with_first_byte(seeds: Sequence[bytes]) -> list[bytes]:
    """Return each input in one packet, and in packets of three bytes."""
    return [bytes([size]) + seed for seed in seeds for size in (0, 3)]
