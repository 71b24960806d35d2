from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.caller import Caller
from tests.meta.running import RunningCluster, asking, bytes_of, error, plan_of, push, put, sum_of
from tests.on_reactor import on_reactor

OLD = b"0123456789"
NEW = b"abcdefghij"
NOT_FOUND = error("file not found", "not_found")
INCOMPLETE = error("a is not complete: its blocks are not all stored yet", "incomplete")


async def state_of(caller: Caller, name: str = "a") -> tuple[str, int]:
    reply = await caller.ask(command="get_metadata", file_name=name)
    return reply["metadata"]["state"], reply["metadata"]["generation"]


def reports(plan: Any, data: bytes) -> list[dict[str, Any]]:
    """Say of each block that it is stored everywhere."""
    stored, offset = [], 0
    for block in plan["blocks"]:
        crc32c = sum_of(data[offset : offset + block["size"]])
        stored.append({"id": block["id"], "crc32c": crc32c, "replicas": block["replicas"]})
        offset += block["size"]
    return stored


def not_open(plan: Any) -> dict[str, str]:
    return error(f"plan {plan['generation']} is not open: it was ended, replaced or deleted", "conflict")


# complete_file: which plan

SHAPES: list[Callable[[Any], dict[str, Any]]] = [
    lambda plan: {"file_name": plan["name"]},
    lambda plan: {"metadata": plan},
    lambda plan: {"file_name": plan["name"], "metadata": plan},
    lambda plan: {"generation": plan["generation"]},
    lambda plan: {"file_name": plan["name"], "generation": plan["generation"]},
    lambda plan: {"file_name": plan["name"], "blocks": [{"id": block["id"]} for block in plan["blocks"]]},
    lambda plan: {"metadata": {"name": plan["name"], "blocks": plan["blocks"]}},
    lambda plan: {"metadata": {"name": plan["name"]}},
]


@pytest.mark.parametrize("shape", SHAPES)
@on_reactor
async def test_a_plan_is_completed(reactor: Any, tmp_path: Path, shape: Callable[[Any], dict[str, Any]]) -> None:
    """By name, by the plan handed back, by generation, by its blocks' ids."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, OLD)
        reply = await caller.ask(command="complete_file", **shape(plan))
        assert ("ok", "committed", plan["generation"]) == (
            reply["status"],
            reply["metadata"]["state"],
            reply["metadata"]["generation"],
        )
        assert [sum_of(OLD[:7]), sum_of(OLD[7:])] == [block["crc32c"] for block in reply["metadata"]["blocks"]]
        assert OLD == await bytes_of(caller, "a")


@pytest.mark.parametrize("shape", SHAPES)
@on_reactor
async def test_completing_again_is_fine(reactor: Any, tmp_path: Path, shape: Callable[[Any], dict[str, Any]]) -> None:
    """A client that did not hear the reply asks again, and hears the same."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, OLD)
        first = await caller.ask(command="complete_file", **shape(plan))
        assert first == await caller.ask(command="complete_file", **shape(plan))


@pytest.mark.parametrize(
    "shape",
    [
        lambda plan: {"generation": plan["generation"]},
        lambda plan: {"metadata": plan},
        lambda plan: {"file_name": "a", "blocks": [{"id": block["id"]} for block in plan["blocks"]]},
    ],
)
@on_reactor
async def test_one_of_several_plans_is_completed(
    reactor: Any, tmp_path: Path, shape: Callable[[Any], dict[str, Any]]
) -> None:
    """The one that is named, be it the older one."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        older, newer = [await plan_of(caller, explicit=True) for _ in range(2)]
        await push(cluster, older, OLD)
        await push(cluster, newer, NEW)
        reply = await caller.ask(command="complete_file", **shape(older))
        assert older["generation"] == reply["metadata"]["generation"]
        assert OLD == await bytes_of(caller, "a")


@on_reactor
async def test_a_name_alone_does_not_choose_among_plans(reactor: Any, tmp_path: Path) -> None:
    """Nobody guesses."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        for _ in range(2):
            await push(cluster, await plan_of(caller, explicit=True), OLD)
        reply = await caller.ask(command="complete_file", file_name="a")
        assert error("2 plans of this file are open; name one by its generation", "conflict") == reply
        assert NOT_FOUND == await caller.ask(command="get_metadata", file_name="a")


@on_reactor
async def test_the_only_open_plan_replaces_the_file(reactor: Any, tmp_path: Path) -> None:
    """A name means the plan rather than what is committed already."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", OLD)
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, NEW)
        await caller.ask(command="complete_file", file_name="a")
        assert NEW == await bytes_of(caller, "a")


@pytest.mark.parametrize(
    ("request_fields", "sentence", "code"),
    [
        ({}, "missing file_name", "bad_request"),
        ({"metadata": {}}, "missing file_name", "bad_request"),
        ({"file_name": "missing"}, "file not found", "not_found"),
        ({"file_name": "a", "metadata": {"name": "b"}}, "file_name differs from that of metadata", "bad_request"),
        ({"generation": 1, "metadata": {"generation": 2}}, "generation differs from that of metadata", "bad_request"),
        ({"generation": 99}, "plan 99 is not open: it was ended, replaced or deleted", "conflict"),
        (
            {"file_name": "b", "generation": 1},
            "plan 1 is not open: it was ended, replaced or deleted",
            "conflict",
        ),
        (
            {"file_name": "a", "blocks": [{"id": "b-0"}]},
            "no open plan has these blocks: it was ended, replaced or deleted",
            "conflict",
        ),
        ({"generation": 1, "blocks": [{"id": "b-0"}]}, "block b-0 is not of plan 1", "bad_request"),
        ({"generation": -1}, "generation: expected an integer >= 0", "bad_request"),
    ],
)
@on_reactor
async def test_what_names_no_plan_is_refused(
    reactor: Any, tmp_path: Path, request_fields: dict[str, Any], sentence: str, code: str
) -> None:
    """With a sentence, and the plan stays as it is."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, OLD)
        assert error(sentence, code) == await caller.ask(command="complete_file", **request_fields)
        reply = await caller.ask(command="complete_file", file_name="a")
        assert plan["generation"] == reply["metadata"]["generation"]


# complete_file: what is believed, what is looked at


@on_reactor
async def test_what_is_reported_is_believed(reactor: Any, tmp_path: Path) -> None:
    """A client that has stored a block and says so is not asked to wait until all is read again."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        for node in cluster.data:
            await node.stop()
        reply = await caller.ask(command="complete_file", file_name="a", blocks=reports(plan, OLD))
        assert "committed" == reply["metadata"]["state"]
        assert reports(plan, OLD) == [
            {"id": block["id"], "crc32c": block["crc32c"], "replicas": block["replicas"]}
            for block in reply["metadata"]["blocks"]
        ]


@pytest.mark.parametrize("left_out", ["crc32c", "replicas"])
@on_reactor
async def test_half_a_report_is_not_believed(reactor: Any, tmp_path: Path, left_out: str) -> None:
    """Without both checksum and replicas the block is looked at."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        blocks = reports(plan, OLD)
        del blocks[1][left_out]
        asked = {"command": "complete_file", "file_name": "a", "blocks": blocks}
        where = f"block a-1 on {cluster.data[1].address}"
        assert error(f"{where} is not stored yet", "incomplete") == await caller.ask(**asked)
        await push(cluster, plan, OLD)
        assert "ok" == (await caller.ask(**asked))["status"]


@on_reactor
async def test_what_is_not_reported_is_looked_at(reactor: Any, tmp_path: Path) -> None:
    """A report of one block says nothing of the other."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, OLD, only=[0])
        asked = {"command": "complete_file", "file_name": "a", "blocks": reports(plan, OLD)[:1]}
        assert "incomplete" == (await caller.ask(**asked))["code"]
        await push(cluster, plan, OLD, only=[1])
        assert "ok" == (await caller.ask(**asked))["status"]


@on_reactor
async def test_fewer_replicas_may_be_stored(reactor: Any, tmp_path: Path) -> None:
    """What is reported is recorded; the rest is not looked for, and taken away if it turns up late."""
    async with asking(reactor, tmp_path, trash_grace=0) as (cluster, caller):
        plan = await plan_of(caller, explicit=True, replicas=2)
        await push(cluster, plan, OLD)
        blocks = reports(plan, OLD)
        kept, lost = (replica["data_server"] for replica in blocks[0]["replicas"])
        blocks[0]["replicas"] = [{"data_server": kept}]
        reply = await caller.ask(command="complete_file", file_name="a", blocks=blocks)
        first, second = reply["metadata"]["blocks"]
        assert [{"data_server": kept}] == first["replicas"]
        assert 2 == len(second["replicas"])
        await cluster.collect_trash()
        assert ["a-1"] == cluster.nodes(lost)[0].block_ids()
        assert ["a-0", "a-1"] == cluster.nodes(kept)[0].block_ids()
        assert OLD == await bytes_of(caller, "a")


@on_reactor
async def test_a_report_from_elsewhere_is_refused(reactor: Any, tmp_path: Path) -> None:
    """A block is where it was planned, or it was not stored."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        plan = await plan_of(caller, size=1, explicit=True)
        block = {"id": "a-0", "crc32c": "00000000", "replicas": [{"data_server": "elsewhere:1"}]}
        reply = await caller.ask(command="complete_file", generation=plan["generation"], blocks=[block])
        assert error("block a-0 is not planned for data server elsewhere:1", "bad_request") == reply


@on_reactor
async def test_a_report_against_the_given_data_is_refused(reactor: Any, tmp_path: Path) -> None:
    """A plan made from data knows better; the plan stays open."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = (await caller.ask(command="store_file", file_name="a", data=b64encode(OLD).decode(), explicit=True))[
            "metadata"
        ]
        reply = await caller.ask(command="complete_file", file_name="a", blocks=reports(plan, NEW))
        sentence = f"block a-0 was stored with crc32c {sum_of(NEW[:7])}, not {sum_of(OLD[:7])}"
        assert error(sentence, "corrupt") == reply
        await push(cluster, plan, OLD)
        assert "ok" == (await caller.ask(command="complete_file", file_name="a", blocks=reports(plan, OLD)))["status"]


@on_reactor
async def test_a_missing_block_leaves_the_plan_open(reactor: Any, tmp_path: Path) -> None:
    """The rest may be stored, and the plan completed then."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, OLD, only=[0])
        sentence = f"block a-1 on {cluster.data[1].address} is not stored yet"
        assert error(sentence, "incomplete") == await caller.ask(command="complete_file", metadata=plan)
        assert NOT_FOUND == await caller.ask(command="get_metadata", file_name="a")
        await push(cluster, plan, OLD, only=[1])
        assert "ok" == (await caller.ask(command="complete_file", metadata=plan))["status"]
        assert OLD == await bytes_of(caller, "a")


@on_reactor
async def test_a_block_of_another_size_is_incomplete(reactor: Any, tmp_path: Path) -> None:
    """It was cut short, or is not the one that was planned."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, OLD)
        cluster.data[1].put("a-1", b"12")
        sentence = f"block a-1 on {cluster.data[1].address} has 2 bytes, not 3"
        assert error(sentence, "incomplete") == await caller.ask(command="complete_file", metadata=plan)


@on_reactor
async def test_replicas_that_differ_are_incomplete(reactor: Any, tmp_path: Path) -> None:
    """Nobody can tell which one is right."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, size=3, explicit=True, replicas=2)
        await push(cluster, plan, b"old")
        cluster.data[1].put("a-0", b"new")
        sentence = f"block a-0 on {cluster.data[1].address} has crc32c {sum_of(b'new')}, not {sum_of(b'old')}"
        assert error(sentence, "incomplete") == await caller.ask(command="complete_file", metadata=plan)


@on_reactor
async def test_a_data_server_that_is_down_leaves_the_plan_open(reactor: Any, tmp_path: Path) -> None:
    """Once it is back, the plan can be completed."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, OLD)
        await cluster.data[1].stop()
        assert "unavailable" == (await caller.ask(command="complete_file", metadata=plan))["code"]
        cluster.data[1].start()
        assert "ok" == (await caller.ask(command="complete_file", metadata=plan))["status"]


# complete_file: conflicts


@on_reactor
async def test_a_deleted_plan_is_a_conflict(reactor: Any, tmp_path: Path) -> None:
    """Who deletes means the uploads under way, too."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        plan = await plan_of(caller, explicit=True)
        assert {"status": "ok"} == await caller.ask(command="delete_file", file_name="a")
        reply = await caller.ask(command="complete_file", metadata=plan, blocks=reports(plan, OLD))
        assert not_open(plan) == reply
        assert NOT_FOUND == await caller.ask(command="get_metadata", file_name="a")


@on_reactor
async def test_a_replaced_file_is_a_conflict(reactor: Any, tmp_path: Path) -> None:
    """Completing it again would bring back blocks that are trash."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        first = await put(cluster, caller, "a", OLD)
        await put(cluster, caller, "a", NEW)
        assert not_open(first) == await caller.ask(command="complete_file", metadata=first)
        assert NEW == await bytes_of(caller, "a")


@on_reactor
async def test_an_ended_implicit_plan_is_a_conflict(reactor: Any, tmp_path: Path) -> None:
    """A commit ends the name's older implicit plans."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        older = await plan_of(caller)
        await put(cluster, caller, "a", NEW)
        await push(cluster, older, OLD)
        assert not_open(older) == await caller.ask(command="complete_file", metadata=older)
        assert NEW == await bytes_of(caller, "a")


@on_reactor
async def test_if_generation_is_decided_at_the_commit(reactor: Any, tmp_path: Path) -> None:
    """Of two who both began on the same file, the second one to commit hears of it."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        seen = (await put(cluster, caller, "a", b"0"))["generation"]
        first, second = [await plan_of(caller, explicit=True, if_generation=seen) for _ in range(2)]
        for plan, data in ((first, OLD), (second, NEW)):
            await push(cluster, plan, data)
        assert "ok" == (await caller.ask(command="complete_file", metadata=second))["status"]
        sentence = f"the file has generation {second['generation']}, not {seen}"
        assert error(sentence, "conflict") == await caller.ask(command="complete_file", metadata=first)
        assert NEW == await bytes_of(caller, "a")


@on_reactor
async def test_a_commit_may_ask_for_the_generation_itself(reactor: Any, tmp_path: Path) -> None:
    """0 means that there must be no file yet."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        current = (await put(cluster, caller, "a", OLD))["generation"]
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, NEW)
        reply = await caller.ask(command="complete_file", metadata=plan, if_generation=0)
        assert error(f"the file has generation {current}, not 0", "conflict") == reply
        assert "ok" == (await caller.ask(command="complete_file", metadata=plan, if_generation=current))["status"]


@on_reactor
async def test_of_many_commits_under_one_condition_one_wins(reactor: Any, tmp_path: Path) -> None:
    """However they come together in one transaction."""

    async def upload(number: int) -> str:
        async with cluster.calling() as caller:
            plan = await plan_of(caller, explicit=True, size=1)
            blocks = reports(plan, b"%d" % number)
            done = await caller.ask(command="complete_file", metadata=plan, blocks=blocks, if_generation=0)
            return str(done.get("code", "ok"))

    async with asking(reactor, tmp_path) as (cluster, _caller):
        outcomes = await gatherResults([Deferred.fromCoroutine(upload(number)) for number in range(8)])
        assert ["conflict"] * 7 + ["ok"] == sorted(outcomes)


# Old or new


@on_reactor
async def test_an_explicit_plan_is_invisible(reactor: Any, tmp_path: Path) -> None:
    """Until it is completed, with all of its blocks stored, nobody knows of it."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await push(cluster, await plan_of(caller, explicit=True), OLD)
        for command in ("get_metadata", "fetch_file"):
            assert NOT_FOUND == await caller.ask(command=command, file_name="a")
        assert {"status": "ok", "files": []} == await caller.ask(command="list_files")


@on_reactor
async def test_the_old_file_is_seen_until_the_commit(reactor: Any, tmp_path: Path) -> None:
    """And the new one from then on."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        old = await put(cluster, caller, "a", OLD)
        plan = await plan_of(caller, explicit=True)
        await push(cluster, plan, NEW)
        assert ("committed", old["generation"]) == await state_of(caller)
        assert OLD == await bytes_of(caller, "a")
        await caller.ask(command="complete_file", metadata=plan)
        assert NEW == await bytes_of(caller, "a")


@on_reactor
async def test_an_abandoned_implicit_plan_changes_nothing(reactor: Any, tmp_path: Path) -> None:
    """The old file stays readable while the new one is half stored."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        old = await put(cluster, caller, "a", OLD)
        await push(cluster, await plan_of(caller), NEW, only=[0])
        assert OLD == await bytes_of(caller, "a")
        assert ("committed", old["generation"]) == await state_of(caller)


# Implicit plans


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
    """One that was renamed over it, say: plans of the new name are not ended by that, only outdated."""
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
        plan = await plan_of(caller, if_generation=0)
        moved = await put(cluster, caller, "b", OLD)
        assert plan["generation"] < moved["generation"]
        newer = await plan_of(caller, if_generation=0)
        await caller.ask(command="rename_file", file_name="b", new_name="a")
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
