from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filefly.errors import (
    BadRequest,
    Conflict,
    Corrupt,
    FileFlyError,
    Internal,
    NotFound,
    Unavailable,
    UnknownCommand,
)
from filefly.wire.blocks import (
    BlockList,
    BlockSum,
    BytesFollow,
    Delete,
    ListBlocks,
    ListedBlock,
    Retrieve,
    Stat,
    Status,
    Store,
)
from filefly.wire.codec import (
    check_attributes,
    check_sum,
    commands_of,
    crc32c_hex,
    declared_payload,
    decode_base64,
    decode_object,
    decode_reply,
    decode_request,
    encode,
    error_reply,
)
from filefly.wire.messages import (
    Block,
    CompleteFile,
    DeleteFile,
    FetchFile,
    GetMetadata,
    ListFiles,
    Metadata,
    MetadataReply,
    Ping,
    Pong,
    Replica,
    Reply,
    Request,
    StoredBlock,
    StoreFile,
)

COMMANDS = commands_of(
    Ping,
    StoreFile,
    CompleteFile,
    FetchFile,
    GetMetadata,
    ListFiles,
    DeleteFile,
    Store,
    Retrieve,
    Delete,
    Stat,
    ListBlocks,
    Status,
)
MIB = 1024 * 1024


def json_nested(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth - 1):
        nested = [nested]
    return nested


def decode(line: str | bytes) -> Request:
    return decode_request(decode_object(line.encode() if isinstance(line, str) else line), COMMANDS)


NOT_NUMBERS = [
    "30.0",
    "1e3",
    "1E3",
    "-1",
    "-0.0",
    '"7"',
    "true",
    "false",
    "[7]",
    '{"7":7}',
    "9007199254740992",
    "18446744073709551616",
    "1" + "0" * 400,
]
NOT_JSON_NUMBERS = ["NaN", "Infinity", "-Infinity", "07", "+7", "0x7", "1_000", ".5", "7.", "1" + "0" * 5000, "1e400"]


@pytest.mark.parametrize("number", [*NOT_NUMBERS, *NOT_JSON_NUMBERS])
@pytest.mark.parametrize(
    "request_before",
    [
        '{"command":"store_file","file_name":"f","file_size":',
        '{"command":"retrieve","block_id":"b-0","offset":',
        '{"command":"retrieve","block_id":"b-0","length":',
        '{"command":"complete_file","file_name":"f","generation":',
    ],
)
def test_what_is_no_whole_number_is_refused(request_before: str, number: str) -> None:
    """A number is a JSON integer from 0 to 2^53-1, and nothing that some decoder would turn into one."""
    with pytest.raises(BadRequest):
        decode(request_before + number + "}")


@pytest.mark.parametrize("number", [0, 1, 2**31, 2**53 - 1])
def test_a_whole_number_is_taken(number: int) -> None:
    """The whole range that every JSON reader keeps exactly is allowed."""
    assert StoreFile(file_name="f", file_size=number) == decode(
        f'{{"command":"store_file","file_name":"f","file_size":{number}}}'
    )


def test_null_is_no_offset() -> None:
    """A number that has a default cannot be null."""
    with pytest.raises(BadRequest, match=r"^offset: "):
        decode('{"command":"retrieve","block_id":"b-0","offset":null}')


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "1.0", "null"])
def test_a_page_has_limits(limit: str) -> None:
    """A page has from 1 to 10,000 entries."""
    with pytest.raises(BadRequest, match=r"^limit: "):
        decode('{"command":"list_blocks","limit":' + limit + "}")


@pytest.mark.parametrize("flag", ["1", "0", '"true"', "null", "[]"])
def test_only_true_and_false_are_flags(flag: str) -> None:
    """Nothing is taken for a truth value that is none."""
    with pytest.raises(BadRequest, match=r"^verify: "):
        decode('{"command":"stat","block_id":"b-0","verify":' + flag + "}")


@pytest.mark.parametrize("name", ["7", "null", "true", '["b-0"]', '{"a":1}'])
def test_only_text_is_a_name(name: str) -> None:
    """Nothing is turned into text that is none."""
    with pytest.raises(BadRequest, match=r"^block_id: "):
        decode('{"command":"delete","block_id":' + name + "}")


@pytest.mark.parametrize("checksum", ["", "0000000", "000000000", "0000000G", "ABCDEF01", "12345678\\n", "0x123456"])
def test_a_checksum_is_eight_lower_case_digits(checksum: str) -> None:
    """A checksum in any other spelling is refused, as it would never be equal."""
    with pytest.raises(BadRequest, match=r"^crc32c: "):
        decode('{"command":"retrieve","block_id":"b-0","crc32c":"' + checksum + '"}')


def test_the_last_of_duplicate_keys_counts() -> None:
    """Everyone who looks at a request sees the same value of a key that is there twice."""
    fields = decode_object(b'{"command":"ping","command":"store","block_id":"b-0","size":1,"size":2}')
    assert (2, Store(block_id="b-0", size=2)) == (declared_payload(fields), decode_request(fields, COMMANDS))


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 20_000,
        b"[" * 20_000 + b"]" * 20_000,
        b'{"a":' * 20_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"command":"ping","a":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
    ids=["open lists", "lists", "open objects", "objects", "ignored field"],
)
def test_deep_nesting_is_refused(bomb: bytes) -> None:
    """20,000 nested brackets are a bad request, not the end of the stack."""
    with pytest.raises(BadRequest):
        decode_object(bomb)


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"0,", b'"":0,', b"[[[[["])
def test_a_bomb_of_many_values_is_refused_unopened(piece: bytes) -> None:
    """20 MiB of tiny values, which would take gigabytes decoded, are refused."""
    bomb = b'{"command":"ping","a":[' + piece * (20 * MIB // len(piece)) + b"0]}"
    with pytest.raises(BadRequest, match=r"^more than 500000 JSON values in one request$"):
        decode_object(bomb)


def test_a_long_text_is_no_bomb() -> None:
    """A request that carries 16 MiB of base64 is understood."""
    fields = decode_object(b'{"command":"store","block_id":"b-0","data":"' + b"A" * 16 * MIB + b'"}')
    assert 16 * MIB == len(fields["data"])


def test_the_largest_plan_is_no_bomb() -> None:
    """A plan of 20,000 blocks with three replicas each may be handed back."""
    replicas = [{"data_server": f"data-{n}.example.org:9001"} for n in range(3)]
    blocks = [{"id": f"f-{n}.17", "size": 8, "crc32c": "0" * 8, "replicas": replicas} for n in range(20_000)]
    request = decode(encode({"command": "complete_file", "metadata": {"name": "f", "blocks": blocks}}))
    assert isinstance(request, CompleteFile)
    assert request.metadata is not None
    assert 20_000 == len(request.metadata.blocks)


@pytest.mark.parametrize(
    "line",
    [
        b'{"command":"ping","x":"\xff"}',
        b'{"command":"ping","x":"\xc3"}',
        b'{"command":"ping","x":"\xc0\x80"}',
        b'{"command":"ping","x":"\xed\xa0\x80"}',
        b'{"command":"ping","\xff":1}',
        b'{"command":"ping","x":"\\ud800"}',
        b'{"command":"ping","x":"\\udc00"}',
        b'{"command":"ping","x":"\\ud800\\u0041"}',
        b'{"command":"ping","x":"\\ud800\\ud800"}',
        b'{"command":"ping","\\ud800":1}',
        b"\xff\xfe{\x00}\x00",
    ],
)
def test_invalid_unicode_is_refused(line: bytes) -> None:
    """Bytes that are no UTF-8 and surrogates without a partner are no JSON."""
    with pytest.raises(BadRequest, match=r"^not a JSON object: "):
        decode_object(line)


@pytest.mark.parametrize(
    "line",
    [b"ping", b"{", b"}", b"[]", b"7", b"null", b'"ping"', b"{'command':'ping'}", b"{}{}", b"{},", b"\0", b"{}x"],
)
def test_what_is_no_json_object_is_refused(line: bytes) -> None:
    """A request is one JSON object and nothing else."""
    with pytest.raises(BadRequest, match=r"^not a JSON object"):
        decode_object(line)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_no_line_does_worse_than_a_bad_request(line: bytes) -> None:
    """Whatever arrives is a request or a sentence that says why not."""
    with suppress(BadRequest, UnknownCommand):
        decode(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
field_names = sorted({field for command in COMMANDS.values() for field in command.__struct_fields__} | {"command"})
requests = st.dictionaries(st.sampled_from(field_names), json_values, max_size=5)


@given(st.sampled_from(sorted(COMMANDS)), requests)
def test_no_field_does_worse_than_a_bad_request(command: str, fields: dict[str, Any]) -> None:
    """Whatever a known command comes with makes a request of that command or a FileFlyError."""
    try:
        request = decode_request({**fields, "command": command}, COMMANDS)
    except BadRequest:
        return
    assert COMMANDS[command] is type(request)


def test_unknown_fields_are_ignored() -> None:
    """A newer client may say more than this server knows."""
    assert Stat(block_id="b-0", verify=True) == decode(
        '{"color":[1,{"a":null}],"command":"stat","block_id":"b-0","verify":true,"x":1.5}'
    )


@pytest.mark.parametrize(
    "line", ["{}", '{"command":null}', '{"command":7}', '{"command":["ping"]}', '{"Command":"ping"}']
)
def test_a_request_without_a_command_is_refused(line: str) -> None:
    """A request says what it wants."""
    with pytest.raises(BadRequest, match=r"^missing command$"):
        decode(line)


@pytest.mark.parametrize("command", ["", "PING", "ping ", "copy", "Store", "__class__"])
def test_an_unknown_command_has_its_own_error(command: str) -> None:
    """A command is known by its exact word."""
    with pytest.raises(UnknownCommand, match=r"^unknown command$"):
        decode_request({"command": command}, COMMANDS)


def test_a_server_knows_only_its_own_commands() -> None:
    """The data server's commands are unknown to the metadata server."""
    with pytest.raises(UnknownCommand):
        decode_request({"command": "store", "block_id": "b-0"}, commands_of(Ping, StoreFile))


@pytest.mark.parametrize("command", ["store_file", "fetch_file", "get_metadata", "delete_file"])
def test_a_missing_file_name_has_a_fixed_sentence(command: str) -> None:
    """Other programs look for `missing file_name`."""
    with pytest.raises(BadRequest, match=r"^missing file_name$"):
        decode_request({"command": command}, COMMANDS)


@pytest.mark.parametrize("command", ["store", "retrieve", "delete", "stat"])
def test_a_missing_block_id_has_a_fixed_sentence(command: str) -> None:
    """Other programs look for `missing block_id`."""
    with pytest.raises(BadRequest, match=r"^missing block_id$"):
        decode_request({"command": command}, COMMANDS)


def test_a_wrong_field_is_named_with_its_place() -> None:
    """The sentence leads to the one wrong value in a long request."""
    with pytest.raises(BadRequest, match=r"^blocks\[1\]\.crc32c: expected a string, got an integer$"):
        decode('{"command":"complete_file","blocks":[{"id":"a-0"},{"id":"a-1","crc32c":5}]}')


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"command": "store", "size": 0}, 0),
        ({"command": "store", "size": 30}, 30),
        ({"command": "store", "size": 2**53 - 1}, 2**53 - 1),
        ({"command": "store", "size": 30, "block_id": 7, "crc32c": []}, 30),
        ({"command": "store"}, 0),
        ({"command": "store", "data": "aGk=", "size": 30}, 0),
        ({"command": "store", "data": "aGk=", "size": 30.0}, 0),
        ({"command": "store", "data": 7, "size": 30}, 0),
        ({"command": "retrieve", "size": 30}, 0),
        ({"command": "store_file", "size": 30.0}, 0),
        ({"command": 7, "size": 30}, 0),
        ({"size": 30}, 0),
    ],
)
def test_only_a_store_with_size_and_without_data_has_a_payload(fields: dict[str, Any], size: int) -> None:
    """How many bytes to skip is known whatever else is wrong with the request."""
    assert size == declared_payload(fields)


@pytest.mark.parametrize("size", [30.0, True, False, "30", None, -1, 2**53, 10**400, [], {}])
def test_an_invalid_size_is_refused(size: Any) -> None:
    """Nobody can tell where a payload of such a size ends."""
    with pytest.raises(BadRequest, match=r"^size: expected an integer from 0 to 9007199254740991$"):
        declared_payload({"command": "store", "size": size})


def test_data_of_null_with_a_size_is_refused() -> None:
    """Nobody can tell whether a payload follows a request that has both a size and data that is nothing."""
    with pytest.raises(BadRequest, match=r"^data: expected a string, got null$"):
        declared_payload({"command": "store", "block_id": "b-0", "data": None, "size": 30})


@pytest.mark.parametrize(("data", "expected"), [("", b""), ("aGk=", b"hi"), ("//79", b"\xff\xfe\xfd"), ("AA==", b"\0")])
def test_base64_is_decoded(data: str, expected: bytes) -> None:
    """What the standard alphabet spells is what is stored."""
    assert expected == decode_base64(data)


@pytest.mark.parametrize(
    "data",
    [
        "a",
        "aG",
        "aGk",
        "aGk==",
        "=",
        "====",
        "aGk=aGk=",
        "aGk=\n",
        " aGk=",
        "a Gk=",
        "-_79",
        "aGk=!",
        "%",
        "é",
        "日本==",
        "\0",
    ],
)
def test_anything_but_base64_is_refused(data: str) -> None:
    """Other programs look for `invalid base64 data`."""
    with pytest.raises(BadRequest, match=r"^invalid base64 data$"):
        decode_base64(data)


@given(st.binary())
def test_base64_survives(data: bytes) -> None:
    """Every run of bytes can be sent as base64."""
    assert data == decode_base64(b64encode(data).decode())


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"mtime": 1_700_000_000, "mode": 420, "content_type": "text/plain"},
        {"a": {"b": [1, None, True, "x", {"c": []}]}},
        {"n": 2**53 - 1},
        {"a": json_nested(31)},
        {"x": "y" * (8 * 1024 - len('{"x":""}'))},
    ],
    ids=["none", "usual", "nested", "largest number", "deepest", "largest"],
)
def test_small_attributes_are_allowed(attributes: dict[str, Any]) -> None:
    """A file carries what its client chose."""
    check_attributes(attributes)


@pytest.mark.parametrize("number", [1.5, 1.0, -1, 2**53, 2**64, 10**400])
@pytest.mark.parametrize("around", [lambda n: {"n": n}, lambda n: {"a": [{"b": n}]}], ids=["outside", "inside"])
def test_an_attribute_that_another_reader_might_lose_is_refused(around: Callable[[Any], Any], number: float) -> None:
    """Numbers are whole and below 2^53, however deep they are."""
    with pytest.raises(BadRequest, match=r"^attributes: expected integers from 0 to 9007199254740991"):
        check_attributes(around(number))


def test_large_attributes_are_refused() -> None:
    """Attributes take at most 8 KiB, the braces included."""
    with pytest.raises(BadRequest, match=r"^attributes take more than 8192 bytes of JSON$"):
        check_attributes({"x": "y" * (8 * 1024 + 1 - len('{"x":""}'))})


def test_deep_attributes_are_refused() -> None:
    """What is taken can be encoded again whatever the stack is then."""
    with pytest.raises(BadRequest, match=r"^attributes are nested more than 32 deep$"):
        check_attributes({"a": json_nested(32)})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (Reply(), b'{"status":"ok"}'),
        (Pong(), b'{"status":"ok"}'),
        (Pong(pong=True), b'{"status":"ok","pong":true}'),
        (BlockSum(size=0), b'{"status":"ok","size":0}'),
        (BlockSum(size=2, crc32c="0000002a"), b'{"status":"ok","size":2,"crc32c":"0000002a"}'),
        (BlockList(blocks=[]), b'{"status":"ok","blocks":[]}'),
        (
            BlockList([ListedBlock("b-0", 1)], next="b-0"),
            b'{"status":"ok","blocks":[{"id":"b-0","size":1}],"next":"b-0"}',
        ),
        (Ping(), b'{"command":"ping"}'),
        (Store(block_id="b-0", size=0), b'{"command":"store","block_id":"b-0","size":0}'),
        (Retrieve(block_id="b-0"), b'{"command":"retrieve","block_id":"b-0"}'),
        (Retrieve(block_id="b-0", raw=True), b'{"command":"retrieve","block_id":"b-0","raw":true}'),
        (StoredBlock(id="b-0"), b'{"id":"b-0"}'),
    ],
)
def test_what_has_its_default_is_left_out(message: msgspec.Struct, expected: bytes) -> None:
    """An optional field is absent rather than null."""
    assert expected == encode(message)


def test_the_metadata_object_has_the_fixed_names() -> None:
    """Other programs read a plan by these names; `data_server` repeats the first replica."""
    block = Block("f-0", 2, "a:1", [Replica("a:1"), Replica("b:2")], "0000002a")
    plan = Metadata(
        name="f",
        total_size=2,
        block_size=8,
        generation=17,
        state="pending",
        replicas=2,
        attributes={"mode": 420},
        blocks=[block],
    )
    assert {
        "status": "ok",
        "metadata": {
            "name": "f",
            "total_size": 2,
            "block_size": 8,
            "generation": 17,
            "state": "pending",
            "replicas": 2,
            "attributes": {"mode": 420},
            "blocks": [
                {
                    "id": "f-0",
                    "size": 2,
                    "data_server": "a:1",
                    "replicas": [{"data_server": "a:1"}, {"data_server": "b:2"}],
                    "crc32c": "0000002a",
                }
            ],
        },
    } == msgspec.json.decode(encode(MetadataReply(plan)))


def test_no_message_has_a_line_end() -> None:
    """A line end inside a text is escaped: a message is one line."""
    assert b"\n" not in encode(error_reply(NotFound("a\nb\r\n")))


def test_an_error_reply_has_its_code_and_sentence() -> None:
    """A program reads the code, a person the sentence."""
    assert b'{"status":"error","error":"file not found","code":"not_found"}' == encode(error_reply(NotFound()))


def test_a_reply_is_decoded() -> None:
    """The kind of reply that was expected comes back."""
    assert BytesFollow(size=7, crc32c="0000002a") == decode_reply(
        b'{"crc32c":"0000002a","size":7,"status":"ok","new":1}', BytesFollow
    )


@pytest.mark.parametrize("kind", [BadRequest, Conflict, Corrupt, Internal, NotFound, Unavailable, UnknownCommand])
def test_an_error_reply_becomes_the_error_that_was_raised(kind: type[FileFlyError]) -> None:
    """Each cause has the same class on both ends."""
    with pytest.raises(kind, match=r"^a sentence$") as caught:
        decode_reply(encode(error_reply(kind("a sentence"))), Reply)
    assert kind is caught.type


def test_an_error_from_a_newer_server_keeps_its_sentence() -> None:
    """A code that is not known yet is still an error with its sentence."""
    with pytest.raises(FileFlyError, match=r"^too purple$") as caught:
        decode_reply(b'{"status":"error","error":"too purple","code":"purple"}', Reply)
    assert FileFlyError is caught.type


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1 400 Bad Request",
        b"[]",
        b"7",
        b'{"status":"ok"}',
        b'{"status":"fine","size":7}',
        b'{"status":7,"size":7}',
        b'{"status":"ok","size":7.0}',
        b'{"status":"ok","size":"7"}',
        b'{"status":"ok","size":-1}',
        b'{"status":"ok","size":7,"crc32c":"nonsense"}',
        b'{"status":"ok","size":7,"x":"\xff"}',
        b"[" * 20_000,
        b'{"a":' * 20_000,
    ],
)
def test_a_reply_that_is_not_understood_says_so(line: bytes) -> None:
    """What is no FileFly server makes the server unavailable; another one may be tried."""
    with pytest.raises(Unavailable, match=r"^the server's reply is not understood: "):
        decode_reply(line, BytesFollow)


def test_an_error_reply_without_a_sentence_is_an_error() -> None:
    """A server that only says that it failed is believed."""
    with pytest.raises(FileFlyError):
        decode_reply(b'{"status":"error"}', Reply)


def test_a_checksum_has_leading_zeros() -> None:
    """Eight digits whatever the number."""
    assert "0000002a" == crc32c_hex(42)


def test_another_checksum_is_corrupt() -> None:
    """The sentence has both sums."""
    with pytest.raises(Corrupt, match=r"^crc32c is 00000001, expected 00000002$"):
        check_sum("00000002", "00000001")


@pytest.mark.parametrize("wanted", [None, "00000001"])
def test_the_wanted_checksum_or_none_is_fine(wanted: str | None) -> None:
    """Who expects nothing is content with anything."""
    check_sum(wanted, "00000001")
