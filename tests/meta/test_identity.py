from collections.abc import Mapping

import pytest
from attrs import evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from filefly.catalog.inventory import DataServerRow, identify
from filefly.catalog.schema import data_servers
from filefly.meta.identity import Identity, Reconciled, reconcile
from tests.catalog.catalogs import done, opened

OURS = "catalog"
ONE = DataServerRow(1, "a:1", None, True, "one")
TWO = DataServerRow(2, "b:1", None, True, "two")
NEW = DataServerRow(3, "c:1", None, True)
AWAY = DataServerRow(4, None, None, True, "four")
ROWS = [ONE, TWO, NEW, AWAY]


def shown(storage_id: str, catalog_id: str | None = OURS, generation: int = 0) -> Identity:
    return Identity(storage_id, catalog_id, generation)


def concluded(**seen: Identity) -> Reconciled:
    """Reconcile what is seen at a:1, b:1 and c:1."""
    keys = {"a": 1, "b": 2, "c": 3}
    return reconcile(ROWS, {keys[where]: identity for where, identity in seen.items()}, OURS)


def test_who_is_not_heard_of_is_not_judged() -> None:
    """Silence says nothing about who is there."""
    assert Reconciled() == concluded()


def test_who_is_where_it_was_is_ours() -> None:
    """Nothing changes."""
    assert Reconciled(ours=[1, 2]) == concluded(a=shown("one"), b=shown("two"))


def test_a_storage_that_knows_no_catalog_yet_is_adopted() -> None:
    """Being told whose it is may have failed the first time."""
    assert Reconciled(ours=[1], unadopted=[1]) == concluded(a=shown("one", None))


def test_a_storage_of_nobody_at_a_new_address_is_new() -> None:
    """It is what the address stands for from now on."""
    assert Reconciled(new={3: "three"}) == concluded(c=shown("three", None))


def test_a_storage_at_another_address_has_moved() -> None:
    """To a new address, from nowhere, or in place of another one, which is nowhere then."""
    assert Reconciled(moved={1: 3}) == concluded(c=shown("one"))
    assert Reconciled(moved={4: 3}) == concluded(c=shown("four"))
    assert Reconciled(moved={4: 1}) == concluded(a=shown("four"))


def test_a_storage_that_moved_may_not_know_its_catalog() -> None:
    """It was heard from, and moved before it was told."""
    assert Reconciled(moved={1: 3}) == concluded(c=shown("one", None))


def test_swapped_storages_have_both_moved() -> None:
    """Each keeps its own replicas."""
    assert Reconciled(moved={2: 1, 1: 2}) == concluded(a=shown("two"), b=shown("one"))


def test_a_circle_has_moved_as_a_whole() -> None:
    """However many there are in it."""
    expected = Reconciled(moved={2: 1, 4: 2, 1: 3})
    assert expected == concluded(a=shown("two"), b=shown("four"), c=shown("one"))


def test_another_storage_under_an_old_address_is_refused() -> None:
    """An empty folder, or an older disk: perhaps the right one is not mounted."""
    why = "holds another storage than before (is its disk mounted?)"
    sentence = f"{why}; to take it as it is: filefly-client servers accept a:1"
    assert Reconciled(refused={1: sentence}) == concluded(a=shown("empty", None))


def test_what_is_where_a_storage_was_that_moved_is_not_held_against_it() -> None:
    """The storage goes by its new address; the old one is nobody's, and has to be listed or registered again."""
    assert Reconciled(moved={1: 3}) == concluded(a=shown("empty", None), c=shown("one"))


@pytest.mark.parametrize("storage_id", ["one", "two", "four", "other"])
@pytest.mark.parametrize("where", ["a", "c"])
def test_another_catalogs_storage_is_refused(storage_id: str, where: str) -> None:
    """Whatever its id is: even a copy of one of ours that somebody gave to another catalog."""
    [(key, sentence)] = concluded(**{where: shown(storage_id, "other catalog")}).refused.items()
    assert {"a": 1, "c": 3}[where] == key
    assert sentence == (
        "holds a storage of another catalog (is --catalog the right file?); "
        "stop this metadata server and start it with the right --catalog; "
        f"only if that catalog is gone for good: filefly-client servers accept {where}:1 --take-over"
    )


def test_a_storage_that_was_ours_is_refused() -> None:
    """The catalog is older than it, or it was removed for good."""
    sentence = (
        "holds a storage that this catalog does not know any more; "
        "to take it as it is: filefly-client servers accept c:1"
    )
    assert Reconciled(refused={3: sentence}) == concluded(c=shown("three"))


def test_a_copy_of_a_storage_is_refused() -> None:
    """The one at home is used, in whatever order they are listed."""
    sentence = "holds the storage of {}, or a copy of it; use one of them"
    assert Reconciled(ours=[1], refused={3: sentence.format("a:1")}) == concluded(a=shown("one"), c=shown("one"))
    assert Reconciled(ours=[2], refused={1: sentence.format("b:1")}) == concluded(a=shown("two"), b=shown("two"))


def test_two_copies_of_a_storage_that_is_not_at_home() -> None:
    """One of them is used."""
    expected = {3: "holds the storage of a:1, or a copy of it; use one of them"}
    assert Reconciled(moved={1: 2}, refused=expected) == concluded(b=shown("one"), c=shown("one"))


def test_a_new_storage_that_is_listed_twice_is_used_once() -> None:
    """By the name that was listed first."""
    rows = [NEW, evolve(NEW, key=5, address="d:1")]
    seen = {row.key: shown("three", None) for row in rows}
    sentence = "holds a storage that is listed under another address too; use one of them"
    assert Reconciled(new={3: "three"}, refused={5: sentence}) == reconcile(rows, seen, OURS)


# Whatever is seen


@frozen
class World:
    """Some rows of a catalog, and who is at their addresses."""

    rows: list[DataServerRow]
    seen: Mapping[int, Identity] = field(factory=dict)


STORAGES = ["s1", "s2", "s3", "s4"]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    ids = draw(st.permutations([*STORAGES[:3], None, None]))
    rows = []
    for key, storage_id in enumerate(ids, start=1):
        address = f"host{key}:1" if storage_id is None or draw(st.booleans()) else None
        rows.append(DataServerRow(key, address, None, True, storage_id))
    identities = st.builds(
        Identity, st.sampled_from(STORAGES), st.sampled_from([OURS, OURS, None, "other"]), st.integers(0, 3)
    )
    at = [row.key for row in rows if row.address is not None]
    return World(rows, draw(st.dictionaries(st.sampled_from(at), identities)))


def carried_out(world: World, found: Reconciled) -> list[DataServerRow]:
    """Apply what was found, as `identify` does to the catalog."""
    rows = {row.key: row for row in world.rows}
    after = {key: evolve(row, storage_id=found.new.get(key, row.storage_id)) for key, row in rows.items()}
    for key in {*found.moved.keys(), *found.moved.values()}:
        after[key] = evolve(after[key], address=None)
    for key, at in found.moved.items():
        after[key] = evolve(after[key], address=rows[at].address)
        if rows[at].storage_id is None:
            del after[at]
    ousted = [at for at in found.moved.values() if at not in found.moved and rows[at].storage_id is not None]
    left = [rows[key].address for key in found.moved if key not in found.moved.values() and rows[key].address]
    for key, address in zip(ousted, left, strict=False):
        after[key] = evolve(after[key], address=address)
    return list(after.values())


@given(worlds())
def test_no_storage_is_at_two_addresses_nor_two_at_one(world: World) -> None:
    """Whatever is seen; and every storage that is somewhere stays known."""
    after = carried_out(world, reconcile(world.rows, world.seen, OURS))
    addresses = [row.address for row in after if row.address is not None]
    storages = [row.storage_id for row in after if row.storage_id is not None]
    assert len(set(addresses)) == len(addresses)
    assert len(set(storages)) == len(storages)
    assert {row.storage_id for row in world.rows if row.storage_id} <= set(storages)


@given(worlds())
def test_no_replica_changes_its_storage(world: World) -> None:
    """A row that is a storage stays that storage; only rows that never were one become one, or a part of one."""
    after = {row.key: row.storage_id for row in carried_out(world, reconcile(world.rows, world.seen, OURS))}
    for row in world.rows:
        if row.storage_id is not None:
            assert row.storage_id == after[row.key]


@given(worlds())
def test_who_is_used_is_seen_there(world: World) -> None:
    """An address is used only for the storage that answered there, and not for another catalog's."""
    found = reconcile(world.rows, world.seen, OURS)
    rows = {row.key: row for row in world.rows}
    used = [(key, rows[key].storage_id) for key in found.ours]
    used += [(at, rows[key].storage_id) for key, at in found.moved.items()]
    used += list(found.new.items())
    for at, storage_id in used:
        assert storage_id == world.seen[at].storage_id
        assert world.seen[at].catalog_id in (None, OURS)
    assert len({at for at, _storage_id in used}) == len(used)


@given(worlds())
def test_everybody_who_is_seen_is_judged_once(world: World) -> None:
    """As ours, as moved there, as new, or refused; but what is where a storage was before is not held against it."""
    found = reconcile(world.rows, world.seen, OURS)
    judged = [*found.ours, *found.moved.values(), *found.new, *found.refused]
    assert len(set(judged)) == len(judged)
    assert set(judged) <= set(world.seen)
    assert set(world.seen) - set(judged) <= set(found.moved)
    assert set(found.unadopted) == {key for key in found.ours if world.seen[key].catalog_id is None}


@given(worlds())
def test_who_is_refused_changes_nothing(world: World) -> None:
    """All else is as if that address had not answered."""
    found = reconcile(world.rows, world.seen, OURS)
    others = {key: identity for key, identity in world.seen.items() if key not in found.refused}
    assert evolve(found, refused={}) == reconcile(world.rows, others, OURS)


@given(worlds())
def test_after_a_round_the_next_one_finds_nothing_to_change(world: World) -> None:
    """Whoever was used is where it is expected then; whoever was refused is refused again."""
    found = reconcile(world.rows, world.seen, OURS)
    after = carried_out(world, found)
    at = {row.address: row.key for row in world.rows if row.address is not None}
    seen = {row.key: world.seen[at[row.address]] for row in after if row.address and at[row.address] in world.seen}
    again = reconcile(after, seen, OURS)
    assert ({}, {}) == (again.moved, again.new)
    assert {*found.ours, *found.moved, *found.new} == {*again.ours}
    assert found.refused.keys() <= again.refused.keys()  # and who was driven out may find a copy where it is looked for


@settings(deadline=None, max_examples=40)
@given(world=worlds())
def test_the_catalog_does_what_was_concluded(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever that is: each storage is where it should be, in one transaction."""
    found = reconcile(world.rows, world.seen, OURS)
    with opened(tmp_path_factory.mktemp("catalog"), servers=0) as database:
        rows = [
            {"key": row.key, "address": row.address, "storage_id": row.storage_id, "placing": True, "registered": True}
            for row in world.rows
        ]
        done(database, lambda connection: connection.execute(insert(data_servers), rows) and None)
        after = done(database, identify, found.moved, found.new)
    expected = [(row.key, row.address, row.storage_id) for row in carried_out(world, found)]
    assert expected == [(row.key, row.address, row.storage_id) for row in after]
