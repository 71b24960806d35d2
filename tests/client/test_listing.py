from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from filefly.client.api import Client
from filefly.errors import NotFound
from tests.meta.running import plan_of, running
from tests.on_reactor import on_reactor

DATA = b"0123456789abcdefghijklmnop"


async def names(client: Client, prefix: str = "", after: str = "") -> list[str]:
    return [file.name async for file in client.list(prefix, after)]


async def upload_all(client: Client, *files: str) -> None:
    await gatherResults([client.upload(name, b"") for name in files])


@on_reactor
async def test_files_are_listed_in_byte_order(reactor: Any, tmp_path: Path) -> None:
    """That is not how people sort, but it is the same everywhere."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await upload_all(client, "b", "ä", "B", "a/b", "a-b", "a", "\U0001d11e", "\ue000")
        assert ["B", "a", "a-b", "a/b", "b", "ä", "\ue000", "\U0001d11e"] == await names(client)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
@on_reactor
async def test_pages_of_any_size_have_every_file_once(reactor: Any, tmp_path: Path, limit: int) -> None:
    """The last one may be full, and none is empty."""
    expected = [f"f{number}" for number in range(7)]
    async with running(reactor, tmp_path) as cluster:
        client, found, after = cluster.client(), list[str](), ""
        await upload_all(client, *expected)
        while True:
            page = await client.list_page(after=after, limit=limit)
            assert 1 <= len(page.files) <= limit
            found += [file.name for file in page.files]
            if page.next is None:
                break
            after = page.next
        assert expected == found


@on_reactor
async def test_files_that_are_deleted_between_two_pages_do_not_end_the_listing(reactor: Any, tmp_path: Path) -> None:
    """A page goes on behind the last name, whether or not that is still there."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await upload_all(client, *"abcde")
        first = await client.list_page(limit=2)
        for file in first.files:
            await client.delete(file.name)
        assert "b" == first.next
        assert ["c", "d", "e"] == await names(client, after="b")


@on_reactor
async def test_a_listing_begins_with_a_prefix(reactor: Any, tmp_path: Path) -> None:
    """Of whole names, not of folders."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await upload_all(client, "a", "p/a", "p/b/c", "p2", "q")
        assert ["p/a", "p/b/c"] == await names(client, "p/")
        assert ["p/a", "p/b/c", "p2"] == await names(client, "p")


@on_reactor
async def test_a_listing_begins_behind_a_name(reactor: Any, tmp_path: Path) -> None:
    """Which need not exist."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await upload_all(client, "a", "b", "c")
        assert ["b", "c"] == await names(client, after="aa")
        assert [] == await names(client, after="c")


@on_reactor
async def test_a_listed_file_is_described(reactor: Any, tmp_path: Path) -> None:
    """With what a copy of a folder is compared by."""
    attributes = {"mtime": "1969-12-31T23:59:59.999999999Z"}
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        stored = await client.upload("a", DATA, attributes=attributes)
        [file] = [file async for file in client.list()]
        assert (26, stored.generation, attributes) == (file.total_size, file.generation, file.attributes)


@on_reactor
async def test_a_plan_is_not_listed(reactor: Any, tmp_path: Path) -> None:
    """Only what can be read is."""
    async with running(reactor, tmp_path) as cluster, cluster.calling() as caller:
        await plan_of(caller, "a", 26)
        assert [] == await names(cluster.client())


@on_reactor
async def test_a_failed_rename_leaves_what_has_the_new_name(reactor: Any, tmp_path: Path) -> None:
    """There is nothing to replace it."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await client.upload("b", DATA)
        with pytest.raises(NotFound):
            await client.rename("a", "b")
        assert DATA == await client.read("b")


@on_reactor
async def test_an_upload_after_a_rename_takes_the_old_name(reactor: Any, tmp_path: Path) -> None:
    """The blocks of both are apart, whatever their names."""
    async with running(reactor, tmp_path) as cluster:
        client = cluster.client()
        await client.upload("a", DATA)
        await client.rename("a", "b")
        await client.upload("a", DATA[::-1])
        assert (DATA[::-1], DATA) == (await client.read("a"), await client.read("b"))
