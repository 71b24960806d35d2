"""Bad replicas that readers meet with, as the metadata server hears of them."""

from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from filefly.errors import Internal, NotFound, Unavailable
from filefly.wire.blocks import Retrieve
from filefly.wire.messages import ReportReplica
from tests.client.scripted import ScriptedCluster, for_kind, scripted
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789abcdefghijklmnop"


async def read(cluster: ScriptedCluster, _folder: Path) -> None:
    assert DATA == await cluster.client.read("a")


async def stream(cluster: ScriptedCluster, _folder: Path) -> None:
    async with aclosing(cluster.client.stream("a")) as chunks:
        assert DATA == b"".join([chunk async for chunk in chunks])


async def download(cluster: ScriptedCluster, folder: Path) -> None:
    await cluster.client.download("a", folder / "copy")
    assert DATA == (folder / "copy").read_bytes()


READING = pytest.mark.parametrize("reading", [read, stream, download])


def reported(cluster: ScriptedCluster) -> list[tuple[str, str]]:
    return [(report.block_id, report.data_server) for report in cluster.catalog.of(ReportReplica)]


@READING
@on_reactor
async def test_bad_replicas_are_reported_and_others_read(reactor: Any, tmp_path: Path, reading: Any) -> None:
    """A missing one and a corrupt one, each once, before the reading ends; the reader does not notice."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        bad = cluster.data[0]
        del bad.blocks["a-1.1"]
        bad.blocks["a-3.1"] = b"WRONG"
        await reading(cluster, tmp_path)
        assert [("a-1.1", bad.address), ("a-3.1", bad.address)] == reported(cluster)


@READING
@on_reactor
async def test_a_block_that_is_nowhere_is_reported_once_a_place(reactor: Any, tmp_path: Path, reading: Any) -> None:
    """However often it was tried."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA[:7])
        one, other = cluster.data[:2]
        one.blocks.clear()
        other.fault = for_kind(Retrieve, Unavailable("busy"))
        with pytest.raises(Unavailable):
            await reading(cluster, tmp_path)
        assert 3 == len(one.of(Retrieve))
        assert [("a-0.1", one.address)] == reported(cluster)


@on_reactor
async def test_who_is_away_is_not_reported(reactor: Any) -> None:
    """That says nothing of its block, and the metadata server sees it for itself."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        await cluster.kill(0)
        assert DATA == await cluster.client.read("a")
        assert [] == reported(cluster)


@on_reactor
async def test_a_report_that_fails_is_none_of_the_readers_business(reactor: Any) -> None:
    """Nor does its error appear anywhere else."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        cluster.data[0].blocks.clear()
        cluster.catalog.fault = for_kind(ReportReplica, Internal())
        assert DATA == await cluster.client.read("a")
        assert 4 == len(reported(cluster))


@pytest.mark.parametrize("other", ["good", "away"])
@on_reactor
async def test_a_reader_waits_for_its_reports(reactor: Any, other: str) -> None:
    """A client that is closed behind the last block would take its hint with it; also where the reading failed."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA[:7])
        cluster.data[0].blocks.clear()
        if other == "away":
            cluster.data[1].fault = for_kind(Retrieve, Unavailable("away"))
        answer, answered = cluster.catalog.answer, 0

        async def slowly(request: Any, conversation: Any, session: Any) -> Any:
            nonlocal answered
            if isinstance(request, ReportReplica):
                for _ in range(200):
                    await next_turn()
                answered += 1
            return await answer(request, conversation, session)

        cluster.catalog.answer = slowly  # type: ignore[method-assign]
        with suppress(Unavailable):
            await cluster.client.read("a")
        assert 1 == answered


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filefly.client.reports._DEADLINE_SECONDS", 0.05)


async def hang(cluster: ScriptedCluster) -> None:
    """Leave every report without an answer."""
    answer = cluster.catalog.answer

    async def never(request: Any, conversation: Any, session: Any) -> Any:
        if isinstance(request, ReportReplica):
            cluster.catalog.asked.append(request)
            await conversation.receive_line()
        return await answer(request, conversation, session)

    cluster.catalog.answer = never  # type: ignore[method-assign]


@pytest.mark.usefixtures("short_deadline")
@on_reactor
async def test_a_report_without_an_answer_is_not_waited_for_long(reactor: Any) -> None:
    """The reader has its bytes already."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        cluster.data[0].blocks.clear()
        await hang(cluster)
        assert DATA == await cluster.client.read("a")
        assert reported(cluster)


@on_reactor
async def test_few_reports_are_under_way_at_once(reactor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a data server that has lost everything the metadata server need not hear block by block."""
    monkeypatch.setattr("filefly.client.reports._DEADLINE_SECONDS", 60)
    async with scripted(reactor, replicas=2, concurrency=8) as cluster:
        await cluster.client.upload("a", DATA * 10)
        blocks = len(cluster.data[0].blocks)
        cluster.data[0].blocks.clear()
        await hang(cluster)
        reading = cluster.client.read("a")
        while len(cluster.data[1].of(Retrieve)) < blocks or len(reported(cluster)) < 16:
            await next_turn()
        assert (16, True) == (len(reported(cluster)), blocks > 16)
        reading.cancel()
        with suppress(CancelledError):  # it may have had its bytes, and only waited for the reports
            await reading


@on_reactor
async def test_who_leaves_early_does_not_wait_for_reports(reactor: Any) -> None:
    """Neither one that was cancelled nor one that has read enough; closing the client gives them up."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        cluster.data[0].blocks.clear()
        await hang(cluster)
        async with aclosing(cluster.client.stream("a")) as chunks:
            assert DATA[:7] == await anext(chunks)
        reading = cluster.client.read("a")
        while len(reported(cluster)) < 5:
            await next_turn()
        reading.cancel()
        assert reading.called
        with suppress(CancelledError):  # unless it had its bytes already, and only waited for the reports
            await reading
        cluster.client.close()


@on_reactor
async def test_a_deleted_file_is_not_found(reactor: Any) -> None:
    """Its missing blocks may be reported: it is a hint."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        metadata = cluster.catalog.committed
        reading = cluster.client._reader.by_metadata
        for server in cluster.data:
            server.blocks.clear()

        async def read(found: Any, tickets: Any) -> bytes:
            assert found == metadata
            cluster.catalog.committed = None
            return await cluster.client._reader.whole(found, tickets, 0, None)

        with pytest.raises(NotFound, match=r"^a: file not found$"):
            await reading("a", read)
