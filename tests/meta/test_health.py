"""How data servers are: up, suspect, down. Who they are is in test_health_of_storages.py."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from filefly.catalog.inventory import catalog_row, register_data_server
from filefly.errors import Conflict, NotFound, Unavailable
from filefly.meta.cluster import Cluster, Condition
from filefly.meta.health import _is_full
from filefly.wire.messages import Pong
from tests.catalog.catalogs import done, plan, seen
from tests.meta.bench import GRACE_SECONDS, Bench, on_a_bench
from tests.meta.running import DataNode
from tests.on_reactor import next_turn, on_reactor

INTERVAL = 5
DOWN_AFTER = 15


def states(bench: Bench) -> list[str]:
    return [bench.cluster.condition(server).state for server in bench.cluster.servers]


async def check(bench: Bench, after: float = 0) -> None:
    """Let time pass, and all data servers be looked at."""
    bench.monotonic.now += after
    bench.clock.advance(after)
    await bench.health.round()


async def turn_until(bench: Bench, there: Any) -> None:
    """Let the reactor work until what is waited for is there."""
    while not there():
        await next_turn()


def restart(bench: Bench) -> None:
    """Let the metadata server start anew: it has heard of nobody yet."""
    bench.stop()
    bench.start()


# Up, suspect, down


@on_reactor
async def test_before_the_first_answer_everybody_is_suspect(reactor: Any, tmp_path: Path) -> None:
    """New blocks may go there, but nothing else is claimed, and nothing is deleted."""
    async with on_a_bench(reactor, tmp_path) as bench:
        restart(bench)
        assert (["suspect", "suspect"], [1, 2], []) == (states(bench), bench.cluster.placing(), bench.cluster.up())
        assert (None, None) == bench.health.told_times(1)


@on_reactor
async def test_who_answers_is_up(reactor: Any, tmp_path: Path) -> None:
    """With when that was, and how much room it has."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.clock.advance(1_000_000_000 - bench.clock.seconds())
        await bench.health.round()
        assert (["up", "up"], [1, 2]) == (states(bench), bench.cluster.up())
        assert ("2001-09-09T01:46:40.000Z",) * 2 == bench.health.told_times(2)
        found = bench.health.seen(2)
        assert (None, bench.node(2).identity["storage_id"]) == (found.error, found.pong.storage_id)
        assert (found.pong.total_bytes or 0) >= (found.pong.free_bytes or 0) > 0


@on_reactor
async def test_who_misses_a_ping_is_suspect_and_then_down(reactor: Any, tmp_path: Path) -> None:
    """New blocks go elsewhere only once it is down; later its replicas do not count any more."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await bench.node(2).stop()
        await check(bench, after=DOWN_AFTER - 1)
        assert (["up", "suspect"], [1, 2], [1]) == (states(bench), bench.cluster.placing(), bench.cluster.up())
        await check(bench, after=1)
        assert (["up", "down"], [1], [1]) == (states(bench), bench.cluster.placing(), bench.cluster.up())
        await check(bench, after=GRACE_SECONDS - DOWN_AFTER - 1)
        assert Condition("down", away=False) == bench.cluster.condition(2)
        await check(bench, after=1)
        assert Condition("down", away=True) == bench.cluster.condition(2)
        last_pong, last_checked = bench.health.told_times(2)
        assert ("1970-01-01T00:00:00.000Z", "1970-01-01T00:10:00.000Z") == (last_pong, last_checked)
        assert bench.node(2).address in str(bench.health.seen(2).error)


@on_reactor
async def test_one_answer_is_enough_to_be_up_again(reactor: Any, tmp_path: Path) -> None:
    """The error is gone, and the time that it has counts from now on."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await bench.down(2)
        bench.node(2).start()
        await check(bench, after=GRACE_SECONDS)
        assert (["up", "up"], None) == (states(bench), bench.health.seen(2).error)
        await bench.node(2).stop()
        await check(bench, after=DOWN_AFTER - 1)
        assert ["up", "suspect"] == states(bench)


@on_reactor
async def test_who_never_answers_is_down_after_a_while(reactor: Any, tmp_path: Path) -> None:
    """It has its time from the start of the metadata server on."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await bench.node(2).stop()
        restart(bench)
        await check(bench)
        assert ["up", "suspect"] == states(bench)
        await check(bench, after=DOWN_AFTER)
        assert (["up", "down"], None) == (states(bench), bench.health.told_times(2)[0])


@pytest.mark.parametrize(("free", "room", "full"), [(100, 0, True), (101, 0, False), (107, 8, True), (108, 8, False)])
def test_a_block_must_fit_above_the_reserve(free: int, room: int, full: bool) -> None:
    """Or all that is sent there would be refused."""
    assert full == _is_full(Pong(free_bytes=free, reserve_bytes=100), room)


@on_reactor
async def test_who_has_no_room_is_full(reactor: Any, tmp_path: Path) -> None:
    """It gets no new blocks, but what it has is read, and deleted."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await bench.node(2).stop()
        bench.node(2).reserve_bytes = 2**50
        bench.node(2).start()
        await check(bench)
        assert Condition("up", full=True) == bench.cluster.condition(2)
        assert ([1], [1, 2]) == (bench.cluster.placing(), bench.cluster.up())


@on_reactor
async def test_who_has_lost_its_disk_is_not_healthy(reactor: Any, tmp_path: Path) -> None:
    """Its daemon answers, but what it is asked for is not there."""
    async with on_a_bench(reactor, tmp_path) as bench:
        (bench.node(2).folder / ".filefly.json").rename(tmp_path / "kept")
        await check(bench)
        assert ["up", "suspect"] == states(bench)
        assert "is its disk mounted?" in str(bench.health.seen(2).error)
        (tmp_path / "kept").rename(bench.node(2).folder / ".filefly.json")
        await check(bench)
        assert ["up", "up"] == states(bench)


# Strange data servers


class Strange(LineReceiver):
    """Answers every line alike, or not at all."""

    delimiter = b"\n"

    def __init__(self, strangers: "Strangers") -> None:
        self._strangers = strangers

    def lineReceived(self, line: bytes) -> None:
        self._strangers.heard += 1
        if self._strangers.reply is not None:
            self.sendLine(self._strangers.reply)


class Strangers(Factory):
    """Makes strange servers, and counts what they hear."""

    def __init__(self, reply: bytes | None) -> None:
        self.reply = reply
        self.heard = 0

    def buildProtocol(self, addr: Any) -> Strange:
        return Strange(self)


async def strange(bench: Bench, reply: bytes | None) -> tuple[Any, Strangers]:
    """Put a strange server where the second data server was."""
    await bench.node(2).stop()
    factory = Strangers(reply)
    endpoint = TCP4ServerEndpoint(bench.reactor, bench.node(2).port, interface="127.0.0.1")
    return await endpoint.listen(factory), factory


@on_reactor
async def test_who_hangs_does_not_hold_up_the_others(reactor: Any, tmp_path: Path) -> None:
    """A ping has its deadline: after it the round ends, with what the others have said."""
    async with on_a_bench(reactor, tmp_path) as bench:
        port, factory = await strange(bench, None)
        bench.monotonic.now += DOWN_AFTER
        bench.health.seen(1).last_checked = None
        looking = Deferred.fromCoroutine(bench.health.round())
        await turn_until(bench, lambda: factory.heard and bench.health.seen(1).last_checked is not None)
        bench.clock.advance(INTERVAL - 0.1)
        await next_turn()
        assert not looking.called
        bench.clock.advance(0.1)
        await looking
        assert (["up", "down"], "no answer for 5 seconds") == (states(bench), bench.health.seen(2).error)
        await port.stopListening()


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b'{"status":"error","error":"no","code":"busy"}', "no"),
        (b"HTTP/1.1 400 Bad Request", "the server's reply is not understood: JSON is malformed"),
    ],
)
@on_reactor
async def test_who_says_no_is_suspect(reactor: Any, tmp_path: Path, reply: bytes, sentence: str) -> None:
    """It is a data server that cannot just now, or none at all: time will tell."""
    async with on_a_bench(reactor, tmp_path) as bench:
        port, _factory = await strange(bench, reply)
        await check(bench)
        assert ["up", "suspect"] == states(bench)
        assert sentence in str(bench.health.seen(2).error)
        await port.stopListening()


@on_reactor
async def test_who_does_not_tell_who_it_is_is_refused(reactor: Any, tmp_path: Path) -> None:
    """Nothing is placed there, and nothing read; it cannot be accepted either."""
    async with on_a_bench(reactor, tmp_path) as bench:
        port, _factory = await strange(bench, b'{"status":"ok","pong":true}')
        await check(bench)
        sentence = "does not tell who it is; is it a FileFly data server, of this version, and with this --secret-file?"
        assert (["up", "down"], sentence, [1]) == (states(bench), bench.health.seen(2).error, bench.cluster.placing())
        with pytest.raises(Conflict) as caught:
            await bench.health.accept(bench.node(2).address)
        assert f"{bench.node(2).address} {sentence}" == str(caught.value)
        await port.stopListening()


@on_reactor
async def test_who_lacks_the_secret_is_refused_at_once(reactor: Any, tmp_path: Path) -> None:
    """It is not waited for as for one that is silent; the log says so once, not at every ping."""
    async with on_a_bench(reactor, tmp_path) as bench:
        port, _factory = await strange(bench, b'{"status":"error","error":"it:9 has no secret","code":"unauthorized"}')
        with capturedLogs() as events:
            await check(bench)
            await check(bench)
        assert (["up", "down"], [1]) == (states(bench), bench.cluster.placing())
        warned = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        assert ["data server it:9 has no secret"] == warned
        await port.stopListening()


# Being told whose it is


async def adoptions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Note from now on which data server is told which generation."""
    told: list[tuple[int, int]] = []
    adopt = Cluster.adopt

    async def noting(self: Cluster, server: int, catalog_id: str, generation: int, force: bool = False) -> None:
        told.append((server, generation))
        await adopt(self, server, catalog_id, generation, force)

    monkeypatch.setattr(Cluster, "adopt", noting)
    return told


@on_reactor
async def test_a_new_data_server_is_told_whose_it_is(reactor: Any, tmp_path: Path) -> None:
    """It keeps that on its disk."""
    async with on_a_bench(reactor, tmp_path) as bench:
        catalog_id = seen(bench.database, catalog_row).catalog_id
        for node in bench.nodes:
            assert (catalog_id, 0) == (node.identity["catalog_id"], node.identity.get("generation", 0))


@on_reactor
async def test_data_servers_are_told_each_new_generation_once(
    reactor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest one, so that an older catalog can be recognised."""
    async with on_a_bench(reactor, tmp_path) as bench:
        told = await adoptions(bench, monkeypatch)
        await check(bench)
        assert [] == told
        for _ in range(3):
            plan(bench.database, "a")
        await check(bench)
        await check(bench)
        assert [(1, 3), (2, 3)] == sorted(told)
        assert [3, 3] == [node.identity["generation"] for node in bench.nodes]


@on_reactor
async def test_who_was_away_is_told_when_it_is_back(reactor: Any, tmp_path: Path) -> None:
    """The highest generation of then."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await bench.node(2).stop()
        plan(bench.database, "a")
        await check(bench)
        assert [1, 0] == [node.identity.get("generation", 0) for node in bench.nodes]
        bench.node(2).start()
        await check(bench)
        assert [1, 1] == [node.identity["generation"] for node in bench.nodes]


@on_reactor
async def test_who_could_not_write_it_down_is_told_again(reactor: Any, tmp_path: Path) -> None:
    """Until it has."""
    async with on_a_bench(reactor, tmp_path) as bench:
        plan(bench.database, "a")
        incoming = bench.node(2).folder / ".incoming"
        incoming.rmdir()
        incoming.write_bytes(b"")
        await check(bench)
        assert (["up", "suspect"], 0) == (states(bench), bench.node(2).identity.get("generation", 0))
        assert "cannot write" in str(bench.health.seen(2).error)
        incoming.unlink()
        incoming.mkdir()
        await check(bench)
        assert (["up", "up"], 1) == (states(bench), bench.node(2).identity["generation"])


# Its loop


async def wait_for_round(bench: Bench, seconds: float = 0) -> None:
    """Let the clock go on, and wait until the loop has looked at everybody, and waits for its next turn."""
    bench.monotonic.now += seconds
    bench.clock.advance(seconds)
    loop: Any = bench.health._rounds._loop
    await turn_until(bench, lambda: loop.call is not None)


@on_reactor
async def test_everybody_is_asked_once_an_interval(reactor: Any, tmp_path: Path) -> None:
    """From the start on, and not before it is time; who was added meanwhile, too."""
    async with on_a_bench(reactor, tmp_path) as bench:
        bench.health.start()
        await wait_for_round(bench)
        added = DataNode(reactor, tmp_path / "added").start()
        bench.cluster.take(done(bench.database, register_data_server, added.address, None))
        bench.clock.advance(INTERVAL - 0.1)
        await next_turn()
        assert ["up", "up", "suspect"] == states(bench)
        await wait_for_round(bench, 0.1)
        assert ["up", "up", "up"] == states(bench)
        await bench.health.stop()
        assert [] == bench.clock.getDelayedCalls()
        await added.stop()


@on_reactor
async def test_a_failing_round_is_logged_and_repeated(
    reactor: Any, tmp_path: Path, logged_failures: list[Failure]
) -> None:
    """The catalog may be out of order for a while."""
    async with on_a_bench(reactor, tmp_path) as bench:
        rename = "ALTER TABLE {} RENAME TO {}"
        done(bench.database, lambda c: c.exec_driver_sql(rename.format("catalog", "hidden")) and None)
        await bench.node(2).stop()
        bench.health.start()
        await turn_until(bench, lambda: logged_failures)
        assert "no such table: catalog" in logged_failures[0].getErrorMessage()
        logged_failures.clear()
        done(bench.database, lambda c: c.exec_driver_sql(rename.format("hidden", "catalog")) and None)
        bench.node(2).start()
        await wait_for_round(bench)
        await wait_for_round(bench, INTERVAL)
        assert ["up", "up"] == states(bench)
        await bench.health.stop()


# Accepting


@on_reactor
async def test_who_cannot_be_asked_cannot_be_accepted(reactor: Any, tmp_path: Path) -> None:
    """Nobody knows what is there."""
    async with on_a_bench(reactor, tmp_path) as bench:
        await bench.node(2).stop()
        with pytest.raises(Unavailable):
            await bench.health.accept(bench.node(2).address)
        with pytest.raises(NotFound, match=r"^there is no data server nowhere:1"):
            await bench.health.accept("nowhere:1")
