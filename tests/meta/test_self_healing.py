"""Repair and scrub on real data servers, with real damage to their files."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from filefly.catalog.endings import delete_file
from filefly.wire.administration import Scrub
from tests.catalog.catalogs import done
from tests.meta.live import DOWN_AFTER, GRACE, REPAIR_DELAY, Live, living
from tests.meta.running import bytes_of, put, running
from tests.on_reactor import next_turn, on_reactor

DATA = b"precious"  # two blocks


async def scrubbed(live: Live) -> None:
    """Have everything re-read."""
    await live.ask(Scrub())
    while not all(server.scrub and server.scrub.finished for server in await live.listed()):
        await live.scrub()


@on_reactor
async def test_a_corrupt_replica_is_kept_aside_and_copied_again(reactor: Any, tmp_path: Path) -> None:
    """Its bytes are in `.corrupt/`, the good ones in its place."""
    async with living(reactor, tmp_path, 2) as live:
        stored = live.store("a", DATA, (1, 2))
        rotten = live.flip(2, "a-0")
        await scrubbed(live)
        assert {2: "corrupt"} == live.block(stored).bad
        assert rotten == (live.nodes[1].folder / ".corrupt" / "a-0").read_bytes()
        await live.heal()
        assert DATA[:7] == live.file(2, "a-0").read_bytes()
        assert {} == live.block(stored).bad
        assert rotten == (live.nodes[1].folder / ".corrupt" / "a-0").read_bytes()


@on_reactor
async def test_a_missing_replica_is_restored(reactor: Any, tmp_path: Path) -> None:
    """Deleting a block file by hand is allowed."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1, 2))
        live.file(1, "a-1").unlink()
        await scrubbed(live)
        await live.heal()
        assert DATA[7:] == live.file(1, "a-1").read_bytes()
        assert 0 == live.waiting()


@on_reactor
async def test_every_replica_that_was_cut_short_or_emptied_is_restored(reactor: Any, tmp_path: Path) -> None:
    """As a file system may leave files after a power cut."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1, 2))
        live.file(1, "a-0").write_bytes(DATA[:3])
        live.file(2, "a-1").write_bytes(b"")
        await scrubbed(live)
        await live.heal()
        assert [DATA, DATA] == [
            b"".join(live.file(server, block_id).read_bytes() for block_id in ("a-0", "a-1")) for server in (1, 2)
        ]


@on_reactor
async def test_a_server_that_is_away_and_returns(reactor: Any, tmp_path: Path) -> None:
    """What it had is copied after the delay, not before; what is too many then goes, by way of the trash."""
    async with living(reactor, tmp_path) as live:
        stored = live.store("a", DATA, (1, 2))
        await live.stop_server(2)
        await live.heal(after=DOWN_AFTER)
        await live.heal(after=REPAIR_DELAY - DOWN_AFTER - 1)
        assert [] == live.there[2]
        await live.heal(after=1)
        assert ["a-0", "a-1"] == live.there[2]
        live.start_server(2)
        await live.heal(after=5)
        assert [(1, 2), (1, 2)] == [live.block(stored, position).good for position in range(2)]
        assert [("a-0", 3), ("a-1", 3)] == sorted(live.trashed())
        await live.collect(after=GRACE - 1)
        assert ["a-0", "a-1"] == live.there[2]
        await live.collect(after=1)
        assert [["a-0", "a-1"], ["a-0", "a-1"], []] == live.there


@on_reactor
async def test_a_server_that_returns_damaged_does_not_cost_the_copies(reactor: Any, tmp_path: Path) -> None:
    """The others are verified before one goes."""
    async with living(reactor, tmp_path) as live:
        stored = live.store("a", DATA, (1, 2))
        await live.stop_server(2)
        await live.heal(after=REPAIR_DELAY)
        live.flip(2, "a-0")
        live.file(2, "a-1").unlink()
        live.start_server(2)
        await live.heal(after=5)
        assert [(1, 3), (1, 3)] == [live.block(stored, position).servers for position in range(2)]
        assert DATA == b"".join(live.file(3, block_id).read_bytes() for block_id in ("a-0", "a-1"))


@on_reactor
async def test_a_disk_that_is_not_mounted_is_not_filled(reactor: Any, tmp_path: Path) -> None:
    """An empty storage at the old address is refused: its blocks are copied elsewhere, and nothing goes there."""
    async with living(reactor, tmp_path) as live:
        stored = live.store("a", DATA, (1, 2))
        await live.stop_server(2)
        folder = live.nodes[1].folder
        folder.rename(tmp_path / "unmounted")
        folder.mkdir()
        (folder / ".filefly.json").write_text('{"storage_id":"id of another"}')
        live.start_server(2)
        await live.heal(after=5)
        assert [[], []] == live.there[1:]
        await live.heal(after=REPAIR_DELAY)
        assert [[], ["a-0", "a-1"]] == live.there[1:]
        await live.stop_server(2)
        shutil.rmtree(folder)
        (tmp_path / "unmounted").rename(folder)
        live.start_server(2)
        await live.heal(after=5)
        assert (1, 2) == live.block(stored).good


@on_reactor
async def test_swapped_disks_keep_their_own_blocks(reactor: Any, tmp_path: Path) -> None:
    """Each storage is known wherever it is; nothing is copied, nothing deleted."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1,))
        live.store("b", DATA, (2,))
        for server in (1, 2):
            await live.stop_server(server)
        one, two = (node.folder for node in live.nodes)
        one.rename(tmp_path / "aside")
        two.rename(one)
        (tmp_path / "aside").rename(two)
        for server in (1, 2):
            live.start_server(server)
        await live.heal(after=5)
        await scrubbed(live)
        assert 0 == live.waiting()
        assert [["b-0", "b-1"], ["a-0", "a-1"]] == live.there
        done(live.database, delete_file, "a", 0)
        await live.collect()
        assert [["b-0", "b-1"], []] == live.there


@pytest.mark.parametrize("server", [1, 2])
@on_reactor
async def test_every_flipped_bit_is_found_and_repaired(reactor: Any, tmp_path: Path, server: int) -> None:
    """In a third of a data server's files."""
    async with living(reactor, tmp_path, 2) as live:
        data = bytes(range(256)) * 3
        stored = live.store("a", data, (1, 2))
        for position in range(0, len(stored.blocks), 3):
            live.flip(server, f"a-{position}")
        await scrubbed(live)
        assert len(stored.blocks[::3]) == live.waiting()
        await live.heal()
        whole = b"".join(live.file(server, block.id).read_bytes() for block in stored.blocks)
        assert data == whole
        assert len(stored.blocks[::3]) == len([*(live.nodes[server - 1].folder / ".corrupt").iterdir()])


@on_reactor
async def test_a_restart_goes_on_with_what_was_noted(reactor: Any, tmp_path: Path) -> None:
    """The queue is in the catalog."""
    async with living(reactor, tmp_path, 2) as live:
        live.store("a", DATA, (1, 2))
        live.file(1, "a-1").unlink()
        await scrubbed(live)
        live.stop()
        live.start()
        await live.heal()
        assert DATA[7:] == live.file(1, "a-1").read_bytes()


@on_reactor
async def test_it_can_be_stopped_at_any_moment(reactor: Any, tmp_path: Path) -> None:
    """In the middle of a look, a move or a copy; the log has no failure, and the next start goes on."""
    data = DATA * 20
    async with running(reactor, tmp_path, 3) as cluster:
        async with cluster.calling() as caller:
            while not all(each["healthy"] for each in (await caller.ask(command="list_data_servers"))["servers"]):
                await next_turn()
            stored = await put(cluster, caller, "a", data, replicas=2)
        places = [(block["id"], replica["data_server"]) for block in stored["blocks"] for replica in block["replicas"]]
        for turns in range(1, 40, 3):
            async with cluster.calling() as caller:
                for block_id, address in places[:: 2 + turns % 3]:
                    file = cluster.nodes(address)[0].block(block_id)
                    if file.exists() and turns % 2:
                        file.write_bytes(b"rotten!")
                    else:
                        file.unlink(missing_ok=True)
                    await caller.ask(command="report_replica", block_id=block_id, data_server=address)
                for _ in range(turns * 3):
                    await next_turn()
            await cluster.stop_meta()
            for block_id, address in places:  # somebody restores the files by hand
                position = int(block_id.rpartition("-")[2])
                cluster.nodes(address)[0].put(block_id, data[7 * position :][:7])
            cluster.start_meta()
        async with cluster.calling() as caller:
            assert data == await bytes_of(caller, "a")
