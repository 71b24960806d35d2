from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.meta.running import (
    NOT_FOUND,
    asking,
    bytes_of,
    error,
    not_open,
    plan_of,
    push,
    put,
    reports,
    state_of,
    sum_of,
)
from tests.on_reactor import on_reactor

OLD = b"0123456789"
NEW = b"abcdefghij"


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
