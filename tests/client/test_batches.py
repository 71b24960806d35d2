from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.client.batches import (
    MOST_BYTES,
    MOST_FILES,
    SMALL_BYTES,
    batches_of,
    cut,
    in_groups,
    is_one_block,
    metadata_of,
    place_of,
)
from filefly.wire.messages import Block, ListedFile, Metadata, Replica


def block_of(size: int, *places: str) -> Block:
    return Block("a-0", size, places[0] if places else "", [Replica(place) for place in places], "0a0b0c0d")


def listed(size: int, blocks: Sequence[Block] | None, name: str = "a") -> ListedFile:
    return ListedFile(name, size, 17, 2, "2026-01-01T00:00:00Z", {"mode": "0600"}, 64, blocks)


def small(size: int, *places: str, name: str = "a") -> ListedFile:
    """Return a file of one block, or of none if it is empty."""
    return listed(size, [block_of(size, *places)] if size else [], name)


# Where a file is fetched from


def test_a_small_file_is_fetched_from_its_first_place() -> None:
    """As a large one is, too."""
    assert "x:1" == place_of(small(SMALL_BYTES, "x:1", "y:1"), set())


def test_a_place_that_is_avoided_is_passed_over() -> None:
    """If there is another one; else who fetches it alone will tell what is wrong."""
    file = small(3, "x:1", "y:1")
    assert ["y:1", None] == [place_of(file, {"x:1"}), place_of(file, {"x:1", "y:1"})]


def test_an_empty_file_needs_no_place() -> None:
    """There is nothing to fetch."""
    assert "" == place_of(small(0), set())


@pytest.mark.parametrize(
    "file",
    [
        small(SMALL_BYTES + 1, "x:1"),
        listed(6, [block_of(3, "x:1"), block_of(3, "y:1")]),
        listed(6, [block_of(3, "x:1")]),
        listed(6, []),
        listed(0, [block_of(3, "x:1")]),
        listed(6, None),
        small(3),
    ],
    ids=["large", "several blocks", "too few bytes", "no block", "too many bytes", "listed without blocks", "nowhere"],
)
def test_other_files_go_alone(file: ListedFile) -> None:
    """What is large gains nothing; what does not add up is for who can tell why."""
    assert None is place_of(file, set())


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [([], 0, True), ([3], 3, True), ([0], 0, False), ([3], 2, False), ([1, 2], 3, False), ([], 3, False)],
)
def test_a_plan_is_one_block_or_it_is_none(sizes: Sequence[int], size: int, expected: bool) -> None:
    """And all of it."""
    assert expected == is_one_block([block_of(each, "x:1") for each in sizes], size)


# Batches

FILES = st.lists(
    st.tuples(st.sampled_from([0, 1, 4096, SMALL_BYTES, SMALL_BYTES + 1]), st.sampled_from(["x:1", "y:1", "z:1"])),
    max_size=3 * MOST_FILES,
).map(lambda files: [(small(size, place, name=f"{number}"), number) for number, (size, place) in enumerate(files)])


@settings(deadline=None)
@given(files=FILES)
def test_every_file_is_in_one_batch(files: Sequence[tuple[ListedFile, int]]) -> None:
    """Of its own place, in order, together with what belongs to it."""
    batches = list(batches_of(files, {"z:1"}))
    assert sorted(range(len(files))) == sorted(number for batch in batches for _file, number in batch.files)
    for batch in batches:
        numbers = [number for _file, number in batch.files]
        assert sorted(numbers) == numbers
        assert all(files[number][0] is file for file, number in batch.files)
        assert {batch.place} == {place_of(file, {"z:1"}) for file, _number in batch.files}


@settings(deadline=None)
@given(files=FILES)
def test_batches_are_neither_larger_nor_smaller_than_need_be(files: Sequence[tuple[ListedFile, int]]) -> None:
    """Memory is bounded, and of two halves of a place one is full; what goes alone has no bytes in memory."""
    halves: dict[str | None, int] = {}
    for batch in batches_of(files, ()):
        sizes = [file.total_size if batch.place is not None else 0 for file, _number in batch.files]
        assert 1 <= len(sizes) <= MOST_FILES
        assert sum(sizes[:-1]) < MOST_BYTES
        halves[batch.place] = halves.get(batch.place, 0) + (len(sizes) < MOST_FILES and sum(sizes) < MOST_BYTES)
    assert all(count <= 1 for count in halves.values())


def test_a_place_is_avoided_as_soon_as_it_is_known_to_fail() -> None:
    """Also in the middle of it all."""
    avoided = set[str]()
    batches = batches_of(((small(1, "x:1", "y:1"), None) for _ in range(2 * MOST_FILES)), avoided)
    assert "x:1" == next(batches).place
    avoided.add("x:1")
    assert "y:1" == next(batches).place


@pytest.mark.parametrize("count", [0, 1, MOST_FILES, MOST_FILES + 1, 2 * MOST_FILES])
def test_groups_are_full_but_for_the_last(count: int) -> None:
    """Which is not empty."""
    expected = [list(range(at, min(at + MOST_FILES, count))) for at in range(0, count, MOST_FILES)]
    assert expected == list(in_groups(range(count)))


# Bytes

CHUNKS = st.lists(st.binary(max_size=5), max_size=6)


@given(chunks=CHUNKS, data=st.data())
def test_chunks_are_cut_to_size(chunks: Sequence[bytes], data: st.DataObject) -> None:
    """Wherever their borders are."""
    whole = b"".join(chunks)
    borders = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    ends = list(zip([0, *borders], [*borders, len(whole)], strict=True))
    assert [whole[begin:end] for begin, end in ends] == [
        bytes(piece) for piece in cut(chunks, (e - b for b, e in ends))
    ]


def test_what_lies_in_one_chunk_is_not_copied() -> None:
    """A memoryview of it is enough."""
    [piece, _rest] = cut([b"0123"], [2, 2])
    assert isinstance(piece, memoryview)


# Metadata


def test_a_listed_file_has_metadata() -> None:
    """The same as if it had been asked for alone."""
    file = small(3, "x:1", "y:1")
    assert metadata_of(file) == Metadata(
        name="a",
        total_size=3,
        block_size=64,
        generation=17,
        state="committed",
        replicas=2,
        modified="2026-01-01T00:00:00Z",
        attributes={"mode": "0600"},
        blocks=[block_of(3, "x:1", "y:1")],
    )
