from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure

from filefly.daemon.guard import Session
from filefly.daemon.protocol import ServerFactory
from filefly.daemon.service import STOP_DEADLINE_SECONDS, DaemonService, refuse
from filefly.errors import DiskFull
from filefly.wire.address import listening_endpoint
from filefly.wire.blocks import Stat
from filefly.wire.codec import commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import Ping, Pong, Reply, Request
from tests.caller import calling
from tests.on_reactor import next_turn, on_reactor


class SlowVerbs:
    """Answers `ping` at once, and `stat` when the test says so."""

    commands = commands_of(Ping, Stat)
    max_payload = 0

    def __init__(self) -> None:
        self.begun: Deferred[None] = Deferred()
        self.answer_now: Deferred[None] = Deferred()

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        if isinstance(request, Stat):
            self.begun.callback(None)
            await self.answer_now
        return Pong(pong=True)


class Part:
    """Notes what happens to it, in a diary that it shares."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self._name = name
        self._diary = diary

    def start(self) -> None:
        self._diary.append(f"{self._name} started")

    def stop(self) -> None:
        self._diary.append(f"{self._name} stopped")


class Daemon:
    """A daemon with slow verbs and two parts; its deadline goes by `clock`."""

    def __init__(self, reactor: Any) -> None:
        self.clock = Clock()
        self.verbs = SlowVerbs()
        self.diary: list[str] = []
        self.factory = ServerFactory(self.clock, self.verbs)
        parts = [Part("pool", self.diary), Part("catalog", self.diary)]
        endpoint = listening_endpoint(reactor, "127.0.0.1:0")
        self.service = DaemonService(self.clock, "filefly-test", endpoint, self.factory, parts)

    def start(self) -> None:
        self.service.startService()
        port: Any = self.service._port
        self.port = port.getHost().port


@asynccontextmanager
async def running(reactor: Any) -> AsyncIterator[Daemon]:
    daemon = Daemon(reactor)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.service.running:
            await daemon.service.stopService()


@on_reactor
async def test_the_parts_start_before_the_port_answers(reactor: Any) -> None:
    """A request never meets a part that is not there yet."""
    async with running(reactor) as daemon, calling(reactor, daemon.port) as caller:
        assert {"status": "ok", "pong": True} == await caller.ask(command="ping")
        assert ["pool started", "catalog started"] == daemon.diary


@on_reactor
async def test_the_parts_stop_last_to_first(reactor: Any) -> None:
    """What was started last needs what was started first."""
    async with running(reactor) as daemon:
        daemon.diary.clear()
        await daemon.service.stopService()
        assert ["catalog stopped", "pool stopped"] == daemon.diary


@on_reactor
async def test_a_stopped_daemon_is_not_listening(reactor: Any) -> None:
    """The port is free for the next one."""
    async with running(reactor) as daemon:
        await daemon.service.stopService()
        with pytest.raises(Refused):
            async with calling(reactor, daemon.port):
                pass


@on_reactor
async def test_the_request_in_flight_is_answered(reactor: Any) -> None:
    """Stopping closes the port first, then waits for requests, and stops the parts only then."""
    async with running(reactor) as daemon, calling(reactor, daemon.port) as caller:
        caller.tell(command="stat", block_id="a-0")
        caller.tell(command="ping")
        await daemon.verbs.begun
        daemon.diary.clear()
        stopped = daemon.service.stopService()
        while not daemon.clock.getDelayedCalls():
            await next_turn()
        with pytest.raises(Refused):
            async with calling(reactor, daemon.port):
                pass
        assert (False, []) == (stopped.called, daemon.diary)
        daemon.verbs.answer_now.callback(None)
        assert {"status": "ok", "pong": True} == await caller.hear()
        assert await caller.hear_the_end()
        await stopped
        assert ["catalog stopped", "pool stopped"] == daemon.diary
        assert [] == daemon.clock.getDelayedCalls()


@on_reactor
async def test_an_idle_connection_is_closed(reactor: Any) -> None:
    """A client that keeps its connection open does not keep the daemon from stopping."""
    async with running(reactor) as daemon, calling(reactor, daemon.port) as caller:
        await caller.ask(command="ping")
        await daemon.service.stopService()
        assert await caller.hear_the_end()
        assert {} == daemon.factory.conversations


@on_reactor
async def test_who_has_ended_its_input_is_not_waited_for(reactor: Any) -> None:
    """A client that only reads is closed, too."""
    async with running(reactor) as daemon, calling(reactor, daemon.port) as caller:
        await caller.ask(command="ping")
        caller.transport.loseWriteConnection()
        assert await caller.hear_the_end()
        await daemon.service.stopService()
        assert {} == daemon.factory.conversations


@on_reactor
async def test_stopping_has_a_deadline(reactor: Any) -> None:
    """A connection whose request takes too long is cut off; its work is still waited for."""
    async with running(reactor) as daemon, calling(reactor, daemon.port) as caller:
        caller.tell(command="stat", block_id="a-0")
        await daemon.verbs.begun
        stopped = daemon.service.stopService()
        while not daemon.clock.getDelayedCalls():
            await next_turn()
        daemon.clock.advance(STOP_DEADLINE_SECONDS)
        assert await caller.hear_the_end()
        assert not stopped.called
        daemon.verbs.answer_now.callback(None)
        await stopped


class FailingPart(Part):
    """Cannot save what it has to save."""

    def __init__(self, error: Exception, diary: list[str]) -> None:
        super().__init__("failing", diary)
        self._error = error

    def stop(self) -> None:
        raise self._error


@pytest.mark.parametrize(("error", "failures"), [(DiskFull("the disk is full"), 0), (ZeroDivisionError(), 1)])
@on_reactor
async def test_a_part_that_cannot_stop_stops_no_other(
    reactor: Any, error: Exception, failures: int, logged_failures: list[Failure]
) -> None:
    """The process would never end: threads of the others run on."""
    diary: list[str] = []
    endpoint, clock = listening_endpoint(reactor, "127.0.0.1:0"), Clock()
    parts = [Part("pool", diary), FailingPart(error, diary)]
    service = DaemonService(clock, "filefly-test", endpoint, ServerFactory(clock, SlowVerbs()), parts)
    service.startService()
    with capturedLogs() as events:
        await service.stopService()
    assert ["pool started", "failing started", "pool stopped"] == diary
    assert (failures == 0) == ("filefly-test: the disk is full" in [formatEvent(event) for event in events])
    assert failures == len(logged_failures)
    logged_failures.clear()


def test_refusing_ends_the_process_with_one_sentence() -> None:
    """The sentence begins with the daemon's name, and the exit status is 1."""
    with pytest.raises(SystemExit) as caught:
        refuse("filefly-data", "there is no disk")
    assert "filefly-data: there is no disk" == caught.value.code


def warnings(events: Iterable[LogEvent]) -> int:
    """Count the warnings that it is open, of which there are no others."""
    told = [formatEvent(event) for event in events if "log_level" in event and event["log_level"] is LogLevel.warn]
    assert all("can read, overwrite and delete everything" in sentence for sentence in told)
    return len(told)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", 0), ("127.0.0.2", 0), ("0.0.0.0", 1), ("", 1)])
@on_reactor
async def test_who_listens_on_a_network_is_warned_once(reactor: Any, host: str, warned: int) -> None:
    """An open server is for those who can be trusted; the sentence says what to do."""
    clock = Clock()
    endpoint = listening_endpoint(reactor, f"{host}:0")
    service = DaemonService(clock, "filefly-test", endpoint, ServerFactory(clock, SlowVerbs()), [])
    with capturedLogs() as events:
        service.startService()
    await service.stopService()
    assert warned == warnings(events)


@on_reactor
async def test_who_asks_for_certificates_warns_of_nothing(reactor: Any) -> None:
    """Not whoever reaches it gets in."""
    clock, endpoint = Clock(), listening_endpoint(reactor, ":0")
    service = DaemonService(clock, "filefly-test", endpoint, ServerFactory(clock, SlowVerbs()), [], False)
    with capturedLogs() as events:
        service.startService()
    await service.stopService()
    assert 0 == warnings(events)


@on_reactor
async def test_a_unix_socket_is_told_as_one_would_write_it(reactor: Any, tmp_path: Path) -> None:
    """As --addr takes it."""
    endpoint = listening_endpoint(reactor, f"unix:{tmp_path}/s")
    service = DaemonService(reactor, "filefly-test", endpoint, ServerFactory(reactor, SlowVerbs()), [])
    with capturedLogs() as events:
        service.startService()
    await service.stopService()
    assert f"filefly-test is listening on unix:{tmp_path}/s" in [formatEvent(event) for event in events]


@on_reactor
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_where_it_listens_is_told_as_one_would_write_it(reactor: Any, host: str) -> None:
    """An IPv6 address is told from the port by its brackets."""
    try:
        endpoint = listening_endpoint(reactor, f"{host}:0")
    except OSError:
        pytest.skip("this machine has no IPv6")
    service = DaemonService(reactor, "filefly-test", endpoint, ServerFactory(reactor, SlowVerbs()), [])
    with capturedLogs() as events:
        service.startService()
    port = service._port.getHost().port  # type: ignore[union-attr]
    await service.stopService()
    assert f"filefly-test is listening on {host}:{port}" in [formatEvent(event) for event in events]
