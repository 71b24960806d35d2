import os
from base64 import b64decode, b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectionClosed

from filefly.errors import PayloadEnded
from filefly.wire.framing import PIECE_BYTES
from tests.caller import Caller
from tests.meta.running import (
    DataNode,
    RunningCluster,
    asking,
    bytes_of,
    error,
    plan_of,
    push,
    put,
    running,
    sum_of,
)
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789abcdefghijklmnop"
NOT_FOUND = error("file not found", "not_found")
INCOMPLETE = error("a is not complete: its blocks are not all stored yet", "incomplete")


async def fetch_raw(caller: Caller, **fields: object) -> tuple[Any, bytes]:
    head = await caller.ask(command="fetch_file", file_name="a", raw=True, **fields)
    return head, await caller.hear_bytes(head["size"])


# ping and what is no command


@on_reactor
async def test_the_metadata_server_answers_a_ping(reactor: Any, tmp_path: Path) -> None:
    """It says no more than that it is there."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        assert {"status": "ok"} == await caller.ask(command="ping")


@on_reactor
async def test_an_unknown_command_ends_nothing(reactor: Any, tmp_path: Path) -> None:
    """The conversation goes on; a data server's verbs are unknown here."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        assert error("unknown command", "unknown_command") == await caller.ask(command="retrieve", block_id="a-0")
        assert {"status": "ok"} == await caller.ask(command="ping")


@on_reactor
async def test_a_block_that_is_sent_here_is_not_read_as_commands(reactor: Any, tmp_path: Path) -> None:
    """A `store` at the wrong door is answered once, and its payload skipped."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        payload = b'{"command":"delete_file","file_name":"a"}\n'
        reply = await caller.ask(payload, command="store", block_id="a-0", size=len(payload))
        assert error("unknown command", "unknown_command") == reply
        assert {"status": "ok"} == await caller.ask(command="ping")


@pytest.mark.parametrize("command", ["fetch_file", "get_metadata", "delete_file"])
@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({}, error("missing file_name", "bad_request")),
        ({"file_name": ""}, error("missing file_name", "bad_request")),
        ({"file_name": "a/../b"}, error("file_name has an empty, '.' or '..' part", "bad_request")),
        ({"file_name": "missing"}, NOT_FOUND),
    ],
)
@on_reactor
async def test_what_is_no_files_name_is_refused(
    reactor: Any, tmp_path: Path, command: str, fields: dict[str, str], reply: dict[str, str]
) -> None:
    """By every command that takes one."""
    async with asking(reactor, tmp_path, 1) as (_cluster, caller):
        assert reply == await caller.ask(command=command, **fields)


# fetch_file

RANGES: list[tuple[dict[str, int], bytes]] = [
    ({}, DATA),
    ({"offset": 7}, DATA[7:]),
    ({"offset": 5, "length": 4}, DATA[5:9]),
    ({"offset": 6, "length": 9}, DATA[6:15]),
    ({"offset": 7, "length": 7}, DATA[7:14]),
    ({"offset": 20, "length": 100}, DATA[20:]),
    ({"offset": 26}, b""),
    ({"offset": 3, "length": 0}, b""),
    ({"length": 2**53 - 1}, DATA),
]


@on_reactor
async def test_ranges_are_fetched(reactor: Any, tmp_path: Path) -> None:
    """Raw and in base64, across blocks, with the end clipped; `metadata` is always that of the whole file."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        metadata = await put(cluster, caller, "a", DATA)
        for wanted, data in RANGES:
            reply = await caller.ask(command="fetch_file", file_name="a", **wanted)
            assert {"metadata": metadata, "data": b64encode(data).decode(), "status": "ok"} == reply
            assert "status" == list(reply)[-1]
            head = {"status": "ok", "size": len(data), "metadata": metadata}
            assert (head, data) == await fetch_raw(caller, **wanted)


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_a_range_beyond_the_end_is_refused(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """The conversation goes on."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        reply = await caller.ask(command="fetch_file", file_name="a", raw=raw, offset=27)
        assert error("offset 27 is beyond the file's 26 bytes", "bad_range") == reply
        assert {"status": "ok"} == await caller.ask(command="ping")


@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_an_incomplete_file_cannot_be_fetched(reactor: Any, tmp_path: Path, raw: bool) -> None:
    """There is a plan, and nothing to read yet."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        await plan_of(caller)
        assert INCOMPLETE == await caller.ask(command="fetch_file", file_name="a", raw=raw)


@on_reactor
async def test_an_empty_file_is_fetched(reactor: Any, tmp_path: Path) -> None:
    """It has no blocks, but metadata."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        metadata = await put(cluster, caller, "a", b"")
        fetched = await caller.ask(command="fetch_file", file_name="a")
        assert {"metadata": metadata, "data": "", "status": "ok"} == fetched
        assert ({"status": "ok", "size": 0, "metadata": metadata}, b"") == await fetch_raw(caller)


@on_reactor
async def test_a_file_of_many_pieces_is_fetched(reactor: Any, tmp_path: Path) -> None:
    """Pieces of a size that is no multiple of three join to one text."""
    data = os.urandom(2 * PIECE_BYTES + 12345)
    async with asking(reactor, tmp_path, block_size=PIECE_BYTES + 1) as (cluster, caller):
        await put(cluster, caller, "a", data)
        assert data == await bytes_of(caller, "a")
        assert data == (await fetch_raw(caller))[1]


@on_reactor
async def test_many_fetch_at_once(reactor: Any, tmp_path: Path) -> None:
    """Each gets all of it."""

    async def fetch(cluster: RunningCluster) -> bytes:
        async with cluster.calling() as caller:
            return (await fetch_raw(caller))[1]

    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        fetching = [Deferred.fromCoroutine(fetch(cluster)) for _ in range(12)]
        assert [DATA] * 12 == await gatherResults(fetching)


def damage(node: DataNode, block: str, how: str) -> None:
    """Do to a block file what disks and people do."""
    file = node.block(block)
    if how == "deleted":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "longer":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        data = bytearray(file.read_bytes())
        data[3] ^= 1
        file.write_bytes(data)


DAMAGES = [("deleted", "not_found"), ("truncated", "corrupt"), ("longer", "corrupt"), ("flipped", "corrupt")]


@pytest.mark.parametrize(("how", "code"), DAMAGES)
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("wanted", [{}, {"offset": 1, "length": 2}])
@on_reactor
async def test_a_damaged_first_block_is_an_error(
    reactor: Any, tmp_path: Path, how: str, code: str, raw: bool, wanted: dict[str, int]
) -> None:
    """Nothing but an error line is sent, also where the range is not the damaged part; the conversation goes on."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        damage(cluster.data[0], "a-0", how)
        reply = await caller.ask(command="fetch_file", file_name="a", raw=raw, **wanted)
        assert ("error", code) == (reply["status"], reply["code"])
        assert reply["error"].startswith("block a-0 cannot be read (")
        assert "data" not in reply
        assert {"status": "ok"} == await caller.ask(command="ping")


@pytest.mark.parametrize(("how", "code"), DAMAGES)
@on_reactor
async def test_a_damaged_later_block_ends_base64_with_an_error(
    reactor: Any, tmp_path: Path, how: str, code: str
) -> None:
    """The line is still JSON; its last field says that the data before it is not the file."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        damage(cluster.data[0], "a-2", how)
        reply = await caller.ask(command="fetch_file", file_name="a")
        assert ("error", code) == (reply["status"], reply["code"])
        assert ["metadata", "data", "status"] == list(reply)[:3]
        assert DATA[:14].startswith(b64decode(reply["data"] + "=" * (-len(reply["data"]) % 4)))
        assert {"status": "ok"} == await caller.ask(command="ping")


@pytest.mark.parametrize(("how", "_code"), DAMAGES)
@on_reactor
async def test_a_damaged_later_block_aborts_raw_bytes(reactor: Any, tmp_path: Path, how: str, _code: str) -> None:
    """The connection ends before the announced size is there, and what came before is right."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        damage(cluster.data[0], "a-2", how)
        head = await caller.ask(command="fetch_file", file_name="a", raw=True)
        assert len(DATA) == head["size"]
        caller.begin_payload(head["size"])
        received = b""
        with suppress(ConnectionClosed, PayloadEnded):
            while chunks := await caller.receive_chunks(at_least=1):
                received += b"".join(chunks)
        assert not caller.payload_ended
        assert DATA[:14].startswith(received)


@on_reactor
async def test_a_data_server_that_is_down_is_an_error(reactor: Any, tmp_path: Path) -> None:
    """The sentence names it, and the block."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        await cluster.data[0].stop()
        reply = await caller.ask(command="fetch_file", file_name="a")
        assert "unavailable" == reply["code"]
        assert reply["error"].startswith(f"block a-0 cannot be read ({cluster.data[0].address}: cannot reach")


@pytest.mark.parametrize("how", ["deleted", "truncated", "longer", "flipped", "down"])
@pytest.mark.parametrize("raw", [True, False])
@on_reactor
async def test_another_replica_stands_in(reactor: Any, tmp_path: Path, how: str, raw: bool) -> None:
    """One good copy of each block is enough, whichever it is."""
    async with asking(reactor, tmp_path, 2, replicas=2) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        if how == "down":
            await cluster.data[0].stop()
        else:
            damage(cluster.data[0], "a-0", how)
            damage(cluster.data[1], "a-1", how)
            damage(cluster.data[0], "a-2", how)
        assert DATA == ((await fetch_raw(caller))[1] if raw else await bytes_of(caller, "a"))


@on_reactor
async def test_what_was_replaced_can_still_be_read_to_its_end(reactor: Any, tmp_path: Path) -> None:
    """The old blocks wait in the trash until who reads them is done."""
    old, new = os.urandom(3 * PIECE_BYTES), b"new"
    async with asking(reactor, tmp_path, block_size=PIECE_BYTES) as (cluster, reader):
        await put(cluster, reader, "a", old)
        head = await reader.ask(command="fetch_file", file_name="a", raw=True)
        async with cluster.calling() as writer:
            await put(cluster, writer, "a", new)
            await cluster.collect_trash()
            assert new == await bytes_of(writer, "a")
        assert old == await reader.hear_bytes(head["size"])


@on_reactor
async def test_a_reader_that_leaves_costs_nothing(reactor: Any, tmp_path: Path) -> None:
    """Half-way through a file that does not fit into the buffers; others are served."""
    data = os.urandom(8 * PIECE_BYTES)
    async with asking(reactor, tmp_path, block_size=4 * PIECE_BYTES) as (cluster, caller):
        await put(cluster, caller, "a", data)
        async with cluster.calling() as leaver:
            leaver.tell(command="fetch_file", file_name="a", raw=True)
            await leaver.hear()
        assert data == (await fetch_raw(caller))[1]


# list_files


@on_reactor
async def test_files_are_listed(reactor: Any, tmp_path: Path) -> None:
    """Each with what a person wants to see of it."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        stored = await put(cluster, caller, "a", DATA, attributes={"mode": "0644"}, replicas=2)
        reply = await caller.ask(command="list_files")
        assert {
            "status": "ok",
            "files": [
                {
                    "name": "a",
                    "total_size": 26,
                    "generation": stored["generation"],
                    "replicas": 2,
                    "modified": stored["modified"],
                    "attributes": {"mode": "0644"},
                }
            ],
        } == reply


@on_reactor
async def test_a_listing_comes_in_pages(reactor: Any, tmp_path: Path) -> None:
    """`next` goes into `after`, and is absent at the end; `prefixes` comes with a delimiter."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        for name in ("a", "b/c", "b/d", "e"):
            await put(cluster, caller, name, b"")

        async def page(**fields: object) -> tuple[list[str], Any, Any]:
            reply = await caller.ask(command="list_files", **fields)
            return [file["name"] for file in reply["files"]], reply.get("prefixes"), reply.get("next")

        assert (["a", "b/c"], None, "b/c") == await page(limit=2)
        assert (["b/d", "e"], None, None) == await page(limit=2, after="b/c")
        assert (["a"], ["b/"], "b/") == await page(limit=2, delimiter="/")
        assert (["e"], [], None) == await page(limit=2, delimiter="/", after="b/")
        assert (["b/c", "b/d"], None, None) == await page(prefix="b/")


@pytest.mark.parametrize("limit", [0, -1, 10_001, 1.5, "10", None])
@on_reactor
async def test_a_limit_out_of_range_is_refused(reactor: Any, tmp_path: Path, limit: object) -> None:
    """A page has 1 to 10,000 entries."""
    async with asking(reactor, tmp_path, 1) as (_cluster, caller):
        reply = await caller.ask(command="list_files", limit=limit)
        assert "bad_request" == reply["code"]
        assert reply["error"].startswith("limit: expected an integer")


# delete_file, rename_file


@on_reactor
async def test_a_deleted_file_is_gone(reactor: Any, tmp_path: Path) -> None:
    """From the listing at once; its blocks wait for the grace period."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", b"x")
        assert {"status": "ok"} == await caller.ask(command="delete_file", file_name="a")
        assert NOT_FOUND == await caller.ask(command="delete_file", file_name="a")
        assert NOT_FOUND == await caller.ask(command="fetch_file", file_name="a")
        assert {"status": "ok", "files": []} == await caller.ask(command="list_files")
        await cluster.collect_trash()
        assert ["a-0"] == cluster.block_ids()


@on_reactor
async def test_a_renamed_file_is_read_under_its_new_name(reactor: Any, tmp_path: Path) -> None:
    """What had that name is replaced; no byte moves."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", b"moved")
        await put(cluster, caller, "b", b"replaced")
        before = cluster.block_ids()
        assert {"status": "ok"} == await caller.ask(command="rename_file", file_name="a", new_name="b")
        assert b"moved" == await bytes_of(caller, "b")
        assert NOT_FOUND == await caller.ask(command="get_metadata", file_name="a")
        assert before == cluster.block_ids()


@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({"file_name": "a"}, error("missing new_name", "bad_request")),
        ({"new_name": "a"}, error("missing file_name", "bad_request")),
        ({"file_name": "a", "new_name": "/b"}, error("file_name has an empty, '.' or '..' part", "bad_request")),
        ({"file_name": "missing", "new_name": "b"}, NOT_FOUND),
    ],
)
@on_reactor
async def test_a_bad_rename_is_refused(
    reactor: Any, tmp_path: Path, fields: dict[str, str], reply: dict[str, str]
) -> None:
    """The file keeps its name."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", b"x")
        assert reply == await caller.ask(command="rename_file", **fields)
        assert b"x" == await bytes_of(caller, "a")


# Data servers


@on_reactor
async def test_data_servers_are_listed(reactor: Any, tmp_path: Path) -> None:
    """In their order, with the address that clients are told; unknown before the first answer."""
    async with running(reactor, tmp_path, 2, advertised=["far:1", None]) as cluster, cluster.calling() as caller:
        servers: list[Any] = []
        while not all("last_checked" in server for server in servers) or not servers:
            servers = (await caller.ask(command="list_data_servers"))["servers"]
            await next_turn()
        assert [
            {"address": cluster.data[0].address, "healthy": True, "advertised_address": "far:1"},
            {"address": cluster.data[1].address, "healthy": True},
        ] == [{key: value for key, value in server.items() if not key.startswith("last_")} for server in servers]


@on_reactor
async def test_clients_are_told_the_advertised_address(reactor: Any, tmp_path: Path) -> None:
    """In plans and files; the metadata server itself uses the internal one."""
    async with running(reactor, tmp_path, 1, advertised=["far:1"]) as cluster, cluster.calling() as caller:
        plan = await plan_of(caller)
        assert {"far:1"} == {block["data_server"] for block in plan["blocks"]}
        cluster.data[0].put("a-0", b"0123456")
        cluster.data[0].put("a-1", b"789")
        reply = await caller.ask(command="fetch_file", file_name="a")
        assert b64encode(b"0123456789").decode() == reply["data"]
        assert [{"data_server": "far:1"}] == reply["metadata"]["blocks"][0]["replicas"]


@on_reactor
async def test_a_report_names_the_advertised_address(reactor: Any, tmp_path: Path) -> None:
    """Clients know no other."""
    async with running(reactor, tmp_path, 1, advertised=["far:1"]) as cluster, cluster.calling() as caller:
        plan = await plan_of(caller, size=1, explicit=True)
        block = {"id": "a-0", "crc32c": sum_of(b"x"), "replicas": [{"data_server": "far:1"}]}
        reply = await caller.ask(command="complete_file", metadata=plan, blocks=[block])
        assert [{"data_server": "far:1"}] == reply["metadata"]["blocks"][0]["replicas"]


@on_reactor
async def test_a_registered_data_server_takes_part(reactor: Any, tmp_path: Path) -> None:
    """At once and after a restart, without being in any list."""
    async with running(reactor, tmp_path, 1) as cluster:
        added = DataNode(reactor, tmp_path / "added").start()
        try:
            async with cluster.calling() as caller:
                asked = {"command": "register_data_server", "data_server_addr": added.address}
                assert {"status": "ok"} == await caller.ask(**asked)
                plan = await plan_of(caller, "a", 26)
                assert {cluster.data[0].address, added.address} == {b["data_server"] for b in plan["blocks"]}
            await cluster.stop_meta()
            cluster.start_meta()
            async with cluster.calling() as caller:
                plan = await plan_of(caller, "b", 26)
                assert {cluster.data[0].address, added.address} == {b["data_server"] for b in plan["blocks"]}
                servers = (await caller.ask(command="list_data_servers"))["servers"]
                assert [cluster.data[0].address, added.address] == [server["address"] for server in servers]
        finally:
            await cluster.stop_meta()
            await added.stop()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "missing data_server_addr"),
        ({"data_server_addr": "nowhere"}, "'nowhere' is not an address; write HOST:PORT"),
        ({"data_server_addr": "a:0"}, "'a:0' is not an address; write HOST:PORT"),
        ({"data_server_addr": "a:1", "advertised_addr": ""}, "'' is not an address; write HOST:PORT"),
    ],
)
@on_reactor
async def test_what_is_no_address_is_not_registered(
    reactor: Any, tmp_path: Path, fields: dict[str, str], sentence: str
) -> None:
    """The sentence says how it is written."""
    async with asking(reactor, tmp_path, 1) as (_cluster, caller):
        assert error(sentence, "bad_request") == await caller.ask(command="register_data_server", **fields)
        assert 1 == len((await caller.ask(command="list_data_servers"))["servers"])


# One connection


@on_reactor
async def test_requests_of_one_connection_take_effect_in_order(reactor: Any, tmp_path: Path) -> None:
    """300 pipelined requests, each seeing what those before it did."""
    async with asking(reactor, tmp_path, 1) as (_cluster, caller):
        for number in range(100):
            caller.tell(command="store_file", file_name=f"f{number}", file_size=0)
            caller.tell(command="get_metadata", file_name=f"f{number}")
            caller.tell(command="delete_file", file_name=f"f{number}")
        for number in range(100):
            assert f"f{number}" == (await caller.hear())["metadata"]["name"]
            assert "committed" == (await caller.hear())["metadata"]["state"]
            assert {"status": "ok"} == await caller.hear()
        assert {"status": "ok", "files": []} == await caller.ask(command="list_files")


@on_reactor
async def test_writers_at_once_are_all_kept(reactor: Any, tmp_path: Path) -> None:
    """Their changes share transactions, not fates."""

    async def write(cluster: RunningCluster, number: int) -> None:
        async with cluster.calling() as caller:
            for name in (f"{number}/a", f"{number}/b"):
                plan = await plan_of(caller, name, 0, explicit=True)
                assert NOT_FOUND == await caller.ask(command="delete_file", file_name="missing")
                assert "ok" == (await caller.ask(command="complete_file", metadata=plan))["status"]

    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await gatherResults([Deferred.fromCoroutine(write(cluster, number)) for number in range(20)])
        files = (await caller.ask(command="list_files"))["files"]
        assert sorted(f"{number}/{name}" for number in range(20) for name in "ab") == [file["name"] for file in files]
        assert 40 == len({file["generation"] for file in files})


@on_reactor
async def test_blocks_pushed_by_hand_are_a_file(reactor: Any, tmp_path: Path) -> None:
    """The session of a person with `nc`: plan, store, fetch."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await push(cluster, await plan_of(caller, "hello.txt", len(DATA)), DATA)
        assert DATA == await bytes_of(caller, "hello.txt")
        assert ["hello.txt-0", "hello.txt-1", "hello.txt-2", "hello.txt-3"] == cluster.block_ids()
