"""Lines that are decoded in one step mean what they mean when they are looked at closely."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filefly.errors import BadRequest, FileFlyError
from filefly.wire.batches import RetrieveBlocks, StoreBlocks
from filefly.wire.blocks import Delete, ListBlocks, Retrieve, Stat, Store
from filefly.wire.codec import (
    RequestDecoder,
    commands_of,
    declared_payload,
    decode_object,
    decode_request,
    payload_of_no_request,
)
from filefly.wire.messages import Ping

COMMANDS = commands_of(Ping, Store, StoreBlocks, Retrieve, RetrieveBlocks, Delete, Stat, ListBlocks)
DECODER = RequestDecoder(COMMANDS)
KIB = 1024


def looked_at_closely(line: bytes) -> tuple[int | None, Any]:
    """Say what a line means, one step after another."""
    try:
        fields = decode_object(line)
    except BadRequest as error:
        return payload_of_no_request(line), str(error)
    try:
        payload = declared_payload(fields)
    except BadRequest as error:
        return None, str(error)
    try:
        return payload, decode_request(fields, COMMANDS)
    except FileFlyError as error:
        return payload, str(error)


def understood(line: bytes) -> tuple[int | None, Any]:
    payload, request = DECODER.understand(line)
    return payload, str(request) if isinstance(request, FileFlyError) else request


values = st.none() | st.booleans() | st.integers(-3, 2**53) | st.floats() | st.text(max_size=3)
nested = values | st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=3), values, max_size=2)
fields = st.fixed_dictionaries(
    {"command": st.sampled_from([*COMMANDS, "dance"])},
    optional={
        "block_id": st.just("a-0") | nested,
        "size": st.integers(0, 9) | nested,
        "data": st.just("aGk=") | nested,
        "raw": st.booleans() | nested,
        "offset": st.integers(0, 9) | nested,
        "crc32c": st.just("00000000") | nested,
        "blocks": st.just([{"block_id": "a-0", "size": 1}]) | nested,
        "unknown": nested,
    },
)


@given(fields, st.randoms(use_true_random=False), st.booleans())
def test_any_request_means_the_same(request: dict[str, Any], random: Any, ascii_only: bool) -> None:
    """Whatever its fields hold, in whatever order they are, in ASCII or not."""
    items = list(request.items())
    random.shuffle(items)
    line = json.dumps(dict(items), ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert looked_at_closely(line) == understood(line)


@given(st.data())
def test_a_damaged_request_means_the_same(data: st.DataObject) -> None:
    """A byte more, less, or another one."""
    line = bytearray(b'{"command":"store","block_id":"\xc3\xa9-0","size":5,"crc32c":"00000000","x":["y",null,19]}')
    at = data.draw(st.integers(0, len(line) - 1))
    line[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    assert looked_at_closely(bytes(line)) == understood(bytes(line))


@pytest.mark.parametrize(
    "line",
    [
        b'{"command":"store","block_id":"a-0","size":5,"data":null}',
        b'{"command":"store","block_id":"null","size":5}',
        b'{"command":"store","block_id":"a-0","data":"aGk=","size":"x"}',
        b'{"command":"store","block_id":"a-0","size":7,"size":5}',
        b'{"command":"ping","command":"store","block_id":"a-0","size":5}',
        b'{"command":"store","command":"ping","block_id":"a-0","size":5}',
        b'{"size":5,"block_id":"a-0","command":"store"}',
        b'{"command":"store_blocks","size":5,"blocks":[],"data":"aGk="}',
        b'{"command":"store_blocks","size":5,"blocks":[],"data":null}',
        b'{"command":"store_blocks","size":5.0,"blocks":[]}',
        b'{"command":"store_blocks","blocks":[]}',
        b'{"command":"store_blocks","size":5,"blocks":[{"block_id":"\\ud800","size":5}]}',
        b'{"command":"ping","x":"\xff"}',
        b'{"command":"ping","\xff":1}',
        b'{"command":"ping","x":"\\ud800"}',
        b'{"command":"ping","x":"\\ud800\\u0041"}',
        b'{"command":"ping","x":"\\udc00"}',
        b'{"command":"ping","\\ud800":1}',
        b'{"command":"ping"}{}',
        b"[1]",
        b"{}",
        b'{"command":7}',
    ],
)
def test_an_odd_request_means_the_same(line: bytes) -> None:
    """Also where the decoder alone would be content with less, or with more."""
    assert looked_at_closely(line) == understood(line)


def test_a_bomb_is_not_opened() -> None:
    """Neither way."""
    bomb = b'{"command":"retrieve_blocks","blocks":[' + b"[]," * 2_000_000 + b"0]}"
    assert (0, "more than 500000 JSON values in one request") == understood(bomb)


def test_a_number_in_a_field_that_nobody_knows_may_be_out_of_range() -> None:
    """It is not looked at, as little as the field."""
    assert (0, Ping()) == understood(b'{"command":"ping","x":1e999}')
