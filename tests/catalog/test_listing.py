from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from filefly.catalog.database import Database
from filefly.catalog.endings import delete_file, rename_file
from filefly.catalog.listing import list_files
from filefly.wire.messages import ListedFile
from tests.catalog.catalogs import (
    DUE,
    MODIFIED,
    NamePage,
    done,
    listed,
    opened,
    page_of,
    plan,
    put_files,
    put_many_files,
    seen,
    store,
)

# What sorts differently as UTF-16, ends ranges of code points, is a delimiter, or is none.
ODD = "ab/.-\U0001f600\uffff\ufffd\ud7ff\ue000\U0010ffff~é"
SHORT = st.text(ODD, max_size=4)
NAMES = st.sets(st.text(ODD, min_size=1, max_size=6), max_size=25)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as database:
        yield database


def all_pages(database: Database, prefix: str, delimiter: str, limit: int) -> NamePage:
    files: list[str] = []
    prefixes: list[str] = []
    after: str | None = ""
    while after is not None:
        page = seen(database, listed, prefix, delimiter, after, limit)
        assert len(page.files) + len(page.prefixes) <= limit
        files += page.files
        prefixes += page.prefixes
        assert page.next is None or page.next > after
        after = page.next
    return NamePage(files, prefixes, None)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One catalog for many examples: each begins by emptying it."""
    with opened(tmp_path_factory.mktemp("listing")) as database:
        yield database


def fill(database: Database, names: set[str]) -> None:
    done(database, lambda connection: connection.exec_driver_sql("DELETE FROM plans") and None)
    put_many_files(database, names or {"x"})
    if not names:
        done(database, delete_file, "x", DUE)


@settings(deadline=None, max_examples=150)
@given(names=NAMES, prefix=SHORT, delimiter=st.text(ODD, max_size=2), after=SHORT, limit=st.integers(1, 7))
@example(names={"\U0010ffff", "a"}, prefix="", delimiter="", after="", limit=7)
@example(names={"a.", "a.b", "b"}, prefix="", delimiter=".", after="", limit=1)
@example(
    names={"a/\U0010ffff/b", "a/\U0010ffff\U0010ffff", "b"}, prefix="a/", delimiter="\U0010ffff", after="", limit=1
)
@example(names={"\ud7ff/a", "\ue000"}, prefix="", delimiter="\ud7ff", after="", limit=1)
def test_a_page_is_what_the_model_says(
    shared: Database, names: set[str], prefix: str, delimiter: str, after: str, limit: int
) -> None:
    """Files, prefixes and `next`, for any names, prefix, delimiter, place to go on from, and limit."""
    fill(shared, names)
    assert page_of(names, prefix, delimiter, after, limit) == seen(shared, listed, prefix, delimiter, after, limit)


@settings(deadline=None, max_examples=60)
@given(names=NAMES, prefix=SHORT, delimiter=st.text(ODD, max_size=2), limit=st.integers(1, 7))
def test_pages_add_up_to_the_whole(shared: Database, names: set[str], prefix: str, delimiter: str, limit: int) -> None:
    """Whatever the limit, each entry is on one page, and the pages end."""
    fill(shared, names)
    assert page_of(names, prefix, delimiter, "", 1000) == all_pages(shared, prefix, delimiter, limit)


def test_names_are_in_byte_order(database: Database) -> None:
    """U+FFFD comes before an emoji in UTF-8, though not in UTF-16; case counts."""
    names = ["\U0001f600", "a", "\ufffd", "B", "é", "z", "a b", "a-b", "ab"]
    put_files(database, names)
    expected = ["B", "a", "a b", "a-b", "ab", "z", "é", "\ufffd", "\U0001f600"]
    assert expected == seen(database, listed, "", "", "", 100).files


def test_folders_are_rolled_up(database: Database) -> None:
    """As a person looks through folders."""
    put_files(database, ["a", "b/c", "b/d/e", "b/d/f", "b.txt", "g/h"])
    assert NamePage(["a", "b.txt"], ["b/", "g/"], None) == seen(database, listed, "", "/", "", 100)
    assert NamePage(["b/c"], ["b/d/"], None) == seen(database, listed, "b/", "/", "", 100)


def test_next_is_absent_at_the_end(database: Database) -> None:
    """Also where the last page is just full."""
    put_files(database, ["a", "b"])
    assert "a" == seen(database, list_files, "", "", "", 1).next
    assert None is seen(database, list_files, "", "", "", 2).next
    assert None is seen(database, list_files, "", "", "a", 1).next


def test_only_committed_files_are_listed(database: Database) -> None:
    """No open plan, nothing deleted, and what was renamed under its new name only."""
    plan(database, "open")
    store(database, "deleted")
    done(database, delete_file, "deleted", DUE)
    store(database, "old name")
    done(database, rename_file, "old name", "new name", DUE)
    assert ["new name"] == seen(database, listed, "", "", "", 100).files


def test_a_listed_file_tells_what_it_is(database: Database) -> None:
    """Size, generation, wanted replicas, the commit's time, attributes."""
    committed = store(database, "a", 10, (1, 2), attributes={"mode": "0600"})
    [file] = seen(database, list_files, "", "", "", 1).files
    assert ListedFile("a", 10, committed.generation, 2, MODIFIED, {"mode": "0600"}) == file


# With blocks


def test_files_are_listed_with_their_blocks(database: Database) -> None:
    """As readers see them, and with their block size, which they do not have otherwise."""
    stored = [store(database, name, size, (1, 2)) for name, size in {"a": 10, "b": 0, "c": 21}.items()]
    page = seen(database, list_files, "", "", "", 100, 1000)
    assert [file.blocks for file in stored] == page.blocks
    assert [file.block_size for file in stored] == [file.block_size for file in page.files]
    bare = seen(database, list_files, "", "", "", 100)
    assert (None, {None}) == (bare.blocks, {file.block_size for file in bare.files})


@pytest.mark.parametrize(("most", "pages"), [(1, ["a", "b", "c d", "e"]), (3, ["a", "b c d", "e"]), (6, ["a b c d e"])])
def test_a_page_ends_at_its_limit_of_blocks(database: Database, most: int, pages: list[str]) -> None:
    """But it has one file at least; what comes behind is on the next page."""
    for name, blocks in {"a": 2, "b": 2, "c": 1, "d": 0, "e": 1}.items():
        store(database, name, 7 * blocks)
    found, after = [], ""
    while True:
        page = seen(database, list_files, "", "", after, 100, most)
        found.append(" ".join(file.name for file in page.files))
        if page.next is None:
            break
        after = page.next
    assert pages == found


def test_prefixes_behind_the_last_file_are_on_the_next_page(database: Database) -> None:
    """They come with what is listed behind them."""
    for name in ("a/1", "b", "c/1", "d", "e/1"):
        store(database, name, 7)
    page = seen(database, list_files, "", "/", "", 100, 1)
    assert (["b"], ["a/"], "b") == ([file.name for file in page.files], page.prefixes, page.next)
    page = seen(database, list_files, "", "/", "b", 100, 1)
    assert (["d"], ["c/", "e/"], None) == ([file.name for file in page.files], page.prefixes, page.next)


# What it costs


def statements(database: Database, *listing: Any) -> int:
    """Count what the database is asked for one page."""
    counted = []

    def count(*arguments: Any) -> None:
        counted.append(arguments[2])

    event.listen(database._engine, "before_cursor_execute", count)
    try:
        seen(database, list_files, *listing)
    finally:
        event.remove(database._engine, "before_cursor_execute", count)
    return sum(statement.startswith("SELECT") for statement in counted)


def test_a_large_folder_costs_one_seek(database: Database) -> None:
    """20,000 files below one folder are passed over, not read."""
    put_many_files(database, [f"large/{number:05}" for number in range(20_000)] + ["a", "z"])
    assert NamePage(["a", "z"], ["large/"], None) == seen(database, listed, "", "/", "", 100)
    assert statements(database, "", "/", "", 100) <= 3


def test_a_folder_without_folders_costs_a_few_statements(database: Database) -> None:
    """Its files come in batches."""
    put_many_files(database, [f"large/{number:05}" for number in range(20_000)])
    assert statements(database, "large/", "/", "", 1000) <= 12


def test_listing_uses_the_index(database: Database) -> None:
    """A page is found by seeking to its first name, whatever the catalog's size."""
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.startswith("SELECT"):
            rows = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in rows)

    event.listen(database._engine, "before_cursor_execute", explain)
    seen(database, list_files, "a/", "", "a/b", 10)
    event.remove(database._engine, "before_cursor_execute", explain)
    assert ["SEARCH plans USING INDEX plans_committed_name (name>? AND name<?)"] == plans
