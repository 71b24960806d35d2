"""Many files in one request: each as if it were alone, all in one transaction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from filefly.meta.transactions import Transactions
from tests.caller import Caller
from tests.catalog.catalogs import ended, noted
from tests.meta.running import RunningCluster, asking, error, plan_of, push, put, reports, state_of
from tests.on_reactor import on_reactor

DATA = b"0123456789"


async def plans_of(caller: Caller, *names: str, size: int = 10, **fields: object) -> Any:
    """Plan files together and return their metadata."""
    files = [{"file_name": name, "file_size": size, "explicit": True, **fields} for name in names]
    reply = await caller.ask(command="store_files", files=files)
    return [result["metadata"] for result in reply["results"]]


def completion(plan: Any, **fields: object) -> dict[str, object]:
    """Report all blocks of a plan as stored."""
    return {"generation": plan["generation"], "blocks": reports(plan, DATA), **fields}


async def completed(caller: Caller, *files: object) -> Sequence[Any]:
    reply = await caller.ask(command="complete_files", files=files)
    assert reply["status"] == "ok", reply
    results: Sequence[Any] = reply["results"]
    return results


def refused(sentence: str, code: str) -> dict[str, str]:
    return {"error": sentence, "code": code}


def transactions_counted(cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many changes each transaction has from now on, if more than the two that its own loops may make."""
    groups: list[int] = []
    database = cluster.part(Transactions)._database
    write = database.write

    def counting(changes: Any) -> list[Any]:
        groups.extend([len(changes)] if len(changes) > 2 else [])
        return write(changes)

    monkeypatch.setattr(type(database), "write", lambda _self, changes: counting(changes))
    return groups


# store_files


@on_reactor
async def test_many_plans_are_those_of_one_by_one(reactor: Any, tmp_path: Path) -> None:
    """The metadata is that of `store_file`, storage ids included, and blocks go round-robin from file to file."""
    one, many = tmp_path / "one", tmp_path / "many"
    for folder in (one, many):
        folder.mkdir()
    asked = [("a", 10, True), ("b", 0, True), ("c", 7, False), ("d", 30, False), ("a", 10, True)]

    def steady(cluster: RunningCluster, plan: Any) -> Any:
        numbers = {node.address: number for number, node in enumerate(cluster.data)}
        places = [[numbers[place["data_server"]] for place in block["replicas"]] for block in plan["blocks"]]
        ids = {node.address: node.identity["storage_id"] for node in cluster.data}
        assert all(ids[address] == storage for address, storage in plan.get("storage_ids", {}).items())
        same = {key: plan[key] for key in ("name", "total_size", "block_size", "generation", "state", "attributes")}
        return same, places, [block["id"] for block in plan["blocks"]], len(plan.get("storage_ids", {}))

    async with asking(reactor, one, 3, replicas=2) as (cluster, caller):
        await cluster.check_health()
        wanted = [
            steady(cluster, await plan_of(caller, name, size, explicit=explicit, attributes={"mode": "0600"}))
            for name, size, explicit in asked
        ]
    async with asking(reactor, many, 3, replicas=2) as (cluster, caller):
        await cluster.check_health()
        files = [
            {"file_name": name, "file_size": size, "explicit": explicit, "attributes": {"mode": "0600"}}
            for name, size, explicit in asked
        ]
        reply = await caller.ask(command="store_files", files=files)
        assert wanted == [steady(cluster, result["metadata"]) for result in reply["results"]]


@on_reactor
async def test_many_plans_are_one_transaction(reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what the request is for."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        groups = transactions_counted(cluster, monkeypatch)
        await plans_of(caller, *(f"f{number}" for number in range(300)))
        assert [300] == groups


@on_reactor
async def test_a_plan_that_is_refused_leaves_the_others_alone(reactor: Any, tmp_path: Path) -> None:
    """Each item has its own answer, in order."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        stored = await put(cluster, caller, "there", DATA)
        files: list[dict[str, object]] = [
            {"file_name": "a", "file_size": 1},
            {"file_name": "", "file_size": 1},
            {"file_name": "x/../y", "file_size": 1},
            {"file_name": "b", "file_size": 1, "replicas": 3},
            {"file_name": "c", "file_size": 2**53 - 1},
            {"file_name": "d", "file_size": 1, "attributes": {"half": 0.5}},
            {"file_name": "there", "file_size": 1, "if_generation": 0},
            {"file_name": "there", "file_size": 1, "if_generation": stored["generation"]},
        ]
        reply = await caller.ask(command="store_files", files=files)
        first, *refusals, last = reply["results"]
        assert ["a", "there"] == [result["metadata"]["name"] for result in (first, last)]
        assert [
            refused("missing file_name", "bad_request"),
            refused("file_name 'x/../y' has an empty, '.' or '..' part", "bad_request"),
            refused("replica count 3 exceeds available data servers (2)", "bad_request"),
            refused(
                "file_size is over the limit of 20000 blocks of 67108864 bytes (--max-blocks-per-file)", "too_large"
            ),
            refused(
                "attributes: expected integers from 0 to 9007199254740991; write other numbers as strings",
                "bad_request",
            ),
            refused(f"the file has generation {stored['generation']}, not 0", "conflict"),
        ] == refusals


@on_reactor
async def test_plans_have_a_limit_together(reactor: Any, tmp_path: Path) -> None:
    """Of blocks, like one plan, and of files; nothing is planned then."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        files = [{"file_name": name, "file_size": 7 * 10_000, "explicit": True} for name in "ab"]
        at_the_limit = await caller.ask(command="store_files", files=files)
        assert [10_000, 10_000] == [len(result["metadata"]["blocks"]) for result in at_the_limit["results"]]
        reply = await caller.ask(command="store_files", files=[*files, {"file_name": "c", "file_size": 1}])
        assert error("the files have more than 20000 blocks together", "too_large") == reply
        reply = await caller.ask(command="store_files", files=[{"file_name": "c", "file_size": 0}] * 1001)
        assert error("files: expected an array of length <= 1000", "bad_request") == reply
        assert 3 == (await plan_of(caller, "c"))["generation"]


@on_reactor
async def test_a_stray_block_makes_the_ids_of_its_file_long(reactor: Any, tmp_path: Path) -> None:
    """An implicit plan commits itself once its blocks are there, and that one is not its own; other files' ids stay."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        for node in cluster.data:
            node.put("b-0", b"stray")
        plans = await plans_of(caller, "a", "b", "c", size=5, explicit=False)
        assert ["a-0", f"b-0.{plans[1]['generation']}", "c-0"] == [plan["blocks"][0]["id"] for plan in plans]


@on_reactor
async def test_where_a_data_server_cannot_be_asked_ids_are_long(reactor: Any, tmp_path: Path) -> None:
    """It may hold a block of that id; explicit plans do not mind."""
    async with asking(reactor, tmp_path, 1) as (cluster, caller):
        await cluster.data[0].stop()
        [implicit] = await plans_of(caller, "a", size=5, explicit=False)
        [explicit] = await plans_of(caller, "b", size=5)
        assert [f"a-0.{implicit['generation']}", "b-0"] == [plan["blocks"][0]["id"] for plan in (implicit, explicit)]


# complete_files


@on_reactor
async def test_many_files_are_committed_in_one_transaction(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is reported with checksum and replicas is believed; the answers are what readers see from then on."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plans = await plans_of(caller, *"abc", replicas=2)
        groups = transactions_counted(cluster, monkeypatch)
        results = await completed(caller, *(completion(plan, file_name=plan["name"]) for plan in plans))
        assert [3] == groups
        for plan, result in zip(plans, results, strict=True):
            assert ("committed", plan["generation"]) == await state_of(caller, plan["name"])
            found = await caller.ask(command="get_metadata", file_name=plan["name"])
            assert found["metadata"] == result["metadata"]
        assert results == await completed(caller, *(completion(plan) for plan in plans))


@on_reactor
async def test_what_is_not_believed_is_looked_at(reactor: Any, tmp_path: Path) -> None:
    """Item by item: stored ones are committed, the missing one stays open."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        plans = await plans_of(caller, *"abc")
        await push(cluster, plans[0], DATA)
        await push(cluster, plans[1], DATA, only=[0])
        half = {**completion(plans[0]), "blocks": reports(plans[0], DATA)[:1]}
        first, second, third = await completed(caller, half, completion(plans[1], blocks=()), completion(plans[2]))
        assert ["committed"] * 2 == [result["metadata"]["state"] for result in (first, third)]
        place = plans[1]["blocks"][1]["data_server"]
        assert refused(f"block b-1 on {place} is not stored yet", "incomplete") == second
        await push(cluster, plans[1], DATA, only=[1])
        [again] = await completed(caller, completion(plans[1], blocks=()))
        assert "committed" == again["metadata"]["state"]


@on_reactor
async def test_a_commit_that_is_refused_leaves_the_others_alone(reactor: Any, tmp_path: Path) -> None:
    """Each item has its own answer, in order."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        stored = await put(cluster, caller, "there", DATA)
        a, b, c, d = await plans_of(caller, "a", "b", "there", "d")
        elsewhere = [{**block, "replicas": [{"data_server": "elsewhere:1"}]} for block in reports(b, DATA)]
        results = await completed(
            caller,
            completion(a),
            completion(b, blocks=elsewhere),
            completion(b, blocks=reports(a, DATA)),
            completion(b, file_name="a"),
            completion(b, file_name=""),
            completion(c, if_generation=0),
            completion(d),
            {"generation": 99},
        )
        assert ["a", "d"] == [results[at]["metadata"]["name"] for at in (0, 6)]
        over = "is not open: it was ended, replaced or deleted"
        assert [
            refused("block b-0 is not planned for data server elsewhere:1", "bad_request"),
            refused(f"block a-0 is not of plan {b['generation']}", "bad_request"),
            refused(f"plan {b['generation']} {over}", "conflict"),
            refused("missing file_name", "bad_request"),
            refused(f"the file has generation {stored['generation']}, not 0", "conflict"),
            refused(f"plan 99 {over}", "conflict"),
        ] == [results[at] for at in (1, 2, 3, 4, 5, 7)]
        assert ("committed", stored["generation"]) == await state_of(caller, "there")


@on_reactor
async def test_files_are_replaced_together(reactor: Any, tmp_path: Path) -> None:
    """What was there can come back until its grace is over; a name that comes twice is replaced by the later item."""
    async with asking(reactor, tmp_path, trash_grace=3600) as (cluster, caller):
        before = await put(cluster, caller, "a", DATA)
        first, second = await plans_of(caller, "a", "a")
        await completed(caller, completion(first), completion(second))
        assert ("committed", second["generation"]) == await state_of(caller)
        transactions = cluster.part(Transactions)
        assert [before["generation"], first["generation"]] == await transactions.read(ended)


@on_reactor
async def test_a_block_on_fewer_servers_than_wanted_is_noted_for_repair(reactor: Any, tmp_path: Path) -> None:
    """As `complete_file` does it: the files are there, and repair makes up for what is missing."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        a, b = await plans_of(caller, "a", "b", size=7, replicas=2)
        fewer = [{**block, "replicas": block["replicas"][:1]} for block in reports(a, DATA)]
        await completed(caller, completion(a, blocks=fewer), completion(b))
        assert [(a["generation"], 0, 1)] == await cluster.part(Transactions).read(noted)


# list_files with blocks


@on_reactor
async def test_files_are_listed_with_their_blocks(reactor: Any, tmp_path: Path) -> None:
    """As `get_metadata` has them."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        stored = [await put(cluster, caller, name, data, replicas=2) for name, data in {"a": DATA, "b": b""}.items()]
        reply = await caller.ask(command="list_files", blocks=True)
        assert [(file["block_size"], file["blocks"]) for file in stored] == [
            (file["block_size"], file["blocks"]) for file in reply["files"]
        ]
        bare = await caller.ask(command="list_files")
        assert [{"name", "total_size", "generation", "replicas", "modified", "attributes"}] * 2 == [
            {*file} for file in bare["files"]
        ]


@on_reactor
async def test_a_page_has_a_limit_of_blocks(reactor: Any, tmp_path: Path) -> None:
    """What would take it above that is on the next one."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        for name, blocks in {"a": 19_999, "b": 1, "c": 1}.items():
            plan = await plan_of(caller, name, 7 * blocks, explicit=True)
            stored = [
                {"id": block["id"], "crc32c": "00000000", "replicas": block["replicas"]} for block in plan["blocks"]
            ]
            await completed(caller, {"generation": plan["generation"], "blocks": stored})
        page = await caller.ask(command="list_files", blocks=True)
        assert ["a", "b"] == [file["name"] for file in page["files"]]
        rest = await caller.ask(command="list_files", blocks=True, after=page["next"])
        assert (["c"], None) == ([file["name"] for file in rest["files"]], rest.get("next"))
