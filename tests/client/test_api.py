from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from filefly.client import Client
from filefly.errors import BadRequest, Conflict, NotFound, Unavailable
from filefly.wire.messages import MAX_PAGE
from tests.catalog.catalogs import open_catalog, put_many_files
from tests.client.faults import proxy_of, say_nothing
from tests.meta.running import RunningCluster, plan_of, running
from tests.on_reactor import next_turn, on_reactor


@asynccontextmanager
async def asking(reactor: Any, folder: Path) -> AsyncIterator[tuple[RunningCluster, Client]]:
    async with running(reactor, folder) as cluster:
        yield cluster, cluster.client()


# Listing


@on_reactor
async def test_a_listing_goes_over_all_pages(reactor: Any, tmp_path: Path) -> None:
    """In byte order, each file once."""
    names = [f"f{number:04}" for number in range(2500)]
    database = open_catalog(tmp_path, servers=0)
    put_many_files(database, names)
    database.close()
    async with asking(reactor, tmp_path) as (_cluster, client):
        assert names == [file.name async for file in client.list()]
        assert names[1234:] == [file.name async for file in client.list(after="f1233")]
        assert names[10:20] == [file.name async for file in client.list("f001")]


@on_reactor
async def test_a_listing_may_be_left(reactor: Any, tmp_path: Path) -> None:
    """Half-way through a page."""
    async with asking(reactor, tmp_path) as (_cluster, client):
        for name in "abc":
            await client.upload(name, b"")
        async for file in client.list():
            if file.name == "b":
                break
        assert "b" == file.name


@on_reactor
async def test_a_page_can_be_asked_for(reactor: Any, tmp_path: Path) -> None:
    """With folders rolled up."""
    async with asking(reactor, tmp_path) as (_cluster, client):
        for name in ("a/b", "a/c", "d", "e"):
            await client.upload(name, b"x")
        page = await client.list_page(delimiter="/", limit=2)
        assert (["d"], ["a/"], "d") == ([file.name for file in page.files], page.prefixes, page.next)
        page = await client.list_page(delimiter="/", limit=2, after="d")
        assert (["e"], [], None) == ([file.name for file in page.files], page.prefixes, page.next)


@on_reactor
async def test_an_empty_listing_is_empty(reactor: Any, tmp_path: Path) -> None:
    """Not an error."""
    async with asking(reactor, tmp_path) as (_cluster, client):
        assert [] == [file async for file in client.list("nothing/")]


@on_reactor
async def test_a_page_has_its_limit(reactor: Any, tmp_path: Path) -> None:
    """The metadata server says so."""
    async with asking(reactor, tmp_path) as (_cluster, client):
        with pytest.raises(BadRequest, match=r"^limit: "):
            await client.list_page(limit=MAX_PAGE + 1)


# stat, delete, rename


@on_reactor
async def test_stat_shows_a_plan_as_pending(reactor: Any, tmp_path: Path) -> None:
    """Until its blocks are there."""
    async with asking(reactor, tmp_path) as (cluster, client):
        async with cluster.calling() as caller:
            await plan_of(caller)
        assert "pending" == (await client.stat("a")).state


@on_reactor
async def test_a_file_is_deleted(reactor: Any, tmp_path: Path) -> None:
    """For everybody."""
    async with asking(reactor, tmp_path) as (cluster, client):
        await client.upload("a", b"x")
        await client.delete("a")
        with pytest.raises(NotFound):
            await cluster.client().read("a")


@on_reactor
async def test_a_file_is_renamed(reactor: Any, tmp_path: Path) -> None:
    """And replaces what had the new name."""
    async with asking(reactor, tmp_path) as (_cluster, client):
        await client.upload("a", b"moved")
        await client.upload("b", b"replaced")
        await client.rename("a", "b")
        assert (["b"], b"moved") == ([file.name async for file in client.list()], await client.read("b"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.stat("missing"),
        lambda client: client.read("missing"),
        lambda client: client.delete("missing"),
        lambda client: client.rename("missing", "b"),
    ],
)
@on_reactor
async def test_the_error_names_the_file(reactor: Any, tmp_path: Path, ask: Any) -> None:
    """Of many that are asked for, the user must know which."""
    async with asking(reactor, tmp_path) as (_cluster, client):
        with pytest.raises(NotFound, match=r"^missing: file not found$"):
            await ask(client)


# Servers


@on_reactor
async def test_data_servers_are_shown(reactor: Any, tmp_path: Path) -> None:
    """With their addresses."""
    async with asking(reactor, tmp_path) as (cluster, client):
        addresses = [state.address for state in await client.data_servers()]
        assert [node.address for node in cluster.data] == addresses


@on_reactor
async def test_servers_answer_a_ping(reactor: Any, tmp_path: Path) -> None:
    """The metadata server, or any that is named."""
    async with asking(reactor, tmp_path) as (cluster, client):
        assert "ok" == (await client.ping()).__struct_config__.tag
        await client.ping(cluster.data[0].address)
        await cluster.data[0].stop()
        with pytest.raises(Unavailable):
            await client.ping(cluster.data[0].address)


@on_reactor
async def test_a_client_survives_a_restart_of_the_metadata_server(reactor: Any, tmp_path: Path) -> None:
    """Once the reactor has seen that the old connection is gone."""
    async with asking(reactor, tmp_path) as (cluster, client):
        before = await client.upload("a", b"x")
        await cluster.stop_meta()
        cluster.start_meta()
        for _ in range(3):
            await next_turn()
        assert before == await client.stat("a")


@on_reactor
async def test_a_client_survives_a_restart_of_a_data_server(reactor: Any, tmp_path: Path) -> None:
    """Even at once: what goes wrong on an old connection is tried again."""
    async with asking(reactor, tmp_path) as (cluster, client):
        await client.upload("a", b"0123456789")
        for node in cluster.data:
            await node.stop()
            node.start()
        assert b"0123456789" == await client.read("a")
        await client.upload("b", b"abcdefghij")
        assert b"abcdefghij" == await client.read("b")


# Methods return Deferreds


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.stat("a"),
        lambda client: client.read("a"),
        lambda client: client.delete("a"),
        lambda client: client.rename("a", "b"),
        lambda client: client.list_page(),
        lambda client: client.data_servers(),
        lambda client: client.ping(),
        lambda client: client.upload("a", b"x"),
    ],
)
@on_reactor
async def test_every_request_can_be_cancelled(reactor: Any, tmp_path: Path, ask: Any) -> None:
    """It ends at once, and so does its connection."""
    async with running(reactor, tmp_path) as cluster, proxy_of(reactor, cluster.port) as proxy:
        proxy.always = say_nothing
        client = Client(reactor, proxy.address)
        try:
            asking = ask(client)
            assert isinstance(asking, Deferred)
            while not proxy.received:
                await next_turn()
            asking.cancel()
            with pytest.raises(CancelledError):
                await asking
            while proxy.open:
                await next_turn()
        finally:
            client.close()


@on_reactor
async def test_a_closed_client_can_be_closed_again(reactor: Any) -> None:
    """Nothing is left to close."""
    client = Client(reactor, "localhost:1")
    client.close()
    client.close()


@on_reactor
async def test_a_client_that_is_closed_while_it_is_used_says_so(reactor: Any, tmp_path: Path) -> None:
    """It must not hang."""
    async with asking(reactor, tmp_path) as (cluster, _client):
        client = Client(reactor, cluster.address)
        client.close()
        with pytest.raises(Unavailable, match=r"^shutting down$"):
            await client.upload("a", b"x")


@on_reactor
async def test_uploads_race_for_a_name(reactor: Any, tmp_path: Path) -> None:
    """Of those that must find no file only one does."""
    async with asking(reactor, tmp_path) as (_cluster, client):
        outcomes = []
        uploading = [client.upload("a", b"%d" % number, if_generation=0) for number in range(5)]
        for each in uploading:
            try:
                outcomes.append((await each).generation)
            except Conflict:
                continue
        assert [(await client.stat("a")).generation] == outcomes
