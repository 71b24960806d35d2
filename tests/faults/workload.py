"""What clients do on a simulated cluster, and the watch over what they are told: safety, at all times."""

import gc
from base64 import b64decode
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from filefly.errors import Conflict, FileFlyError, Incomplete, NotFound
from filefly.wire.administration import Drain, Scrub, UndeleteFile, Undrain
from filefly.wire.messages import Request
from tests.faults.by_hand import ByHand, boot_client
from tests.faults.history import ABSENT, Change, History, Reading
from tests.faults.pools import ProcessIsDead
from tests.faults.simulation import Machine, Process, Simulation
from tests.faults.wiring import DataHost, MetaHost

CLIENTS = 2


class Violated(AssertionError):
    """The cluster has broken a promise."""


@implementer(ILogObserver)
class _Log:
    """Hears of all that is logged, alone: what dead processes log is nobody's business."""

    def __init__(self, heard: Callable[[Failure], None]) -> None:
        self._heard = heard
        self._others = list(globalLogPublisher._observers)
        for observer in self._others:
            globalLogPublisher.removeObserver(observer)
        globalLogPublisher.addObserver(self)

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None and failure.check(ProcessIsDead) is None:
            self._heard(failure)

    def close(self) -> None:
        """Let the others hear again."""
        gc.collect()  # Deferreds that failed and were dropped say so
        globalLogPublisher.removeObserver(self)
        for observer in self._others:
            globalLogPublisher.addObserver(observer)


class Workload:
    """One metadata server, some data servers and clients below `folder`, all on `seed`.

    Methods begin something; what becomes of it is compared with `history` as time passes.
    """

    def __init__(self, seed: int, folder: Path, data_servers: int = 4) -> None:
        self.simulation = Simulation(seed)
        self.random = self.simulation.random
        self.history = History()
        self.operations: dict[int, str] = {}
        self.acknowledged = 0
        self.fragile: set[str] = set()
        """Names whose blocks may be gone: they were changed after the copy of the catalog that was put back."""
        self._numbers = 0
        self._violations: list[str] = []
        self._log = _Log(self._logged)
        self.data = [DataHost(self.simulation, folder, number) for number in range(1, data_servers + 1)]
        self.meta = MetaHost(self.simulation, folder, [host.listening for host in self.data])
        self.clients: list[Machine] = []
        self.booted: dict[Process, ByHand] = {}
        for number in range(1, CLIENTS + 1):
            self.clients.append(Machine(self.simulation, f"10.0.2.{number}", self._boot_client))
        self.restored = False
        """Whether an old catalog was ever put back."""
        for machine in self.machines:
            machine.start()

    def _boot_client(self, process: Process) -> None:
        self.booted[process] = boot_client(process)

    @property
    def machines(self) -> Sequence[Machine]:
        """Return all machines."""
        return [self.meta.machine, *(host.machine for host in self.data), *self.clients]

    def close(self) -> None:
        """End everything."""
        for machine in self.machines:
            machine.crash(power=False)
        self._log.close()

    # What must not happen

    def _logged(self, failure: Failure) -> None:
        if not self.simulation.dying:
            self.violate(f"logged: {failure.getTraceback()}")

    def violate(self, sentence: str) -> None:
        """Note that a promise was broken."""
        self.simulation.tell("violation", sentence)
        self._violations.append(sentence)

    def check(self) -> None:
        """Raise Violated if a promise was broken."""
        if self._violations:
            words = "\n".join(self.simulation.story)
            raise Violated(f"{words}\n{self._violations[0]}")

    # What clients do

    def begin(self, client: int, what: str, operation: Callable[[ByHand], Coroutine[Any, Any, None]]) -> None:
        """Begin an operation of a client, if that runs."""
        process = self.clients[client].process
        if process is None:
            return
        self._numbers += 1
        number = self._numbers
        self.simulation.tell("begin", number, what)
        self.operations[number] = what

        def ended(result: Any) -> None:
            del self.operations[number]
            self.simulation.tell("end", number, what, getattr(result, "type", type(result)).__name__)
            if result is not None and process.alive:
                self.violate(f"{what} failed with {result.getTraceback()}")

        Deferred.fromCoroutine(operation(self.booted[process])).addBoth(ended)

    async def _change(self, change: Change, doing: Any, refusal: type[Exception] | tuple[()] = ()) -> None:
        try:
            await doing
        except refusal:
            if ABSENT in change.met:
                self.history.refused(change)
            else:
                self.violate(f"{change.source or change.name} was not found")
        except FileFlyError as error:
            self.simulation.tell("unknown outcome", type(error).__name__, error)
            change.over = True
        else:
            self.acknowledged += 1
            self.history.acknowledged(change)
            if change.source is None and not self._overlapped(change):
                self.fragile.discard(change.name)

    def _overlapped(self, change: Change) -> bool:
        return change.name in change.overlapping or any(
            change.name in other.names for other in self.history.under_way if other is not change
        )

    def store(self, client: int, name: str, size: int, replicas: int, resume: bool = False) -> None:
        """Have a program upload a new version, perhaps where an upload of the same size was given up."""
        value = self._version(size)

        async def doing(by: ByHand) -> None:
            change = self.history.store(name, value)
            await self._change(change, by.client.upload(name, value, replicas=replicas, resume=resume))

        self.begin(client, f"store {name} {size} x{replicas}", doing)

    def store_by_hand(self, client: int, name: str, size: int, replicas: int, look: bool = True) -> None:
        """Have a person store a new version by `nc`, as an implicit plan, and perhaps `look` at it in the end."""
        value = self._version(size)

        async def doing(by: ByHand) -> None:
            change = self.history.store(name, value, lasting=True)
            await self._change(change, by.store(name, value, replicas, look))

        self.begin(client, f"store by hand {name} {size} x{replicas}", doing)

    def delete(self, client: int, name: str) -> None:
        """Delete."""

        async def doing(by: ByHand) -> None:
            change = self.history.delete(name)
            await self._change(change, by.client.delete(name), NotFound)

        self.begin(client, f"delete {name}", doing)

    def rename(self, client: int, name: str, new_name: str) -> None:
        """Rename."""

        async def doing(by: ByHand) -> None:
            change = self.history.rename(name, new_name)
            self.fragile |= {new_name} if name in self.fragile else set()
            await self._change(change, by.client.rename(name, new_name), NotFound)

        self.begin(client, f"rename {name} {new_name}", doing)

    def undelete(self, client: int, name: str) -> None:
        """Bring back what was deleted or replaced."""

        async def doing(by: ByHand) -> None:
            change = self.history.undelete(name)
            self.fragile |= {name} if self.restored else set()
            try:
                await by.ask(UndeleteFile(file_name=name))
            except (NotFound, Conflict):
                self.history.refused(change)
            except FileFlyError as error:
                self.simulation.tell("unknown outcome", type(error).__name__, error)
            else:
                self.acknowledged += 1
                self.history.acknowledged(change)

        self.begin(client, f"undelete {name}", doing)

    def look_after(self, client: int, request: Request) -> None:
        """Ask for something that changes no file."""

        async def doing(by: ByHand) -> None:
            try:
                await by.ask(request)
            except FileFlyError as error:
                self.simulation.tell("refused", type(error).__name__, error)

        self.begin(client, f"{request}", doing)

    def scrub(self, client: int) -> None:
        """Have all blocks re-read."""
        self.look_after(client, Scrub())

    def drain(self, client: int, server: int) -> None:
        """Have a data server emptied, and no other."""
        for host in self.data:
            if host is not self.data[server]:
                self.look_after(client, Undrain(host.listening))
        self.look_after(client, Drain(self.data[server].listening))

    def undrain(self, client: int) -> None:
        """Let every data server keep what it has."""
        for host in self.data:
            self.look_after(client, Undrain(host.listening))

    def _version(self, size: int) -> bytes:
        return self.random.randbytes(size)

    def read(self, client: int, name: str, how: str = "client") -> None:
        """Read, as a program or by hand, raw or in base64."""

        async def doing(by: ByHand) -> None:
            reading = self.history.begin_reading(name)
            try:
                self._judge(reading, await self.read_once(by, name, how))
            except FileFlyError as error:
                self.simulation.tell("not read", name, type(error).__name__, error)
                if says_absent(error) and ABSENT not in reading.allowed:
                    self.violate(f"{name} exists, but a reader was told: {error}")
            finally:
                self.history.end_reading(reading)

        self.begin(client, f"read {name} by {how}", doing)

    async def read_once(self, by: ByHand, name: str, how: str) -> bytes:
        """Read a whole file in one of three ways."""
        if how == "client":
            return bytes(await by.client.read(name))
        if how == "raw":
            return await by.fetch(name)
        return b64decode(await by.fetch_base64(name), validate=True)

    def _judge(self, reading: Reading, value: bytes) -> None:
        self.simulation.tell("read", reading.name, value.hex())
        if value not in reading.allowed:
            self.violate(f"{reading.name} was read as {value!r}; allowed: {sorted(map(repr, reading.allowed))}")


def says_absent(error: FileFlyError) -> bool:
    """Whether a reader was told that there is no such file: at most a plan of it that is open."""
    return isinstance(error, Incomplete) or (isinstance(error, NotFound) and "file not found" in str(error))
