"""A whole cluster on one seed against a dictionary: crashes, torn disks, partitions, bit rot, old catalogs.

Hypothesis draws the seed and the steps, outside of the simulation; tests/faults/simulated.py says what each step does
and what must hold. A failure prints what happened, and the plan that makes it happen again: keep it in REGRESSIONS.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.faults.simulated import SimulatedCluster
from tests.faults.workload import CLIENTS, Violated

DATA_SERVERS = 4
Plan = tuple[int, Sequence[tuple[Any, ...]]]
"""A seed and steps: the name of a method of SimulatedCluster and its arguments."""

REGRESSIONS: Sequence[Plan] = [
    # a data server came back while another was down: the surplus copies were never removed
    (
        1,
        [
            ("store", 0, "a", 90, 3),
            ("wait", 3.0),
            ("crash", 4, False),
            ("wait", 90.0),
            ("crash", 1, False),
            ("restart", 4),
            ("wait", 7.0),
        ],
    ),
    # planted: a store answered before it was durable
    (112764255, [("store", 1, "b", 150, 2), ("crash_soon", 1, 13), ("wait", 0.5)]),
    # planted: blocks deleted before the catalog had given them up
    (
        126010,
        [("store", 0, "c", 40, 2), ("wait", 25.0), ("delete", 0, "c"), ("wait", 0.1), ("undelete", 1, "c")],
    ),
    # planted: a replica found missing, and not noted for repair
    (102246, [("store", 0, "a-0", 90, 3), ("heal_all",), ("rot", 1, True)]),
    # the model's own: a catalog put back twice knows the second time, too, nothing of what was moved before the first
    (
        1,
        [
            ("store", 0, "a", 40, 2),
            ("wait", 6.0),
            ("keep_copy",),
            ("drain", 0, 1),
            ("wait", 70.0),
            ("restore_copy",),
            ("restore_copy",),
        ],
    ),
    # the model's own: a scrub waits for the answer of a data server that is gone without a word, and is not over then
    (12, [("store", 0, "a", 150, 2), ("wait", 8.0), ("scrub", 0), ("wait", 2.0), ("crash", 3, True), ("rot", 2, True)]),
    # the model's own: who dies as it stops may come to the end of that, and lets go of the catalog's lock only once
    (27, [("store", 0, "a", 40, 2), ("wait", 4.97), ("crash_soon", 0, 3), ("stop", 0)]),
]
"""Plans that have once shown a bug, each as short as it can be."""

NAMES = st.sampled_from(["a", "a", "b", "a-0"])
CLIENT = st.integers(0, CLIENTS - 1)
SERVER = st.integers(0, DATA_SERVERS - 1)
MACHINE = st.integers(0, DATA_SERVERS + CLIENTS)
SERVER_MACHINE = st.sampled_from([0, *range(DATA_SERVERS + 1)])
SIZE = st.sampled_from([0, 1, 40, 41, 90, 150])
REPLICAS = st.sampled_from([1, 2, 2, 2, 3])
STORE = st.tuples(st.just("store"), CLIENT, NAMES, SIZE, REPLICAS, st.booleans())
CHANGE = st.one_of(
    STORE,
    STORE,
    STORE,
    st.tuples(st.just("store_by_hand"), CLIENT, NAMES, SIZE, REPLICAS, st.booleans()),
    st.tuples(st.just("delete"), CLIENT, NAMES),
    st.tuples(st.just("undelete"), CLIENT, NAMES),
    st.tuples(st.just("rename"), CLIENT, NAMES, NAMES).filter(lambda step: step[2] != step[3]),
)
READ = st.tuples(st.just("read"), CLIENT, NAMES, st.sampled_from(["client", "raw", "base64"]))
PAUSE = st.tuples(st.just("wait"), st.sampled_from([0.01, 0.03, 0.06]))
OPERATION = st.one_of(CHANGE, CHANGE, READ, PAUSE)
OPERATIONS = st.lists(OPERATION, min_size=1, max_size=5)
MOMENT = st.sampled_from([0.01, 0.03, 0.1, 0.5])


def simulated(folder: Path, seed: int) -> SimulatedCluster:
    """Start a cluster."""
    return SimulatedCluster(seed, folder, DATA_SERVERS)


def in_memory() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder; in memory where that can be, for every step syncs a catalog."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def carry_out(plan: Plan) -> str:
    """Carry out a plan and return what its trace adds up to; raises Violated."""
    seed, steps = plan
    with in_memory() as folder:
        cluster = simulated(Path(folder), seed)
        try:
            for name, *arguments in steps:
                getattr(cluster, name)(*arguments)
                cluster.check()
            cluster.heal_all()
            cluster.rest()
        finally:
            cluster.close()
        cluster.check()
        return cluster.simulation.digest


class Figures:
    """What all runs together amount to."""

    steps = crashes = acknowledged = 0
    seconds = 0.0


class ClusterMachine(RuleBasedStateMachine):
    """Carries out steps as they are drawn."""

    figures: ClassVar[type[Figures]] = Figures

    def __init__(self) -> None:
        super().__init__()
        self.folder = in_memory()
        self.seed = 0
        self.steps: list[tuple[Any, ...]] = []
        self.cluster: SimulatedCluster

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.seed = seed
        self.cluster = simulated(Path(self.folder.name), seed)

    def step(self, name: str, *arguments: Any) -> None:
        self.steps.append((name, *arguments))
        self.figures.steps += 1
        try:
            getattr(self.cluster, name)(*arguments)
            self.cluster.check()
        except Violated as error:
            raise Violated(f"{error}\n\nplan: {(self.seed, self.steps)}") from None

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.step("heal_all")
                self.step("rest")
        finally:
            self.cluster.close()
            self.folder.cleanup()
            self.figures.crashes += self.cluster.simulation.crashes
            self.figures.acknowledged += self.cluster.acknowledged
            self.figures.seconds += self.cluster.simulation.clock.seconds()
        self.cluster.check()

    def mend(self) -> None:
        self.step("heal")
        self.step("mend_disks")
        self.restart_all()

    def carry_out(self, operations: list[tuple[Any, ...]]) -> None:
        for operation in operations:
            self.step(*operation)

    @rule(operations=OPERATIONS)
    def clients_do(self, operations: list[tuple[Any, ...]]) -> None:
        self.carry_out(operations)

    @rule(operations=OPERATIONS, seconds=MOMENT)
    def clients_do_while_nothing_is_amiss(self, operations: list[tuple[Any, ...]], seconds: float) -> None:
        self.mend()
        self.carry_out(operations)
        self.step("wait", seconds)

    @rule(machine=SERVER_MACHINE, count=st.integers(0, 20), operations=OPERATIONS, look=st.booleans())
    def crash_meanwhile(self, machine: int, count: int, operations: list[tuple[Any, ...]], look: bool) -> None:
        self.mend()
        self.step("wait", 0.5)
        self.step("crash_soon", machine, count)
        self.carry_out(operations)
        self.step("wait", 0.3)
        if look:
            self.step("rest", False)

    @rule(machine=SERVER_MACHINE, before=OPERATIONS, seconds=st.sampled_from([35.0, 90.0]), after=OPERATIONS)
    def somebody_is_away(self, machine: int, before: list[Any], seconds: float, after: list[Any]) -> None:
        self.mend()
        self.step("crash", machine, False)
        self.carry_out(before)
        self.step("wait", seconds)
        self.step("restart", machine)
        self.step("wait", 6.0)
        self.carry_out(after)
        self.step("wait", 3.0)

    # What happens meanwhile

    @rule(seconds=MOMENT)
    def wait(self, seconds: float) -> None:
        self.step("wait", seconds)

    @rule(seconds=st.sampled_from([1.0, 3.0, 25.0, 70.0]))
    def wait_long(self, seconds: float) -> None:
        self.step("wait", seconds)

    @rule(machine=MACHINE, power=st.booleans())
    def crash(self, machine: int, power: bool) -> None:
        self.step("crash", machine, power)

    @rule(machine=MACHINE, count=st.integers(0, 20))
    def crash_soon(self, machine: int, count: int) -> None:
        self.step("crash_soon", machine, count)

    @rule(machine=MACHINE)
    def stop(self, machine: int) -> None:
        self.step("stop", machine)

    @rule(server=SERVER, seconds=st.sampled_from([2.0, 15.0, 100.0]))
    def hang_disk(self, server: int, seconds: float) -> None:
        self.step("hang_disk", server, seconds)

    @rule(machine=MACHINE)
    def restart(self, machine: int) -> None:
        self.step("restart", machine)

    @rule()
    def restart_all(self) -> None:
        for machine in range(1 + DATA_SERVERS + CLIENTS):
            self.step("restart", machine)

    @rule(one=MACHINE, other=MACHINE, both_ways=st.booleans())
    def partition(self, one: int, other: int, both_ways: bool) -> None:
        self.step("cut", one, other, both_ways)

    @rule()
    def heal(self) -> None:
        self.step("heal")

    @rule(server=SERVER, free=st.sampled_from([0, 60, 120]))
    def fill(self, server: int, free: int) -> None:
        self.step("fill", server, free)

    @rule(server=SERVER, failing=st.sampled_from([0.02, 0.3]))
    def break_disk(self, server: int, failing: float) -> None:
        self.step("break_disk", server, failing)

    @rule()
    def mend_disks(self) -> None:
        self.step("mend_disks")

    @rule(server=SERVER, lose=st.booleans())
    def rot(self, server: int, lose: bool) -> None:
        self.step("rot", server, lose)

    # Who looks after it

    @rule(client=CLIENT)
    def scrub(self, client: int) -> None:
        self.step("scrub", client)

    @rule(client=CLIENT, server=SERVER)
    def drain(self, client: int, server: int) -> None:
        self.step("drain", client, server)

    @rule(client=CLIENT)
    def undrain(self, client: int) -> None:
        self.step("undrain", client)

    @rule()
    def keep_copy_of_the_catalog(self) -> None:
        self.step("keep_copy")

    @rule(sure=st.sampled_from([False, False, True]))
    def restore_an_old_catalog(self, sure: bool) -> None:
        if sure:
            self.step("restore_copy")

    @rule(client=CLIENT)
    def accept_the_catalog(self, client: int) -> None:
        self.step("accept_catalog", client)

    # What must hold

    @rule(power_cycle=st.booleans())
    def all_that_was_acknowledged_is_there(self, power_cycle: bool) -> None:
        self.step("rest", power_cycle)

    @rule(sure=st.sampled_from([False, False, True]))
    def everything_heals(self, sure: bool) -> None:
        if sure:
            self.step("heal_all")


class Soaked(Figures):
    """The long run's own."""


class SoakedMachine(ClusterMachine):
    """The same, for long."""

    figures = Soaked


_QUIET: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
_PARTS = 5

TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=6, stateful_step_count=25, derandomize=True, database=None, **_QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, _PARTS + 1))
def test_for_long(part: int) -> None:
    """Thousands of steps break no promise."""
    run_state_machine_as_test(SoakedMachine, settings=settings(max_examples=15, stateful_step_count=100, **_QUIET))
    print(
        f"\nmodel: {Soaked.steps} steps, {Soaked.crashes} crashes, {Soaked.acknowledged} changes acknowledged, "
        f"{Soaked.seconds:.0f} seconds simulated"
    )
    assert part * 2000 <= Soaked.steps


@pytest.mark.parametrize("plan", REGRESSIONS)
def test_what_once_failed(plan: Plan) -> None:
    """A plan that has once shown a bug shows none."""
    carry_out(plan)


EVERYTHING: Plan = (
    7,
    [
        ("store", 0, "a", 90, 2),
        ("store_by_hand", 1, "b", 41, 2),
        ("wait", 1.0),
        ("store", 1, "a", 150, 3),
        ("wait", 0.03),
        ("crash", 2, True),
        ("read", 0, "a", "client"),
        ("cut", 5, 3, True),
        ("rename", 0, "b", "c"),
        ("wait", 3.0),
        ("rot", 0, False),
        ("crash_soon", 1, 3),
        ("store", 0, "c", 40, 2),
        ("scrub", 0),
        ("wait", 25.0),
    ],
)


def test_the_same_plan_gives_the_same_trace() -> None:
    """Nothing but the seed and the steps decides what happens: not the process either, nor the order of its sets."""
    script = "from tests.faults.test_model import EVERYTHING, carry_out; print(carry_out(EVERYTHING))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    here = carry_out(EVERYTHING)
    assert here == carry_out(EVERYTHING)
    assert here == elsewhere.stdout.strip()


def test_another_seed_gives_another_trace() -> None:
    """The trace does depend on the seed."""
    assert carry_out(EVERYTHING) != carry_out((8, EVERYTHING[1]))
