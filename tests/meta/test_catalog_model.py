"""The catalog against a model of it: two dicts and a set."""

import tempfile
from pathlib import Path

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select

from filefly.errors import Conflict, NotFound
from filefly.meta.catalog import (
    Commit,
    Plan,
    StoredReplicas,
    commit_plan,
    committed_plan,
    delete_file,
    open_plans,
    rename_file,
)
from filefly.meta.inventory import due_trash, forget_trash
from filefly.meta.schema import blocks, replicas
from tests.meta.catalogs import DUE, MODIFIED, SUM, done, listed, open_catalog, page_of, plan, seen, trashed

NAMES = st.sampled_from(["a", "a/b", "a-0", "x" * 250])
SERVERS = 3


@define
class Open:
    """An open plan as the model knows it."""

    planned: Plan
    if_generation: int | None


class CatalogMachine(RuleBasedStateMachine):
    """Does the same to a catalog and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = open_catalog(Path(self.folder.name), SERVERS)
        self.files: dict[str, Plan] = {}
        self.open: dict[int, Open] = {}
        self.ended: list[Plan] = []
        self.trash: list[tuple[str, int]] = []
        self.newest = 0

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def end(self, planned: Plan) -> None:
        self.ended.append(planned)
        self.trash += [(block.id, server) for block in planned.blocks for server in block.servers]

    def generation_of(self, name: str) -> int:
        return self.files[name].generation if name in self.files else 0

    @rule(
        name=NAMES,
        size=st.integers(0, 15),
        servers=st.sampled_from([(1,), (2,), (3, 1), (1, 2, 3)]),
        explicit=st.booleans(),
        if_generation=st.sampled_from([None, None, "right", "wrong"]),
    )
    def plan_file(
        self, name: str, size: int, servers: tuple[int, ...], explicit: bool, if_generation: str | None
    ) -> None:
        wanted = {None: None, "right": self.generation_of(name), "wrong": self.newest + 1}[if_generation]
        try:
            planned = plan(self.database, name, size, servers, explicit=explicit, if_generation=wanted)
        except Conflict:
            assert if_generation == "wrong"
            return
        assert if_generation != "wrong"
        assert planned.generation > self.newest
        self.newest = planned.generation
        self.open[planned.generation] = Open(planned, wanted)

    @precondition(lambda self: self.open or self.files or self.ended)
    @rule(data=st.data(), only_if_newer=st.booleans(), missing=st.booleans())
    def commit_plan(self, data: st.DataObject, only_if_newer: bool, missing: bool) -> None:
        known = [*(each.planned for each in self.open.values()), *self.files.values(), *self.ended]
        planned = data.draw(st.sampled_from(known))
        stored = [
            StoredReplicas(SUM, block.servers[1:] if missing and len(block.servers) > 1 else block.servers)
            for block in planned.blocks
        ]
        asked = Commit(planned.generation, stored, MODIFIED, only_if_newer=only_if_newer)
        name = next((name for name, file in self.files.items() if file.generation == planned.generation), planned.name)
        current = self.generation_of(name)
        plan_is_open = self.open.get(planned.generation)
        possible = planned.generation == current or (
            plan_is_open is not None
            and plan_is_open.if_generation in (None, current)
            and not (only_if_newer and current > planned.generation)
        )
        try:
            committed = done(self.database, commit_plan, asked, DUE)
        except Conflict:
            assert not possible
            return
        assert possible
        if planned.generation == current:
            assert committed == self.files[name]
            return
        assert [each.servers for each in stored] == [block.servers for block in committed.blocks]
        del self.open[planned.generation]
        if name in self.files:
            self.end(self.files[name])
        self.files[name] = committed
        for block, kept in zip(planned.blocks, stored, strict=True):
            self.trash += [(block.id, server) for server in block.servers if server not in kept.servers]
        for generation, each in list(self.open.items()):
            if each.planned.name == name and not each.planned.explicit and generation < planned.generation:
                self.end(self.open.pop(generation).planned)

    @rule(name=NAMES)
    def delete_file(self, name: str) -> None:
        gone = [generation for generation, each in self.open.items() if each.planned.name == name]
        try:
            done(self.database, delete_file, name, DUE)
        except NotFound:
            assert not gone
            assert name not in self.files
            return
        assert gone or name in self.files
        for generation in gone:
            self.end(self.open.pop(generation).planned)
        if name in self.files:
            self.end(self.files.pop(name))

    @rule(name=NAMES, new_name=NAMES)
    def rename_file(self, name: str, new_name: str) -> None:
        try:
            done(self.database, rename_file, name, new_name, DUE)
        except NotFound:
            assert name not in self.files
            return
        moved = self.files.pop(name)
        if new_name in self.files:
            self.end(self.files[new_name])
        self.files[new_name] = seen(self.database, committed_plan, new_name)
        assert (moved.generation, moved.blocks) == (self.files[new_name].generation, self.files[new_name].blocks)

    @rule(up=st.sets(st.integers(1, SERVERS)))
    def collect_trash(self, up: set[int]) -> None:
        rows = seen(self.database, due_trash, DUE, [key for key in range(1, SERVERS + 1) if key not in up], 1000)
        done(self.database, forget_trash, [row.key for row in rows])
        self.trash = [(block_id, server) for block_id, server in self.trash if server not in up]

    @rule()
    def restart(self) -> None:
        self.database.close()
        self.database = open_catalog(Path(self.folder.name), SERVERS)

    @rule(prefix=st.sampled_from(["", "a", "a/", "a-"]), delimiter=st.sampled_from(["", "/", "-"]), after=NAMES)
    def list_files(self, prefix: str, delimiter: str, after: str) -> None:
        expected = page_of(self.files, prefix, delimiter, after, 2)
        assert expected == seen(self.database, listed, prefix, delimiter, after, 2)

    @invariant()
    def the_files_are_those_of_the_model(self) -> None:
        assert page_of(self.files, "", "", "", 100) == seen(self.database, listed, "", "", "", 100)
        for name, file in self.files.items():
            assert file == seen(self.database, committed_plan, name)

    @invariant()
    def the_open_plans_are_those_of_the_model(self) -> None:
        for name in {each.planned.name for each in self.open.values()}:
            expected = [each.planned for each in self.open.values() if each.planned.name == name]
            assert expected[::-1] == seen(self.database, open_plans, name)

    @invariant()
    def the_trash_is_what_was_given_up(self) -> None:
        assert sorted(self.trash) == sorted(seen(self.database, trashed))

    @invariant()
    def no_block_that_is_in_use_is_trash_or_anothers(self) -> None:
        same = (blocks.c.generation == replicas.c.generation) & (blocks.c.position == replicas.c.position)
        in_use = self.database.read(
            lambda connection: connection.execute(
                select(blocks.c.id, replicas.c.server).join_from(blocks, replicas, same)
            ).all()
        )
        pairs = [(block_id, server) for block_id, server in in_use]
        assert len(pairs) == len(set(pairs))
        assert not set(pairs) & set(self.trash)


TestCatalog = CatalogMachine.TestCase
TestCatalog.settings = settings(deadline=None, max_examples=12, stateful_step_count=50)
