"""A client of a closed cluster: each request to a data server shows the ticket that is for it, and that is valid."""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from filefly.errors import Conflict, DiskFull, Unauthorized, Unavailable
from filefly.wire.batches import RetrieveBlocks, StoreBlocks
from filefly.wire.blocks import Link, Retrieve, Store
from filefly.wire.messages import CompleteFile, GetMetadata, ListedFile, RenewPlan
from tests.client.closing import Closing, close
from tests.client.scripted import BLOCK_SIZE, Answer, ScriptedCluster, for_kind, no, scripted
from tests.client.test_resume import broken_off
from tests.on_reactor import on_reactor

DATA = b"0123456789abcdefghijklmnop"


def tickets_end_after(closing: Closing, count: int, kind: type[Any], cluster: ScriptedCluster) -> None:
    """Let the tickets expire when so many requests of a kind have come."""
    left = [count]
    for server in cluster.data:

        def fault(request: Any, usual: Answer = server.fault) -> Exception | None:
            if isinstance(request, kind):
                left[0] -= 1
                closing.edition += left[0] == -1
            return usual(request)

        server.fault = fault


@on_reactor
async def test_a_file_goes_in_and_comes_back(reactor: Any) -> None:
    """With the tickets of its plan, and then with its own; nobody is asked for more."""
    async with scripted(reactor, replicas=2) as cluster:
        closing = close(cluster)
        await cluster.client.upload("a", DATA)
        assert DATA == await cluster.client.read("a")
        assert ([], 1, 0) == (cluster.catalog.of(RenewPlan), len(cluster.catalog.of(GetMetadata)), closing.refused)


@on_reactor
async def test_an_upload_lasts_longer_than_its_tickets(reactor: Any) -> None:
    """They are renewed, once; the block that was refused goes to the same place."""
    async with scripted(reactor) as cluster:
        closing = close(cluster)
        tickets_end_after(closing, 2, Store, cluster)
        await cluster.client.upload("a", DATA)
        assert ([RenewPlan(1)], 1) == (cluster.catalog.of(RenewPlan), closing.refused)
        assert ["a-0", "a-1", "a-2", "a-3"] == cluster.blocks(0)


@on_reactor
async def test_a_download_lasts_longer_than_its_tickets(reactor: Any, tmp_path: Path) -> None:
    """They are renewed by asking for the file again."""
    async with scripted(reactor) as cluster:
        closing = close(cluster)
        await cluster.client.upload("a", DATA)
        tickets_end_after(closing, 2, Retrieve, cluster)
        await cluster.client.download("a", tmp_path / "a")
        assert DATA == (tmp_path / "a").read_bytes()
        assert (2, 1) == (len(cluster.catalog.of(GetMetadata)), closing.refused)


@on_reactor
async def test_a_stream_lasts_longer_than_its_tickets(reactor: Any) -> None:
    """Its reader does not notice."""
    async with scripted(reactor) as cluster:
        closing = close(cluster)
        await cluster.client.upload("a", DATA)
        tickets_end_after(closing, 2, Retrieve, cluster)
        async with aclosing(cluster.client.stream("a")) as chunks:
            assert DATA == b"".join([chunk async for chunk in chunks])
        assert (2, 1) == (len(cluster.catalog.of(GetMetadata)), closing.refused)


@on_reactor
async def test_a_file_that_is_replaced_has_no_more_tickets(reactor: Any) -> None:
    """Who has read some of it hears of it."""
    async with scripted(reactor) as cluster:
        closing = close(cluster)
        await cluster.client.upload("a", DATA)
        async with aclosing(cluster.client.stream("a")) as chunks:
            assert DATA[:BLOCK_SIZE] == await anext(chunks)
            await cluster.other_client.upload("a", DATA[::-1])
            closing.edition += 1
            with pytest.raises(Conflict, match=r"^a was replaced while it was read; read it again$"):
                [chunk async for chunk in chunks]


@on_reactor
async def test_what_takes_the_place_of_a_file_is_read_instead(reactor: Any) -> None:
    """By who has not read any of it yet."""
    async with scripted(reactor) as cluster:
        closing = close(cluster)
        await cluster.client.upload("a", DATA)
        old = closing.told(cluster.catalog.committed)  # type: ignore[arg-type]
        await cluster.other_client.upload("a", DATA[::-1])
        new, cluster.catalog.committed = cluster.catalog.committed, old
        usual = cluster.data[0].fault

        def replaced(request: Any) -> Exception | None:
            if cluster.catalog.committed is old:
                cluster.catalog.committed = new
                closing.edition += 1
            return usual(request)

        cluster.data[0].fault = replaced
        assert DATA[::-1] == await cluster.client.read("a")


@on_reactor
async def test_another_place_comes_with_its_ticket(reactor: Any) -> None:
    """A data server that is full is replaced by one that the plan had no ticket for."""
    async with scripted(reactor) as cluster:
        closing = close(cluster, for_kind(Store, DiskFull("full")), no, no)
        await cluster.client.upload("a", DATA)
        assert ["a-0", "a-1", "a-2", "a-3"] == cluster.blocks(1)
        assert 0 == closing.refused


@on_reactor
async def test_an_upload_that_is_resumed_shows_two_tickets(reactor: Any) -> None:
    """That of its plan, and that of the older one."""
    async with scripted(reactor, data_servers=2, replicas=2) as cluster:
        await broken_off(cluster, 2)
        closing = close(cluster)
        await cluster.client.upload("a", DATA, resume=True)
        assert ([4, 4], [2, 2], 0) == (
            [len(server.of(Link)) for server in cluster.data],
            [len(server.of(Store)) for server in cluster.data],
            closing.refused,
        )


@on_reactor
async def test_resuming_lasts_longer_than_its_tickets(reactor: Any) -> None:
    """Those of the older plan are renewed as those of the new one are, and what it has stored is linked to the end."""
    async with scripted(reactor, data_servers=2, replicas=2) as cluster:
        await broken_off(cluster, 2)
        closing = close(cluster)
        tickets_end_after(closing, 1, Link, cluster)
        await cluster.client.upload("a", DATA, resume=True)
        assert {1, 2} == {request.generation for request in cluster.catalog.of(RenewPlan)}
        assert [2, 2] == [len(server.of(Store)) for server in cluster.data]


@on_reactor
async def test_small_files_go_in_together(reactor: Any, files: Sequence[tuple[str, Path]]) -> None:
    """Each with its ticket."""
    async with scripted(reactor, replicas=2) as cluster:
        closing = close(cluster)
        await cluster.client.upload_files(files)
        assert ([1, 1, 0], 0) == ([len(server.of(StoreBlocks)) for server in cluster.data], closing.refused)
        assert not any(server.of(Store) for server in cluster.data)


def listed(closing: Closing) -> ListedFile:
    metadata = closing.told(closing.cluster.catalog.committed)  # type: ignore[arg-type]
    return ListedFile(
        name=metadata.name,
        total_size=metadata.total_size,
        generation=metadata.generation,
        replicas=1,
        modified="2026-01-02T03:04:05.678Z",
        attributes={},
        block_size=BLOCK_SIZE,
        blocks=metadata.blocks,
        tickets=metadata.tickets,
    )


@pytest.mark.parametrize(("editions", "asked"), [(0, 0), (1, 1)])
@on_reactor
async def test_small_files_come_together(reactor: Any, tmp_path: Path, editions: int, asked: int) -> None:
    """Each with the ticket that it was listed with; one whose ticket has expired meanwhile comes alone."""
    async with scripted(reactor) as cluster:
        closing = close(cluster)
        await cluster.client.upload("a", DATA[:BLOCK_SIZE])
        file = listed(closing)
        closing.edition += editions
        await cluster.client.download_files([(file, tmp_path / "a")])
        assert DATA[:BLOCK_SIZE] == (tmp_path / "a").read_bytes()
        assert 1 == len(cluster.data[0].of(RetrieveBlocks))
        assert (asked, asked) == (len(cluster.data[0].of(Retrieve)), closing.refused)


@on_reactor
async def test_who_is_shown_out_in_the_middle_of_an_upload_hears_why(reactor: Any) -> None:
    """Not that data servers fail."""
    async with scripted(reactor) as cluster:
        closing = close(cluster)
        tickets_end_after(closing, 2, Store, cluster)
        error = Unauthorized("the token was revoked")
        cluster.catalog.fault = lambda request: error if cluster.data[0].blocks else None
        with pytest.raises(Unauthorized, match=r"^the token was revoked$"):
            await cluster.client.upload("a", DATA)
        assert [] == cluster.catalog.of(CompleteFile)


@on_reactor
async def test_an_open_metadata_server_is_told_of_where_data_servers_are_closed(reactor: Any) -> None:
    """It is a mistake in the cluster's set-up, and not the client's."""
    async with scripted(reactor) as cluster:
        for server in cluster.data:
            server.fault = lambda request: Unauthorized("show a ticket") if isinstance(request, Store) else None
        with pytest.raises(Unauthorized, match=r"given no ticket for it: it has no secret \(--secret-file\)"):
            await cluster.client.upload("a", DATA)


@on_reactor
async def test_a_replica_that_is_not_shown_is_not_reported(reactor: Any) -> None:
    """It is neither missing nor corrupt; the other replica is read."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        cluster.data[0].fault = lambda _request: Unauthorized("show a ticket")
        assert DATA == await cluster.client.read("a")
        cluster.data[1].fault = lambda _request: Unavailable("gone")
        with pytest.raises(Unavailable):
            await cluster.client.read("a")
        assert {"StoreFile", "CompleteFile", "GetMetadata"} == {type(each).__name__ for each in cluster.catalog.asked}
