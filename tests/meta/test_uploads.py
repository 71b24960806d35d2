"""Uploads under way, as their clients see them: other places, signs of life, fewer replicas than planned."""

from pathlib import Path
from typing import Any

import pytest

from filefly.meta.repair import Repairer
from tests.caller import Caller
from tests.meta.bench import DAY_SECONDS, Monotonic
from tests.meta.running import NOT_FOUND, asking, bytes_of, error, not_open, pass_time, plan_of, push, reports
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789"


def places_of(block: Any) -> list[str]:
    return [replica["data_server"] for replica in block["replicas"]]


async def replace(caller: Caller, plan: Any, data_server: str, block_id: str = "a-0") -> Any:
    return await caller.ask(
        command="replace_replica", generation=plan["generation"], block_id=block_id, data_server=data_server
    )


# replace_replica


@on_reactor
async def test_a_failed_place_is_replaced(reactor: Any, tmp_path: Path) -> None:
    """The reply has the block as it is planned now, and whose storages those are; the file is stored there."""
    async with asking(reactor, tmp_path, 3, trash_grace=0) as (cluster, caller):
        await cluster.check_health()
        plan = await plan_of(caller, size=7, explicit=True, replicas=2)
        failed, kept = places_of(plan["blocks"][0])
        [other] = [node for node in cluster.data if node.address not in (failed, kept)]
        reply = await replace(caller, plan, failed)
        assert {
            "status": "ok",
            "block": {
                "id": "a-0",
                "size": 7,
                "data_server": other.address,
                "replicas": [{"data_server": other.address}, {"data_server": kept}],
            },
            "storage_ids": {node.address: node.identity["storage_id"] for node in cluster.nodes(other.address, kept)},
        } == reply
        assert reply == await replace(caller, plan, failed)
        await push(cluster, {"blocks": [reply["block"]]}, DATA[:7])
        cluster.nodes(failed)[0].put("a-0", b"came late")
        done = await caller.ask(command="complete_file", generation=plan["generation"])
        assert [other.address, kept] == places_of(done["metadata"]["blocks"][0])
        await cluster.collect_trash()
        assert [] == cluster.nodes(failed)[0].block_ids()
        assert DATA[:7] == await bytes_of(caller, "a")


@on_reactor
async def test_replacements_are_spread(reactor: Any, tmp_path: Path) -> None:
    """All blocks of a data server that failed do not go to one other."""
    async with asking(reactor, tmp_path, 4) as (_cluster, caller):
        plan = await plan_of(caller, size=7 * 24, explicit=True)
        failed = plan["blocks"][0]["data_server"]
        chosen = [
            (await replace(caller, plan, failed, block["id"]))["block"]["data_server"]
            for block in plan["blocks"]
            if block["data_server"] == failed
        ]
        assert (6, 3) == (len(chosen), len(set(chosen)))
        assert failed not in chosen


@on_reactor
async def test_a_drained_data_server_is_no_replacement(reactor: Any, tmp_path: Path) -> None:
    """Nor is one that is down; without any other the client goes on with what it has."""
    async with asking(reactor, tmp_path, 3) as (cluster, caller):
        plan = await plan_of(caller, size=7, explicit=True, replicas=2)
        failed, kept = places_of(plan["blocks"][0])
        [other] = [node.address for node in cluster.data if node.address not in (failed, kept)]
        await caller.ask(command="drain", data_server_addr=other)
        sentence = "no other data server can take the block: each has it, is down, draining or full"
        assert error(sentence, "unavailable") == await replace(caller, plan, failed)
        await push(cluster, plan, DATA[:7])
        blocks = reports(plan, DATA[:7])
        blocks[0]["replicas"] = [{"data_server": kept}]
        done = await caller.ask(command="complete_file", generation=plan["generation"], blocks=blocks)
        assert [kept] == places_of(done["metadata"]["blocks"][0])
        assert DATA[:7] == await bytes_of(caller, "a")


@on_reactor
async def test_an_unknown_address_replaces_nothing(reactor: Any, tmp_path: Path) -> None:
    """The block is told as it is."""
    async with asking(reactor, tmp_path, 2) as (_cluster, caller):
        plan = await plan_of(caller, size=7, explicit=True)
        for address in ("elsewhere:1", ""):
            assert plan["blocks"][0] == (await replace(caller, plan, address))["block"]


@on_reactor
async def test_what_is_not_open_is_not_replaced(reactor: Any, tmp_path: Path) -> None:
    """Nor a block that the plan does not have."""
    async with asking(reactor, tmp_path, 2) as (_cluster, caller):
        plan = await plan_of(caller, size=7, explicit=True)
        address = plan["blocks"][0]["data_server"]
        assert error("block not found", "not_found") == await replace(caller, plan, address, "b-0")
        await caller.ask(command="delete_file", file_name="a")
        assert not_open(plan) == await replace(caller, plan, address)


# Signs of life


SIGNS_OF_LIFE = ["renew_plan", "replace_replica", "complete_file"]


@pytest.mark.parametrize("command", [*SIGNS_OF_LIFE, None])
@on_reactor
async def test_an_upload_lives_as_long_as_its_client(reactor: Any, tmp_path: Path, command: str | None) -> None:
    """Whatever that says; after a day of silence its plan is over."""
    async with asking(reactor, tmp_path, monotonic=Monotonic()) as (cluster, caller):
        plan = await plan_of(caller, size=7, explicit=True)
        block = plan["blocks"][0]
        about = {"generation": plan["generation"]}
        if command == "replace_replica":
            about |= {"block_id": block["id"], "data_server": "elsewhere:1"}
        await pass_time(cluster, DAY_SECONDS - 1)
        if command is not None:
            answer = await caller.ask(command=command, **about)
            assert "incomplete" == answer["code"] if command == "complete_file" else "ok" == answer["status"]
        await pass_time(cluster, DAY_SECONDS - 1)
        renewed = await caller.ask(command="renew_plan", generation=plan["generation"])
        assert (not_open(plan) if command is None else {"status": "ok"}) == renewed


@on_reactor
async def test_an_upload_that_expired_is_a_conflict(reactor: Any, tmp_path: Path) -> None:
    """Its blocks may be gone; nothing is committed, and the file is as before."""
    async with asking(reactor, tmp_path, monotonic=Monotonic()) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, DATA)
        await pass_time(cluster, DAY_SECONDS)
        assert not_open(plan) == await caller.ask(command="complete_file", generation=plan["generation"])
        assert NOT_FOUND == await caller.ask(command="get_metadata", file_name="a")
        await pass_time(cluster, 600)
        assert [] == cluster.block_ids()


@on_reactor
async def test_the_time_of_an_upload_is_kept_over_restarts(reactor: Any, tmp_path: Path) -> None:
    """It counts while a metadata server runs."""
    async with asking(reactor, tmp_path, monotonic=Monotonic(), pending_ttl=100) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await pass_time(cluster, 60)
        await cluster.stop_meta()
        cluster.start_meta()
        await pass_time(cluster, 39)
        async with cluster.calling() as caller_again:
            state = {"command": "replace_replica", "generation": plan["generation"], "data_server": "x:1"}
            assert "ok" == (await caller_again.ask(**state, block_id="a-0"))["status"]
            await pass_time(cluster, 100)
            assert not_open(plan) == await caller_again.ask(**state, block_id="a-0")


# Fewer replicas than planned


@on_reactor
async def test_what_is_less_than_wanted_is_repaired(reactor: Any, tmp_path: Path) -> None:
    """The file is acknowledged with what was stored, and has all its replicas a little later."""
    async with asking(reactor, tmp_path, trash_grace=0) as (cluster, caller):
        plan = await plan_of(caller, size=7, explicit=True, replicas=2)
        await push(cluster, plan, DATA[:7])
        kept, failed = places_of(plan["blocks"][0])
        cluster.nodes(failed)[0].block("a-0").unlink()
        blocks = reports(plan, DATA[:7])
        blocks[0]["replicas"] = [{"data_server": kept}]
        reply = await caller.ask(command="complete_file", generation=plan["generation"], blocks=blocks)
        assert (2, [kept]) == (reply["metadata"]["replicas"], places_of(reply["metadata"]["blocks"][0]))
        await cluster.collect_trash()  # an older copy must be gone before a new one goes there
        found: list[str] = []
        while len(found) < 2:
            await cluster.part(Repairer).round()
            await next_turn()
            found = places_of((await caller.ask(command="get_metadata", file_name="a"))["metadata"]["blocks"][0])
        assert [kept, failed] == found
        assert [DATA[:7]] * 2 == [node.block("a-0").read_bytes() for node in cluster.data]


@pytest.mark.parametrize("explicit", [False, True])
@on_reactor
async def test_a_block_that_is_planned_nowhere_completes_nothing(reactor: Any, tmp_path: Path, explicit: bool) -> None:
    """Its data server was removed for good: that is not where it was found. Readers keep the old file."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        old = await plan_of(caller, size=7, explicit=True)
        await push(cluster, old, b"before!")
        await caller.ask(command="complete_file", generation=old["generation"])
        plan = await plan_of(caller, size=7, explicit=explicit)
        gone = plan["blocks"][0]["data_server"]
        assert gone != old["blocks"][0]["data_server"]
        removed = await caller.ask(command="remove_data_server", data_server_addr=gone, lost=True)
        assert {"status": "ok"} == removed
        reply = await caller.ask(command="complete_file", generation=plan["generation"])
        sentence = f"block {plan['blocks'][0]['id']} was planned for a data server that was removed"
        assert error(sentence, "incomplete") == reply
        assert b"before!" == await bytes_of(caller, "a")
