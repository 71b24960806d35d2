import gzip
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from crc32c import crc32c
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from filefly.catalog.endings import rename_file
from filefly.catalog.inventory import catalog_row, suspend
from filefly.catalog.listing import list_files
from filefly.catalog.plans import committed_plan
from filefly.catalog.snapshots import Snapshots
from filefly.client.transfer import BlockTransfer
from filefly.errors import Internal, Unavailable
from filefly.meta.backup import PREFIX, Backups, backups
from filefly.meta.commits import Committer
from filefly.meta.planning import Planner
from filefly.meta.uploading import Uploader
from filefly.threads import WorkerPool
from tests.catalog.catalogs import DUE, MODIFIED, done, opened, put_many_files, seen, store
from tests.catalog.copies import beside, names_in, snapshots_in
from tests.meta.bench import Bench, on_a_bench
from tests.meta.running import asking, error, put, running
from tests.on_reactor import next_turn, on_reactor

HOUR = 3600


def open_copies() -> list[str]:
    """Return the copies that this process holds open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(os.readlink(descriptor))
    return [link for link in links if ".snapshot-" in link]


# The files


@define(eq=False)
class BackedUp:
    """A bench with backups, their loop left to the test too."""

    bench: Bench
    backups: Backups

    def existing(self) -> list[str]:
        """Return the names of the backups, the newest first."""
        return [file.name for file in seen(self.bench.database, backups)]

    async def an_hour_later(self) -> None:
        """Let an hour go by, and what is due then be done."""
        self.bench.monotonic.now += HOUR
        self.bench.clock.advance(HOUR)
        await self.backups.round()

    def names_in(self, name: str) -> list[str]:
        """Return the names of the files in a backup, read with nothing but cat and gunzip."""
        plan = seen(self.bench.database, committed_plan, name)
        escaped = [block.id.replace("/", "%2F").replace(".filefly", "%2Efilefly") for block in plan.blocks]
        nodes = [self.bench.node(block.servers[0]) for block in plan.blocks]
        parts = [node.block(file).read_bytes() for node, file in zip(nodes, escaped, strict=True)]
        copy = self.bench.folder / "unpacked.sqlite"
        copy.write_bytes(gzip.decompress(b"".join(parts)))
        return names_in(copy)


@asynccontextmanager
async def backed_up(reactor: Any, folder: Path, data_servers: int = 2) -> AsyncIterator[BackedUp]:
    """Run data servers and the parts of a metadata server, which makes a backup when it is told to."""
    async with on_a_bench(reactor, folder, data_servers) as bench:
        threads = WorkerPool(reactor, "backup", 2)
        threads.start()
        planner = Planner(bench.transactions, bench.cluster, bench.compute, bench.time, 512, 1)
        committer = Committer(bench.transactions, bench.cluster, bench.time, lambda: MODIFIED, bench.trash.due)
        made = Backups(
            bench.clock,
            bench.transactions,
            bench.cluster,
            bench.health,
            Uploader(bench.transactions, bench.cluster, planner, committer, bench.trash.due),
            snapshots_in(folder),
            threads,
            bench.time,
            bench.trash.due,
            HOUR,
            0,
        )
        try:
            yield BackedUp(bench, made)
        finally:
            threads.stop()


@on_reactor
async def test_a_backup_is_a_file_on_two_data_servers(tmp_path: Path, reactor: Any) -> None:
    """It has several blocks here; its name is its time."""
    async with backed_up(reactor, tmp_path, 3) as cluster:
        cluster.bench.put("a", b"0123456789")
        await cluster.an_hour_later()
        name = ".filefly/catalog-19700101T010000Z.sqlite.gz"
        assert [name] == cluster.existing()
        plan = seen(cluster.bench.database, committed_plan, name)
        assert len(plan.blocks) > 1
        assert {2} == {len(block.servers) for block in plan.blocks}
        assert ["a"] == cluster.names_in(name)
        assert [] == beside(tmp_path)


@on_reactor
async def test_where_there_is_one_data_server_a_backup_has_one_copy(tmp_path: Path, reactor: Any) -> None:
    """Better than none."""
    async with backed_up(reactor, tmp_path, 1) as cluster:
        await cluster.an_hour_later()
        assert [1] == [file.replicas for file in seen(cluster.bench.database, backups)]


@on_reactor
async def test_a_backup_is_made_when_it_is_time(tmp_path: Path, reactor: Any) -> None:
    """Counted in running time, also across a restart."""
    async with backed_up(reactor, tmp_path) as cluster:
        cluster.bench.monotonic.now += HOUR - 1
        await cluster.backups.round()
        assert [] == cluster.existing()
        cluster.bench.monotonic.now += 1
        await cluster.backups.round()
        assert 1 == len(cluster.existing())
        assert HOUR == seen(cluster.bench.database, catalog_row).backed_up


@on_reactor
async def test_no_backup_is_made_of_what_did_not_change(tmp_path: Path, reactor: Any) -> None:
    """The one that there is has it all; any change makes another one."""
    async with backed_up(reactor, tmp_path) as cluster:
        cluster.bench.put("a", b"0123456789")
        await cluster.an_hour_later()
        await cluster.an_hour_later()
        await cluster.an_hour_later()
        [first] = cluster.existing()
        done(cluster.bench.database, rename_file, "a", "b", DUE)
        await cluster.an_hour_later()
        [second, _first] = cluster.existing()
        assert (first, [first, "b"]) == (_first, cluster.names_in(second))


@on_reactor
async def test_the_last_three_are_kept(tmp_path: Path, reactor: Any) -> None:
    """Also if the clock was set back: the newest is what was stored last. Other files of alike names are left alone."""
    async with backed_up(reactor, tmp_path) as cluster:
        others = [f"{PREFIX}mine", f"{PREFIX}20260102T030405Z.sqlite.gz.old"]
        for name in others:
            store(cluster.bench.database, name)
        store(cluster.bench.database, f"{PREFIX}20990102T030405Z.sqlite.gz")
        for number in range(4):
            cluster.bench.put(f"a{number}", b"0123456789")
            await cluster.an_hour_later()
        names = [f"{PREFIX}19700101T0{hour}0000Z.sqlite.gz" for hour in (4, 3, 2)]
        assert names == cluster.existing()
        files = [file.name for file in seen(cluster.bench.database, list_files, PREFIX, "", "", 100).files]
        assert sorted([*names, *others]) == files


@on_reactor
async def test_a_catalog_that_is_older_than_its_data_deletes_no_backup(tmp_path: Path, reactor: Any) -> None:
    """One of them may be what should have been restored."""
    async with backed_up(reactor, tmp_path) as cluster:
        done(cluster.bench.database, suspend, "it is old", 1000)
        await cluster.bench.health.round()
        for number in range(4):
            cluster.bench.put(f"a{number}", b"0123456789")
            await cluster.an_hour_later()
        assert 4 == len(cluster.existing())


@on_reactor
async def test_while_no_data_server_was_heard_from_nothing_is_tried(tmp_path: Path, reactor: Any) -> None:
    """As in the first moments after a start."""
    async with backed_up(reactor, tmp_path) as cluster:
        cluster.bench.cluster.conditions = {}
        await cluster.an_hour_later()
        assert [] == cluster.existing()
        await cluster.bench.health.round()
        await cluster.backups.round()
        assert 1 == len(cluster.existing())


@on_reactor
async def test_one_data_server_is_enough_for_a_backup(tmp_path: Path, reactor: Any) -> None:
    """The other one has just gone; repair will make up for it."""
    async with backed_up(reactor, tmp_path) as cluster:
        await cluster.bench.node(2).stop()
        await cluster.an_hour_later()
        [name] = cluster.existing()
        plan = seen(cluster.bench.database, committed_plan, name)
        assert {(1,)} == {block.servers for block in plan.blocks}


@on_reactor
async def test_what_fails_is_logged_and_tried_again_in_ten_minutes(
    tmp_path: Path, reactor: Any, logged_failures: list[Failure]
) -> None:
    """A loop that ends at the first failure would back nothing up ever again."""
    async with backed_up(reactor, tmp_path, 1) as cluster:
        bench = cluster.bench
        bench.monotonic.now += HOUR
        for problem in (Internal("the disk is on fire"), ZeroDivisionError()):
            healthy, cluster.backups._snapshots = cluster.backups._snapshots, BrokenSnapshots(problem)
            await cluster.backups._round_and_go_on()
            cluster.backups._snapshots = healthy
            bench.monotonic.now += 599
            await cluster.backups._round_and_go_on()
            assert [] == cluster.existing()
            bench.monotonic.now += 1
        await cluster.backups._round_and_go_on()
        assert 1 == len(cluster.existing())
        assert [ZeroDivisionError] == [failure.type for failure in logged_failures]
        logged_failures.clear()


class BrokenSnapshots(Snapshots):
    """Cannot make any."""

    def __init__(self, problem: Exception) -> None:
        super().__init__(None, PREFIX)
        self.problem = problem

    def digest(self) -> str:
        raise self.problem


@on_reactor
async def test_what_could_not_be_stored_leaves_no_plan_behind(tmp_path: Path, reactor: Any) -> None:
    """Or each failure would leave one open for a day."""
    async with backed_up(reactor, tmp_path, 1) as cluster:
        await cluster.bench.node(1).stop()
        with pytest.raises(Unavailable, match="cannot be stored"):
            await cluster.backups.back_up()
        with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as database:
            assert [("deleted",)] == database.execute("SELECT state FROM plans").fetchall()


@on_reactor
async def test_a_server_that_stops_gives_a_backup_up(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for a data server that hangs."""
    async with backed_up(reactor, tmp_path, 1) as cluster:
        given_up: list[Any] = []
        asked: Deferred[None] = Deferred()

        def hang(*_args: Any) -> Deferred[Any]:
            if not asked.called:
                asked.callback(None)
            return Deferred(given_up.append)

        monkeypatch.setattr(BlockTransfer, "store", hang)
        cluster.bench.monotonic.now += HOUR
        cluster.backups.start()
        await asked
        await next_turn()  # it is told so in the midst of things
        await cluster.backups.stop()
        assert given_up
        assert [] == cluster.existing()


# The command


@on_reactor
async def test_backup_is_a_command(tmp_path: Path, reactor: Any) -> None:
    """A line with size and checksum, then a whole catalog; the conversation goes on."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", b"0123456789")
        head = await caller.ask(command="backup_catalog")
        data = await caller.hear_bytes(head["size"])
        assert {"status": "ok", "size": len(data), "crc32c": f"{crc32c(data):08x}"} == head
        copy = tmp_path / "copy.sqlite"
        copy.write_bytes(data)
        assert ["a"] == names_in(copy)
        assert {"status": "ok"} == await caller.ask(command="ping")
        assert [] == beside(tmp_path)


@on_reactor
async def test_a_client_that_hangs_up_leaves_nothing(tmp_path: Path, reactor: Any) -> None:
    """However large the copy: the next one is served."""
    async with running(reactor, tmp_path) as cluster:
        await cluster.stop_meta()
        with opened(tmp_path) as catalog:
            put_many_files(catalog, (f"{'n' * 200}{number}" for number in range(20_000)))
        cluster.start_meta()
        async with cluster.calling() as hasty:
            head = await hasty.ask(command="backup_catalog")
            assert head["size"] > 4_000_000
            assert [] != open_copies()
        while open_copies():
            await next_turn()
        assert [] == beside(tmp_path)
        async with cluster.calling() as patient:
            head = await patient.ask(command="backup_catalog")
            assert head["size"] == len(await patient.hear_bytes(head["size"]))


@on_reactor
async def test_a_catalog_elsewhere_is_refused_in_a_sentence(tmp_path: Path, reactor: Any) -> None:
    """As an error reply; the conversation goes on."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        assert cluster._meta is not None
        [part] = [part for part in cluster._meta._parts if isinstance(part, Backups)]
        part._snapshots.path = None
        sentence = "the catalog is kept by a database server of its own: back it up with pg_dump"
        assert error(sentence, "conflict") == await caller.ask(command="backup_catalog")
        assert {"status": "ok"} == await caller.ask(command="ping")
