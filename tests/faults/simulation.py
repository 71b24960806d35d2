"""Machines, their network and their time, all on one seed: what daemons and clients run on instead of a real system.

A `Process` is handed to production code as its reactor and, through `pool`, as its threads. Whatever takes time takes a
time that the seed decides; nothing else is random, so the same steps give the same trace.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock, LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.faults.pools import Died, Pool
from tests.faults.transports import Connector, End, Port, connect

_LAST_WORDS = 300
_MOST_LAST_CALLS = 10_000
"""How much of a dead process's code may run to its end; what loops for ever is dropped then."""


class _SortedClock(Clock):
    """A task.Clock that is quick with many calls; nobody here resets one."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> Any:  # noqa: A002, N802
        when = self.seconds() + delay
        call = DelayedCall(when, callable, args, kw, self.calls.remove, lambda _call: None, self.seconds)
        insort(self.calls, call, key=DelayedCall.getTime)
        return call

    def _sortCalls(self) -> None:  # noqa: N802
        pass


class Simulation:
    """The one clock, the one source of chance, and the one trace of a cluster."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = _SortedClock()
        self.machines: dict[str, Machine] = {}
        self.cuts: set[tuple[str, str]] = set()
        """From which address to which nothing gets through."""
        self.crashes = 0
        self.dying = False
        """Whether a process is just dying: what it logs then is of no interest."""
        self.last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self.story: deque[str] = deque(maxlen=_LAST_WORDS)
        """The last lines that are not of single packets and jobs."""
        self._digest = sha256()
        self._slow = self.random.choice((0.0, 0.02))

    def note(self, *words: object) -> None:
        """Add a line to the trace."""
        line = f"{self.clock.seconds():.6f} {' '.join(map(str, words))}"
        self._digest.update(line.encode() + b"\n")
        self.last_words.append(line)

    def tell(self, *words: object) -> None:
        """Add a line to the trace, and to the story."""
        self.note(*words)
        self.story.append(self.last_words[-1])

    @property
    def digest(self) -> str:
        """What all of the trace adds up to."""
        return self._digest.hexdigest()

    def lag(self) -> float:
        """Return how long something takes."""
        if self.random.random() < self._slow:
            return self.random.uniform(0.1, 2)
        return self.random.uniform(0.0005, 0.01)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let `seconds` pass, or fewer if what is waited for comes about."""
        end = self.clock.seconds() + seconds
        calls = self.clock.calls
        while not until():
            if not calls or calls[0].getTime() > end:
                self.clock.rightNow = end
                return
            self.clock.rightNow = max(self.clock.rightNow, calls[0].getTime())
            self.clock.advance(0)

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from one address to another; what is sent is held back, as TCP does."""
        self.tell("cut", source, target)
        self.cuts.add((source, target))

    def heal(self) -> None:
        """Let everything through again."""
        self.tell("heal")
        self.cuts.clear()
        for machine in self.machines.values():
            for end in list(machine.ends):
                end.arrive_soon()
                end.other.arrive_soon()


@define(eq=False)
class Machine:
    """A computer with one address, on which one program may run; `boot` starts it.

    If `boot` fails with an exception, as that of a daemon whose disk is broken does, the program does not run.
    """

    simulation: Simulation
    address: str
    boot: Callable[["Process"], None]
    powered: bool = True
    process: "Process | None" = None
    ends: list[End] = field(factory=list)
    lost: list[End] = field(factory=list)  # ends elsewhere whose messages fell on deaf ears
    at_power_loss: list[Callable[[], None]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Take the machine's place in the network."""
        self.simulation.machines[self.address] = self

    def start(self) -> bool:
        """Power the machine up and start its program; return whether that runs."""
        if self.process is not None:
            return True
        self.simulation.tell("start", self.address)
        self.powered = True
        lost, self.lost = self.lost, []
        for end in lost:
            end.arrive_later("reset", b"")
        self.process = Process(self)
        try:
            self.boot(self.process)
        except Died:
            self.crash(power=True)
        except Exception as error:  # whatever the program says as it gives up
            self.simulation.tell("start failed", type(error).__name__)
            self.crash(power=False)
        return self.process is not None

    def crash(self, power: bool) -> None:
        """End the program at once; with `power` the machine goes too, and what its disk had not synced is in danger."""
        process, self.process = self.process, None
        if process is not None:
            self.simulation.crashes += 1
            self.simulation.tell("crash", self.address, "power" if power else "kill")
            process.die(power)
        if power:
            self.powered = False
            for lose in self.at_power_loss:
                lose()

    def stop(self, longest_seconds: float) -> bool:
        """Ask the program to end, and wait; return whether it did in time."""
        ended: list[Any] = []
        process = self.process
        if process is not None:
            self.simulation.tell("stop", self.address)
            process.stop().addCallback(process.has_stopped).addBoth(ended.append)
            self.simulation.run(longest_seconds, lambda: bool(ended) or not process.alive)
            in_time = bool(ended) or not process.alive
            self.crash(power=False)
            return in_time
        return True

    def forget(self, end: End) -> None:
        """Drop an end that is over."""
        if end in self.ends:
            self.ends.remove(end)


@implementer(IReactorTime)
class Process:
    """One life of a machine's program: its reactor, its threads and its connections, all of which die with it.

    When it dies everything that its code waits for fails, so that its coroutines come to their ends; none of what they
    still try has an effect.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.simulation = machine.simulation
        self.alive = True
        self.at_death: list[Callable[[], None]] = []
        self.stop: Callable[[], Deferred[None]] = lambda: succeed(None)
        """What a program does when it is asked to end."""
        self.stopped = False
        """Whether it came to its end in order, be it as it died: then it has let go of what it held itself."""
        self.stuck_until = 0.0
        """Until when jobs in threads do not get on."""
        self.jobs_until_crash: int | None = None
        """After how many more jobs in threads the program dies before anybody hears of the result."""
        self.listening: dict[int, Any] = {}
        self._timers: dict[int, tuple[Any, Callable[..., object], tuple[Any, Any]]] = {}
        self._numbers = 0
        self._pools: list[Pool] = []
        self._connecting: dict[Connector, Any] = {}

    # IReactorTime and IReactorFromThreads

    def seconds(self) -> float:
        """Return the time."""
        return self.simulation.clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> Any:  # noqa: A002, N802
        """Call, unless the process is dead by then."""
        self._numbers += 1
        number = self._numbers
        if not self.alive:
            delay = 1e9
        elif delay < 0:
            raise ValueError(delay)

        def run() -> None:
            if self._timers.pop(number, None) is not None and self.alive:
                callable(*args, **kwargs)

        delayed = self.simulation.clock.callLater(delay, run) if self.alive else Clock().callLater(delay, run)
        self._timers[number] = (delayed, callable, (args, kwargs))
        if len(self._timers) > 1000:  # those that were cancelled
            self._timers = {key: timer for key, timer in self._timers.items() if timer[0].active()}
        return delayed

    def callFromThread(self, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Call soon; a dead process's jobs are told at once that they failed."""
        if self.alive:
            self.callLater(0, call, *args, **kwargs)
        else:
            call(*args, **kwargs)

    def getDelayedCalls(self) -> list[Any]:  # noqa: N802
        """Return what is to be called."""
        return [delayed for delayed, _call, _arguments in self._timers.values() if delayed.active()]

    # Threads

    def pool(self, minthreads: int = 0, maxthreads: int = 1, name: str = "") -> Pool:
        """Stand in for twisted's ThreadPool."""
        pool = Pool(self, maxthreads, name)
        self._pools.append(pool)
        return pool

    # IReactorTCP

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:  # noqa: N802
        """Listen."""
        self.listening[port] = factory
        factory.doStart()
        return Port(self, port)

    def connectTCP(  # noqa: N802
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,  # noqa: N803
    ) -> Connector:
        """Connect, after a while; fails as a real network does."""
        connector = Connector(self, host, port)
        factory.doStart()
        factory.startedConnecting(connector)
        if not self.alive:
            factory.clientConnectionFailed(connector, Failure(Refused()))
            return connector
        self._connecting[connector] = factory

        def fail(error: Exception) -> None:
            if self._connecting.pop(connector, None) is not None:
                factory.clientConnectionFailed(connector, Failure(error))

        def attempt() -> None:
            if connector not in self._connecting:
                return
            machine = self.simulation.machines.get(host)
            here = self.machine.address
            if machine is None or not machine.powered or {(here, host), (host, here)} & self.simulation.cuts:
                self.callLater(timeout, fail, ConnectTimeout())
            elif machine.process is None or port not in machine.process.listening:
                fail(Refused())
            else:
                del self._connecting[connector]
                connect(self, machine.process, port, factory)

        self.callLater(self.simulation.lag(), attempt)
        return connector

    def stop_connecting(self, connector: Connector) -> None:
        """Give a connection up that is not there yet."""
        self._connecting.pop(connector, None)

    # Death

    def has_stopped(self, _result: None) -> None:
        """Hear that the program has come to its end in order."""
        self.stopped = True

    def die(self, power: bool) -> None:
        """End the process; see the class."""
        self.alive = False
        self.simulation.dying = True
        self.listening.clear()
        ends, self.machine.ends = self.machine.ends, []
        for end in ends:
            end.process_died(power)
        while self._connecting:
            connector, factory = self._connecting.popitem()
            factory.clientConnectionFailed(connector, Failure(Refused()))
        for pool in self._pools:
            pool.fail_all()
        for _ in range(_MOST_LAST_CALLS):
            if not self._timers:
                break
            number = next(iter(self._timers))
            delayed, call, (args, kwargs) = self._timers.pop(number)
            if delayed.active() and not isinstance(call, LoopingCall):
                delayed.cancel()
                call(*args, **kwargs)
        for release in self.at_death:
            release()
        self.simulation.dying = False
