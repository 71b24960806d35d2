"""The catalog against a model of it: some dicts and lists."""

import tempfile
from pathlib import Path

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select

from filefly.catalog.commits import Commit, StoredReplicas, commit_plan
from filefly.catalog.endings import (
    delete_file,
    due_trash,
    expire_plans,
    forget_trash,
    let_go,
    rename_file,
    silent_implicit_plans,
    undelete_file,
)
from filefly.catalog.planning import newest_explicit_plan, replace_replica, touch_plan
from filefly.catalog.plans import Plan, committed_plan
from filefly.catalog.quotas import set_quota
from filefly.catalog.schema import blocks, quotas, replicas, trash
from filefly.errors import Conflict, NotFound, Unavailable
from tests.catalog.catalogs import MODIFIED, SUM, done, ended, listed, open_catalog, open_plans, page_of, plan, seen

NAMES = st.sampled_from(["a", "a/b", "a-0", "x" * 250])
PREFIXES = st.sampled_from(["", "a", "a/", "x"])
SERVERS = 3
GRACE = 5
TIME_TO_LIVE = 12
MANY = 1_000_000


@define
class Open:
    """An open plan as the model knows it."""

    planned: Plan
    if_generation: int | None
    resumes: int | None
    touched: int


@define
class Ended:
    """A file or an upload that is over, but not yet trash."""

    plan: Plan
    name: str
    due: int
    was_file: bool


@define(frozen=True, order=True)
class Rubbish:
    """A replica that must go."""

    block_id: str
    server: int
    due: int


class CatalogMachine(RuleBasedStateMachine):
    """Does the same to a catalog and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = open_catalog(Path(self.folder.name), SERVERS)
        self.files: dict[str, Plan] = {}
        self.limited: set[str] = set()
        self.open: dict[int, Open] = {}
        self.ended: list[Ended] = []
        self.gone: list[Plan] = []
        self.trash: list[Rubbish] = []
        self.newest = 0
        self.now = 0

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @property
    def due(self) -> int:
        return self.now + GRACE

    def end_file(self, name: str) -> None:
        if name in self.files:
            self.ended.append(Ended(self.files.pop(name), name, self.due, was_file=True))

    def end_upload(self, generation: int) -> None:
        planned = self.open.pop(generation).planned
        self.ended.append(Ended(planned, planned.name, self.due, was_file=False))

    def generation_of(self, name: str) -> int:
        return self.files[name].generation if name in self.files else 0

    # Uploads

    @rule(
        name=NAMES,
        size=st.integers(0, 15),
        servers=st.sampled_from([(1,), (2,), (3, 1), (1, 2, 3)]),
        explicit=st.booleans(),
        if_generation=st.sampled_from([None, None, "right", "wrong"]),
        resume=st.booleans(),
    )
    def plan_file(
        self, name: str, size: int, servers: tuple[int, ...], explicit: bool, if_generation: str | None, resume: bool
    ) -> None:
        wanted = {None: None, "right": self.generation_of(name), "wrong": self.newest + 1}[if_generation]
        found = seen(self.database, newest_explicit_plan, name, size, lambda _plan: True)
        alike = [
            generation
            for generation, each in self.open.items()
            if each.planned.explicit and (each.planned.name, each.planned.total_size) == (name, size)
        ]
        assert max(alike, default=None) == (found and found.generation)
        resumes = found.generation if found and resume and explicit else None
        about = {"explicit": explicit, "if_generation": wanted, "resumes": resumes, "touched": self.now}
        try:
            planned = plan(self.database, name, size, servers, **about)
        except Conflict:
            assert if_generation == "wrong"
            return
        assert if_generation != "wrong"
        assert planned.generation > self.newest
        self.newest = planned.generation
        self.open[planned.generation] = Open(planned, wanted, resumes, self.now)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def touch_plan(self, data: st.DataObject) -> None:
        generation = data.draw(st.sampled_from(sorted(self.open)))
        done(self.database, touch_plan, generation, self.now)
        self.open[generation].touched = self.now

    @precondition(lambda self: any(each.planned.blocks for each in self.open.values()))
    @rule(data=st.data(), candidates=st.permutations(range(1, SERVERS + 1)))
    def replace_replica(self, data: st.DataObject, candidates: list[int]) -> None:
        each = data.draw(st.sampled_from([each for each in self.open.values() if each.planned.blocks]))
        block = data.draw(st.sampled_from(each.planned.blocks))
        server = data.draw(st.integers(1, SERVERS))
        generation = each.planned.generation
        barred = {*block.servers, *(it.server for it in self.trash if it.block_id == block.id)}
        try:
            renewed = done(self.database, replace_replica, generation, block.id, server, candidates, self.due)
        except Unavailable:
            assert server in block.servers
            assert not set(candidates) - barred
            return
        if server not in block.servers:
            assert renewed == block
            return
        chosen = next(candidate for candidate in candidates if candidate not in barred)
        assert tuple(chosen if it == server else it for it in block.servers) == renewed.servers
        self.trash.append(Rubbish(block.id, server, self.due))
        [each.planned] = [
            it for it in seen(self.database, open_plans, each.planned.name) if it.generation == generation
        ]
        assert renewed in each.planned.blocks

    @precondition(lambda self: self.open or self.files or self.ended or self.gone)
    @rule(data=st.data(), only_if_newer=st.booleans(), missing=st.booleans())
    def commit_plan(self, data: st.DataObject, only_if_newer: bool, missing: bool) -> None:
        over = [*(each.plan for each in self.ended), *self.gone]
        known = [*(each.planned for each in self.open.values()), *self.files.values(), *over]
        planned = data.draw(st.sampled_from(known))
        stored = [
            StoredReplicas(SUM, block.servers[1:] if missing and len(block.servers) > 1 else block.servers)
            for block in planned.blocks
        ]
        asked = Commit(planned.generation, stored, MODIFIED, only_if_newer=only_if_newer)
        name = next((name for name, file in self.files.items() if file.generation == planned.generation), planned.name)
        current = self.generation_of(name)
        upload = self.open.get(planned.generation)
        possible = planned.generation == current or (
            upload is not None
            and upload.if_generation in (None, current)
            and not (only_if_newer and current > planned.generation)
        )
        try:
            committed = done(self.database, commit_plan, asked, self.due)
        except Conflict:
            assert not possible
            return
        assert possible
        if upload is None:
            assert committed == self.files[name]
            return
        assert [each.servers for each in stored] == [block.servers for block in committed.blocks]
        self.end_file(name)
        del self.open[planned.generation]
        self.files[name] = committed
        for block, kept in zip(planned.blocks, stored, strict=True):
            left = [server for server in block.servers if server not in kept.servers]
            self.trash += [Rubbish(block.id, server, self.due) for server in left]
        for generation, each in list(self.open.items()):
            older = each.planned.name == name and not each.planned.explicit and generation < planned.generation
            if older or generation == upload.resumes:
                self.end_upload(generation)

    # Files

    @rule(name=NAMES)
    def delete_file(self, name: str) -> None:
        uploads = [generation for generation, each in self.open.items() if each.planned.name == name]
        try:
            done(self.database, delete_file, name, self.due)
        except NotFound:
            assert not uploads
            assert name not in self.files
            return
        assert uploads or name in self.files
        for generation in uploads:
            self.end_upload(generation)
        self.end_file(name)

    @rule(name=NAMES)
    def undelete_file(self, name: str) -> None:
        candidates = [each for each in self.ended if each.was_file and each.name == name]
        try:
            brought_back = done(self.database, undelete_file, name)
        except Conflict:
            assert name in self.files
            return
        except NotFound:
            assert not candidates
            return
        assert name not in self.files
        last = max(candidates, key=lambda each: (each.due, each.plan.generation))
        assert (last.plan.generation, last.plan.blocks) == (brought_back.generation, brought_back.blocks)
        self.ended.remove(last)
        self.files[name] = brought_back

    @rule(name=NAMES, new_name=NAMES)
    def rename_file(self, name: str, new_name: str) -> None:
        try:
            done(self.database, rename_file, name, new_name, self.due)
        except NotFound:
            assert name not in self.files
            return
        moved = self.files.pop(name)
        if name != new_name:
            self.end_file(new_name)
            for generation, each in list(self.open.items()):
                if each.planned.name == new_name and not each.planned.explicit:
                    self.end_upload(generation)
        self.files[new_name] = seen(self.database, committed_plan, new_name)
        assert (moved.generation, moved.blocks) == (self.files[new_name].generation, self.files[new_name].blocks)

    # Time

    @rule(seconds=st.integers(1, GRACE))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def expire_plans(self) -> None:
        since = self.now - TIME_TO_LIVE
        implicit = seen(self.database, silent_implicit_plans, since)
        over = {generation for generation, each in self.open.items() if each.touched <= since}
        silent = sorted(over - {*implicit})
        assert over == {*silent, *implicit}
        assert not any(self.open[generation].planned.explicit for generation in implicit)
        assert len(silent) == done(self.database, expire_plans, since, self.due)
        for generation in silent:
            self.end_upload(generation)

    @rule()
    def let_go(self) -> None:
        over = [each for each in self.ended if each.due <= self.now]
        assert len(over) == done(self.database, let_go, self.now, MANY)
        for each in over:
            self.ended.remove(each)
            self.gone.append(each.plan)
            self.trash += [Rubbish(block.id, server, 0) for block in each.plan.blocks for server in block.servers]

    @rule(server=st.integers(1, SERVERS))
    def collect_trash(self, server: int) -> None:
        rows = seen(self.database, due_trash, server, self.now, MANY)
        done(self.database, forget_trash, [row.key for row in rows])
        self.trash = [each for each in self.trash if each.server != server or each.due > self.now]

    @rule()
    def restart(self) -> None:
        self.database.close()
        self.database = open_catalog(Path(self.folder.name), SERVERS)

    @rule(prefix=st.sampled_from(["", "a", "a/", "a-"]), delimiter=st.sampled_from(["", "/", "-"]), after=NAMES)
    def list_files(self, prefix: str, delimiter: str, after: str) -> None:
        expected = page_of(self.files, prefix, delimiter, after, 2)
        assert expected == seen(self.database, listed, prefix, delimiter, after, 2)

    # What always holds

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
    def what_is_over_is_that_of_the_model(self) -> None:
        assert sorted(each.plan.generation for each in self.ended) == seen(self.database, ended)

    @invariant()
    def the_trash_is_what_was_given_up(self) -> None:
        query = select(trash.c.block_id, trash.c.server, trash.c.due)
        rows = self.database.read(lambda connection: connection.execute(query).all())
        assert sorted(self.trash) == sorted(Rubbish(*row) for row in rows)

    @rule(prefix=PREFIXES, max_bytes=st.sampled_from([None, 10**9]))
    def set_quota(self, prefix: str, max_bytes: int | None) -> None:
        done(self.database, set_quota, prefix, max_bytes, None)
        self.limited = {*self.limited, prefix} - ({prefix} if max_bytes is None else set())

    @invariant()
    def the_quotas_count_the_files_and_open_plans_of_the_model(self) -> None:
        opened = [each.planned for each in self.open.values()]
        expected = []
        for prefix in sorted(self.limited):
            used, planned = (
                [each.total_size for each in some if each.name.startswith(prefix)]
                for some in (self.files.values(), opened)
            )
            expected.append((prefix, sum(used), len(used), sum(planned), len(planned)))
        c = quotas.c
        query = select(c.prefix, c.used_bytes, c.used_files, c.open_bytes, c.open_files).order_by(c.prefix)
        rows = self.database.read(lambda connection: connection.execute(query).all())
        assert expected == [tuple(row) for row in rows]

    @invariant()
    def no_block_that_is_in_use_is_trash_or_anothers(self) -> None:
        same = (blocks.c.generation == replicas.c.generation) & (blocks.c.position == replicas.c.position)
        query = select(blocks.c.id, replicas.c.server).join_from(blocks, replicas, same)
        in_use = [tuple(row) for row in self.database.read(lambda connection: connection.execute(query).all())]
        assert len(in_use) == len(set(in_use))
        assert not set(in_use) & {(each.block_id, each.server) for each in self.trash}


TestCatalog = CatalogMachine.TestCase
TestCatalog.settings = settings(deadline=None, max_examples=20, stateful_step_count=60)
