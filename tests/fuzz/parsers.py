"""Fuzz targets without a server: what takes bytes or texts apart. Each raises if anything is not as it should be."""

import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from filefly.errors import BadRequest, FileFlyError, PayloadEnded, TooLarge
from filefly.security.keys import KEY_BYTES, Keyring, SecretUnusable, _parse
from filefly.wire.address import check_client_address, client_endpoint, host_of, parse_host_port, resolve
from filefly.wire.codec import (
    MAX_ATTRIBUTES_BYTES,
    CommandTable,
    NotUnderstood,
    RequestDecoder,
    check_attributes,
    decode_reply,
    encode,
    error_reply,
)
from filefly.wire.framing import Conversation
from filefly.wire.messages import Reply
from filefly.wire.names import (
    MAX_ID_BYTES_ON_DISK,
    check_block_id,
    check_file_name,
    id_of_name_on_disk,
    make_block_id,
    name_on_disk,
    split_block_id,
    stem_of,
)
from tests.fuzz.nowhere import Nowhere
from tests.peer import Peer, now

MAX_LINE = 60
LONGEST_PAYLOAD = 99


def pieces_of(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the packets that an input makes, and their bytes: its first byte says how long they are, 0 for one."""
    size, rest = (data[0], data[1:]) if data else (0, b"")
    return [rest[at : at + size] for at in range(0, len(rest), size)] if size else [rest], rest


# Lines and payloads

Heard = bytes | tuple[bytes, ...] | type[FileFlyError] | None


def framing(data: bytes) -> None:
    """Lines and payloads come as they were sent, whatever the packets, and however they are asked for."""
    packets, stream = pieces_of(data)
    wanted = list(_as_the_protocol_says(stream))
    for give_first in (True, False):
        peer = Peer(Conversation(Clock(), MAX_LINE))
        heard: list[Heard] = []
        if give_first:
            peer.give(*packets)
            peer.end_input()
        conversing = Deferred.fromCoroutine(_converse(peer.protocol, heard))
        if not give_first:
            peer.give(*packets)
            peer.end_input()
        now(conversing)
        assert wanted == heard, (wanted, heard)
        peer.hang_up()


def _as_the_protocol_says(stream: bytes) -> Iterator[Heard]:
    """Take a whole conversation apart, as simply as can be said; a line's leading digits are its payload's size."""
    while stream:
        line, _end, stream = stream.partition(b"\n")
        if len(line) > MAX_LINE:
            yield TooLarge
            return
        line = line.removesuffix(b"\r")
        if not line.strip():
            continue
        yield line
        size = _payload_of(line)
        payload, stream = stream[:size], stream[size:]
        if len(payload) < size:
            yield PayloadEnded
            break
        yield (payload,)
    yield None


def _payload_of(line: bytes) -> int:
    return int(line[:2]) if line[:2].isdigit() else 0


async def _converse(conversation: Conversation, heard: list[Heard]) -> None:
    at_least = cycle((1, 7, LONGEST_PAYLOAD))
    while True:
        try:
            taken = conversation.line_at_hand() or await conversation.receive_line()
            line = None if taken is None else bytes(taken)
            heard.append(line)
            if line is None:
                return
            conversation.begin_payload(_payload_of(line))
            chunks: list[bytes] = []
            while some := await conversation.receive_chunks(next(at_least)):
                chunks += some
            heard.append((b"".join(chunks),))
        except TooLarge:
            heard.append(TooLarge)
            return
        except PayloadEnded:
            heard.append(PayloadEnded)


# Requests and replies


class Requests:
    """A server's decoder: it never raises, and its quick way and its careful one say the same."""

    def __init__(self, commands: CommandTable) -> None:
        self._commands = commands
        self._decoder = RequestDecoder(commands)

    def __call__(self, data: bytes) -> None:
        """Understand a line."""
        line = data.replace(b"\n", b" ")
        payload, request = self._decoder.understand(line)
        careful_payload, careful = self._decoder._look_closer(line)
        assert payload == careful_payload, (payload, careful_payload)
        assert payload is None or 0 <= payload < 2**53
        if isinstance(request, FileFlyError):
            assert isinstance(careful, FileFlyError)
            assert (request.code, str(request)) == (careful.code, str(careful))
            assert request.code in ("bad_request", "unknown_command")
            assert encode(error_reply(request)).isascii() or not line.isascii()
            return
        assert payload is not None
        if isinstance(careful, FileFlyError):  # in fields that are ignored only the careful way looks at numbers
            assert "a number is out of range" == str(careful)
        else:
            assert request == careful
        assert self._commands[str(request.__struct_config__.tag)] is type(request)
        again_payload, again = self._decoder.understand(encode(request))
        assert (payload, encode(request)) == (again_payload, encode(again))


class Replies:
    """The client's decoder: whatever a server says is one of ours or NotUnderstood, or the error that it tells."""

    def __init__(self, kinds: list[type[Reply]]) -> None:
        self._kinds = kinds

    def __call__(self, data: bytes) -> None:
        """Understand a line as each kind of reply."""
        for kind in self._kinds:
            try:
                reply = decode_reply(data, kind)
            except NotUnderstood:
                continue
            except FileFlyError as error:
                said = json.loads(data)
                assert said["status"] == "error"
                assert str(error) == (str(said.get("error")) or str(type(error)()))  # noqa: PT017 - both ways are fine
                continue
            assert type(reply) is kind
            assert reply == decode_reply(encode(reply), kind)


def attributes(data: bytes) -> None:
    """Check that what a file may carry is small, and comes back as it was."""
    try:
        said = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    try:
        check_attributes(said)
    except BadRequest:
        return
    text = encode(said)
    assert len(text) <= MAX_ATTRIBUTES_BYTES
    assert said == json.loads(text)
    assert all(type(number) is int and 0 <= number < 2**53 for number in _numbers(said))


def _numbers(value: Any) -> Iterator[Any]:
    pending = deque([value])
    while pending:
        each = pending.popleft()
        if isinstance(each, dict):
            pending.extend(each.values())
        elif isinstance(each, list):
            pending.extend(each)
        elif type(each) in (int, float):
            yield each


# Names


def block_ids(data: bytes) -> None:
    """No id leaves the directory, and an id and its spelling are one to one; nor do two names share an id."""
    _check_name_on_disk(data)
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return
    _check_block_id(text)
    one, _slash, other = text.partition("//")
    for name in (one, other):
        with suppress(BadRequest):
            check_file_name(name)
            _check_file_name(name)
    if one != other:
        with suppress(BadRequest):
            check_file_name(one)
            check_file_name(other)
            assert stem_of(one) != stem_of(other)


def _check_name_on_disk(name: bytes) -> None:
    block_id = id_of_name_on_disk(name)
    if block_id is not None:
        check_block_id(block_id)
        assert name == name_on_disk(block_id)


def _check_block_id(block_id: str) -> None:
    try:
        check_block_id(block_id)
    except BadRequest:
        return
    name = name_on_disk(block_id)
    assert 1 <= len(name) <= MAX_ID_BYTES_ON_DISK
    assert not name.startswith(b".")
    assert b"/" not in name
    assert b"\0" not in name
    assert os.path.normpath(os.path.join(b"/storage", name)) == b"/storage/" + name
    assert block_id == id_of_name_on_disk(name)
    parts = split_block_id(block_id)
    if parts is not None and "00" not in block_id:
        made = make_block_id(*parts)
        assert parts == split_block_id(made)


def _check_file_name(name: str) -> None:
    for generation in (None, 2**53 - 1):
        block_id = make_block_id(stem_of(name), 19_999, generation)
        check_block_id(block_id)
        assert (stem_of(name), 19_999, generation) == split_block_id(block_id)


# Addresses, and the secret's file


def addresses(data: bytes) -> None:
    """Check that an address is taken, or refused with a sentence."""
    text = data.decode(errors="replace")
    parsed = parse_host_port(text)
    if parsed is not None:
        assert 0 <= parsed.port <= 65535
        assert parsed == parse_host_port(str(parsed))
    assert host_of(text)
    completed = resolve(text, "10.0.0.1")
    assert completed == resolve(completed, "10.0.0.2")
    try:
        check_client_address(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either way is fine
        return
    with suppress(ValueError):
        client_endpoint(Nowhere(), text)


def secret_file(data: bytes) -> None:
    """Check that a secret has one key or two, whole ones; all else is refused with a sentence that names the file."""
    try:
        keyring = _parse(Path("secret"), data)
    except SecretUnusable as error:
        assert str(error).startswith("secret ")  # noqa: PT017 - either way is fine
        return
    assert isinstance(keyring, Keyring)
    assert 1 <= len(keyring.keys) <= 2
    assert len({key.id for key in keyring.keys}) == len(keyring.keys)
    for key in keyring.keys:
        assert len(key.secret) == KEY_BYTES
        assert key.id in data.decode("ascii", "replace")
        assert keyring.find(key.id) is key
