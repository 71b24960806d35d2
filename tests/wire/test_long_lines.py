"""Lines over 64 KiB mean what they would mean if they were short, but nothing is made of what nobody asks for."""

import json
import tracemalloc
from typing import Any

import pytest

from filefly.errors import FileFlyError
from filefly.units import MIB
from filefly.wire.batches import StoreBlocks
from filefly.wire.blocks import Retrieve, Store
from filefly.wire.codec import LONG_LINE_BYTES, RequestDecoder, commands_of
from filefly.wire.messages import Ping

DECODER = RequestDecoder(commands_of(Ping, Store, StoreBlocks, Retrieve))
FILLER = b"A" * LONG_LINE_BYTES


def understood(line: bytes) -> tuple[int | None, Any]:
    payload, request = DECODER.understand(bytearray(line))
    return payload, str(request) if isinstance(request, FileFlyError) else request


MEANT: list[bytes] = [
    b'{"command":"ping"}',
    b'{"command":"dance"}',
    b'{"command":"dance","size":5}',
    b'{"command":7}',
    b'{"command":null}',
    b"{}",
    b'{"command":"store","block_id":"a-0","size":5}',
    b'{"command":"store","block_id":"a-0","data":"aGk="}',
    b'{"command":"store","block_id":"a-0","size":5,"data":null}',
    b'{"command":"store","block_id":"a-0","size":5,"data":"aGk="}',
    b'{"command":"store","block_id":"a-0","size":-1}',
    b'{"command":"store","block_id":"a-0","size":5.0}',
    b'{"command":"store","block_id":"a-0","size":"5"}',
    b'{"command":"store","block_id":"a-0","size":7,"size":5}',
    b'{"command":"store","size":5}',
    b'{"command":"store","block_id":7,"size":5}',
    b'{"command":"store_blocks","size":5,"blocks":[]}',
    b'{"command":"store_blocks","size":5,"blocks":[{"block_id":"a-0"}]}',
    b'{"command":"retrieve","block_id":"a-0","offset":-1}',
    b'{"command":"ping"',
    b'{"command":"ping"}{}',
    b'{"command":"store","block_id":"caf\xe9-0","size":5}',
    b'{"command":"store","block_id":"\xc3\xa9-0","size":5}',
]


@pytest.mark.parametrize("line", MEANT)
def test_a_long_line_means_what_a_short_one_means(line: bytes) -> None:
    """An unknown field makes it long; where no JSON is, the sentence may tell of another place."""
    long = line.replace(b"{", b'{"filler":"' + FILLER + b'",', 1).replace(b",}", b"}")
    expected, found = understood(line), understood(long)
    if isinstance(expected[1], str) and expected[1].startswith("not a JSON object"):
        assert (expected[0], "not a JSON object") == (found[0], found[1][:17])
    else:
        assert expected == found


@pytest.mark.parametrize("value", [b"[1]", b'"text"', b"17"])
def test_a_long_line_must_be_an_object(value: bytes) -> None:
    """As any other."""
    assert (0, "not a JSON object") == understood(value + b" " * LONG_LINE_BYTES)


def test_a_long_block_is_taken() -> None:
    """However the signs of its base64 are spelled."""
    data = "A+/=" * LONG_LINE_BYTES
    spelled = json.dumps({"command": "store", "block_id": "é-0", "data": data}, ensure_ascii=False)
    for line in (spelled, spelled.replace("/", r"\/"), spelled.replace("+", r"\u002b")):
        assert (0, Store(block_id="é-0", data=data)) == understood(line.encode())


@pytest.mark.parametrize("wide", ["\U0001f600", "é", r"\ud83d\ude00", r"\u20ac"])
@pytest.mark.parametrize("text", ["A" * LONG_LINE_BYTES, ("A" * 50_000 + r"\"") * 2])
def test_a_long_text_must_be_ascii(text: str, wide: str) -> None:
    """Four bytes for each sign would be too much for one of them that is wide."""
    line = f'{{"command":"store","block_id":"a-0","data":"{text}{wide}"}}'
    assert (0, f"a string of more than {LONG_LINE_BYTES} bytes must be ASCII") == understood(line.encode())


def test_the_last_of_two_commands_cannot_hide_a_long_one() -> None:
    """The error does not repeat it."""
    payload, sentence = understood(b'{"command":"' + FILLER + b'","command":"ping"}')
    assert (0, 200) == (payload, len(sentence))


LARGE: dict[str, bytes] = {
    "an unknown command": b'{"command":"' + b"x" * 4 * MIB + b'"}',
    "an unknown field": b'{"command":"ping","x":"' + b"x" * 4 * MIB + b'"}',
    "no JSON": b"x" * 4 * MIB,
    "no UTF-8": b'{"command":"' + b"\xff" * 4 * MIB + b'"}',
    "no UTF-8 at its end": b'{"command":"ping","x":"' + b"x" * 4 * MIB + b'\xff"}',
    "digits": b'{"command":"store","block_id":"a-0","size":' + b"9" * 4 * MIB + b"}",
    "a store that is no JSON": b'{"command":"store","size":5,"x":"' + b"\x01" * 4 * MIB + b'"}',
}


@pytest.mark.parametrize("line", LARGE.values(), ids=LARGE)
def test_nothing_large_is_made_of_what_is_no_request(line: bytes) -> None:
    """Neither a copy nor an error that carries one."""
    gathered = bytearray(line)
    tracemalloc.start()
    try:
        DECODER.understand(gathered)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= MIB
