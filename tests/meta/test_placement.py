from collections import Counter
from collections.abc import Collection, Mapping

import pytest
from attrs import evolve, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.catalog.repairs import Place
from filefly.catalog.replicas import StoredBlock
from filefly.errors import BadRequest, TooLarge
from filefly.meta.placement import (
    CopyBlock,
    GiveUp,
    Servers,
    Settled,
    Step,
    Stuck,
    TakeBack,
    choose_block_size,
    cut,
    next_step,
    place,
)
from filefly.wire.messages import MAX_BLOCK_SIZE, MAX_BLOCKS

MIB = 1024 * 1024


@pytest.mark.parametrize(("size", "sizes"), [(0, []), (1, [1]), (7, [7]), (8, [7, 1]), (14, [7, 7]), (20, [7, 7, 6])])
def test_a_file_is_cut_into_whole_blocks_and_a_rest(size: int, sizes: list[int]) -> None:
    """Every block but the last has the block size, and no block is empty."""
    assert sizes == cut(size, 7)


@settings(deadline=None)
@given(size=st.integers(0, 10**6), block_size=st.integers(64, 10**6))
def test_a_cut_loses_nothing(size: int, block_size: int) -> None:
    """The blocks add up to the file."""
    sizes = cut(size, block_size)
    assert size == sum(sizes)
    assert all(0 < each <= block_size for each in sizes)


@pytest.mark.parametrize(
    ("size", "block_size"),
    [
        (0, 8 * MIB),
        (20_000 * 8 * MIB, 8 * MIB),
        (20_000 * 8 * MIB + 1, 16 * MIB),
        (20_000 * 32 * MIB + 1, 64 * MIB),
        (20_000 * 64 * MIB, 64 * MIB),
    ],
)
def test_the_block_size_doubles_to_stay_below_the_limit_of_blocks(size: int, block_size: int) -> None:
    """It is as small as it may be, and never over 64 MiB."""
    assert block_size == choose_block_size(size, 8 * MIB)


def test_an_odd_block_size_ends_at_the_largest() -> None:
    """Doubling does not overshoot 64 MiB."""
    assert 64 * MIB == choose_block_size(20_000 * 64 * MIB, 48 * MIB)


def test_a_file_over_the_limit_is_refused() -> None:
    """Beyond 20,000 blocks of 64 MiB there is no plan, and the sentence names the limit."""
    with pytest.raises(
        TooLarge, match=r"^file_size is over the limit of 20000 blocks of 67108864 bytes \(--max-blocks-per-file\)$"
    ):
        choose_block_size(20_000 * 64 * MIB + 1, 8 * MIB)


@settings(deadline=None)
@given(size=st.integers(0, MAX_BLOCKS * MAX_BLOCK_SIZE), block_size=st.integers(1, MAX_BLOCK_SIZE))
def test_every_plan_has_at_most_20000_blocks(size: int, block_size: int) -> None:
    """Whatever the size asked for, the chosen one is a doubling of it that is just large enough."""
    chosen = choose_block_size(size, block_size)
    assert block_size <= chosen <= MAX_BLOCK_SIZE
    assert -(-size // chosen) <= MAX_BLOCKS


def test_blocks_go_round_robin() -> None:
    """Each block is on the server behind that of the block before."""
    assert [(1,), (2,), (3,), (1,)] == place(4, 1, [1, 2, 3], 0)


def test_the_next_file_carries_on() -> None:
    """Small files do not all end on the first server."""
    assert [(3,), (1,)] == place(2, 1, [1, 2, 3], 5)


def test_first_replicas_are_spread() -> None:
    """Readers prefer the first replica, so it moves on too."""
    assert [(1, 2), (2, 3), (3, 1)] == place(3, 2, [1, 2, 3], 0)


@settings(deadline=None)
@given(
    blocks=st.integers(0, 50),
    servers=st.lists(st.integers(1, 99), min_size=1, max_size=7, unique=True),
    cursor=st.integers(0, 1000),
    data=st.data(),
)
def test_replicas_are_on_distinct_servers_and_even(
    blocks: int, servers: list[int], cursor: int, data: st.DataObject
) -> None:
    """No server has two replicas of a block, or more than one replica per replica count more than another."""
    replicas = data.draw(st.integers(1, len(servers)))
    places = place(blocks, replicas, servers, cursor)
    assert [replicas] * blocks == [len(set(each)) for each in places]
    load = Counter(server for each in places for server in each)
    assert max(load.values(), default=0) - min((load[server] for server in servers), default=0) <= replicas
    first = Counter(each[0] for each in places)
    assert max(first.values(), default=0) - min((first[server] for server in servers), default=0) <= 1


def test_more_replicas_than_servers_are_refused() -> None:
    """The sentence is the one that users know."""
    with pytest.raises(BadRequest, match=r"^replica count 4 exceeds available data servers \(3\)$"):
        place(1, 4, [1, 2, 3], 0)


def test_no_servers_hold_no_replica() -> None:
    """A cluster without data servers refuses even an empty file."""
    with pytest.raises(BadRequest, match=r"exceeds available data servers \(0\)$"):
        place(0, 1, [], 0)


# Repair


def block_on(*servers: int, wanted: int, bad: Mapping[int, str] | None = None, position: int = 0) -> StoredBlock:
    place = Place(0, position)
    return StoredBlock(place, "a", "a-0", 7, "0a0b0c0d", wanted, servers, dict(bad or {}), "a")


def servers_of(
    up: Collection[int] = (1, 2, 3, 4),
    full: Collection[int] = (),
    draining: Collection[int] = (),
    away: Collection[int] = (),
    suspect: Collection[int] = (),
) -> Servers:
    """Say how data servers are; those that are neither `up` nor `suspect` are down."""
    placing = [key for key in sorted({*up, *suspect}) if key not in full and key not in draining]
    return Servers(frozenset(up), tuple(placing), frozenset(away), frozenset(draining))


NOWHERE = Stuck("no other data server can take a copy: each has one, is down, draining or full")
NO_SOURCE = Stuck("no good replica can be reached")
UNVERIFIED = Stuck("the other replicas cannot be verified: a data server does not answer")


@pytest.mark.parametrize(
    ("step", "block", "servers"),
    [
        pytest.param(Settled(), block_on(1, 2, wanted=2), servers_of(), id="all well"),
        pytest.param(Settled(), block_on(1, 2, wanted=2), servers_of(up=[1]), id="down for a short time"),
        pytest.param(Settled(), block_on(1, 2, wanted=2), servers_of(up=[]), id="all down for a short time"),
        pytest.param(CopyBlock((1,), 2), block_on(1, wanted=2), servers_of(), id="too few"),
        pytest.param(CopyBlock((1,), 3), block_on(1, 2, wanted=2), servers_of([1, 3], away=[2]), id="away"),
        pytest.param(
            CopyBlock((1,), 3), block_on(1, 3, wanted=2, bad={3: "corrupt"}), servers_of(), id="the damaged first"
        ),
        pytest.param(
            CopyBlock((1,), 2),
            block_on(1, 3, wanted=2, bad={3: "corrupt"}),
            servers_of(full=[3]),
            id="the damaged is full",
        ),
        pytest.param(
            CopyBlock((1,), 4),
            block_on(1, 3, wanted=2, bad={3: "missing"}),
            servers_of([1, 4], suspect=[3]),
            id="the damaged does not answer",
        ),
        pytest.param(CopyBlock((2, 1), 3), block_on(2, 1, wanted=3), servers_of(), id="sources in order"),
        pytest.param(CopyBlock((1,), 3), block_on(2, 1, wanted=3), servers_of([1, 3]), id="only sources that answer"),
        pytest.param(
            CopyBlock((1,), 3), block_on(1, wanted=1), servers_of([1, 3], draining=[1]), id="a draining source"
        ),
        pytest.param(
            CopyBlock((2,), 1), block_on(1, 2, wanted=2, bad={1: "corrupt"}), servers_of(), id="no corrupt source"
        ),
        pytest.param(NOWHERE, block_on(1, 2, wanted=2), servers_of([1], away=[2]), id="nowhere"),
        pytest.param(NOWHERE, block_on(1, wanted=2), servers_of(full=[2, 3, 4]), id="all full"),
        pytest.param(NOWHERE, block_on(1, wanted=2), servers_of([1], suspect=[2]), id="suspects get no copy"),
        pytest.param(NOWHERE, block_on(1, wanted=1), servers_of([1], draining=[1]), id="draining the only one"),
        pytest.param(NO_SOURCE, block_on(1, wanted=1, bad={1: "missing"}), servers_of(), id="lost"),
        pytest.param(NO_SOURCE, block_on(wanted=1), servers_of(), id="no replica at all"),
        pytest.param(NO_SOURCE, block_on(1, wanted=1), servers_of([2, 3], away=[1]), id="the only one is away"),
        pytest.param(GiveUp(3, (1, 2)), block_on(1, 2, 3, wanted=2), servers_of(), id="surplus"),
        pytest.param(GiveUp(3, (1, 2)), block_on(1, 2, 3, wanted=1), servers_of(), id="surplus, one at a time"),
        pytest.param(
            GiveUp(1, (2, 3)), block_on(1, 2, 3, wanted=2, bad={1: "missing"}), servers_of(), id="bad and not needed"
        ),
        pytest.param(GiveUp(1, (2, 3)), block_on(1, 2, 3, wanted=2), servers_of(draining=[1]), id="draining"),
        pytest.param(
            GiveUp(2, (3,)),
            block_on(1, 2, 3, wanted=1, bad={2: "corrupt"}),
            servers_of(draining=[1]),
            id="bad ones go before draining ones",
        ),
        pytest.param(
            Settled(), block_on(1, 2, 3, wanted=2, bad={1: "corrupt"}), servers_of([2, 3], away=[1]), id="bad and away"
        ),
        pytest.param(Settled(), block_on(1, 2, 3, wanted=2), servers_of([2, 3], away=[1]), id="replaced, and away"),
        pytest.param(UNVERIFIED, block_on(1, 2, 3, wanted=2), servers_of([1, 3]), id="surplus, but who knows"),
        pytest.param(UNVERIFIED, block_on(1, 2, wanted=1), servers_of([1], draining=[1]), id="the rest is down"),
    ],
)
def test_the_next_step(step: Step, block: StoredBlock, servers: Servers) -> None:
    """Of each situation that the rules know."""
    assert step == next_step(block, servers)


def test_no_copy_goes_to_a_busy_server() -> None:
    """The next one takes it, or nobody can."""
    assert CopyBlock((1,), 3) == next_step(block_on(1, wanted=2), servers_of(), busy=[2])
    assert NOWHERE == next_step(block_on(1, wanted=2), servers_of(), busy=[2, 3, 4])
    assert CopyBlock((1,), 3) == next_step(block_on(1, 2, wanted=2, bad={2: "missing"}), servers_of(), busy=[2])


def test_trash_is_taken_back_before_anything_is_copied() -> None:
    """It lies there already; but not from a server that is to be emptied, unless nothing else is left."""
    one = block_on(1, wanted=2)
    assert TakeBack(3) == next_step(one, servers_of(), trashed=[3])
    assert CopyBlock((1,), 2) == next_step(one, servers_of([1, 2]), trashed=[3])
    assert CopyBlock((1,), 2) == next_step(one, servers_of(draining=[3]), trashed=[3])
    lost = block_on(1, wanted=1, bad={1: "corrupt"})
    assert TakeBack(3) == next_step(lost, servers_of(draining=[3]), trashed=[3])
    assert Settled() == next_step(block_on(1, 2, wanted=2), servers_of(), trashed=[3])


def test_copies_are_spread() -> None:
    """A dead server's blocks do not all end on one other."""
    steps = [next_step(block_on(1, wanted=2, position=position), servers_of()) for position in range(6)]
    assert [2, 3, 4, 2, 3, 4] == [step.target for step in steps if isinstance(step, CopyBlock)]


@frozen
class World:
    """Data servers, one block's replicas on them, and which of them have older copies to get rid of."""

    block: StoredBlock
    servers: Servers
    full: frozenset[int]
    busy: frozenset[int]

    def after(self, step: Step) -> "World":
        """Carry a step out."""
        if isinstance(step, CopyBlock):
            others = [server for server in self.block.servers if server != step.target]
            bad = {server: why for server, why in self.block.bad.items() if server != step.target}
            return evolve(self, block=evolve(self.block, servers=(*others, step.target), bad=bad))
        assert isinstance(step, GiveUp)
        left = tuple(server for server in self.block.servers if server != step.server)
        bad = {server: why for server, why in self.block.bad.items() if server != step.server}
        return evolve(self, block=evolve(self.block, servers=left, bad=bad), busy=self.busy | {step.server})


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a world: each data server up, suspect, down or away, perhaps full, perhaps draining."""
    keys = range(1, draw(st.integers(1, 6)) + 1)
    state = {key: draw(st.sampled_from(["up", "up", "up", "suspect", "down", "away"])) for key in keys}
    full, draining = (frozenset(draw(st.sets(st.sampled_from(keys), max_size=3))) for _ in range(2))
    holders = draw(st.lists(st.sampled_from(keys), unique=True))
    bad = {key: draw(st.sampled_from(["missing", "corrupt"])) for key in holders if draw(st.integers(0, 3)) == 0}
    servers = Servers(
        answering=frozenset(key for key in keys if state[key] == "up"),
        placing=tuple(
            key for key in keys if state[key] in ("up", "suspect") and key not in full and key not in draining
        ),
        away=frozenset(key for key in keys if state[key] == "away"),
        draining=draining,
    )
    busy = frozenset(key for key in keys if key not in holders and draw(st.integers(0, 4)) == 0)
    block = block_on(*holders, wanted=draw(st.integers(1, 4)), bad=bad, position=draw(st.integers(0, 9)))
    return World(block, servers, full, busy)


def check_copy(world: World, step: CopyBlock) -> None:
    """See that a copy is of a good replica, to a data server that can have it, and to a damaged one if that can be."""
    block, servers = world.block, world.servers
    fit = {
        server
        for server in servers.answering - servers.draining - world.full - world.busy
        if server not in block.good and server in servers.placing
    }
    assert step.target in fit
    assert {*step.sources} == {server for server in block.good if server in servers.answering} != set()
    if fit & block.bad.keys():
        assert step.target in block.bad


def check_giving_up(world: World, step: GiveUp) -> None:
    """See that enough good replicas remain where they are to stay, all of which can be verified."""
    block, servers = world.block, world.servers
    assert step.server in block.servers
    assert step.server not in step.keep
    assert block.wanted <= len(set(step.keep))
    assert {*step.keep} <= {*block.good} & servers.answering - servers.draining


@settings(deadline=None, max_examples=500)
@given(world=worlds())
def test_whatever_the_world_step_after_step_ends_well(world: World) -> None:
    """Within few steps, each of them safe; no server has two replicas, and good ones do not become too few."""
    for _ in range(2 * 6 + 2):
        good = len(world.block.good)
        step = next_step(world.block, world.servers, world.busy)
        if isinstance(step, Settled | Stuck):
            break
        if isinstance(step, CopyBlock):
            check_copy(world, step)
        else:
            assert isinstance(step, GiveUp)  # in this world there is no trash to be taken back
            check_giving_up(world, step)
        world = world.after(step)
        assert len(world.block.servers) == len(set(world.block.servers))
        assert len(world.block.good) >= min(good, world.block.wanted)
    else:
        raise AssertionError("it goes on and on")
    if isinstance(step, Settled):
        servers = world.servers
        staying = [server for server in world.block.good if server not in servers.away | servers.draining]
        assert world.block.wanted == len(staying)
        assert {*world.block.servers} - {*staying} <= servers.away
