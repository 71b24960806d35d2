from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.meta.running import asking, error, plan_of, push, put, sum_of
from tests.on_reactor import on_reactor

DATA = b"0123456789"


def ids_of(plan: Any) -> list[str]:
    return [block["id"] for block in plan["blocks"]]


@on_reactor
async def test_a_plan_says_what_goes_where(reactor: Any, tmp_path: Path) -> None:
    """The smallest request, and every field of its reply."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        one, two = (node.address for node in cluster.data)
        reply = await caller.ask(command="store_file", file_name="a", file_size=10)
        assert {
            "status": "ok",
            "metadata": {
                "name": "a",
                "total_size": 10,
                "block_size": 7,
                "generation": 1,
                "state": "pending",
                "replicas": 1,
                "attributes": {},
                "blocks": [
                    {"id": "a-0", "size": 7, "data_server": one, "replicas": [{"data_server": one}]},
                    {"id": "a-1", "size": 3, "data_server": two, "replicas": [{"data_server": two}]},
                ],
            },
        } == reply


@on_reactor
async def test_a_plan_from_data_knows_its_checksums(reactor: Any, tmp_path: Path) -> None:
    """The data itself is to be pushed by the client."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        reply = await caller.ask(command="store_file", file_name="a", data=b64encode(DATA).decode())
        assert 10 == reply["metadata"]["total_size"]
        assert [sum_of(DATA[:7]), sum_of(DATA[7:])] == [block["crc32c"] for block in reply["metadata"]["blocks"]]
        assert [] == cluster.block_ids()


@on_reactor
async def test_placement_carries_on_from_file_to_file(reactor: Any, tmp_path: Path) -> None:
    """Small files are spread over all data servers."""
    async with asking(reactor, tmp_path, 3) as (cluster, caller):
        plans = [await plan_of(caller, name, 1) for name in "abcd"]
        addresses = [node.address for node in cluster.data]
        assert [*addresses, addresses[0]] == [plan["blocks"][0]["data_server"] for plan in plans]


@on_reactor
async def test_replicas_are_planned(reactor: Any, tmp_path: Path) -> None:
    """As many as are asked for, else as the metadata server is told."""
    async with asking(reactor, tmp_path, 3, replicas=2) as (_cluster, caller):
        for plan, wanted in ((await plan_of(caller, replicas=3), 3), (await plan_of(caller), 2)):
            assert wanted == plan["replicas"]
            assert [wanted, wanted] == [
                len({replica["data_server"] for replica in block["replicas"]}) for block in plan["blocks"]
            ]


@on_reactor
async def test_attributes_are_kept(reactor: Any, tmp_path: Path) -> None:
    """What the client chose comes back."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        attributes = {"mode": "0600", "x": [1, {"y": None}]}
        assert attributes == (await plan_of(caller, attributes=attributes))["attributes"]


@pytest.mark.parametrize(
    ("fields", "sentence", "code"),
    [
        ({}, "missing file_name", "bad_request"),
        ({"file_name": "", "file_size": 1}, "missing file_name", "bad_request"),
        ({"file_name": "a"}, "missing file_size or data", "bad_request"),
        ({"file_name": "a", "data": "?"}, "invalid base64 data", "bad_request"),
        ({"file_name": "a", "data": "YQ==", "file_size": 2}, "file_size is 2, but data has 1 bytes", "bad_request"),
        ({"file_name": "../a", "file_size": 1}, "file_name '../a' has an empty, '.' or '..' part", "bad_request"),
        (
            {"file_name": "a", "file_size": 1, "replicas": 3},
            "replica count 3 exceeds available data servers (2)",
            "bad_request",
        ),
        (
            {"file_name": "a", "file_size": 20_000 * 64 * 1024 * 1024 + 1},
            "file_size is over the limit of 20000 blocks of 67108864 bytes (--max-blocks-per-file)",
            "too_large",
        ),
        (
            {"file_name": "a", "file_size": 1, "attributes": {"x": "y" * 9000}},
            "attributes take more than 8192 bytes of JSON",
            "bad_request",
        ),
        ({"file_name": "a", "file_size": 1, "if_generation": 4}, "the file has generation 0, not 4", "conflict"),
    ],
)
@on_reactor
async def test_a_bad_plan_is_refused(
    reactor: Any, tmp_path: Path, fields: dict[str, Any], sentence: str, code: str
) -> None:
    """With a sentence, and nothing is planned."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        assert error(sentence, code) == await caller.ask(command="store_file", **fields)
        assert error("file not found", "not_found") == await caller.ask(command="get_metadata", file_name="a")


@on_reactor
async def test_the_largest_plan_is_made(reactor: Any, tmp_path: Path) -> None:
    """20,000 blocks of 64 MiB: the block size is doubled until they are no more."""
    async with asking(reactor, tmp_path, block_size=8 * 1024 * 1024) as (_cluster, caller):
        plan = await plan_of(caller, size=20_000 * 64 * 1024 * 1024, explicit=True)
        assert (64 * 1024 * 1024, 20_000) == (plan["block_size"], len(plan["blocks"]))


@pytest.mark.parametrize("explicit", [True, False])
@on_reactor
async def test_a_second_plan_has_ids_of_its_own(reactor: Any, tmp_path: Path, explicit: bool) -> None:
    """So that writing a file again leaves the old one alone until the commit."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        assert ["a-0", "a-1"] == ids_of(await plan_of(caller, explicit=explicit))
        assert ["a-0.2", "a-1.2"] == ids_of(await plan_of(caller, explicit=explicit))


@on_reactor
async def test_a_stray_block_keeps_an_implicit_plan_off_the_short_ids(reactor: Any, tmp_path: Path) -> None:
    """It would pass for a block of the new file, which commits itself once all blocks are there."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        cluster.data[1].put("a-1", b"old")
        assert ["a-0.1", "a-1.1"] == ids_of(await plan_of(caller))


@on_reactor
async def test_a_stray_block_does_not_bother_an_explicit_plan(reactor: Any, tmp_path: Path) -> None:
    """It is completed by somebody who has stored all of its blocks."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        cluster.data[1].put("a-1", b"old")
        assert ["a-0", "a-1"] == ids_of(await plan_of(caller, explicit=True))


@on_reactor
async def test_a_stray_block_elsewhere_does_not_matter(reactor: Any, tmp_path: Path) -> None:
    """Only the planned places are looked at."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        cluster.data[0].put("a-1", b"old")
        assert ["a-0", "a-1"] == ids_of(await plan_of(caller))


@on_reactor
async def test_a_data_server_that_is_down_may_hold_a_stray_block(reactor: Any, tmp_path: Path) -> None:
    """Planning does not need the data servers, but the short ids do."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await cluster.data[1].stop()
        assert ["a-0.1", "a-1.1"] == ids_of(await plan_of(caller))


@on_reactor
async def test_deleted_and_stored_at_once_is_new(reactor: Any, tmp_path: Path) -> None:
    """The same name and size without a second push never shows the old bytes, before or after the trash is gone."""
    async with asking(reactor, tmp_path, trash_grace=0) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        await caller.ask(command="delete_file", file_name="a")
        plan = await plan_of(caller)
        assert ["a-0.2", "a-1.2"] == ids_of(plan)
        fetching = {"command": "fetch_file", "file_name": "a"}
        incomplete = error("a is not complete: its blocks are not all stored yet", "incomplete")
        assert incomplete == await caller.ask(**fetching)
        await push(cluster, plan, b"abcdefghij")
        await cluster.collect_trash()
        assert "YWJjZGVmZ2hpag==" == (await caller.ask(**fetching))["data"]
        assert ["a-0.2", "a-1.2"] == cluster.block_ids()


@on_reactor
async def test_confirmed_trash_frees_the_short_ids(reactor: Any, tmp_path: Path) -> None:
    """A name that is free again looks like new."""
    async with asking(reactor, tmp_path, trash_grace=0) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        await caller.ask(command="delete_file", file_name="a")
        await cluster.collect_trash()
        assert ["a-0", "a-1"] == ids_of(await plan_of(caller))


@on_reactor
async def test_a_data_server_that_is_not_listed_any_more_gets_no_new_blocks(reactor: Any, tmp_path: Path) -> None:
    """What it has is still read."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        leaving, staying = cluster.data
        await cluster.stop_meta()
        cluster.data, cluster.advertised = [staying], [None]
        cluster.start_meta()
        async with cluster.calling() as caller_again:
            plan = await plan_of(caller_again, "b")
            assert {staying.address} == {block["data_server"] for block in plan["blocks"]}
            assert "ok" == (await caller_again.ask(command="fetch_file", file_name="a"))["status"]
        await cluster.stop_meta()
        await leaving.stop()
