"""Who the data servers are, told by real ones whose folders are moved about."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from filefly.catalog.endings import delete_file, due_trash, undelete_file
from filefly.catalog.inventory import (
    accept_storage,
    catalog_row,
    data_server_rows,
    highest_generation,
    register_data_server,
)
from filefly.catalog.plans import Plan, committed_plan
from filefly.errors import Conflict, NotFound
from filefly.wire.messages import Pong
from tests.catalog.catalogs import done, ended, open_plans, plan, seen, trashed
from tests.meta.bench import DAY_SECONDS, Bench, on_a_bench
from tests.meta.running import DataNode
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789"


async def swap(bench: Bench) -> None:
    """Exchange the disks of the two data servers."""
    one, two = bench.nodes
    await one.stop()
    await two.stop()
    one.folder, two.folder = two.folder, one.folder
    one.start()
    two.start()


async def put_folder(node: DataNode, folder: Path) -> None:
    """Let a data server come back with another folder."""
    await node.stop()
    node.folder = folder
    node.start()


def states(bench: Bench) -> list[str]:
    return [bench.cluster.condition(server).state for server in bench.cluster.servers]


def refusal(bench: Bench, server: int) -> str:
    """Return why a data server is not used."""
    assert bench.cluster.condition(server).state == "down"
    assert server not in bench.cluster.placing()
    return str(bench.health.seen(server).error)


def told(bench: Bench, plan: Plan) -> list[list[str]]:
    """Return where clients are told that a file's blocks are."""
    return [[place.data_server for place in block.replicas] for block in bench.cluster.metadata_of(plan).blocks]


async def readable(bench: Bench, name: str) -> bytes:
    """Read a file as `fetch_file` does."""
    found = b""
    for block in bench.cluster.metadata_of(seen(bench.database, committed_plan, name), internal=True).blocks:
        port = int(block.data_server.rpartition(":")[2])
        [node] = [node for node in bench.nodes if node.port == port]
        found += node.block(block.id).read_bytes()
    return found


# Moved


@on_reactor
async def test_a_storage_at_a_new_address_keeps_its_files(reactor: Any, tmp_path: Path) -> None:
    """As soon as that address is registered: it is not another data server, and nothing is copied."""
    async with on_a_bench(reactor, tmp_path) as bench:
        file = bench.put("a", DATA, (2,))
        old = bench.node(2)
        await old.stop()
        bench.nodes[1] = new = DataNode(reactor, old.folder).start()
        bench.cluster.take(done(bench.database, register_data_server, new.address, "far:1"))
        assert 3 == len(bench.cluster.servers)
        await bench.health.round()
        assert [(1, bench.node(1).address), (2, new.address)] == [
            (row.key, row.address) for row in seen(bench.database, data_server_rows)
        ]
        assert (["up", "up"], [["far:1"], ["far:1"]]) == (states(bench), told(bench, file))
        assert DATA == await readable(bench, "a")


@on_reactor
async def test_swapped_storages_keep_their_files(reactor: Any, tmp_path: Path) -> None:
    """Both are found where they are now; an upload that is under way goes on there."""
    async with on_a_bench(reactor, tmp_path) as bench:
        one, two = (node.address for node in bench.nodes)
        bench.put("a", DATA, (1,))
        bench.put("b", DATA[::-1], (2,))
        plan(bench.database, "c", 7, (1,))
        await swap(bench)
        await bench.health.round()
        assert ([two, one], ["up", "up"]) == ([row.address for row in bench.cluster.servers.values()], states(bench))
        assert [DATA, DATA[::-1]] == [await readable(bench, name) for name in "ab"]
        [upload] = seen(bench.database, open_plans, "c")
        assert {two: "id of data1"} == bench.cluster.metadata_of(upload).storage_ids
        await bench.health.round()
        assert ["up", "up"] == states(bench)


@on_reactor
async def test_a_swapped_storage_never_loses_a_block(reactor: Any, tmp_path: Path) -> None:
    """Deletes carry the storage's id: what is due on one is never deleted from the other, noticed or not yet."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.put("a", DATA, (1,))
        done(bench.database, delete_file, "a", 0)
        for block_id in ("a-0", "a-1"):
            bench.node(2).put(block_id, b"of somebody who uses this storage without us")
        await swap(bench)
        with_them, ours = bench.nodes
        await bench.trash.round()
        assert (["a-0", "a-1"], ["a-0", "a-1"]) == (with_them.block_ids(), ours.block_ids())
        assert [("a-0", 1), ("a-1", 1)] == seen(bench.database, trashed)
        await bench.health.round()
        bench.monotonic.now += 31
        await bench.trash.round()
        assert (["a-0", "a-1"], []) == (with_them.block_ids(), ours.block_ids())
        assert [] == seen(bench.database, trashed)


# Refused, and accepted


@on_reactor
async def test_an_empty_folder_is_not_a_disk_that_lost_everything(reactor: Any, tmp_path: Path) -> None:
    """A data server comes back with a disk that is not mounted: it is not used, and all that it had is remembered."""
    async with on_a_bench(reactor, tmp_path) as bench:
        file = bench.put("a", DATA, (2, 1))
        mounted = bench.node(2).folder
        await put_folder(bench.node(2), tmp_path / "unmounted")
        await bench.health.round()
        assert refusal(bench, 2) == (
            "holds another storage than before (is its disk mounted?); "
            f"to take it as it is: filefly-client servers accept {bench.node(2).address}"
        )
        assert "catalog_id" not in bench.node(2).identity
        assert [[node.address for node in bench.nodes]] * 2 == told(bench, file)  # the one that is down comes last
        await put_folder(bench.node(2), mounted)
        await bench.health.round()
        assert (["up", "up"], [1, 2]) == (states(bench), bench.cluster.placing())


@on_reactor
async def test_nothing_is_deleted_from_a_storage_that_is_refused(reactor: Any, tmp_path: Path) -> None:
    """Nor is what should be deleted there forgotten."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.put("a", DATA, (2,))
        done(bench.database, delete_file, "a", 0)
        await put_folder(bench.node(2), tmp_path / "other")
        bench.node(2).put("a-0", b"not ours")
        await bench.health.round()
        await bench.trash.round()
        assert (["a-0"], 2) == (bench.node(2).block_ids(), len(seen(bench.database, due_trash, 2, 0, 100)))


@on_reactor
async def test_an_empty_folder_may_be_accepted(reactor: Any, tmp_path: Path) -> None:
    """It is another data server then, in the place of the old one, whose blocks count as seen nowhere."""
    async with on_a_bench(reactor, tmp_path) as bench:
        file = bench.put("a", DATA, (2, 1))
        await put_folder(bench.node(2), tmp_path / "new disk")
        await bench.health.round()
        await bench.health.accept(bench.node(2).address)
        assert ["up", "down", "up"] == states(bench)
        assert [None, bench.node(2).address] == [row.address for row in list(bench.cluster.servers.values())[1:]]
        catalog_id = seen(bench.database, catalog_row).catalog_id
        assert (catalog_id, file.generation) == (
            bench.node(2).identity["catalog_id"],
            bench.node(2).identity["generation"],
        )
        assert [1, 3] == bench.cluster.placing()
        assert [[bench.node(1).address]] * 2 == told(bench, file)


@on_reactor
async def test_a_round_that_was_under_way_undoes_no_acceptance(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What answered while another data server was slow is judged by the rows that were asked."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await put_folder(bench.node(2), tmp_path / "new disk")
        ping, slow = bench.cluster.ping, [Deferred[None](), Deferred[None]()]
        waited_for = iter(slow)

        async def ping_slowly(server: int) -> Pong:
            pong = await ping(server)
            if server == 1:
                await next(waited_for)
            return pong

        monkeypatch.setattr(bench.cluster, "ping", ping_slowly)
        looking = Deferred.fromCoroutine(bench.health.round())
        accepting = Deferred.fromCoroutine(bench.health.accept(bench.node(2).address))
        for _ in range(1000):
            await next_turn()
        slow[0].callback(None)
        await looking
        while len(bench.cluster.servers) < 3:
            await next_turn()
        assert [None, bench.node(2).address] == [row.address for row in list(bench.cluster.servers.values())[1:]]
        slow[1].callback(None)
        await accepting
        assert ["up", "down", "up"] == states(bench)


@on_reactor
async def test_a_storage_that_was_replaced_comes_back_by_itself(reactor: Any, tmp_path: Path) -> None:
    """Wherever it shows up: its blocks were never forgotten."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.put("a", DATA, (2,))
        mounted = bench.node(2).folder
        await put_folder(bench.node(2), tmp_path / "new disk")
        await bench.health.accept(bench.node(2).address)
        found = DataNode(reactor, mounted).start()
        bench.cluster.take(done(bench.database, register_data_server, found.address, None))
        await bench.health.round()
        assert (["up", "up", "up"], found.address) == (states(bench), bench.cluster.servers[2].address)
        bench.nodes.append(found)
        assert DATA == await readable(bench, "a")


@on_reactor
async def test_another_catalogs_storage_is_refused_until_it_is_accepted(reactor: Any, tmp_path: Path) -> None:
    """Two clusters must not share a disk by mistake."""
    async with on_a_bench(reactor, tmp_path) as bench:
        other = DataNode(reactor, tmp_path / "other")
        other.folder.mkdir()
        identity = other.folder / ".filefly.json"
        identity.write_bytes(b'{"storage_id":"far","catalog_id":"of somebody else","generation":99}')
        other.start()
        bench.nodes.append(other)
        bench.cluster.take(done(bench.database, register_data_server, other.address, None))
        await bench.health.round()
        assert refusal(bench, 3).startswith(
            "holds a storage of another catalog (is --catalog the right file?); stop this metadata server and start it"
        )
        assert "of somebody else" == other.identity["catalog_id"]
        assert None is seen(bench.database, catalog_row).suspended  # its generations are of another counter
        with pytest.raises(Conflict, match=r"; stop this metadata server and start .* --take-over"):
            await bench.health.accept(other.address)
        assert "of somebody else" == other.identity["catalog_id"]
        await bench.health.accept(other.address, take_over=True)
        assert ["up", "up", "up"] == states(bench)
        assert (seen(bench.database, catalog_row).catalog_id, 0) == (
            other.identity["catalog_id"],
            other.identity.get("generation", 0),
        )


@on_reactor
async def test_a_copy_of_a_storage_is_refused(reactor: Any, tmp_path: Path) -> None:
    """Somebody copied a disk and started a data server on both."""
    async with on_a_bench(reactor, tmp_path) as bench:
        shutil.copytree(bench.node(1).folder, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
        copy = DataNode(reactor, tmp_path / "copy").start()
        bench.nodes.append(copy)
        bench.cluster.take(done(bench.database, register_data_server, copy.address, None))
        await bench.health.round()
        assert f"holds the storage of {bench.node(1).address}, or a copy of it; use one of them" == refusal(bench, 3)
        assert ["up", "up", "down"] == states(bench)


@on_reactor
async def test_a_storage_that_is_seen_nowhere_cannot_be_accepted_by_its_id(reactor: Any, tmp_path: Path) -> None:
    """Nobody knows where to ask."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.cluster.take(done(bench.database, accept_storage, bench.node(2).address, "another"))
        with pytest.raises(NotFound, match=r"^id of data2 is seen at no address; name the address where it is now$"):
            await bench.health.accept("id of data2")


# A catalog that is older than its data


def take_back(bench: Bench, kept: Path) -> None:
    """Start the metadata server on an older copy of its catalog."""
    bench.stop()
    for file in bench.folder.glob("catalog.sqlite*"):
        file.unlink()
    shutil.copy(kept, bench.folder / "catalog.sqlite")
    bench.start()


async def older(bench: Bench) -> None:
    """Have a catalog that knows the file `a` and the upload `u`, and of nothing that came later."""
    bench.put("a", DATA, (1, 2))
    plan(bench.database, "u", 7, (1,))
    bench.stop()
    kept = bench.folder / "kept"
    shutil.copy(bench.folder / "catalog.sqlite", kept)
    bench.start()
    for name in "bcd":
        bench.put(name, DATA, (1, 2))
    await bench.health.round()
    take_back(bench, kept)


@on_reactor
async def test_a_catalog_older_than_its_data_is_recognised(reactor: Any, tmp_path: Path) -> None:
    """By the generations that its data servers have seen; none of them is ever given again."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await older(bench)
        assert (None, 2) == (bench.health.suspended, seen(bench.database, highest_generation))
        await bench.health.round()
        sentence = (
            "the catalog is older than its data (generation 2, data servers have seen 5): "
            "nothing is deleted or expires until filefly-client catalog accept"
        )
        assert (sentence, sentence) == (bench.health.suspended, seen(bench.database, catalog_row).suspended)
        assert 1_000_005 == seen(bench.database, highest_generation)
        assert [1_000_005, 1_000_005] == [node.identity["generation"] for node in bench.nodes]
        assert "e-0.1000006" == plan(bench.database, "e", 7).blocks[0].id


@on_reactor
async def test_an_older_catalog_deletes_nothing(reactor: Any, tmp_path: Path) -> None:
    """Neither trash nor uploads nor deleted files go, over restarts, until somebody accepts it."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await older(bench)
        done(bench.database, delete_file, "a", 0)
        bench.monotonic.now += 2 * DAY_SECONDS
        await bench.trash.round()  # before anybody was heard from
        held = [node.block_ids() for node in bench.nodes]
        for _ in range(2):
            await bench.health.round()
            await bench.trash.round()
            assert held == [node.block_ids() for node in bench.nodes]
            assert 1 == len(seen(bench.database, open_plans, "u"))
            assert ([1], []) == (seen(bench.database, ended), seen(bench.database, trashed))
            bench.stop()
            bench.start()
            bench.monotonic.now += 2 * DAY_SECONDS
        assert "a" == done(bench.database, undelete_file, "a").name


@on_reactor
async def test_an_older_catalog_that_was_accepted_goes_on(reactor: Any, tmp_path: Path) -> None:
    """What it deletes goes, and it is not suspended again."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await older(bench)
        await bench.health.round()
        done(bench.database, delete_file, "a", 0)
        bench.monotonic.now += 2 * DAY_SECONDS
        await bench.health.accept_catalog()
        await bench.health.round()
        assert (None, None) == (bench.health.suspended, seen(bench.database, catalog_row).suspended)
        await bench.trash.round()
        assert [] == seen(bench.database, open_plans, "u")
        assert [] == [name for node in bench.nodes for name in node.block_ids() if name.startswith("a-")]
        plan(bench.database, "e", 7)
        await bench.health.round()
        assert None is bench.health.suspended


@on_reactor
async def test_a_catalog_that_is_up_to_date_is_not_suspended(reactor: Any, tmp_path: Path) -> None:
    """Its data servers have seen what it gave, and a restart changes nothing about that."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.put("a", DATA, (1, 2))
        await bench.health.round()
        bench.stop()
        bench.start()
        await bench.health.round()
        assert None is bench.health.suspended
        assert 1 == seen(bench.database, highest_generation)
