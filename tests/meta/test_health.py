from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from filefly.meta.cluster import Cluster
from filefly.meta.health import Health
from filefly.meta.inventory import DataServerRow
from filefly.threads import WorkerPool
from filefly.wire.messages import DataServerState
from tests.meta.running import DataNode
from tests.on_reactor import next_turn, on_reactor

INTERVAL = 5


class Checking:
    """Two data servers, and what is known of their health by a clock that the test turns."""

    def __init__(self, reactor: Any, nodes: list[DataNode]) -> None:
        self.nodes = nodes
        self.clock = Clock()
        self.clock.rightNow = 1_000_000_000.0
        self.cluster = Cluster(reactor, WorkerPool(reactor, "compute", 1))
        self.cluster.take(
            [
                DataServerRow(1, nodes[0].address, "far:1", placing=True),
                DataServerRow(2, nodes[1].address, None, placing=True),
            ]
        )
        self.health = Health(self.clock, self.cluster, INTERVAL)

    @property
    def checked(self) -> list[str | None]:
        return [state.last_checked for state in self.health.states()]

    @property
    def healthy(self) -> list[bool]:
        return [state.healthy for state in self.health.states()]

    async def check(self, after: float = 0) -> None:
        """Wait until all data servers have been looked at again, `after` seconds of the clock."""
        self.clock.advance(after)
        wanted = f"2001-09-09T01:46:{40 + self.clock.seconds() - 1_000_000_000:06.3f}Z"
        while self.checked != [wanted, wanted]:
            await next_turn()


@asynccontextmanager
async def checking(reactor: Any, folder: Path) -> AsyncIterator[Checking]:
    nodes = [DataNode(reactor, folder / f"data{number}").start() for number in (1, 2)]
    found = Checking(reactor, nodes)
    found.health.start()
    try:
        yield found
    finally:
        await found.health.stop()
        found.cluster.stop()
        for node in nodes:
            await node.stop()


@on_reactor
async def test_before_the_first_answer_nobody_is_healthy(reactor: Any, tmp_path: Path) -> None:
    """And nothing else is claimed."""
    async with checking(reactor, tmp_path) as found:
        one, two = (node.address for node in found.nodes)
        assert [
            DataServerState(address=one, healthy=False, advertised_address="far:1"),
            DataServerState(address=two, healthy=False),
        ] == found.health.states()
        await found.check()


@on_reactor
async def test_who_answers_is_healthy(reactor: Any, tmp_path: Path) -> None:
    """Looked at as soon as the metadata server runs."""
    async with checking(reactor, tmp_path) as found:
        await found.check()
        time = "2001-09-09T01:46:40.000Z"
        assert (
            DataServerState(found.nodes[1].address, True, last_pong=time, last_checked=time) == found.health.states()[1]
        )


@on_reactor
async def test_who_does_not_answer_is_not(reactor: Any, tmp_path: Path) -> None:
    """When it last did, and what is wrong now, is shown; the other one is healthy."""
    async with checking(reactor, tmp_path) as found:
        await found.check()
        await found.nodes[1].stop()
        await found.check(after=INTERVAL)
        first, second = found.health.states()
        assert first.healthy
        assert (False, "2001-09-09T01:46:40.000Z", "2001-09-09T01:46:45.000Z") == (
            second.healthy,
            second.last_pong,
            second.last_checked,
        )
        assert found.nodes[1].address in str(second.error)


@on_reactor
async def test_who_comes_back_is_healthy_again(reactor: Any, tmp_path: Path) -> None:
    """The error is gone."""
    async with checking(reactor, tmp_path) as found:
        await found.nodes[0].stop()
        await found.check()
        assert [False, True] == found.healthy
        found.nodes[0].start()
        await found.check(after=INTERVAL)
        assert [True, True] == found.healthy
        assert None is found.health.states()[0].error


@on_reactor
async def test_nobody_is_asked_before_it_is_time(reactor: Any, tmp_path: Path) -> None:
    """The interval is kept."""
    async with checking(reactor, tmp_path) as found:
        await found.check()
        before = found.checked
        found.clock.advance(INTERVAL - 0.1)
        await next_turn()
        assert before == found.checked
        await found.check(after=0.1)


@on_reactor
async def test_a_data_server_that_is_added_is_looked_at_too(reactor: Any, tmp_path: Path) -> None:
    """With the next round."""
    async with checking(reactor, tmp_path) as found:
        await found.check()
        [one, two] = found.cluster.servers.values()
        found.cluster.take([one, two, DataServerRow(3, two.address, None, placing=True)])
        assert [True, True, False] == found.healthy
        found.clock.advance(INTERVAL)
        while None in found.checked:
            await next_turn()
        assert [True, True, True] == found.healthy
