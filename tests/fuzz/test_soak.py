"""A million inputs, in `make soak`: most of them found by coverage, by atheris, the others by chance on a new seed."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import SystemRandom

import pytest

from filefly.units import MIB
from tests.fuzz.mutations import Mutations
from tests.fuzz.running import Memory, Runner, quick_folder, watched
from tests.fuzz.targets import TARGETS

INPUTS_IN_SOAK = 1_000_000
LONGEST_MINUTES = 10
"""How long one target may take."""
_ROOT = Path(__file__).parents[2]
_BY_CHANCE = 5
"""One in so many inputs is found by chance."""
_MOST_GROWTH = 32 * MIB


@pytest.fixture(scope="module")
def seed() -> int:
    """Draw a seed, unless FUZZ_SEED says which."""
    drawn = int(os.environ.get("FUZZ_SEED", SystemRandom().randrange(1, 2**31)))
    print(f"\nFUZZ_SEED={drawn}")
    return drawn


def _by_chance(name: str) -> int:
    return TARGETS[name].in_soak // _BY_CHANCE


def _guided(name: str, seed: int) -> tuple[str, int, str]:
    """Fuzz a target by coverage; return its name, how many inputs there were, and what was printed."""
    wanted = TARGETS[name].in_soak - _by_chance(name)
    with quick_folder() as folder:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.guided", name, str(wanted), str(seed), str(folder)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
            timeout=LONGEST_MINUTES * 60,
            check=False,
        )
    done = re.search(r"^Done (\d+) runs in (\d+) second", ran.stdout, re.MULTILINE)
    counted = re.search(rf"^{name}: (\d+) inputs$", ran.stdout, re.MULTILINE)
    if ran.returncode or done is None or counted is None:
        return name, 0, ran.stdout[-6000:]
    return name, int(done[1]), f"{name}: {done[1]} inputs by coverage in {done[2]} s"


@pytest.mark.slow
def test_no_input_that_reaches_new_code_fails(seed: int) -> None:
    """Coverage leads to them; each target in a process of its own."""
    with ThreadPoolExecutor(os.cpu_count()) as processes:
        outcomes = list(processes.map(lambda name: _guided(name, seed), TARGETS))
    for name, inputs, said in outcomes:
        print(said)
        assert TARGETS[name].in_soak - _by_chance(name) == inputs, said


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_another_seed_fails(name: str, seed: int) -> None:
    """Other inputs than in every run of the tests."""
    target, inputs = TARGETS[name], _by_chance(name)
    mutations, memory = Mutations(seed, target.examples, target.words), Memory(inputs, _MOST_GROWTH)
    with quick_folder() as folder, target.opened(folder) as run, watched() as alive:
        runner = Runner(f"{name}, seed {seed}", run)
        for number in range(1, inputs + 1):
            alive()
            runner(mutations.next())
            memory.look(number)
    assert inputs == runner.count


def test_there_are_a_million_inputs() -> None:
    """As many as are promised."""
    assert INPUTS_IN_SOAK == sum(target.in_soak for target in TARGETS.values())
