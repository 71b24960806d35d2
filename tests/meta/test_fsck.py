from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.inventory import check_removable
from filefly.catalog.repairs import FIRST, Place
from filefly.catalog.replicas import forget_replicas, mark
from filefly.catalog.schema import replicas
from filefly.catalog.stretches import next_stretch
from filefly.errors import BadRequest, Internal
from filefly.meta.fsck import Cursor
from filefly.wire.administration import Finding, Fsck
from tests.catalog.catalogs import DUE, done, opened, plan, seen, store
from tests.meta.bench import GRACE_SECONDS
from tests.meta.checked import DATA, REPAIR, checked, waiting_for_repair
from tests.meta.running import asking, error, put
from tests.on_reactor import on_reactor


def diagnoses(connection: Connection) -> list[str | None]:
    """Return what the catalog says against its replicas."""
    order = (replicas.c.generation, replicas.c.position, replicas.c.rank)
    return list(connection.execute(select(replicas.c.bad).order_by(*order)).scalars())


# Is there what the catalog knows?


@on_reactor
async def test_all_is_well(tmp_path: Path, reactor: Any) -> None:
    """Files and blocks are counted, empty files too, and there is nothing to say."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA, (1, 2))
        cluster.bench.put("b", DATA[:7])
        cluster.bench.put("empty", b"")
        page = await cluster.inspector.inspect(Fsck())
        assert ([], 3, 3) == (page.findings, page.files, page.blocks)
        assert [] == await cluster.findings()
        assert [] == await cluster.findings(verify=False)


@on_reactor
async def test_a_missing_replica_is_told_of_and_nothing_is_changed(tmp_path: Path, reactor: Any) -> None:
    """Not even noted: fsck alone is for looking."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA, (1, 2))
        cluster.bench.node(2).block("a-1").unlink()
        address = cluster.bench.node(2).address
        found = Finding("missing", f"block a-1 of a is missing on {address}", REPAIR, "a", "a-1", address)
        assert [found] == await cluster.findings(verify=False)
        assert [None] * 4 == seen(cluster.bench.database, diagnoses)
        assert [] == seen(cluster.bench.database, waiting_for_repair)


@on_reactor
async def test_a_missing_replica_is_repaired_at_once(tmp_path: Path, reactor: Any) -> None:
    """With repair it is marked and noted; the next round of repairs puts it back."""
    async with checked(reactor, tmp_path) as cluster:
        generation = cluster.bench.put("a", DATA, (1, 2)).generation
        cluster.bench.node(2).block("a-1").unlink()
        assert [("missing", "a-1", "2")] == await cluster.kinds(repair=True)
        assert [None, None, None, "missing"] == seen(cluster.bench.database, diagnoses)
        assert [(generation, 1, 0)] == seen(cluster.bench.database, waiting_for_repair)
        await cluster.bench.repairer.round()
        assert DATA[7:] == cluster.bench.node(2).block("a-1").read_bytes()
        assert [] == await cluster.findings()


@on_reactor
async def test_a_repair_that_waits_is_begun_now(tmp_path: Path, reactor: Any) -> None:
    """Whoever asks for a repair does not want to wait for the next try."""
    async with checked(reactor, tmp_path, 1) as cluster:
        generation = cluster.bench.put("a", DATA[:7], (1,), replicas=2).generation
        await cluster.findings(repair=True)
        await cluster.bench.repairer.round()
        [(_generation, _position, due)] = seen(cluster.bench.database, waiting_for_repair)
        assert due > 0
        await cluster.findings(repair=True)
        assert [(generation, 0, 0)] == seen(cluster.bench.database, waiting_for_repair)


@pytest.mark.parametrize("verify", [True, False])
@on_reactor
async def test_a_block_of_another_size_is_corrupt(tmp_path: Path, reactor: Any, verify: bool) -> None:
    """For that nothing has to be re-read. It stays where it is."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA, (1, 2))
        cluster.bench.node(1).put("a-0", b"012345")
        address = cluster.bench.node(1).address
        found = Finding("corrupt", f"block a-0 of a is corrupt on {address}", REPAIR, "a", "a-0", address)
        assert [found] == await cluster.findings(verify=verify)
        assert ["a-0", "a-1"] == cluster.bench.node(1).block_ids()
        assert [None] * 4 == seen(cluster.bench.database, diagnoses)


@on_reactor
async def test_other_bytes_are_found_by_reading_them(tmp_path: Path, reactor: Any) -> None:
    """A flipped bit shows only to those who verify."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA, (1, 2))
        cluster.bench.node(1).put("a-0", b"0123457")
        assert [] == await cluster.kinds(verify=False)
        assert [("corrupt", "a-0", "1")] == await cluster.kinds()


@on_reactor
async def test_a_corrupt_block_is_kept_aside_and_replaced(tmp_path: Path, reactor: Any) -> None:
    """With repair it goes to `.corrupt/`, and a good copy takes its place."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA, (1, 2))
        cluster.bench.node(1).put("a-0", b"0123457")
        assert [("corrupt", "a-0", "1")] == await cluster.kinds(repair=True)
        await cluster.bench.repairer.round()
        assert b"0123457" == cluster.bench.node(1).block(".corrupt/a-0").read_bytes()
        assert DATA[:7] == cluster.bench.node(1).block("a-0").read_bytes()
        assert [] == await cluster.findings()


@on_reactor
async def test_a_block_that_cannot_be_read_is_corrupt(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector is the data server's only answer; other blocks of it are looked at all the same."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA, (1, 2))
        find = cluster.bench.cluster.find

        async def fail(server: int, block_id: str, verify: bool) -> Any:
            if (server, block_id) == (1, "a-0"):
                raise Internal("cannot read the block: Input/output error")
            return await find(server, block_id, verify)

        monkeypatch.setattr(cluster.bench.cluster, "find", fail)
        cluster.bench.node(1).block("a-1").unlink()
        found = await cluster.inspector.inspect(Fsck())
        assert [("corrupt", "a-0"), ("missing", "a-1")] == [(each.kind, each.block_id) for each in found.findings]


@on_reactor
async def test_a_replica_that_was_marked_and_is_well_is_no_finding(tmp_path: Path, reactor: Any) -> None:
    """What counts is what is on the disk now; with repair the mark goes too."""
    async with checked(reactor, tmp_path) as cluster:
        generation = cluster.bench.put("a", DATA[:7], (1, 2)).generation
        done(cluster.bench.database, mark, Place(generation, 0), 1, "missing")
        assert [] == await cluster.findings()
        assert ["missing", None] == seen(cluster.bench.database, diagnoses)
        assert [] == await cluster.findings(repair=True)
        assert [None, None] == seen(cluster.bench.database, diagnoses)


@on_reactor
async def test_too_few_replicas(tmp_path: Path, reactor: Any) -> None:
    """As after an upload that found one data server only; repair makes the other."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA[:7], (1,), replicas=2)
        sentence = "block a-0 of a is on 1 data server, and should be on 2"
        assert [Finding("under_replicated", sentence, REPAIR, "a", "a-0")] == await cluster.findings()
        await cluster.findings(repair=True)
        await cluster.bench.repairer.round()
        assert DATA[:7] == cluster.bench.node(2).block("a-0").read_bytes()
        assert [] == await cluster.findings()


@on_reactor
async def test_a_block_that_no_data_server_has_is_lost(tmp_path: Path, reactor: Any) -> None:
    """One finding says it all, and what is left to do; the name is spelled for a shell."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("it's a", DATA[:7], (1, 2))
        cluster.bench.node(1).block("it's a-0").unlink()
        cluster.bench.node(2).put("it's a-0", b"nonsense")
        one, two = (node.address for node in cluster.bench.nodes)
        sentence = f"block it's a-0 of it's a is lost: missing on {one}, corrupt on {two}"
        name = "'it'\"'\"'s a'"
        mend = f"filefly-client upload --name {name} FILE, or filefly-client rm {name}"
        assert [Finding("lost", sentence, mend, "it's a", "it's a-0")] == await cluster.findings()


@on_reactor
async def test_what_only_a_retired_data_server_had_is_lost(tmp_path: Path, reactor: Any) -> None:
    """There is no place left at which to look."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA[:7], (1,))
        row = done(cluster.bench.database, check_removable, cluster.bench.node(1).address, True)
        done(cluster.bench.database, forget_replicas, row.key, 10)
        [finding] = (await cluster.inspector.inspect(Fsck())).findings
        assert "block a-0 of a is lost: no data server has it any more" == finding.sentence


@on_reactor
async def test_a_file_that_is_deleted_meanwhile_is_no_finding(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen missing belonged to nothing any more."""
    async with checked(reactor, tmp_path, 1) as cluster:
        cluster.bench.put("a", DATA[:7])
        cluster.bench.node(1).block("a-0").unlink()
        database = cluster.bench.database
        cluster.meanwhile(monkeypatch, lambda: done(database, delete_file, "a", DUE))
        assert [] == await cluster.findings()


@on_reactor
async def test_a_file_that_is_renamed_meanwhile_goes_by_its_new_name(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that mends it must name a file that is there."""
    async with checked(reactor, tmp_path, 1) as cluster:
        cluster.bench.put("a", DATA[:7])
        cluster.bench.node(1).block("a-0").unlink()
        database = cluster.bench.database
        cluster.meanwhile(monkeypatch, lambda: done(database, rename_file, "a", "b", DUE))
        assert ["b"] == [finding.file_name for finding in await cluster.findings()]


@on_reactor
async def test_a_replica_that_is_given_up_meanwhile_is_no_finding(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missing because it should be."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA[:7], (1, 2), replicas=1)
        cluster.bench.node(1).block("a-0").unlink()
        database = cluster.bench.database
        cluster.meanwhile(monkeypatch, lambda: done(database, forget_replicas, 1, 10))
        assert [] == await cluster.findings()


# Data servers that cannot be asked


@on_reactor
async def test_a_data_server_that_is_down_is_one_finding(tmp_path: Path, reactor: Any) -> None:
    """However many pages and blocks there are; what it has is neither missing nor lost."""
    async with checked(reactor, tmp_path) as cluster:
        for name in "abcd":
            cluster.bench.put(name, DATA, (2,))
        await cluster.bench.down(2)
        [finding] = await cluster.findings(limit=1)
        address = cluster.bench.node(2).address
        assert ("unreachable", address) == (finding.kind, finding.data_server)
        assert finding.sentence.startswith(f"data server {address} cannot be asked: cannot reach {address}: ")
        assert finding.mend.startswith("start the data server; if it has moved, filefly-client servers add HOST:PORT; ")
        assert finding.mend.endswith(f"if its disk is gone for good, filefly-client servers remove {address} --lost")


@on_reactor
async def test_a_data_server_that_does_not_answer_is_not_asked_for_every_block(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before it is known to be down: no page waits for it again and again."""
    async with checked(reactor, tmp_path) as cluster:
        for number in range(20):
            cluster.bench.put(f"a{number}", DATA[:7], (2,))
        await cluster.bench.node(2).stop()
        find, asked = cluster.bench.cluster.find, []

        async def count(*args: Any) -> Any:
            asked.append(args)
            return await find(*args)

        monkeypatch.setattr(cluster.bench.cluster, "find", count)
        page = await cluster.inspector.inspect(Fsck())
        assert ["unreachable"] == [finding.kind for finding in page.findings]
        assert len(asked) <= 8


@on_reactor
async def test_a_data_server_that_is_away_does_not_count(tmp_path: Path, reactor: Any) -> None:
    """After the repair delay its blocks have too few replicas."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA[:7], (1, 2))
        await cluster.bench.down(2)
        assert [("unreachable", None, "2")] == await cluster.kinds()
        cluster.bench.monotonic.now += GRACE_SECONDS
        await cluster.bench.health.round()
        assert [("unreachable", None, "2"), ("under_replicated", "a-0", None)] == await cluster.kinds()


@on_reactor
async def test_another_storage_is_to_be_accepted(tmp_path: Path, reactor: Any) -> None:
    """An empty disk where there was a full one is not taken for one that lost everything."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA[:7], (1,))
        await cluster.bench.node(1).stop()
        cluster.bench.node(1).folder = tmp_path / "empty"
        cluster.bench.node(1).start()
        await cluster.bench.health.round()  # the old connection is lost
        await cluster.bench.health.round()
        [finding] = await cluster.findings()
        assert ("unreachable", f"filefly-client servers accept {cluster.bench.node(1).address}") == (
            finding.kind,
            finding.mend,
        )


@on_reactor
async def test_another_catalogs_storage_is_not_to_be_accepted_at_once(tmp_path: Path, reactor: Any) -> None:
    """Mostly --catalog was mistyped: then accepting it would take all that is on it from the right catalog."""
    async with checked(reactor, tmp_path) as cluster:
        node = cluster.bench.node(1)
        cluster.bench.put("a", DATA[:7], (1,))
        await node.stop()
        node.folder = tmp_path / "of another catalog"
        node.folder.mkdir()
        (node.folder / ".filefly.json").write_bytes(b'{"storage_id":"far","catalog_id":"other","generation":1}')
        node.start()
        await cluster.bench.health.round()  # the old connection is lost
        await cluster.bench.health.round()
        [finding] = await cluster.findings()
        why = "holds a storage of another catalog (is --catalog the right file?)"
        assert f"data server {node.address} cannot be asked: {why}" == finding.sentence
        assert finding.mend == (
            "stop this metadata server and start it with the right --catalog; "
            f"only if that catalog is gone for good: filefly-client servers accept {node.address} --take-over"
        )


@on_reactor
async def test_a_storage_that_is_seen_nowhere_is_told_of_by_its_id(tmp_path: Path, reactor: Any) -> None:
    """It has no address to be named by."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA[:7], (1,))
        storage_id = cluster.bench.cluster.servers[1].storage_id
        await cluster.bench.node(1).stop()
        cluster.bench.node(1).folder = tmp_path / "new"
        cluster.bench.node(1).start()
        await cluster.bench.health.accept(cluster.bench.node(1).address)
        [finding] = await cluster.findings()
        assert ("unreachable", storage_id) == (finding.kind, finding.data_server)


# Pages


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@on_reactor
async def test_pages_of_any_size_find_the_same(tmp_path: Path, reactor: Any, limit: int) -> None:
    """Findings come in the order of the files, then of the block files."""
    async with checked(reactor, tmp_path) as cluster:
        for name in "abc":
            cluster.bench.put(name, DATA + DATA, (1, 2))
        cluster.bench.put("empty", b"")
        cluster.bench.node(2).block("a-2").unlink()
        cluster.bench.node(1).block("b-0").unlink()
        cluster.bench.node(1).put("stray-0", b"?")
        found = [("missing", "a-2", "2"), ("missing", "b-0", "1"), ("unknown", "stray-0", "1")]
        assert found == await cluster.kinds(limit=limit)


def test_a_page_has_no_more_to_read_than_a_client_waits_for(tmp_path: Path) -> None:
    """All replicas count; one block at least is in it."""
    with opened(tmp_path) as database:
        first, second = store(database, "a", 21, servers=(1, 2)), store(database, "b", 7)
        stretch = seen(database, next_stretch, FIRST, 100, 20)
        assert (["a-0", "a-1"], 1) == ([block.id for block in stretch.blocks], stretch.files)
        assert stretch.next is not None
        stretch = seen(database, next_stretch, stretch.next, 100, 1)
        assert (["a-2"], Place(first.generation, 2)) == ([block.id for block in stretch.blocks], stretch.next)
        stretch = seen(database, next_stretch, Place(first.generation, 2), 100, 1)
        assert (["b-0"], 1, None) == ([block.id for block in stretch.blocks], stretch.files, stretch.next)
        assert first.generation < second.generation


def test_only_committed_files_are_in_a_page(tmp_path: Path) -> None:
    """Open plans and deleted files have blocks too."""
    with opened(tmp_path) as database:
        store(database, "a")
        done(database, delete_file, "a", DUE)
        plan(database, "b")
        stretch = seen(database, next_stretch, FIRST, 100, 100)
        assert ([], 0, None) == (stretch.blocks, stretch.files, stretch.next)


@pytest.mark.parametrize("after", ["x", "{}", "[-1]", "[1,-2]", "[1,0,1,7]", "[1,99999999999]", '[1,0,1,"",["a"]]'])
def test_an_after_that_no_page_had_as_next_is_refused(after: str) -> None:
    """It is opaque, but not blindly trusted."""
    with pytest.raises(BadRequest, match="after must be empty, or what the page before had as next"):
        Cursor.parse(after)


@on_reactor
async def test_fsck_is_a_command(tmp_path: Path, reactor: Any) -> None:
    """As by nc."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        await put(cluster, caller, "a", DATA)
        page = await caller.ask(command="fsck")
        assert ([], 1, 2) == (page["findings"], page["files"], page["blocks"])
        page = await caller.ask(command="fsck", after="nonsense")
        assert error("after must be empty, or what the page before had as next", "bad_request") == page
