"""A whole cluster on simulated machines: what happens to it, and what must hold once all is mended."""

from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater

from filefly.errors import FileFlyError
from filefly.wire.administration import AcceptCatalog, AcceptDataServer
from tests.faults.by_hand import ByHand
from tests.faults.history import ABSENT, Value
from tests.faults.simulation import Process
from tests.faults.wiring import DataHost
from tests.faults.workload import Workload, says_absent

_LONGEST_OPERATION_SECONDS = 1800
_LONGEST_REPAIR_SECONDS = 1800
_LONGEST_STOP_SECONDS = 180
_CALM_SECONDS = 15
_TRIES = 20
UNREADABLE: Value = b"unreadable"


class SimulatedCluster(Workload):
    """The cluster, its clients, and what happens to them, on one seed; every step of a plan is a method.

    A step begins something or lets time pass; only `wait`, `stop`, `rest`, `heal_all` and `restore_copy` do both.
    """

    def __init__(self, seed: int, folder: Path, data_servers: int = 4) -> None:
        super().__init__(seed, folder, data_servers)
        self._copy = folder / "copy.sqlite"
        self._known: dict[str, set[Value]] | None = None
        self._places: list[Any] = []
        self._fragile_then: set[str] = set()
        self._rotten: set[tuple[str, str]] = set()

    # What happens to them

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.simulation.run(seconds)

    def crash(self, machine: int, power: bool) -> None:
        """Kill a program, or take its machine's power."""
        self.machines[machine].crash(power)

    def crash_soon(self, machine: int, count: int) -> None:
        """Kill a program a little later: a data server in the middle of what it does to its disk."""
        chosen = self.machines[machine]
        if 1 <= machine <= len(self.data):
            self.data[machine - 1].medium.operations_until_crash = count
        elif chosen.process is not None:
            chosen.process.jobs_until_crash = 1 + count // 2

    def stop(self, machine: int) -> None:
        """Have a program end in order."""
        if not self.machines[machine].stop(_LONGEST_STOP_SECONDS):
            self.violate(f"{self.machines[machine].address} does not stop")

    def hang_disk(self, server: int, seconds: float) -> None:
        """Let a disk not answer for a while."""
        process = self.data[server].machine.process
        if process is not None:
            process.stuck_until = self.simulation.clock.seconds() + seconds

    def restart(self, machine: int) -> None:
        """Start a machine that has crashed."""
        self.machines[machine].start()

    def cut(self, one: int, other: int, both_ways: bool) -> None:
        """Cut two machines off from each other."""
        here, there = self.machines[one].address, self.machines[other].address
        self.simulation.cut(here, there)
        if both_ways:
            self.simulation.cut(there, here)

    def heal(self) -> None:
        """Mend the network."""
        self.simulation.heal()

    def fill(self, server: int, free: int) -> None:
        """Leave little room on a disk."""
        self.data[server].medium.free = free

    def break_disk(self, server: int, failing: float) -> None:
        """Let some of a disk's operations fail."""
        self.data[server].medium.failing = failing

    def mend_disks(self) -> None:
        """Let every disk work, and have room."""
        for host in self.data:
            host.medium.free, host.medium.failing, host.medium.operations_until_crash = None, 0.0, None
            if host.machine.process is not None:
                host.machine.process.stuck_until = 0.0

    def rot(self, server: int, lose: bool) -> None:
        """Flip a bit of a block, or lose it, where the catalog has another good copy of it."""
        host = self.data[server]
        candidates = [block for block in host.medium.blocks() if self._can_be_spared(block, host)]
        if candidates:
            block = self.random.choice(candidates)
            self.simulation.tell("lose" if lose else "flip", host.listening, block)
            (host.medium.lose if lose else host.medium.flip)(block)
            self._rotten.add((host.listening, block))

    def _can_be_spared(self, block: str, host: DataHost) -> bool:
        copies = self.meta.good_copies(block, self.data)
        return any(copy is not host for copy in copies)

    def keep_copy(self) -> None:
        """Keep a copy of the catalog."""
        self.meta.save_copy(self._copy)
        self._known = {name: self.history.possible(name) for name in self.history.names()}
        self._places = self.meta.places()
        self.history.changed = {name for change in self.history.under_way for name in change.names}
        self._fragile_then = set(self.fragile)

    def restore_copy(self) -> None:
        """Put the copy back in the place of the catalog: what was changed since is lost, nothing else.

        A file whose replicas were moved since is where the copy does not know of it.
        """
        if self._known is None:
            return
        self.rest(power_cycle=False)
        # Kept until the next copy: putting this one back once more does not bring back what was moved before.
        self.history.changed |= {row[0] for row in {*self._places} ^ {*self.meta.places()}}
        changed = set(self.history.changed)
        self.restored = True
        self.simulation.tell("restore; changed since:", sorted(changed))
        self.meta.machine.crash(power=False)
        self.meta.restore(self._copy)
        self.fragile = self._fragile_then | changed
        self.history.at_rest([(name, self._known.get(name, {ABSENT})) for name in sorted(changed)])
        self.meta.machine.start()
        self.simulation.run(_CALM_SECONDS)
        for address in self.meta.nameless():  # the copy is from before it was first heard from: somebody has to say so
            self.look_after(0, AcceptDataServer(address))
        self._finish_operations()

    def accept_catalog(self, client: int) -> None:
        """Go on with an older catalog."""
        self.look_after(client, AcceptCatalog())

    # Rest

    def rest(self, power_cycle: bool = True) -> None:
        """Mend everything, wait until all is over, and see that every name reads as it should."""
        self._mend_all()
        self._finish_operations()
        self.simulation.run(_CALM_SECONDS)
        if power_cycle:
            for machine in self.machines[: 1 + len(self.data)]:
                machine.crash(power=True)
                machine.start()
        self.simulation.run(_CALM_SECONDS)
        self._check_replicas()
        self.check()
        seen = [(name, self._read_at_rest(name)) for name in self.history.names()]
        self.history.at_rest(seen, self.meta.planned_names())
        self.check()

    def _check_replicas(self, after_scrub: bool = False) -> None:
        """See that every replica that the catalog counts on is there, but for what only a scrub can find out."""
        for name, block, address, checksum in self.meta.good_replicas():
            [host] = [host for host in self.data if host.listening == address]
            if host.has(block, checksum):
                self._rotten.discard((address, block))
            elif after_scrub or (name not in self.fragile and (address, block) not in self._rotten):
                self.violate(f"{block} of {name} is not on {address}, where the catalog counts on it")

    def heal_all(self) -> None:
        """Rest, re-read every block, and see that everything is whole again and that nothing is left to be done."""
        self.rest(power_cycle=False)
        self.undrain(0)
        self.scrub(0)
        self._finish_operations()
        self.simulation.run(_CALM_SECONDS)
        if self.meta.suspended():
            return

        def unfinished() -> list[Any]:
            return [row for row in self.meta.unfinished() if row[0] == "trash" or row[1] not in self.fragile]

        for _ in range(_LONGEST_REPAIR_SECONDS // _CALM_SECONDS):
            if not unfinished():
                break
            self.simulation.run(_CALM_SECONDS)
        if left := unfinished():
            self.violate(f"left undone: {left}")
        if not self.restored:
            known = self.meta.known_blocks()
            for host in self.data:
                if unknown := set(host.medium.blocks()) - {block for block, place in known if place == host.listening}:
                    self.violate(f"{host.listening} has blocks that nobody knows: {sorted(unknown)}")
        for name, block, wanted in self.meta.committed_blocks():
            copies = self.meta.good_copies(block, self.data)
            if len(copies) != wanted and name not in self.fragile:
                self.violate(f"{block} of {name} has {len(copies)} good copies, not {wanted}")
        self._check_replicas(after_scrub=True)
        self.check()

    def _mend_all(self) -> None:
        self.simulation.tell("rest")
        self.heal()
        self.mend_disks()
        for host in self.data:
            if host.medium.failed:  # whoever mends a disk restarts its data server: it may have stopped writing
                host.medium.failed = False
                host.machine.crash(power=False)
        for machine in self.machines:
            machine.start()
            if machine.process is None:
                self.violate(f"{machine.address} does not start")
            else:
                machine.process.jobs_until_crash = None

    def _finish_operations(self) -> None:
        self.simulation.run(_LONGEST_OPERATION_SECONDS, lambda: not self.operations)
        if self.operations:
            self.violate(f"hangs: {self.operations}")

    def _read_at_rest(self, name: str) -> set[Value]:
        """Read a name as a program and by hand; both must work, and agree. Return what it may stand for then."""
        process = self.clients[0].process
        assert process is not None
        seen: list[Value] = []

        async def doing(by: ByHand) -> None:
            for how in ("client", "raw"):
                seen.append(await self._try_to_read(process, by, name, how))

        planned = name in self.meta.planned_names()
        self.begin(0, f"read {name} at rest", doing)
        self._finish_operations()
        self.simulation.tell("at rest", name, seen)
        possible = self.history.possible(name)
        if UNREADABLE in seen and name in self.fragile:
            return possible
        agreed = len(set(seen)) == 1 or planned  # a plan may commit itself between two reads
        if len(seen) != 2 or not agreed or not possible.issuperset(seen):
            self.violate(f"{name} was read at rest as {seen}; possible: {sorted(map(repr, possible))}")
        return possible if planned and self.restored else {*seen[-1:]}

    async def _try_to_read(self, process: Process, by: ByHand, name: str, how: str) -> Value:
        """Read, again if need be: the first tries may meet connections that ended while nobody listened."""
        for _ in range(_TRIES):
            try:
                return await self.read_once(by, name, how)
            except FileFlyError as error:
                failed = error
                if says_absent(error) and ABSENT in self.history.possible(name):
                    return ABSENT
            await deferLater(process, 2)
        if name not in self.fragile:
            self.violate(f"{name} cannot be read at rest: {type(failed).__name__} {failed}")
        return UNREADABLE
