"""20,000 inputs by chance, in `make test`; a million are in tests/fuzz/test_soak.py.

A failure prints its input as Python spells it: put it into FOUND once it is mended.
"""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from filefly.data.server import DataServer
from filefly.meta.server import MetadataServer
from filefly.units import MIB
from tests.fuzz.mutations import Mutations
from tests.fuzz.running import Memory, Runner, quick_folder, watched
from tests.fuzz.strategies import conversations, requests
from tests.fuzz.targets import TARGETS

SEED = 5
INPUTS_IN_TEST = 20_000
MOST_GROWTH = 16 * MIB

FOUND: Sequence[tuple[str, bytes]] = [
    ("addresses", b"ssl:h:1:certKey=/x"),
    ("data_requests", b'{"command":"list_blocks","lim1e9it":101e325}'),
    ("tokens", b'\xfe{"jti":"t2","role":"\\ud800"}'),
]
"""Inputs that a target did not pass once."""

STRUCTURED: Mapping[str, tuple[int, st.SearchStrategy[bytes]]] = {
    "data_requests": (800, requests(DataServer.commands)),
    "metadata_requests": (800, requests(MetadataServer.commands)),
    "data_server": (800, conversations(DataServer.commands)),
    "metadata_server": (600, conversations(MetadataServer.commands)),
}


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_stays_mended(name: str, data: bytes) -> None:
    """An input that once failed does so no more."""
    with quick_folder() as folder, TARGETS[name].opened(folder) as run:
        run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_fails(name: str) -> None:
    """Examples, changed and joined by chance: all are answered as they should be, and memory stays flat."""
    target = TARGETS[name]
    mutations = Mutations(SEED, target.examples, target.words)
    memory = Memory(target.in_test, MOST_GROWTH)
    with quick_folder() as folder, target.opened(folder) as run, watched() as alive:
        runner = Runner(f"{name}, seed {SEED}", run)
        for number in range(1, target.in_test + 1):
            alive()
            runner(mutations.next())
            memory.look(number)
    assert target.in_test == runner.count


@pytest.mark.parametrize("name", STRUCTURED)
def test_no_request_fails(name: str) -> None:
    """Requests of the right form or nearly so, whatever they ask for."""
    inputs, strategy = STRUCTURED[name]
    with quick_folder() as folder, TARGETS[name].opened(folder) as run, watched() as alive:
        runner = Runner(f"{name}, by hypothesis", run)

        @seed(SEED)
        @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(strategy)
        def check(data: bytes) -> None:
            alive()
            runner(data)

        check()
    assert inputs <= runner.count


def test_there_are_enough_inputs() -> None:
    """As many as are promised."""
    by_chance = sum(target.in_test for target in TARGETS.values())
    by_hypothesis = sum(inputs for inputs, _strategy in STRUCTURED.values())
    assert INPUTS_IN_TEST == by_chance + by_hypothesis


def test_the_same_seed_gives_the_same_inputs() -> None:
    """What failed fails again."""
    target = TARGETS["data_server"]
    one, same, other = (Mutations(number, target.examples, target.words) for number in (SEED, SEED, SEED + 1))
    inputs = [one.next() for _ in range(100)]
    assert inputs == [same.next() for _ in range(100)]
    assert inputs != [other.next() for _ in range(100)]
