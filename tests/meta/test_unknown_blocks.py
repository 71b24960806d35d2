from pathlib import Path
from typing import Any

import pytest

from filefly.catalog.endings import delete_file
from filefly.catalog.inventory import suspend
from filefly.catalog.plans import Plan
from filefly.catalog.unknown_blocks import set_unknown_aside, unknown_ids
from filefly.meta import fsck
from filefly.wire.administration import Finding
from tests.catalog.catalogs import DUE, done, ids_of, opened, plan, seen, store, trashed
from tests.meta.checked import DATA, REPAIR, checked
from tests.on_reactor import on_reactor

# Does the catalog know what is there?


@on_reactor
async def test_a_block_file_that_nothing_knows(tmp_path: Path, reactor: Any) -> None:
    """It is told of, and left alone."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.node(2).put("stray-0", b"?")
        address = cluster.bench.node(2).address
        sentence = f"data server {address} has a block stray-0 that the catalog does not know"
        found = Finding("unknown", sentence, REPAIR, block_id="stray-0", data_server=address)
        assert [found] == await cluster.findings()
        await cluster.bench.trash.round()
        assert ["stray-0"] == cluster.bench.node(2).block_ids()


@on_reactor
async def test_what_open_and_ended_plans_and_the_trash_have_is_known(tmp_path: Path, reactor: Any) -> None:
    """An upload under way, a file that may be brought back, blocks that are going."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.plan("open", DATA)
        cluster.bench.put("deleted", DATA)
        cluster.bench.put("going", DATA)
        done(cluster.bench.database, delete_file, "going", 0)
        await cluster.bench.trash.round()  # it becomes trash, and is deleted at once ...
        cluster.bench.put("going", DATA)
        done(cluster.bench.database, delete_file, "going", 0)
        done(cluster.bench.database, delete_file, "deleted", DUE)
        before = cluster.bench.node(1).block_ids()
        assert [] == await cluster.kinds(repair=True)
        assert before == cluster.bench.node(1).block_ids()


@on_reactor
async def test_unknown_blocks_are_set_aside_never_deleted(tmp_path: Path, reactor: Any) -> None:
    """With repair they are moved to `.unknown/` by what deletes, too; then all is well."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA)
        names = ["no number", "stray-0", "stray-1.9999"]
        for name in names:
            cluster.bench.node(1).put(name, b"?")
            cluster.bench.node(2).put(name, b"?")
        strays = [("unknown", name, key) for key in "12" for name in names]
        assert strays == await cluster.kinds(repair=True)
        assert [] == await cluster.kinds(repair=True)  # they are known now: as what is going aside
        await cluster.bench.trash.round()
        assert ["a-0", "a-1"] == cluster.bench.node(1).block_ids()
        assert [] == cluster.bench.node(2).block_ids()
        assert b"?" == cluster.bench.node(1).block(".unknown/stray-0").read_bytes()
        assert [] == await cluster.kinds()
        assert [] == seen(cluster.bench.database, trashed)


@on_reactor
async def test_a_block_that_becomes_known_meanwhile_is_not_set_aside(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan took its id after it was listed: its bytes may be an upload's."""
    async with checked(reactor, tmp_path, 1) as cluster:
        cluster.bench.node(1).put("stray-0", b"?")
        cluster.meanwhile(monkeypatch, lambda: plan(cluster.bench.database, "stray"))
        assert [] == await cluster.kinds(repair=True)
        assert [] == seen(cluster.bench.database, trashed)


@on_reactor
async def test_a_block_that_is_deleted_meanwhile_is_no_finding(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was listed, then deleted and forgotten."""
    async with checked(reactor, tmp_path, 1) as cluster:
        cluster.bench.node(1).put("stray-0", b"?")
        listed = cluster.bench.cluster.list_blocks

        async def list_and_delete(*args: Any) -> Any:
            page = await listed(*args)
            cluster.bench.node(1).block("stray-0").unlink()
            return page

        monkeypatch.setattr(cluster.bench.cluster, "list_blocks", list_and_delete)
        assert [] == await cluster.findings()


@on_reactor
async def test_a_catalog_that_is_older_than_its_data_sets_nothing_aside(tmp_path: Path, reactor: Any) -> None:
    """What it does not know may be what it has forgotten: somebody has to accept it first."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.node(1).put("stray-0", b"?")
        done(cluster.bench.database, suspend, "it is old", 1000)
        await cluster.bench.health.round()
        [finding] = await cluster.findings(repair=True)
        assert ("unknown", "save what you need of it, then filefly-client catalog accept") == (
            finding.kind,
            finding.mend,
        )
        assert [] == seen(cluster.bench.database, trashed)
        await cluster.bench.health.accept_catalog()
        assert [("unknown", "stray-0", "1")] == await cluster.kinds(repair=True)
        assert [("stray-0", 1)] == seen(cluster.bench.database, trashed)


@on_reactor
async def test_a_catalog_that_is_older_than_its_data_moves_no_corrupt_block(tmp_path: Path, reactor: Any) -> None:
    """Bytes that differ from what it says may be what came later."""
    async with checked(reactor, tmp_path) as cluster:
        cluster.bench.put("a", DATA, (1, 2))
        cluster.bench.node(1).put("a-0", b"0123457")
        done(cluster.bench.database, suspend, "it is old", 1000)
        await cluster.bench.health.round()
        [finding] = await cluster.findings(repair=True)
        assert ("corrupt", "filefly-client catalog accept") == (finding.kind, finding.mend)
        assert ["a-0", "a-1"] == cluster.bench.node(1).block_ids()


@on_reactor
async def test_block_files_are_listed_a_page_at_a_time(
    tmp_path: Path, reactor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: a page of fsck is a page of the listing of one data server."""
    monkeypatch.setattr(fsck, "MAX_PAGE", 3)
    monkeypatch.setattr(fsck, "_LOOKED_UP_AT_ONCE", 2)
    async with checked(reactor, tmp_path) as cluster:
        names = [f"stray-{number}" for number in range(8)]
        for name in names:
            cluster.bench.node(1).put(name, b"?")
            cluster.bench.node(2).put(name, b"?")
        assert [("unknown", name, key) for key in "12" for name in names] == await cluster.kinds()


# Unknown blocks, as statements


def named(database: Any, *block_ids: str) -> list[str]:
    """Return those of some ids that are unknown."""
    return seen(database, unknown_ids, 1, block_ids)


def test_ids_of_both_forms_are_looked_up(tmp_path: Path) -> None:
    """Neither another position nor another generation of a name that is known is known."""
    with opened(tmp_path) as database:
        short, long = store(database, "a"), plan(database, "a")
        known = [*ids_of(short), *ids_of(long)]
        assert [] == named(database, *known)
        others = ["a-2", "a-0.99", f"a-2.{long.generation}", f"b-0.{long.generation}", f"a-0.{short.generation}"]
        strange = ["a", "a-", "-0", "a-00", "a-٣", "a-0.", "a-99999999999999999999", "a-0.99999999999999999999"]
        assert [*others, *strange] == named(database, *others, *strange)


def test_no_plan_takes_the_id_of_a_block_that_goes_aside(tmp_path: Path) -> None:
    """Or its first upload would be moved away."""
    with opened(tmp_path) as database:
        assert ["a-0", "a-1.77"] == done(database, set_unknown_aside, 1, ["a-0", "a-1.77"])
        planned: Plan = plan(database, "a")
        assert [f"a-0.{planned.generation}", f"a-1.{planned.generation}"] == list(ids_of(planned))


def test_what_is_known_is_not_set_aside(tmp_path: Path) -> None:
    """It is looked up in the transaction that would do it."""
    with opened(tmp_path) as database:
        plan(database, "a")
        assert ["b-0"] == done(database, set_unknown_aside, 1, ["a-0", "b-0"])
        assert [] == done(database, set_unknown_aside, 1, ["a-0", "b-0"])
        assert [("b-0", 1)] == seen(database, trashed)
