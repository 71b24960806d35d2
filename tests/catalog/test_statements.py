from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, delete, insert, literal_column, select, update
from sqlalchemy.dialects import postgresql

from filefly.catalog.completion import Completion, complete_plan, known
from filefly.catalog.database import Database
from filefly.catalog.listing import list_files
from filefly.catalog.planning import plan_file
from filefly.catalog.repairs import Place, note_repairs
from filefly.catalog.replicas import copied, plan_copy, situation, stored_block
from filefly.catalog.schema import catalog, data_servers
from filefly.catalog.statements import Statement
from filefly.errors import Internal
from filefly.wire.messages import Replica, StoredBlock
from tests.catalog.catalogs import DUE, MODIFIED, SUM, done, new_plan, opened, plan, seen, store

KEYS = Statement(
    select(data_servers.c.key).where(data_servers.c.key >= bindparam("least")).order_by(data_servers.c.key)
)
ADD = Statement(insert(data_servers), "address", "registered", "placing")
MOVE = Statement(
    update(data_servers)
    .where(data_servers.c.address == bindparam("old"))
    .values(address=bindparam("new"), registered=True)
)
FORGET = Statement(delete(data_servers).where(data_servers.c.key >= bindparam("least")))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


def test_what_is_found_comes_as_tuples(database: Database) -> None:
    """All of it, the first of it, its first value."""
    assert [(2,), (3,)] == seen(database, KEYS.rows, {"least": 2})
    assert (2,) == seen(database, KEYS.row, {"least": 2})
    assert 2 == seen(database, KEYS.value, {"least": 2})


def test_nothing_found_is_none(database: Database) -> None:
    """No row, no value."""
    assert [] == seen(database, KEYS.rows, {"least": 9})
    assert seen(database, KEYS.row, {"least": 9}) is None
    assert seen(database, KEYS.value, {"least": 9}) is None


def addresses(connection: Connection) -> list[tuple[str, bool]]:
    c = data_servers.c
    return [(address, known) for address, known in connection.execute(select(c.address, c.registered).order_by(c.key))]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_it_is_run_for_each_row(database: Database, count: int) -> None:
    """For none, it is not run at all."""
    rows = [{"address": f"more:{number}", "registered": False, "placing": True} for number in range(count)]
    done(database, ADD.run_each, rows)
    assert [(f"more:{number}", False) for number in range(count)] == seen(database, addresses)[3:]


def test_values_of_its_own_are_kept(database: Database) -> None:
    """What the statement says itself need not be given; it tells how many rows it changed."""
    assert 1 == done(database, MOVE.run, {"old": "localhost:9002", "new": "elsewhere:1"})
    assert ("elsewhere:1", True) == seen(database, addresses)[1]
    assert 0 == done(database, MOVE.run, {"old": "localhost:9002", "new": "elsewhere:1"})


def test_it_takes_part_in_the_transaction(database: Database) -> None:
    """With what SQLAlchemy runs itself: a change that fails leaves nothing of either."""

    def forget_and_fail(connection: Connection) -> None:
        FORGET.run(connection, {"least": 2})
        connection.execute(update(catalog).values(suspended="no"))
        KEYS.rows(connection, {"least": literal_column("no value")})

    with pytest.raises(Internal, match=r"^the catalog failed: Error binding parameter"):
        done(database, forget_and_fail)
    assert [(1,), (2,), (3,)] == seen(database, KEYS.rows, {"least": 0})
    assert None is seen(database, lambda connection: connection.execute(select(catalog.c.suspended)).scalar_one())


class SomePostgreSQL:
    """Stands for a connection to a server that is not here: notes what it is told."""

    dialect: Any = postgresql.dialect()

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.connection = self.dbapi_connection = self

    def cursor(self) -> "SomePostgreSQL":
        return self

    def execute(self, text: str, values: Any) -> None:
        self.said.append((" ".join(text.split()), values))

    def fetchall(self) -> list[Any]:
        return []


def test_it_speaks_the_words_of_each_database() -> None:
    """Compiled for one, it can be run on another."""
    there: Any = SomePostgreSQL()
    statement = Statement(select(data_servers.c.key).where(data_servers.c.address == bindparam("at")))
    assert [] == statement.rows(there, {"at": "localhost:9001"})
    text = "SELECT data_servers.key FROM data_servers WHERE data_servers.address = %(at)s::VARCHAR"
    assert [(text, {"at": "localhost:9001"})] == there.said


# What is run for every request


def completion(planned: Any) -> Completion:
    reported = [StoredBlock(block.id, SUM, [Replica("localhost:9001")]) for block in planned.blocks]
    return Completion(planned.name, planned.generation, (), reported, {1: "localhost:9001"}, MODIFIED)


def plan_and_commit(connection: Connection) -> Any:
    """Replace a file, as a client does."""
    planned = plan_file(connection, new_plan("a", if_generation=1), True)
    return complete_plan(connection, completion(planned), DUE)


def repair(connection: Connection) -> Any:
    place = Place(1, 0)
    note_repairs(connection, [place])
    block = stored_block(connection, place)
    assert block is not None
    plan_copy(connection, block, 2, 0)
    copied(connection, block, 2, [1], DUE)
    return situation(connection, place, 0)


@pytest.mark.parametrize(
    "asked",
    [
        plan_and_commit,
        repair,
        lambda connection: known(connection, "a"),
        lambda connection: list_files(connection, "", "", "0", 1000, 1000),
    ],
    ids=["plan and commit", "repair", "look up", "list with blocks"],
)
def test_every_statement_of_a_request_finds_its_rows_by_an_index(database: Database, asked: Any) -> None:
    """However many files there are, no table is read through but those that are small."""
    store(database, "a")
    plan(database, "a", explicit=False)
    said: list[str] = []

    def listen(connection: Connection) -> list[str]:
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(said.append)
        asked(connection)
        driver.set_trace_callback(None)
        statements = [text for text in said if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))]
        return [row[3] for text in statements for row in driver.execute(f"EXPLAIN QUERY PLAN {text}")]

    steps = done(database, listen)
    assert any("USING" in step for step in steps), steps
    read_through = [
        step for step in steps if step.startswith("SCAN") and step.split()[1] not in ("catalog", "data_servers")
    ]
    assert [] == read_through
    assert not any("TEMP B-TREE" in step for step in steps if "RIGHT PART" not in step), steps
