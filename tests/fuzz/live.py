"""Fuzz targets that are whole servers: every line has one answer, nothing hangs, and nothing fails that is logged.

An input is one connection: its first byte says how it is cut into packets, the rest is what is sent.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import directlyProvides, implementer

from filefly.daemon.failures import Failures
from filefly.daemon.protocol import ServerFactory
from filefly.data.blocks import BlockStore
from filefly.data.rights import DataGuard
from filefly.data.server import DataServer
from filefly.data.storage import Storage
from filefly.errors import FileFlyError, error_from_wire
from filefly.units import MIB
from filefly.wire.administration import BackupCatalog
from filefly.wire.batches import MAX_BATCH_BYTES, RetrieveBlocks, StoreBlocks
from filefly.wire.blocks import Retrieve
from filefly.wire.messages import FetchFile, Request
from tests.data.disks import QuickDisk, take
from tests.faults.simulation import Machine, Simulation
from tests.faults.wiring import DataHost, MetaHost
from tests.fuzz.nowhere import LONGEST_ANSWER_SECONDS, Nowhere
from tests.fuzz.parsers import pieces_of
from tests.peer import Peer, inline
from tests.rights.closed import ClosedCluster
from tests.rights.talking import NOW, Secret

MAX_LINE = 4096
MAX_BLOCK = 1000
_CLIENT = IPv4Address("TCP", "10.0.2.1", 40_000)
_LIFE = 500
"""After so many inputs a server begins anew: what they left behind makes the rest slower, and less of them count."""


@implementer(ILogObserver)
class _Observer:
    """Hears of failures that are logged."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        """See ILogObserver."""
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None:
            self.failures.append(failure.getTraceback())


class LiveServer:
    """A server that is talked to; `boot` makes one that is new, whose factory, passing of time, and end it returns."""

    def __init__(self, folder: Path, boot: "Callable[[Path], Life]") -> None:
        self._folder = folder
        self._boot = boot
        self._talks = 0
        self._life: Life | None = None
        self._observer = _Observer()
        globalLogPublisher.addObserver(self._observer)

    def close(self) -> None:
        """End."""
        globalLogPublisher.removeObserver(self._observer)
        self._end_life()

    def _end_life(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.end()
            shutil.rmtree(self._folder)

    def __call__(self, data: bytes) -> None:
        """Talk to it once."""
        if self._talks % _LIFE == 0:
            self._end_life()
        self._talks += 1
        if self._life is None:
            self._folder.mkdir(parents=True)
            self._life = self._boot(self._folder)
        packets, stream = pieces_of(data)
        received, aborted = _talk(self._life, packets)
        assert [] == self._observer.failures, "\n".join(self._observer.failures)
        _check_answers(list(self._life.asked(stream)), received, aborted)


class Life:
    """A server from its start to its end."""

    def __init__(self, factory: ServerFactory, pass_time: "Callable[[Callable[[], bool]], None]") -> None:
        self.factory = factory
        self.pass_time = pass_time
        """Let time pass until something comes about, or for as long as anything may take."""
        self.at_end: list[Callable[[], object]] = []

    def end(self) -> None:
        """End it."""
        for end in self.at_end:
            end()

    def asked(self, stream: bytes) -> Iterator[Request | FileFlyError]:
        """Return what is asked for in a conversation: that it is understood right is for others to see."""
        limit = self.factory.verbs.max_payload
        while stream:
            line, _end, stream = stream.partition(b"\n")
            if len(line) > MAX_LINE:
                yield error_from_wire("too_large", "line")
                return
            line = line.removesuffix(b"\r")
            if not line.strip():
                continue
            payload, request = self.factory.decoder.understand(line)
            yield request
            if payload is None or payload > (MAX_BATCH_BYTES if isinstance(request, StoreBlocks) else limit):
                return
            stream = stream[payload:]


def _talk(life: Life, packets: list[bytes]) -> tuple[bytes, bool]:
    """Say all, close the sending side, and return what was answered, and whether that was broken off."""
    peer = Peer(life.factory.buildProtocol(_CLIENT))
    transport = peer.transport

    def over() -> bool:
        return bool(transport.disconnecting or transport.sending_ended)

    def all_given() -> bool:
        peer.give()
        return over() or not peer._waiting

    peer.give(*packets)
    life.pass_time(all_given)
    peer.end_input()
    life.pass_time(over)
    assert over(), "the conversation hangs"
    peer.hang_up()
    assert not life.factory.conversations, "the conversation does not end"
    return transport.value(), bool(getattr(transport, "aborting", False))


def _check_answers(asked: list[Request | FileFlyError], received: bytes, aborted: bool) -> None:
    for request in asked:
        line, end, received = received.partition(b"\n")
        if aborted and not end:
            return
        assert end, f"no answer to {request!r}"
        reply = msgspec.json.decode(line, type=dict[str, Any])
        if reply["status"] == "error":
            assert reply["error"], request
            assert reply["code"] not in ("internal",), reply
            assert type(error_from_wire(reply["code"], "")) is not FileFlyError, reply
            continue
        assert reply["status"] == "ok", reply
        assert not isinstance(request, FileFlyError), (request, reply)
        size = reply.get("size", 0) if _bytes_follow(request) else 0
        if aborted and len(received) < size:
            return
        assert len(received) >= size, reply
        received = received[size:]
    assert received == b"", received


def _bytes_follow(request: Request) -> bool:
    if isinstance(request, Retrieve | FetchFile):
        return request.raw
    return isinstance(request, RetrieveBlocks | BackupCatalog)


# The servers

_OPTIONS = {"block-size": 64 * MIB, "max-line": MAX_LINE, "health-interval": 3600}
"""Large blocks, so that a file's size, whatever it is, does not decide how much there is to do."""


def open_data_server(folder: Path) -> Life:
    """Begin the life of a data server in an open cluster."""
    return _data_server(folder, lambda _store, _clock: None)


def open_closed_data_server(folder: Path) -> Life:
    """Begin the life of a data server that wants to see tickets."""

    def guard(store: BlockStore, clock: Nowhere) -> DataGuard:
        return DataGuard(Secret(), store.identity, lambda: NOW, Failures(clock))

    return _data_server(folder, guard)


def _data_server(folder: Path, guard_of: Callable[[BlockStore, Nowhere], DataGuard | None]) -> Life:
    storage: Storage = take(folder / "blocks")
    clock = Nowhere()
    store = BlockStore(storage, QuickDisk(), MAX_BLOCK)
    guard = guard_of(store, clock)
    server = DataServer(store, inline, clock, guard)
    life = Life(ServerFactory(clock, server, MAX_LINE, guard=guard), clock.pass_time)
    life.at_end += [server.stop, storage.release]
    return life


def open_metadata_server(folder: Path) -> Life:
    """Begin the life of a metadata server in an open cluster, with two data servers."""
    simulation = Simulation(seed=1)
    data = [DataHost(simulation, folder, number) for number in (1, 2)]
    meta = MetaHost(simulation, folder, [host.listening for host in data], _OPTIONS)
    machines = [meta.machine, *(host.machine for host in data)]
    for machine in machines:
        assert machine.start(), list(simulation.story)
    simulation.run(20)
    return _metadata_server(simulation, machines)


def open_closed_metadata_server(folder: Path) -> Life:
    """Begin the life of a metadata server that wants to see tokens, with two data servers that want to see tickets."""
    cluster = ClosedCluster(folder, _OPTIONS)
    return _metadata_server(cluster.simulation, cluster.machines)


def _metadata_server(simulation: Simulation, machines: Sequence[Machine]) -> Life:
    process: Any = machines[0].process
    nowhere = Nowhere()
    directlyProvides(process, IReactorPluggableNameResolver)
    process.nameResolver, process.connectUNIX = nowhere, nowhere.connectUNIX
    life = Life(process.listening[9000], lambda until: simulation.run(LONGEST_ANSWER_SECONDS, until))
    life.at_end += [partial(machine.stop, LONGEST_ANSWER_SECONDS) for machine in machines]
    return life
