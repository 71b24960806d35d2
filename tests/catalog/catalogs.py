"""Catalogs for tests: real SQLite files, and plans to put into them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen
from sqlalchemy import Connection, Table, func, insert, select

from filefly.catalog.commits import Commit, StoredReplicas, commit_plan
from filefly.catalog.database import Database, open_database
from filefly.catalog.endings import due_trash, forget_trash, let_go
from filefly.catalog.inventory import take_data_servers
from filefly.catalog.listing import list_files
from filefly.catalog.planning import NewPlan, plan_file
from filefly.catalog.plans import Plan, open_generations, plan_of_generation
from filefly.catalog.schema import DELETED, plans, repairs, trash
from filefly.meta.placement import cut

T = TypeVar("T")

MODIFIED = "2026-01-02T03:04:05.678Z"
SUM = "0a0b0c0d"
DUE = 1000
BLOCK_SIZE = 7


def url_of(folder: Path) -> str:
    """Return the URL of the catalog in `folder`."""
    return f"sqlite:///{folder / 'catalog.sqlite'}"


def open_catalog(folder: Path, servers: int = 3) -> Database:
    """Open the catalog in `folder`; it knows the data servers 1, 2, ... by keys of that number."""
    database = open_database(url_of(folder), lambda: "id of a test")
    listed = {f"localhost:{9000 + number}": None for number in range(1, servers + 1)}
    done(database, take_data_servers, listed)
    return database


@contextmanager
def opened(folder: Path, servers: int = 3) -> Iterator[Database]:
    """Open the catalog in `folder` until the end of the block."""
    database = open_catalog(folder, servers)
    try:
        yield database
    finally:
        database.close()


def done(database: Database, change: Callable[..., T], *args: Any) -> T:
    """Carry out one change, durably; raises what it raised."""
    outcome: Any
    [outcome] = database.write([lambda connection: change(connection, *args)])
    if isinstance(outcome, Exception):
        raise outcome
    result: T = outcome
    return result


def seen(database: Database, query: Callable[..., T], *args: Any) -> T:
    """Return what `query(connection, *args)` reads."""
    return database.read(lambda connection: query(connection, *args))


def new_plan(name: str, size: int = 10, servers: tuple[int, ...] = (1,), **fields: Any) -> NewPlan:
    """Decide on a plan for a file of `size` bytes in blocks of 7, all on `servers`."""
    sizes = cut(size, BLOCK_SIZE)
    decided: dict[str, Any] = {
        "name": name,
        "total_size": size,
        "block_size": BLOCK_SIZE,
        "replicas": len(servers),
        "explicit": True,
        "sizes": sizes,
        "places": [servers] * len(sizes),
    }
    return NewPlan(**{**decided, **fields})


def plan(database: Database, name: str, size: int = 10, servers: tuple[int, ...] = (1,), **fields: Any) -> Plan:
    """Plan a file."""
    return done(database, plan_file, new_plan(name, size, servers, **fields), True)


def stored_as_planned(planned: Plan) -> list[StoredReplicas]:
    """Report every block as stored where it was planned."""
    return [StoredReplicas(SUM, block.servers) for block in planned.blocks]


def found_on(*servers: int) -> StoredReplicas:
    """Report a block as stored on some data servers."""
    return StoredReplicas(SUM, servers)


def commit(database: Database, planned: Plan, due: int = DUE, **fields: Any) -> Plan:
    """Commit a plan, its blocks stored as planned; what it replaces is over at `due`."""
    asked = Commit(planned.generation, fields.pop("stored", stored_as_planned(planned)), MODIFIED, **fields)
    return done(database, commit_plan, asked, due)


def store(database: Database, name: str, size: int = 10, servers: tuple[int, ...] = (1,), **fields: Any) -> Plan:
    """Plan a file and commit it."""
    return commit(database, plan(database, name, size, servers, **fields))


def trashed(connection: Connection) -> list[tuple[str, int]]:
    """Return the replicas that are trash."""
    rows = connection.execute(select(trash.c.block_id, trash.c.server).order_by(trash.c.key))
    return [(block_id, server) for block_id, server in rows]


def open_plans(connection: Connection, name: str) -> list[Plan]:
    """Return the open plans of `name`, the newest first."""
    found = (plan_of_generation(connection, generation) for generation in open_generations(connection, name))
    return sorted((each for each in found if each is not None), key=lambda each: -each.generation)


def ended(connection: Connection) -> list[int]:
    """Return the generations of what was deleted, replaced or given up, and can still come back."""
    return list(connection.execute(select(plans.c.generation).where(DELETED).order_by(plans.c.generation)).scalars())


def count_rows(connection: Connection, table: Table) -> int:
    """Count what is in a table."""
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def noted(connection: Connection) -> list[tuple[int, int, int]]:
    """Return which blocks are noted for repair: generation, position, good replicas."""
    rows = connection.execute(select(repairs.c.generation, repairs.c.position, repairs.c.remaining))
    return sorted((generation, position, remaining) for generation, position, remaining in rows)


def let_all_go(connection: Connection, now: int = DUE) -> None:
    """Turn into trash all that is over at `now`."""
    while let_go(connection, now, 1_000_000):
        pass


def confirm_all(connection: Connection, servers: Iterable[int] = range(1, 10)) -> None:
    """Have the data servers confirm all that is due."""
    for server in servers:
        forget_trash(connection, [row.key for row in due_trash(connection, server, DUE, 1000)])


def ids_of(planned: Plan) -> Sequence[str]:
    """Return the ids of a plan's blocks."""
    return [block.id for block in planned.blocks]


@frozen
class NamePage:
    """A page of a listing, of each file only its name."""

    files: list[str]
    prefixes: list[str]
    next: str | None


def page_of(names: Iterable[str], prefix: str, delimiter: str, after: str, limit: int) -> NamePage:
    """List `names` as simply as can be said: what `list_files` is held against."""
    listed = {_listed_as(name, prefix, delimiter): name for name in names if name.startswith(prefix)}
    entries = sorted((entry for entry in listed if entry.encode() > after.encode()), key=str.encode)
    page = entries[:limit]
    prefixes = [entry for entry in page if delimiter and delimiter in entry[len(prefix) :]]
    files = [entry for entry in page if entry not in prefixes]
    return NamePage(files, prefixes, page[-1] if len(entries) > limit else None)


def _listed_as(name: str, prefix: str, delimiter: str) -> str:
    before, found, _rest = name[len(prefix) :].partition(delimiter or "\0")
    return prefix + before + found


def listed(connection: Connection, prefix: str, delimiter: str, after: str, limit: int) -> NamePage:
    """Return a page of the catalog's listing, as `page_of` does."""
    page = list_files(connection, prefix, delimiter, after, limit)
    return NamePage([file.name for file in page.files], page.prefixes, page.next)


def put_files(database: Database, names: Iterable[str]) -> None:
    """Store empty files, all in one transaction."""

    def put(connection: Connection, name: str) -> None:
        commit_plan(connection, Commit(plan_file(connection, new_plan(name, 0), True).generation, [], MODIFIED), DUE)

    def put_all(connection: Connection) -> None:
        for name in names:
            put(connection, name)

    done(database, put_all)


def put_many_files(database: Database, names: Iterable[str]) -> None:
    """Store a great number of empty files, quickly, past the catalog's functions."""
    row = {"state": "committed", "explicit": True, "total_size": 0, "block_size": 7, "replicas": 1}
    rows = [{**row, "attributes": "{}", "modified": MODIFIED, "name": name} for name in names]
    done(database, lambda connection: connection.execute(insert(plans), rows) and None)
