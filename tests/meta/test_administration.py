from pathlib import Path
from typing import Any

import pytest

from filefly.catalog.endings import delete_file
from filefly.catalog.inventory import data_server_rows
from filefly.catalog.repairs import FIRST
from filefly.catalog.replicas import places_on
from filefly.errors import BadRequest, Conflict, NotFound, UnknownCommand
from filefly.meta.cluster import Condition
from filefly.wire.administration import (
    AcceptDataServer,
    Drain,
    DrainProgress,
    RemoveDataServer,
    Scrub,
    Undrain,
)
from filefly.wire.messages import DataServerState, Ping, RegisterDataServer, ScrubProgress
from tests.catalog.catalogs import done, ids_of, plan, seen
from tests.meta.live import DOWN_AFTER, GRACE, REPAIR_DELAY, Live, living
from tests.meta.running import DataNode, asking, error, put
from tests.on_reactor import next_turn, on_reactor

DATA = b"precious"  # two blocks
NOWHERE = "no other data server can take a copy: each has one, is down, draining or full"


async def states(live: Live) -> list[str | None]:
    return [server.state for server in await live.listed()]


# How they are


@on_reactor
async def test_data_servers_are_shown_as_they_are(reactor: Any, tmp_path: Path) -> None:
    """With their storage and its room; nothing was scrubbed yet."""
    async with living(reactor, tmp_path, 1) as live:
        [shown] = await live.listed()
        pong = live.health.seen(1).pong
        time = "1970-01-01T00:00:00.000Z"
        assert (
            DataServerState(
                address=live.address(1),
                healthy=True,
                last_pong=time,
                last_checked=time,
                state="up",
                storage_id="id of data1",
                free_bytes=pong.free_bytes,
                total_bytes=pong.total_bytes,
            )
            == shown
        )
        assert 0 < (shown.free_bytes or 0) <= (shown.total_bytes or 0)


@on_reactor
async def test_each_state_is_shown(reactor: Any, tmp_path: Path) -> None:
    """What it has is told of one that is up; of others, that they are not."""
    async with living(reactor, tmp_path, 4) as live:
        await live.ask(Drain(live.address(1)))
        for server in (3, 4):
            await live.stop_server(server)
        await live.look(after=5)
        assert ["draining", "up", "suspect", "suspect"] == await states(live)
        await live.ask(Drain(live.address(3)))
        await live.look(after=DOWN_AFTER - 5)
        assert ["draining", "up", "down", "down"] == await states(live)
        assert [True, True, False, False] == [server.healthy for server in await live.listed()]
        live.cluster.conditions = {**live.cluster.conditions, 2: Condition("up", full=True)}
        assert ["draining", "full", "down", "down"] == await states(live)


@on_reactor
async def test_a_data_server_is_added_at_run_time(reactor: Any, tmp_path: Path) -> None:
    """And takes part from the next look on."""
    async with living(reactor, tmp_path, 1) as live:
        node = DataNode(reactor, tmp_path / "new").start()
        live.nodes.append(node)
        await live.ask(RegisterDataServer(node.address, "far:9"))
        await live.look(after=5)
        assert [None, "far:9"] == [server.advertised_address for server in await live.listed()]
        assert ["up", "up"] == await states(live)
        assert [1, 2] == live.cluster.placing()


@pytest.mark.parametrize("addresses", [("nowhere",), ("",), ("a:1", "nowhere"), ("a:99999999",)])
@on_reactor
async def test_what_is_no_address_is_refused(reactor: Any, tmp_path: Path, addresses: tuple[str, ...]) -> None:
    """Nothing is added."""
    async with living(reactor, tmp_path, 1) as live:
        with pytest.raises(BadRequest):
            await live.ask(RegisterDataServer(*addresses))
        assert 1 == len(await live.listed())


@pytest.mark.parametrize("request_type", [Drain, Undrain, RemoveDataServer, Scrub, AcceptDataServer])
@on_reactor
async def test_a_data_server_that_is_not_known_is_not_found(reactor: Any, tmp_path: Path, request_type: Any) -> None:
    """The sentence says where they are listed."""
    async with living(reactor, tmp_path, 1) as live:
        with pytest.raises(NotFound, match=r"^there is no data server far:1; filefly-client servers lists them$"):
            await live.ask(request_type("far:1"))


@on_reactor
async def test_other_commands_are_unknown(reactor: Any, tmp_path: Path) -> None:
    """They are somebody else's to answer."""
    async with living(reactor, tmp_path, 1) as live:
        with pytest.raises(UnknownCommand):
            await live.ask(Ping())


# Draining


@pytest.mark.parametrize("replicas", [1, 2])
@on_reactor
async def test_a_drained_server_is_safe_to_remove_once_nothing_names_it(
    reactor: Any, tmp_path: Path, replicas: int
) -> None:
    """How far that is, is told whenever it is asked for; nothing is lost."""
    async with living(reactor, tmp_path) as live:
        stored = live.store("a", DATA, (2, 1)[:replicas])
        address = live.address(2)
        assert DrainProgress(2, 0, False) == await live.ask(Drain(address))
        assert DrainProgress(2, 0, False) == await live.ask(Drain(address))
        await live.heal()
        assert DrainProgress(0, 0, True) == await live.ask(Drain(address))
        await live.collect(after=GRACE)
        assert [] == live.there[1]
        for position, block_id in enumerate(ids_of(stored)):
            block = live.block(stored, position)
            assert replicas == len(block.good)
            data = DATA[7 * position :][:7]
            assert [data] * replicas == [live.file(server, block_id).read_bytes() for server in block.good]


@on_reactor
async def test_an_open_plan_keeps_a_server_from_being_removed(reactor: Any, tmp_path: Path) -> None:
    """Its client may still store there."""
    async with living(reactor, tmp_path) as live:
        plan(live.database, "a", 8, (2,))
        await live.ask(Drain(live.address(2)))
        await live.heal()
        assert DrainProgress(0, 1, False) == await live.ask(Drain(live.address(2)))
        with pytest.raises(Conflict, match="has 0 blocks and 1 open plan: drain it first"):
            await live.ask(RemoveDataServer(live.address(2)))


@pytest.mark.parametrize("data_servers", [1, 2])
@on_reactor
async def test_it_is_told_why_a_drain_does_not_get_on(reactor: Any, tmp_path: Path, data_servers: int) -> None:
    """Nobody else can take the last good replica, so it stays."""
    async with living(reactor, tmp_path, data_servers) as live:
        stored = live.store("a", DATA, tuple(range(1, data_servers + 1)))
        await live.ask(Drain(live.address(1)))
        await live.heal()
        assert DrainProgress(2, 0, False, NOWHERE) == await live.ask(Drain(live.address(1)))
        assert 1 in live.block(stored).good
        assert [] == live.trashed()


@on_reactor
async def test_a_drain_goes_on_when_another_server_comes(reactor: Any, tmp_path: Path) -> None:
    """Nobody has to ask for it again."""
    async with living(reactor, tmp_path, 1) as live:
        live.store("a", DATA, (1,))
        await live.ask(Drain(live.address(1)))
        await live.heal()
        live.nodes.append(DataNode(reactor, tmp_path / "new").start())
        await live.ask(RegisterDataServer(live.nodes[1].address))
        await live.heal(after=5)
        assert DrainProgress(0, 0, True) == await live.ask(Drain(live.address(1)))
        assert ["a-0", "a-1"] == live.there[1]


@on_reactor
async def test_a_drained_server_that_is_down_keeps_what_only_it_has(reactor: Any, tmp_path: Path) -> None:
    """It is told that it cannot be reached, and never that it is safe to remove."""
    async with living(reactor, tmp_path) as live:
        live.store("a", DATA, (1,))
        await live.stop_server(1)
        await live.ask(Drain(live.address(1)))
        await live.heal(after=REPAIR_DELAY)
        expected = DrainProgress(2, 0, False, "no good replica can be reached")
        assert expected == await live.ask(Drain(live.address(1)))


@on_reactor
async def test_a_drain_is_taken_back(reactor: Any, tmp_path: Path) -> None:
    """What is there stays there, and new blocks are placed there again."""
    async with living(reactor, tmp_path) as live:
        live.store("a", DATA, (1,))
        await live.ask(Drain(live.address(1)))
        assert [2, 3] == live.cluster.placing()
        await live.ask(Undrain(live.address(1)))
        await live.heal()
        assert [1, 2, 3] == live.cluster.placing()
        assert [["a-0", "a-1"], [], []] == live.there


@on_reactor
async def test_draining_is_not_forgotten_at_a_restart(reactor: Any, tmp_path: Path) -> None:
    """It goes on."""
    async with living(reactor, tmp_path) as live:
        live.store("a", DATA, (1,))
        await live.ask(Drain(live.address(1)))
        live.stop()
        live.start()
        await live.heal()
        assert DrainProgress(0, 0, True) == await live.ask(Drain(live.address(1)))


# Removing


@on_reactor
async def test_a_server_with_blocks_is_not_removed(reactor: Any, tmp_path: Path) -> None:
    """Nor is it drained by the attempt; the sentence says what to do."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1,))
        address = live.address(1)
        sentence = f"{address} still has 2 blocks and 0 open plans: drain it first (filefly-client drain {address})"
        with pytest.raises(Conflict) as caught:
            await live.ask(RemoveDataServer(address))
        assert f"{sentence}, or give its blocks up (--lost)" == str(caught.value)
        assert ["up", "up"] == await states(live)


@on_reactor
async def test_a_drained_server_is_removed(reactor: Any, tmp_path: Path) -> None:
    """It is not listed any more, and the others are."""
    async with living(reactor, tmp_path, 3) as live:
        stored = live.store("a", DATA, (1, 2))
        await live.ask(Drain(live.address(1)))
        await live.heal()
        await live.ask(RemoveDataServer(live.address(1)))
        assert [live.address(2), live.address(3)] == [server.address for server in await live.listed()]
        assert {2, 3} == {*live.block(stored).good}
        await live.heal()
        assert 0 == live.waiting()


@on_reactor
async def test_deleted_files_do_not_keep_a_server(reactor: Any, tmp_path: Path) -> None:
    """Nor is anything left in the catalog that names it."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1,))
        done(live.database, delete_file, "a", 10**6)
        await live.ask(RemoveDataServer(live.address(1)))
        assert [] == seen(live.database, places_on, 1, FIRST, 10)
        assert [2] == [row.key for row in seen(live.database, data_server_rows)]


@on_reactor
async def test_what_a_lost_server_had_is_copied_from_the_others(reactor: Any, tmp_path: Path) -> None:
    """At once; the delay for servers that may come back does not matter."""
    async with living(reactor, tmp_path) as live:
        stored = live.store("a", DATA, (1, 2))
        await live.stop_server(1)
        await live.ask(RemoveDataServer(live.address(1), lost=True))
        await live.heal()
        assert {2, 3} == {*live.block(stored).good}
        assert ["a-0", "a-1"] == live.there[2]
        assert [live.address(2), live.address(3)] == [server.address for server in await live.listed()]


@on_reactor
async def test_what_only_a_lost_server_had_is_lost(reactor: Any, tmp_path: Path) -> None:
    """The file is still known, so that somebody hears of it; other files are not concerned."""
    async with living(reactor, tmp_path, 2) as live:
        lost, kept = live.store("a", DATA, (1,)), live.store("b", DATA, (2,))
        await live.ask(RemoveDataServer(live.address(1), lost=True))
        await live.heal()
        assert ((), (2,)) == (live.block(lost).servers, live.block(kept).servers)


@on_reactor
async def test_a_lost_server_that_is_still_there_is_left_alone(reactor: Any, tmp_path: Path) -> None:
    """Its files are nobody's business any more."""
    async with living(reactor, tmp_path) as live:
        live.store("a", DATA, (1, 2))
        await live.ask(RemoveDataServer(live.address(1), lost=True))
        await live.heal(after=5)
        await live.collect(after=GRACE)
        assert ["a-0", "a-1"] == live.there[0]


# Scrubbing


@on_reactor
async def test_a_scrub_is_begun_and_shown(reactor: Any, tmp_path: Path) -> None:
    """Of one data server; how far it is, and what it has found."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1, 2))
        live.flip(2, "a-0")
        await live.ask(Scrub(live.address(2)))
        assert [None, ScrubProgress(0, 2, 0)] == [server.scrub for server in await live.listed()]
        await live.scrub()
        shown = (await live.listed())[1].scrub
        assert ScrubProgress(2, 2, 1, "1970-01-01T00:00:00.000Z") == shown


@on_reactor
async def test_everything_is_scrubbed_if_no_server_is_named(reactor: Any, tmp_path: Path) -> None:
    """Each is."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1, 2))
        await live.ask(Scrub())
        await live.scrub()
        assert [2, 2] == [server.scrub.checked for server in await live.listed() if server.scrub]


# Over the wire


async def listed(caller: Any) -> Any:
    return (await caller.ask(command="list_data_servers"))["servers"]


async def all_up(caller: Any) -> None:
    """Wait until all data servers were heard from."""
    while not all(server["healthy"] for server in await listed(caller)):
        await next_turn()


@on_reactor
async def test_a_cluster_is_looked_after_over_the_wire(reactor: Any, tmp_path: Path) -> None:
    """A drain, a removal and a scrub, as a person would by `nc`; the loops do the rest."""
    async with asking(reactor, tmp_path, 2) as (cluster, caller):
        await all_up(caller)
        first, second = (node.address for node in cluster.data)
        await put(cluster, caller, "a", DATA)
        reply = await caller.ask(command="remove_data_server", data_server_addr=first)
        assert "conflict" == reply["code"]
        reply = await caller.ask(command="drain", data_server_addr=first)
        assert ("ok", 1, False) == (reply["status"], reply["remaining_blocks"], reply["safe_to_remove"])
        while not (await caller.ask(command="drain", data_server_addr=first))["safe_to_remove"]:
            await next_turn()
        assert {"status": "ok"} == await caller.ask(command="remove_data_server", data_server_addr=first)
        assert {"status": "ok"} == await caller.ask(command="scrub")
        while "finished" not in (await listed(caller))[0]["scrub"]:
            await next_turn()
        assert [second] == [server["address"] for server in await listed(caller)]
        assert ["a-0", "a-1"] == cluster.data[1].block_ids()


@on_reactor
async def test_a_reader_s_report_has_a_replica_mended(reactor: Any, tmp_path: Path) -> None:
    """It is answered at once; a wrong one changes nothing, and what is no block id is refused."""
    async with asking(reactor, tmp_path, 2) as (cluster, caller):
        await all_up(caller)
        await put(cluster, caller, "a", DATA, replicas=2)
        first, second = cluster.data
        second.block("a-0").write_bytes(b"rotten!")
        for block_id, node in [("a-1", first), ("b-0", first), ("a-0", second)]:
            reply = await caller.ask(command="report_replica", block_id=block_id, data_server=node.address)
            assert {"status": "ok"} == reply
        while not (second.folder / ".corrupt" / "a-0").exists() or second.block_ids() != ["a-0", "a-1"]:
            await next_turn()
        assert DATA[:7] == second.block("a-0").read_bytes()
        assert not (first.folder / ".corrupt").exists()
        reply = await caller.ask(command="report_replica", block_id="", data_server=first.address)
        assert error("missing block_id", "bad_request") == reply
