"""Uploads that go on where an earlier one stopped, in the catalog and over the wire."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.planning import newest_explicit_plan
from filefly.catalog.plans import Plan, committed_plan
from filefly.errors import Conflict
from tests.caller import Caller, calling
from tests.catalog.catalogs import DUE, commit, done, ended, open_plans, opened, plan, seen, store
from tests.meta.running import asking, bytes_of, error, not_open, plan_of, push, reports, sum_of
from tests.on_reactor import on_reactor

DATA = b"0123456789"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


# Which upload is resumed


def anybody(_plan: Plan) -> bool:
    """Let every plan be gone on with."""
    return True


def test_the_newest_upload_of_the_name_and_size_is_resumed(database: Database) -> None:
    """Not one that a person makes by hand, nor of another size or name, nor a file."""
    store(database, "a", 10)
    plan(database, "a", 10)
    wanted = plan(database, "a", 10)
    plan(database, "a", 10, explicit=False)
    plan(database, "a", 11)
    plan(database, "ab", 10)
    assert wanted == seen(database, newest_explicit_plan, "a", 10, anybody)


def test_an_upload_that_one_may_not_go_on_with_is_not_resumed(database: Database) -> None:
    """An older one may be."""
    own = plan(database, "a", holder="t-1")
    plan(database, "a", holder="t-2")
    assert own == seen(database, newest_explicit_plan, "a", 10, lambda plan: plan.holder == "t-1")
    assert None is seen(database, newest_explicit_plan, "a", 10, lambda plan: plan.holder == "t-3")


@pytest.mark.parametrize("how", ["committed", "deleted"])
def test_what_is_over_is_not_resumed(database: Database, how: str) -> None:
    """Its blocks are a file's, or trash."""
    upload = plan(database, "a", 10)
    if how == "committed":
        commit(database, upload)
    else:
        done(database, delete_file, "a", DUE)
    assert None is seen(database, newest_explicit_plan, "a", 10, anybody)


# How the older upload ends


def test_the_older_upload_ends_with_the_commit(database: Database) -> None:
    """Not before: should the new one be given up, the older can be resumed again. Others go on."""
    stranger = plan(database, "a")
    older = plan(database, "a")
    newer = plan(database, "a", resumes=older.generation)
    assert [newer, older, stranger] == seen(database, open_plans, "a")
    commit(database, newer)
    assert [stranger] == seen(database, open_plans, "a")
    assert [older.generation] == seen(database, ended)
    with pytest.raises(Conflict):
        commit(database, older)


def test_an_older_upload_that_was_completed_is_a_file_like_any_other(database: Database) -> None:
    """Whoever was still at work on it made it: it is replaced, and can come back."""
    older = plan(database, "a")
    newer = plan(database, "a", resumes=older.generation)
    commit(database, older)
    assert newer.generation == commit(database, newer).generation
    assert newer.generation == seen(database, committed_plan, "a").generation
    assert [older.generation] == seen(database, ended)


def test_an_older_upload_that_was_completed_and_renamed_stays(database: Database) -> None:
    """It is another file by now."""
    older = plan(database, "a")
    newer = plan(database, "a", resumes=older.generation)
    commit(database, older)
    done(database, rename_file, "a", "b", DUE)
    commit(database, newer)
    assert (older.generation, newer.generation) == (
        seen(database, committed_plan, "b").generation,
        seen(database, committed_plan, "a").generation,
    )
    assert [] == seen(database, ended)


def test_two_may_resume_the_same_upload(database: Database) -> None:
    """The first commit ends it; the second one replaces the first."""
    older = plan(database, "a")
    first, second = (plan(database, "a", resumes=older.generation) for _ in range(2))
    commit(database, first)
    assert second.generation == commit(database, second).generation
    assert [older.generation, first.generation] == seen(database, ended)


def test_an_older_upload_that_was_deleted_stops_nothing(database: Database) -> None:
    """Who deletes a name ends both."""
    older = plan(database, "a")
    done(database, delete_file, "a", DUE)
    newer = plan(database, "a", resumes=older.generation)
    assert newer.generation == commit(database, newer).generation


# Over the wire


async def resume(caller: Caller, size: int = 10, **fields: object) -> tuple[Any, Any]:
    """Ask for a plan that resumes what there is of `a`, and return it and the older one."""
    asked = {"command": "store_file", "file_name": "a", "file_size": size, "explicit": True, "resume": True}
    reply = await caller.ask(**asked, **fields)
    assert reply["status"] == "ok", reply
    return reply["metadata"], reply.get("resumes")


def places_of(metadata: Any) -> list[list[str]]:
    return [[replica["data_server"] for replica in block["replicas"]] for block in metadata["blocks"]]


@on_reactor
async def test_a_resumed_upload_has_ids_of_its_own(reactor: Any, tmp_path: Path) -> None:
    """On the same data servers, cut alike; whoever is still at work on the older one cannot touch its blocks."""
    async with asking(reactor, tmp_path, 4) as (cluster, caller):
        await cluster.check_health()
        older = await plan_of(caller, explicit=True, replicas=2)
        newer, resumed = await resume(caller, replicas=2)
        assert older == resumed
        assert places_of(older) == places_of(newer)
        assert [f"a-{index}.{newer['generation']}" for index in range(2)] == [block["id"] for block in newer["blocks"]]
        assert [7, 3] == [block["size"] for block in newer["blocks"]]
        assert {place for places in places_of(newer) for place in places} == set(newer["storage_ids"])


@on_reactor
async def test_a_resumed_upload_links_what_is_in_place(reactor: Any, tmp_path: Path) -> None:
    """The whole of it: one block is linked, the other stored; then the older one is over, and the file is read."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        older = await plan_of(caller, explicit=True)
        await push(cluster, older, DATA, only=[0])
        newer, resumed = await resume(caller)
        [before, after] = [resumed["blocks"][0]["id"], newer["blocks"][0]["id"]]
        port = int(newer["blocks"][0]["data_server"].rpartition(":")[2])
        async with calling(reactor, port) as data_server:
            linked = await data_server.ask(
                command="link", block_id=after, source_block_id=before, crc32c=sum_of(DATA[:7])
            )
            assert "ok" == linked["status"]
        await push(cluster, newer, DATA, only=[1])
        reply = await caller.ask(command="complete_file", metadata=newer, blocks=reports(newer, DATA))
        assert "committed" == reply["metadata"]["state"]
        assert not_open(older) == await caller.ask(command="complete_file", metadata=older, blocks=reports(older, DATA))
        assert DATA == await bytes_of(caller, "a")


@on_reactor
async def test_there_may_be_nothing_to_resume(reactor: Any, tmp_path: Path) -> None:
    """Then it is a plan like any other."""
    async with asking(reactor, tmp_path) as (_cluster, caller):
        await plan_of(caller, size=11, explicit=True)
        await plan_of(caller, size=10)
        newer, resumed = await resume(caller)
        assert (3, None) == (newer["generation"], resumed)


@on_reactor
async def test_a_resumed_upload_stays_where_new_blocks_still_go(reactor: Any, tmp_path: Path) -> None:
    """What was on a data server that is drained by now is planned elsewhere, and on distinct ones."""
    async with asking(reactor, tmp_path, 3) as (cluster, caller):
        older = await plan_of(caller, explicit=True, replicas=2)
        drained = older["blocks"][0]["data_server"]
        await drain(caller, drained)
        newer, _resumed = await resume(caller, replicas=2)
        others = {node.address for node in cluster.data} - {drained}
        assert [others, others] == [set(places) for places in places_of(newer)]
        assert [[p for p in places if p != drained] for places in places_of(older)] == [
            [p for p in places if p in old] for places, old in zip(places_of(newer), places_of(older), strict=True)
        ]


async def drain(caller: Caller, address: str) -> None:
    assert "ok" == (await caller.ask(command="drain", data_server_addr=address))["status"]


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 3)])
@on_reactor
async def test_a_resumed_upload_has_as_many_replicas_as_are_asked_for_now(
    reactor: Any, tmp_path: Path, before: int, now: int
) -> None:
    """Those that were planned before come first."""
    async with asking(reactor, tmp_path, 3) as (_cluster, caller):
        older = await plan_of(caller, explicit=True, replicas=before)
        newer, _resumed = await resume(caller, replicas=now)
        for old, new in zip(places_of(older), places_of(newer), strict=True):
            assert (now, now) == (len(new), len(set(new)))
            assert old[:now] == new[:before]


@on_reactor
async def test_an_upload_that_was_cut_otherwise_is_resumed_all_the_same(reactor: Any, tmp_path: Path) -> None:
    """The client sees that no block is alike; the older one ends with the commit."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        older = await plan_of(caller, explicit=True)
        await cluster.stop_meta()
        cluster.options["block-size"] = 4
        cluster.start_meta()
        async with cluster.calling() as caller_again:
            newer, resumed = await resume(caller_again)
            assert ([4, 4, 2], [7, 3]) == tuple(
                [block["size"] for block in each["blocks"]] for each in (newer, resumed)
            )
            await push(cluster, newer, DATA)
            await complete(caller_again, newer)
            assert not_open(older) == await caller_again.ask(command="complete_file", metadata=older)


async def complete(caller: Caller, metadata: Any) -> None:
    assert "ok" == (await caller.ask(command="complete_file", generation=metadata["generation"]))["status"]


@pytest.mark.parametrize(
    "fields", [{"file_size": 10}, {"explicit": True}, {"data": "YQ==", "explicit": True}, {"data": "YQ=="}]
)
@on_reactor
async def test_only_a_program_resumes(reactor: Any, tmp_path: Path, fields: dict[str, Any]) -> None:
    """An upload by hand needs no second plan, and data that is sent is small."""
    async with asking(reactor, tmp_path, 1) as (_cluster, caller):
        reply = await caller.ask(command="store_file", file_name="a", resume=True, **fields)
        assert error("resume goes with file_size and explicit", "bad_request") == reply


@on_reactor
async def test_a_client_that_lost_the_answer_resumes_again(reactor: Any, tmp_path: Path) -> None:
    """It gets another plan, and may end up with several; each commit ends the one that it resumed."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        first = await plan_of(caller, explicit=True)
        second, resumed = await resume(caller)
        assert first["generation"] == resumed["generation"]
        third, resumed = await resume(caller)
        assert second["generation"] == resumed["generation"]
        await push(cluster, third, DATA)
        await complete(caller, third)
        assert not_open(second) == await caller.ask(command="renew_plan", generation=second["generation"])
        assert DATA == await bytes_of(caller, "a")
