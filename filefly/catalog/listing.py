"""Listing committed files a page at a time, names rolled up at a delimiter as in S3's listings. Statements only."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from attrs import frozen
from sqlalchemy import Connection, Row, select

from filefly.catalog.plans import PlanBlock, blocks_of_plan
from filefly.catalog.schema import COMMITTED, plans
from filefly.wire.messages import ListedFile

_SEEK_BATCH = 100
_LOWEST_CHARACTER = "\x01"  # no name has a control character, so nothing lies between NAME and NAME + this
_HIGHEST_CODE = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)  # code points that no text has


@frozen
class FilePage:
    """A page of a listing; `next` goes into `after` for the following one. `blocks` are the files', if asked for."""

    files: list[ListedFile]
    prefixes: list[str]
    next: str | None
    blocks: Sequence[tuple[PlanBlock, ...]] | None = None

    def only(self, wanted: Callable[[str], bool]) -> "FilePage":
        """Return the page without the names that are not wanted."""
        places = [place for place, file in enumerate(self.files) if wanted(file.name)]
        blocks = None if self.blocks is None else [self.blocks[place] for place in places]
        return FilePage([self.files[place] for place in places], [*filter(wanted, self.prefixes)], self.next, blocks)


def list_files(
    connection: Connection, prefix: str, delimiter: str, after: str, limit: int, most_blocks: int | None = None
) -> FilePage:
    """Return the committed files after `after` whose names begin with `prefix`, in byte order.

    With a `delimiter`, names that have it behind the prefix are not listed: they are rolled up into `prefixes`, each
    found by one seek past it, however many files it stands for. Files and prefixes together are at most `limit`. With
    `most_blocks` the files come with their blocks, and the page has one file, or no more blocks than that.
    """
    page = _list_rows(connection, prefix, delimiter, after, limit)
    if most_blocks is None:
        return FilePage([_listed_file(row) for row in page.rows], page.prefixes, page.next)
    return _with_blocks(connection, page, most_blocks)


@frozen
class _RowPage:
    rows: list[Row[*tuple[Any, ...]]]
    prefixes: list[str]
    next: str | None


def _list_rows(connection: Connection, prefix: str, delimiter: str, after: str, limit: int) -> _RowPage:
    rows: list[Row[*tuple[Any, ...]]] = []
    prefixes: list[str] = []
    last = after
    lowest = _past(after, prefix, delimiter) if after else prefix
    while lowest is not None:
        room = limit - len(rows) - len(prefixes)
        most = min(room + 1, _SEEK_BATCH) if delimiter else room + 1
        batch = _committed_rows(connection, prefix, lowest, most)
        for row in batch:
            if len(rows) + len(prefixes) == limit:
                return _RowPage(rows, prefixes, last)
            rolled = _rolled_up(row.name, prefix, delimiter)
            last = rolled or row.name
            lowest = _past(last, prefix, delimiter)
            if rolled is not None:
                prefixes.append(rolled)
                break
            rows.append(row)
        else:
            if len(batch) < most:
                break
    return _RowPage(rows, prefixes, None)


def _with_blocks(connection: Connection, page: _RowPage, most: int) -> FilePage:
    files: list[ListedFile] = []
    blocks: list[tuple[PlanBlock, ...]] = []
    room = most
    for row in page.rows:
        of_file = blocks_of_plan(connection, row.generation)
        room -= len(of_file)
        if room < 0 and blocks:
            last = files[-1].name
            return FilePage(files, [prefix for prefix in page.prefixes if prefix < last], last, blocks)
        files.append(_listed_file(row, row.block_size))
        blocks.append(of_file)
    return FilePage(files, page.prefixes, page.next, blocks)


def _rolled_up(name: str, prefix: str, delimiter: str) -> str | None:
    """Return what `name` is listed as if the delimiter is in it, behind the prefix."""
    found = name.find(delimiter, len(prefix)) if delimiter and name.startswith(prefix) else -1
    return None if found < 0 else name[: found + len(delimiter)]


def _past(entry: str, prefix: str, delimiter: str) -> str | None:
    """Return a string above `entry`, and above all that is rolled up into it, but not above any later entry.

    None if there can be no later entry.
    """
    rolled = _rolled_up(entry, prefix, delimiter)
    return entry + _LOWEST_CHARACTER if rolled is None else above(rolled)


def above(prefix: str) -> str | None:
    """Return the lowest string above all that begin with `prefix`, or None if there is nothing above."""
    head = prefix.rstrip(chr(_HIGHEST_CODE))
    if not head:
        return None
    following = ord(head[-1]) + 1
    return head[:-1] + chr(_SURROGATES.stop if following in _SURROGATES else following)


def _committed_rows(connection: Connection, prefix: str, lowest: str, most: int) -> Sequence[Row[*tuple[Any, ...]]]:
    c = plans.c
    columns = (c.name, c.total_size, c.block_size, c.generation, c.replicas, c.modified, c.attributes)
    within = [COMMITTED, c.name >= max(lowest, prefix)]
    if (end := above(prefix)) is not None:
        within.append(c.name < end)
    return connection.execute(select(*columns).where(*within).order_by(c.name).limit(most)).all()


def _listed_file(row: Row[Any], block_size: int | None = None) -> ListedFile:
    return ListedFile(
        name=row.name,
        total_size=row.total_size,
        generation=row.generation,
        replicas=row.replicas,
        modified=row.modified,
        attributes=msgspec.json.decode(row.attributes),
        block_size=block_size,
    )
