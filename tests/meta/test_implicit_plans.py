from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.meta.bench import DAY_SECONDS, Monotonic
from tests.meta.running import (
    NOT_FOUND,
    RunningCluster,
    asking,
    bytes_of,
    error,
    not_open,
    pass_time,
    plan_of,
    push,
    put,
    state_of,
    sum_of,
)
from tests.on_reactor import on_reactor

OLD = b"0123456789"
NEW = b"abcdefghij"
INCOMPLETE = error("a is not complete: its blocks are not all stored yet", "incomplete")


@pytest.mark.parametrize("command", ["get_metadata", "fetch_file"])
@on_reactor
async def test_an_implicit_plan_commits_itself(reactor: Any, tmp_path: Path, command: str) -> None:
    """When somebody asks for the file and its blocks are all there."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, replicas=2)
        await push(cluster, plan, OLD)
        found = (await caller.ask(command=command, file_name="a"))["metadata"]
        assert ("committed", plan["generation"]) == (found["state"], found["generation"])
        assert [sum_of(OLD[:7]), sum_of(OLD[7:])] == [block["crc32c"] for block in found["blocks"]]
        assert ["a"] == [file["name"] for file in (await caller.ask(command="list_files"))["files"]]


@on_reactor
async def test_an_implicit_plan_is_not_committed_by_a_listing(reactor: Any, tmp_path: Path) -> None:
    """A listing shows what is committed, and touches no data server."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await push(cluster, await plan_of(caller), OLD)
        assert {"status": "ok", "files": []} == await caller.ask(command="list_files")


@on_reactor
async def test_an_implicit_plan_is_committed_by_no_other_request(reactor: Any, tmp_path: Path) -> None:
    """Renaming means files; a complete plan is not one until it is asked for."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await push(cluster, await plan_of(caller), OLD)
        assert NOT_FOUND == await caller.ask(command="rename_file", file_name="a", new_name="b")
        assert ("committed", 1) == await state_of(caller)


@on_reactor
async def test_an_implicit_plan_may_be_completed_too(reactor: Any, tmp_path: Path) -> None:
    """`complete_file` takes both kinds."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller)
        await push(cluster, plan, OLD)
        assert "ok" == (await caller.ask(command="complete_file", file_name="a"))["status"]
        assert ["a"] == [file["name"] for file in (await caller.ask(command="list_files"))["files"]]


@on_reactor
async def test_a_half_stored_implicit_plan_is_pending(reactor: Any, tmp_path: Path) -> None:
    """It is shown as what it is; there is nothing to fetch."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller)
        await push(cluster, plan, OLD, only=[1])
        assert {"status": "ok", "metadata": plan} == await caller.ask(command="get_metadata", file_name="a")
        assert INCOMPLETE == await caller.ask(command="fetch_file", file_name="a")


@on_reactor
async def test_every_planned_replica_must_be_there(reactor: Any, tmp_path: Path) -> None:
    """One copy of two is not what was asked for."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, replicas=2)
        await push(cluster, plan, OLD)
        cluster.data[0].block("a-1").unlink()
        assert ("pending", 1) == await state_of(caller)


@on_reactor
async def test_replicas_must_agree(reactor: Any, tmp_path: Path) -> None:
    """Of the same size is not enough."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, replicas=2)
        await push(cluster, plan, OLD)
        cluster.data[0].put("a-1", b"XYZ")
        assert ("pending", 1) == await state_of(caller)


@on_reactor
async def test_an_implicit_plan_of_an_empty_file_commits_itself(reactor: Any, tmp_path: Path) -> None:
    """It has no block to wait for."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        await plan_of(caller, size=0)
        assert b"" == await bytes_of(caller, "a")


@on_reactor
async def test_other_bytes_than_the_given_data_do_not_commit(reactor: Any, tmp_path: Path) -> None:
    """A plan made from `data` waits for exactly these bytes, not for as many."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        reply = await caller.ask(command="store_file", file_name="a", data=b64encode(OLD).decode())
        await push(cluster, reply["metadata"], NEW)
        assert INCOMPLETE == await caller.ask(command="fetch_file", file_name="a")
        assert ("pending", 1) == await state_of(caller)
        await push(cluster, reply["metadata"], OLD)
        assert OLD == await bytes_of(caller, "a")


@on_reactor
async def test_the_newest_complete_plan_is_committed(reactor: Any, tmp_path: Path) -> None:
    """And the older ones, complete or not, are ended."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        older, newer = [await plan_of(caller) for _ in range(2)]
        await push(cluster, older, OLD)
        await push(cluster, newer, NEW)
        assert NEW == await bytes_of(caller, "a")
        assert not_open(older) == await caller.ask(command="complete_file", metadata=older)


@on_reactor
async def test_an_older_plan_is_committed_while_the_newest_is_not_there(reactor: Any, tmp_path: Path) -> None:
    """What was stored is better than nothing, and the newer one follows."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        older, newer = [await plan_of(caller) for _ in range(2)]
        await push(cluster, older, OLD)
        assert OLD == await bytes_of(caller, "a")
        await push(cluster, newer, NEW)
        assert NEW == await bytes_of(caller, "a")


@on_reactor
async def test_an_implicit_plan_replaces_an_older_file(reactor: Any, tmp_path: Path) -> None:
    """Storing again by hand works as it did the first time."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", OLD)
        await push(cluster, await plan_of(caller), NEW)
        assert NEW == await bytes_of(caller, "a")


@on_reactor
async def test_an_implicit_plan_does_not_replace_a_newer_file(reactor: Any, tmp_path: Path) -> None:
    """One that was renamed over it, say: plans of the new name are over then."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        older = await plan_of(caller)
        newer = await put(cluster, caller, "b", NEW)
        await caller.ask(command="rename_file", file_name="b", new_name="a")
        await push(cluster, older, OLD)
        assert ("committed", newer["generation"]) == await state_of(caller)
        assert NEW == await bytes_of(caller, "a")


@on_reactor
async def test_an_implicit_plan_keeps_its_condition(reactor: Any, tmp_path: Path) -> None:
    """`if_generation` holds for a plan that commits itself, too."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        first = await put(cluster, caller, "a", OLD)
        older = await plan_of(caller, explicit=True)
        newer = await plan_of(caller, if_generation=first["generation"])
        await push(cluster, older, OLD)
        await caller.ask(command="complete_file", file_name="a", generation=older["generation"])
        await push(cluster, newer, NEW)
        assert OLD == await bytes_of(caller, "a")


@on_reactor
async def test_a_deleted_implicit_plan_stays_deleted(reactor: Any, tmp_path: Path) -> None:
    """Also where its blocks are stored afterwards."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller)
        await caller.ask(command="delete_file", file_name="a")
        await push(cluster, plan, OLD)
        assert NOT_FOUND == await caller.ask(command="fetch_file", file_name="a")


@on_reactor
async def test_many_who_ask_at_once_see_one_commit(reactor: Any, tmp_path: Path) -> None:
    """All of them find the file, of one generation."""

    async def look(cluster: RunningCluster) -> tuple[str, int]:
        async with cluster.calling() as caller:
            return await state_of(caller)

    async with asking(reactor, tmp_path) as (cluster, caller):
        await push(cluster, await plan_of(caller), OLD)
        found = await gatherResults([Deferred.fromCoroutine(look(cluster)) for _ in range(8)])
        assert [("committed", 1)] * 8 == found


@on_reactor
async def test_a_plan_survives_a_restart(reactor: Any, tmp_path: Path) -> None:
    """What was planned before is committed after it."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller)
        await cluster.stop_meta()
        await push(cluster, plan, OLD)
        cluster.start_meta()
        async with cluster.calling() as caller_again:
            assert OLD == await bytes_of(caller_again, "a")


# Expiry


@on_reactor
async def test_a_file_that_nobody_has_read_does_not_expire(reactor: Any, tmp_path: Path) -> None:
    """All its blocks were acknowledged: it is committed instead, and another one that lacks blocks is given up."""
    async with asking(reactor, tmp_path, monotonic=Monotonic()) as (cluster, caller):
        await push(cluster, await plan_of(caller), OLD)
        await push(cluster, await plan_of(caller, "half"), OLD, only=[0])
        await pass_time(cluster, DAY_SECONDS)
        assert ["a"] == [file["name"] for file in (await caller.ask(command="list_files"))["files"]]
        assert NOT_FOUND == await caller.ask(command="get_metadata", file_name="half")
        await pass_time(cluster, 600)
        assert OLD == await bytes_of(caller, "a")


@on_reactor
async def test_a_plan_does_not_expire_before_its_data_servers_can_be_asked(reactor: Any, tmp_path: Path) -> None:
    """One that was away has the blocks all the same."""
    async with asking(reactor, tmp_path, monotonic=Monotonic()) as (cluster, caller):
        plan = await plan_of(caller)
        await push(cluster, plan, OLD)
        [away] = cluster.nodes(plan["blocks"][0]["data_server"])
        await away.stop()
        for _ in range(3):
            await pass_time(cluster, DAY_SECONDS)
        assert ("pending", 1) == await state_of(caller)
        away.start()
        await pass_time(cluster, DAY_SECONDS)
        assert OLD == await bytes_of(caller, "a")
