from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.meta.running import (
    NOT_FOUND,
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
from tests.on_reactor import on_reactor

DATA = b"0123456789abcdefghijklmnop"


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
        ({"file_name": "a/../b"}, error("file_name 'a/../b' has an empty, '.' or '..' part", "bad_request")),
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
        ({"file_name": "a", "new_name": "/b"}, error("file_name '/b' has an empty, '.' or '..' part", "bad_request")),
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
    """In their order, with the address that clients are told, who they are, and how."""
    async with running(reactor, tmp_path, 2, advertised=["far:1", None]) as cluster, cluster.calling() as caller:
        await cluster.data[1].stop()
        await cluster.check_health()
        one, two = (await caller.ask(command="list_data_servers"))["servers"]
        shown = ("address", "advertised_address", "healthy", "state", "storage_id")
        assert [cluster.data[0].address, "far:1", True, "up", "id of data1"] == [one.get(field) for field in shown]
        assert [cluster.data[1].address, None, False, "suspect"] == [two.get(field) for field in shown[:-1]]
        assert one["total_bytes"] >= one["free_bytes"] > 0
        assert one["last_pong"] <= one["last_checked"]
        assert cluster.data[1].address in two["error"]


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
