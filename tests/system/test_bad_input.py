"""What no server should be sent: each gets a clear error reply, the conversation goes on, and nothing is stored."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filefly.units import MIB
from tests.system.processes import Daemon, Processes, connect, processes, talk

PING = b'{"command":"ping"}\n'
KEPT = b"keep me"

# Longest and shortest JSON for what no request can be.
ANYWHERE: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"hello", "bad_request"),
    "half of an object": (b'{"command":"ping"', "bad_request"),
    "an array": (b'[{"command":"ping"}]', "bad_request"),
    "a number": (b"7", "bad_request"),
    "a string": (b'"ping"', "bad_request"),
    "null": (b"null", "bad_request"),
    "two objects": (b'{"command":"ping"}{"command":"ping"}', "bad_request"),
    "single quotes": (b"{'command':'ping'}", "bad_request"),
    "binary": (bytes(range(11, 256)), "bad_request"),
    "no command": (b"{}", "bad_request"),
    "a null command": (b'{"command":null}', "bad_request"),
    "a number as command": (b'{"command":7}', "bad_request"),
    "an array as command": (b'{"command":["ping"]}', "bad_request"),
    "an unknown command": (b'{"command":"format_disk"}', "unknown_command"),
    "a command in capitals": (b'{"command":"PING"}', "unknown_command"),
    "an empty command": (b'{"command":""}', "unknown_command"),
    "invalid UTF-8": (b'{"command":"p\xffng"}', "bad_request"),
    "UTF-8 of a surrogate": (b'{"command":"\xed\xa0\x80"}', "bad_request"),
    "a lone surrogate": (rb'{"command":"\ud800"}', "bad_request"),
    "NaN": (b'{"command":"ping","x":NaN}', "bad_request"),
    "Infinity": (b'{"command":"ping","x":-Infinity}', "bad_request"),
    "20,000 open brackets": (b"[" * 20_000, "bad_request"),
    "20,000 nested brackets": (b"[" * 20_000 + b"]" * 20_000, "bad_request"),
    "20,000 nested brackets in a field": (
        b'{"command":"ping","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        "bad_request",
    ),
    "20,000 nested objects": (b'{"x":' * 20_000 + b"1" + b"}" * 20_000, "bad_request"),
}


def of(command: str, **fields: Any) -> bytes:
    return json.dumps({"command": command, **fields}).encode()


def with_number(command: str, field: str, number: str, **fields: Any) -> bytes:
    return of(command, **fields)[:-1] + f', "{field}": {number}}}'.encode()


WRONG_NUMBERS = {
    "a negative": "-1",
    "a fractional": "30.0",
    "an exponent as": "1e2",
    "NaN as": "NaN",
    "an infinite": "Infinity",
    "a huge": "1e999",
    "a number of 400 digits as": "9" * 400,
    "2^53 as": str(2**53),
    "a string as": '"25"',
    "true as": "true",
    "an array as": "[25]",
}

WRONG_NAMES = {
    "an empty": "",
    "a NUL in a": "a\0b",
    "a newline in a": "a\nb",
    "an escape in a": "\x1b[2J",
    "a DEL in a": "a\x7f",
    "a C1 control in a": "a\x85b",
    "a dot as": ".",
    "two dots as": "..",
    "a leading slash in a": "/tmp/x",
    "a trailing slash in a": "a/",
    "an empty part in a": "a//b",
    "a way up in a": "../x",
    "a way up inside a": "a/../../x",
    "a dot part in a": "a/./b",
    "1,025 bytes as": "x" * 1025,
    "1,026 bytes of UTF-8 as": "é" * 513,
}

TO_META: dict[str, tuple[bytes, str]] = {
    **{
        f"{what} file_size": (with_number("store_file", "file_size", number, file_name="x"), "bad_request")
        for what, number in WRONG_NUMBERS.items()
    },
    **{
        f"{what} file_name to store_file": (of("store_file", file_name=name, file_size=1), "bad_request")
        for what, name in WRONG_NAMES.items()
    },
    **{
        f"{what} new_name": (of("rename_file", file_name="kept", new_name=name), "bad_request")
        for what, name in WRONG_NAMES.items()
    },
    **{
        f"a way up to {command}": (of(command, file_name="../kept"), "bad_request")
        for command in ("get_metadata", "fetch_file", "delete_file", "complete_file")
    },
    **{
        f"{command} without a name": (of(command), "bad_request")
        for command in ("store_file", "get_metadata", "fetch_file", "delete_file", "rename_file", "complete_file")
    },
    "a lone surrogate in a name": (rb'{"command":"store_file","file_name":"\udc80","file_size":1}', "bad_request"),
    "invalid UTF-8 in a name": (b'{"command":"store_file","file_name":"caf\xe9","file_size":1}', "bad_request"),
    "a number as a name": (of("store_file", file_name=7, file_size=1), "bad_request"),
    "null as a name": (of("store_file", file_name=None, file_size=1), "bad_request"),
    "neither size nor data": (of("store_file", file_name="x"), "bad_request"),
    "null as size and data": (of("store_file", file_name="x", file_size=None, data=None), "bad_request"),
    "a size that is not the data's": (of("store_file", file_name="x", file_size=2, data="YQ=="), "bad_request"),
    "signs that are not base64": (of("store_file", file_name="x", data="###"), "bad_request"),
    "base64 without padding": (of("store_file", file_name="x", data="YQ"), "bad_request"),
    "base64 with a space": (of("store_file", file_name="x", data="YWJj ZGVm"), "bad_request"),
    "base64 of URLs": (of("store_file", file_name="x", data="-_-_"), "bad_request"),
    "a number as data": (of("store_file", file_name="x", data=7), "bad_request"),
    "a plan beyond the limit": (of("store_file", file_name="x", file_size=20_000 * 64 * MIB + 1), "too_large"),
    "the largest number as size": (of("store_file", file_name="x", file_size=2**53 - 1), "too_large"),
    "no replica": (of("store_file", file_name="x", file_size=1, replicas=0), "bad_request"),
    "more replicas than data servers": (of("store_file", file_name="x", file_size=1, replicas=3), "bad_request"),
    "a word as explicit": (of("store_file", file_name="x", file_size=1, explicit="yes"), "bad_request"),
    "an array as attributes": (of("store_file", file_name="x", file_size=1, attributes=[]), "bad_request"),
    "9 KiB of attributes": (
        of("store_file", file_name="x", file_size=1, attributes={"x": "y" * 9216}),
        "bad_request",
    ),
    "a fraction in attributes": (of("store_file", file_name="x", file_size=1, attributes={"x": 0.5}), "bad_request"),
    "a generation that is not": (of("store_file", file_name="kept", file_size=1, if_generation=77), "conflict"),
    "a plan that is not": (of("complete_file", file_name="kept", generation=77), "conflict"),
    "a block that is not planned": (of("complete_file", file_name="kept", blocks=[{"id": "y-0"}]), "conflict"),
    "blocks that are no array": (of("complete_file", file_name="kept", blocks="y-0"), "bad_request"),
    "metadata that is no object": (of("complete_file", file_name="kept", metadata=7), "bad_request"),
    "a file that is not": (of("get_metadata", file_name="nobody"), "not_found"),
    "fetching what is not": (of("fetch_file", file_name="nobody"), "not_found"),
    "deleting what is not": (of("delete_file", file_name="nobody"), "not_found"),
    "renaming what is not": (of("rename_file", file_name="nobody", new_name="x"), "not_found"),
    "a range beyond the end": (of("fetch_file", file_name="kept", offset=len(KEPT) + 1), "bad_range"),
    "a negative offset": (of("fetch_file", file_name="kept", offset=-1), "bad_request"),
    "a fractional length": (of("fetch_file", file_name="kept", length=1.5), "bad_request"),
    "a page of nothing": (of("list_files", limit=0), "bad_request"),
    "a page of 10,001": (of("list_files", limit=10_001), "bad_request"),
    "a number as prefix": (of("list_files", prefix=7), "bad_request"),
    "a data server that is no address": (of("register_data_server", data_server_addr="here"), "bad_request"),
    "port 70000": (of("register_data_server", data_server_addr="h:70000"), "bad_request"),
    "a data server's command": (of("retrieve", block_id="kept-0"), "unknown_command"),
}

TO_DATA: dict[str, tuple[bytes, str]] = {
    **{
        f"{what} block_id to store": (of("store", block_id=name, data="YQ=="), "bad_request")
        for what, name in WRONG_NAMES.items()
    },
    **{
        f"{what} block_id to delete": (of("delete", block_id=name), "bad_request") for what, name in WRONG_NAMES.items()
    },
    **{
        f"a way out to {command}": (of(command, block_id="../blocks1/kept-0"), "bad_request")
        for command in ("retrieve", "stat", "delete")
    },
    **{f"{command} without an id": (of(command), "bad_request") for command in ("store", "retrieve", "stat", "delete")},
    **{
        f"{what} offset": (with_number("retrieve", "offset", number, block_id="kept-0"), "bad_request")
        for what, number in WRONG_NUMBERS.items()
    },
    "the storage's identity as an id": (of("retrieve", block_id=".filefly.json"), "not_found"),
    "the lock as an id": (of("retrieve", block_id=".lock"), "not_found"),
    "an id of 300 bytes": (of("store", block_id="x" * 300, data="YQ=="), "bad_request"),
    "invalid UTF-8 in an id": (b'{"command":"store","block_id":"caf\xe9-0","data":"YQ=="}', "bad_request"),
    "a lone surrogate in an id": (rb'{"command":"store","block_id":"\ud800","data":"YQ=="}', "bad_request"),
    "a number as an id": (of("store", block_id=7, data="YQ=="), "bad_request"),
    "neither size nor data": (of("store", block_id="x-0"), "bad_request"),
    "null as data": (of("store", block_id="x-0", data=None), "bad_request"),
    "a number as data": (of("store", block_id="x-0", data=7), "bad_request"),
    "signs that are not base64": (of("store", block_id="x-0", data="###"), "bad_request"),
    "base64 without padding": (of("store", block_id="x-0", data="YQ"), "bad_request"),
    "a data server's data and a wrong size": (of("store", block_id="x-0", data="#", size=-1), "bad_request"),
    "a checksum that is none": (of("store", block_id="x-0", data="YQ==", crc32c="xyz"), "bad_request"),
    "a checksum in capitals": (of("store", block_id="x-0", data="YQ==", crc32c="C1D04330"), "bad_request"),
    "a checksum of other bytes": (of("store", block_id="x-0", data="YQ==", crc32c="00000000"), "corrupt"),
    "a block that is not": (of("retrieve", block_id="nothing-0"), "not_found"),
    "a range beyond the end": (of("retrieve", block_id="kept-0", offset=len(KEPT) + 1), "bad_range"),
    "another checksum than the block's": (of("retrieve", block_id="kept-0", crc32c="00000000"), "corrupt"),
    "a page of nothing": (of("list_blocks", limit=0), "bad_request"),
    "a page of 10,001": (of("list_blocks", limit=10_001), "bad_request"),
    "a metadata server's command": (of("fetch_file", file_name="kept"), "unknown_command"),
}

SENTENCES = [
    ("meta", of("get_metadata"), "missing file_name"),
    ("meta", of("store_file", file_name="", file_size=1), "missing file_name"),
    ("meta", of("store_file", file_name="x"), "missing file_size or data"),
    ("meta", of("store_file", file_name="x", data="###"), "invalid base64 data"),
    ("meta", of("fetch_file", file_name="nobody"), "file not found"),
    ("meta", of("nonsense"), "unknown command"),
    ("data", of("retrieve"), "missing block_id"),
    ("data", of("retrieve", block_id=""), "missing block_id"),
    ("data", of("store", block_id="x-0", data="###"), "invalid base64 data"),
    ("data", of("retrieve", block_id="nothing-0"), "block not found"),
    ("data", of("nonsense"), "unknown command"),
]


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run a cluster that keeps the file `kept`, whose one block is on data server 1."""
    with processes(tmp_path_factory.mktemp("bad_input")) as running:
        plan = running.store_by_hand("kept", KEPT)
        assert ("kept-0", running.data[0].address) == (plan["blocks"][0]["id"], plan["blocks"][0]["data_server"])
        assert running.fetch("kept") == KEPT
        yield running


@pytest.fixture(autouse=True)
def nothing_stored(keeping: Processes) -> Iterator[None]:
    """After every test the file and its block are all there is, on disk as well as in the catalog."""
    yield
    assert ["kept"] == keeping.names()
    assert {"kept-0": KEPT} == keeping.block_files()
    assert [] == keeping.unfinished()
    outside = {"data1.log", "data2.log", "meta.log", "blocks1", "blocks2"}
    found = {path.name for path in keeping.folder.iterdir() if not path.name.startswith("filefly-catalog")}
    assert outside == found


def daemon_of(keeping: Processes, which: str) -> Daemon:
    return keeping.meta if which == "meta" else keeping.data[0]


def replies_to(daemon: Daemon, sent: bytes) -> list[Any]:
    return [json.loads(line) for line in talk(daemon.ports[0], sent).splitlines()]


CASES = [
    pytest.param(which, line, code, id=f"{which}: {what}")
    for which, table in (("meta", {**ANYWHERE, **TO_META}), ("data", {**ANYWHERE, **TO_DATA}))
    for what, (line, code) in table.items()
]


@pytest.mark.parametrize(("which", "line", "code"), CASES)
def test_a_bad_request_gets_an_error_and_the_conversation_goes_on(
    keeping: Processes, which: str, line: bytes, code: str
) -> None:
    """The reply has the code and a short sentence, and the ping behind it is answered."""
    error, pong = replies_to(daemon_of(keeping, which), line + b"\n" + PING)
    assert ("error", code) == (error["status"], error["code"])
    assert 0 < len(error["error"]) < 200
    assert "ok" == pong["status"]


@pytest.mark.parametrize(("which", "line", "sentence"), SENTENCES)
def test_some_sentences_are_fixed(keeping: Processes, which: str, line: bytes, sentence: str) -> None:
    """Other programs know these errors by their words."""
    [reply] = replies_to(daemon_of(keeping, which), line)
    assert sentence == reply["error"]


def test_a_block_id_from_the_root_leads_nowhere(keeping: Processes, tmp_path: Path) -> None:
    """A store under the path of a file elsewhere is refused, and the file is left alone."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    [reply] = replies_to(keeping.data[0], of("store", block_id=str(victim), data="YQ=="))
    assert "bad_request" == reply["code"]
    assert b"untouched" == victim.read_bytes()


# Payloads

COMMANDS = b"".join(
    line + b"\n"
    for line in (
        of("delete", block_id="kept-0"),
        of("store", block_id="planted-0", data="YQ=="),
        of("delete_file", file_name="kept"),
        of("store_file", file_name="planted", data=""),
        of("ping"),
    )
)
SIZE = len(COMMANDS)

REJECTED: dict[str, tuple[bytes, str]] = {
    "a way out": (of("store", block_id="../x", size=SIZE), "bad_request"),
    "no id": (of("store", size=SIZE), "bad_request"),
    "a number as an id": (of("store", block_id=7, size=SIZE), "bad_request"),
    "an id in Latin-1": (b'{"command":"store","block_id":"caf\xe9-0","size":%d}' % SIZE, "bad_request"),
    "a lone surrogate": (rb'{"command":"store","block_id":"\ud800-0","size":%d}' % SIZE, "bad_request"),
    "a checksum that is none": (of("store", block_id="x-0", size=SIZE, crc32c="xyz"), "bad_request"),
    "a checksum of other bytes": (of("store", block_id="x-0", size=SIZE, crc32c="00000000"), "corrupt"),
}

WITHOUT_END: dict[str, tuple[bytes, str]] = {
    **{
        f"{what} size": (with_number("store", "size", number, block_id="x-0"), "bad_request")
        for what, number in WRONG_NUMBERS.items()
    },
    "null as size": (of("store", block_id="x-0", size=None), "bad_request"),
    "null as data": (of("store", block_id="x-0", data=None, size=SIZE), "bad_request"),
    "a size over the limit": (of("store", block_id="x-0", size=64 * MIB + 1), "too_large"),
    "a trailing comma": (b'{"command":"store","block_id":"x-0","size":%d,}' % SIZE, "bad_request"),
    "a control character": (b'{"command":"store","block_id":"x\x01-0","size":%d}' % SIZE, "bad_request"),
    "20,000 nested brackets": (
        b'{"command":"store","block_id":"x-0","size":%d,"x":%s%s}' % (SIZE, b"[" * 20_000, b"]" * 20_000),
        "bad_request",
    ),
}


@pytest.mark.parametrize(("line", "code"), REJECTED.values(), ids=REJECTED)
def test_the_payload_of_a_rejected_store_is_skipped(keeping: Processes, line: bytes, code: str) -> None:
    """Commands in a payload are no commands: one error, then the reply to what follows the payload."""
    replies = replies_to(keeping.data[0], line + b"\n" + COMMANDS + of("stat", block_id="kept-0"))
    assert [code, "ok"] == [reply.get("code", "ok") for reply in replies]
    assert len(KEPT) == replies[1]["size"]


@pytest.mark.parametrize(("line", "code"), WITHOUT_END.values(), ids=WITHOUT_END)
def test_a_store_whose_payload_has_no_known_end_ends_the_conversation(
    keeping: Processes, line: bytes, code: str
) -> None:
    """Nobody can tell where its payload ends: one error, and nothing more of the input is interpreted."""
    replies = replies_to(keeping.data[0], line + b"\n" + COMMANDS)
    assert [code] == [reply["code"] for reply in replies]


def test_a_payload_sent_to_the_metadata_server_is_skipped(keeping: Processes) -> None:
    """A store that went to the wrong server has its payload skipped there, too."""
    replies = replies_to(keeping.meta, of("store", block_id="x-0", size=SIZE) + b"\n" + COMMANDS + PING)
    assert ["unknown_command", "ok"] == [reply.get("code", "ok") for reply in replies]


def test_a_store_with_data_has_no_payload(keeping: Processes) -> None:
    """With `data` there is no payload, whatever `size` says: the next line is a request."""
    replies = replies_to(keeping.data[0], of("store", block_id="../x", data="YQ==", size=SIZE) + b"\n" + PING)
    assert ["bad_request", "ok"] == [reply.get("code", "ok") for reply in replies]


@pytest.mark.parametrize("which", ["meta", "data"])
def test_a_payload_that_ends_early_is_counted(keeping: Processes, which: str) -> None:
    """The reply says how much of the payload came."""
    [reply] = replies_to(daemon_of(keeping, which), of("store", block_id="x-0", size=100) + b"\n" + b"x" * 60)
    assert {"status": "error", "error": "payload ended after 60 of 100 bytes", "code": "bad_request"} == reply


@pytest.mark.parametrize("which", ["meta", "data"])
def test_a_line_over_the_limit_ends_the_conversation(keeping: Processes, which: str) -> None:
    """25 MiB without a newline: one error that names the limit's option, and the connection is closed."""
    [reply] = replies_to(daemon_of(keeping, which), b"x" * (25 * MIB) + b"\n" + PING)
    assert "too_large" == reply["code"]
    assert "--max-line" in reply["error"]


@pytest.mark.parametrize("which", ["meta", "data"])
def test_an_endless_line_is_cut_off(keeping: Processes, which: str) -> None:
    """The error comes while the peer is still sending, and the peer is not listened to for longer than it takes."""
    with connect(daemon_of(keeping, which).ports[0]) as peer:
        peer.sendall(b"x" * (24 * MIB + 1))
        reply = json.loads(peer.makefile("rb").readline())
    assert "too_large" == reply["code"]


# Memory

LARGE = {
    "20 MiB of empty arrays": b'{"command":"ping","x":[' + b"[]," * (20 * MIB // 3) + b"[]]}",
    "20 MiB of empty objects": b'{"command":"ping","x":[' + b"{}," * (20 * MIB // 3) + b"{}]}",
    "20 MiB of zeros in an array": b"[" + b"0," * (10 * MIB) + b"0]",
    "20 MiB of keys": b"{" + b",".join(b'"%d":0' % number for number in range(1_700_000)) + b"}",
    "20 MiB of open brackets": b"[" * (20 * MIB),
    "20 MiB of open objects": b'{"":' * (5 * MIB),
    "20 MiB of digits": b'{"command":"list_files","limit":' + b"9" * (20 * MIB) + b"}",
    "20 MiB of fraction": b'{"command":"list_files","limit":0.' + b"9" * (20 * MIB) + b"}",
    "23 MiB of an unknown command": b'{"command":"' + b"x" * (23 * MIB) + b'"}',
    "23 MiB of escapes": b'{"command":"' + rb"\u00e9" * (23 * MIB // 6) + b'"}',
    "23 MiB of no JSON": b"x" * (23 * MIB),
    "23 MiB of invalid UTF-8": b'{"command":"' + b"\xff" * (23 * MIB) + b'"}',
    "23 MiB of a file name": b'{"command":"store_file","file_size":1,"file_name":"' + b"x" * (23 * MIB) + b'"}',
    "23 MiB of a block id": b'{"command":"store","data":"","block_id":"' + b"x" * (23 * MIB) + b'"}',
    "23 MiB of bad base64": b'{"command":"store","block_id":"x-0","file_name":"x","data":"' + b"#" * (23 * MIB) + b'"}',
    "23 MiB of store that is no JSON": b'{"command":"store","block_id":"x-0","size":5,"x":"'
    + b"\x01" * (23 * MIB)
    + b'"}',
}
MEMORY_LIMIT = 160 * MIB
"""A daemon at rest takes 45 to 55 MiB; a line of 24 MiB is there at most a few times over while it is answered."""


@pytest.mark.parametrize("which", ["meta", "data"])
@pytest.mark.parametrize("line", LARGE.values(), ids=LARGE)
def test_a_large_bad_request_is_refused_in_bounded_memory(keeping: Processes, which: str, line: bytes) -> None:
    """It gets one error of a readable length, and the daemon's peak stays within a few times the line's length."""
    daemon = daemon_of(keeping, which)
    daemon.forget_peak_memory()
    answer = talk(daemon.ports[0], line + b"\n")
    assert len(answer) < 400
    assert "error" == json.loads(answer)["status"]
    assert daemon.peak_memory() <= MEMORY_LIMIT


@pytest.mark.parametrize("which", ["meta", "data"])
def test_large_bad_requests_leave_no_memory_behind(keeping: Processes, which: str) -> None:
    """Five times as many bombs need no more memory than the first ones did."""
    daemon = daemon_of(keeping, which)
    bombs = b"\n".join([LARGE["20 MiB of empty arrays"], LARGE["23 MiB of bad base64"]]) + b"\n"
    talk(daemon.ports[0], bombs)
    before = daemon.peak_memory()
    for _ in range(5):
        talk(daemon.ports[0], bombs)
    assert daemon.peak_memory() <= before + 30 * MIB
