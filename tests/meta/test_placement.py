from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.errors import BadRequest, TooLarge
from filefly.meta.placement import choose_block_size, cut, place
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
    with pytest.raises(TooLarge, match=r"^file_size is over the limit of 20000 blocks of 67108864 bytes$"):
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
