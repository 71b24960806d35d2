from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filefly.client.decisions import (
    Slice,
    addresses_of,
    changed_since,
    check_readable,
    error_of_all,
    links_of,
    offsets_of,
    replacement_in,
    short_blocks,
    slices_of,
    worth_a_retry,
    worth_asking_again,
    worth_rereading,
)
from filefly.client.errors import Silent, Unreachable
from filefly.errors import (
    BadRange,
    BadRequest,
    Busy,
    Conflict,
    Corrupt,
    DiskFull,
    FileFlyError,
    Incomplete,
    Internal,
    NotFound,
    TimedOut,
    TooLarge,
    Unavailable,
)
from filefly.wire.messages import (
    Block,
    CompleteFile,
    DeleteFile,
    GetMetadata,
    Metadata,
    RenameFile,
    RenewPlan,
    ReplaceReplica,
    Replica,
    ReportReplica,
    Request,
    StoreFile,
)


def block_of(size: int, index: int = 0, *places: str) -> Block:
    return Block(f"a-{index}", size, places[0] if places else "x:1", [Replica(place) for place in places], "0a0b0c0d")


def file_of(*sizes: int, state: str = "committed") -> Metadata:
    blocks = [block_of(size, index) for index, size in enumerate(sizes)]
    fields: dict[str, Any] = {"name": "a", "block_size": 7, "generation": 1, "replicas": 1, "attributes": {}}
    return Metadata(**fields, total_size=sum(sizes), state=state, blocks=blocks)


SIZES = st.lists(st.integers(1, 9), max_size=8)


@settings(deadline=None)
@given(sizes=SIZES, data=st.data())
def test_slices_are_the_range(sizes: list[int], data: st.DataObject) -> None:
    """Put together they are exactly the bytes that were asked for, whatever the blocks' sizes."""
    content = bytes(range(sum(sizes)))
    offset = data.draw(st.integers(0, len(content)))
    length = data.draw(st.none() | st.integers(0, len(content) + 3))
    found, begins = b"", [sum(sizes[:index]) for index in range(len(sizes))]
    for part in slices_of(file_of(*sizes), offset, length):
        begin = begins[int(part.block.id.removeprefix("a-"))]
        found += content[begin + part.offset : begin + part.end]
    assert content[offset:][:length] == found


@settings(deadline=None)
@given(sizes=SIZES, data=st.data())
def test_no_slice_is_empty(sizes: list[int], data: st.DataObject) -> None:
    """A block that the range does not touch is not asked for."""
    offset = data.draw(st.integers(0, sum(sizes)))
    length = data.draw(st.none() | st.integers(0, 20))
    assert all(0 <= part.offset < part.end <= part.block.size for part in slices_of(file_of(*sizes), offset, length))


def test_a_whole_block_knows_that_it_is() -> None:
    """Only that one can be held against the catalog's checksum."""
    assert [True, True] == [part.whole for part in slices_of(file_of(7, 3))]
    assert [False, True] == [part.whole for part in slices_of(file_of(7, 3), 1)]
    assert [True, False] == [part.whole for part in slices_of(file_of(7, 3), 0, 9)]


def test_blocks_of_different_sizes_are_added_up() -> None:
    """Readers never multiply."""
    assert [("a-1", 0, 2), ("a-2", 0, 4)] == [
        (part.block.id, part.offset, part.end) for part in slices_of(file_of(5, 2, 9), 5, 6)
    ]


def test_the_end_of_a_file_is_an_empty_range() -> None:
    """An offset just behind the last byte is fine."""
    assert [] == slices_of(file_of(7, 3), 10)
    assert [] == slices_of(file_of(), 0, 5)


def test_a_range_beyond_the_end_is_refused() -> None:
    """The sentence tells both numbers."""
    with pytest.raises(BadRange, match=r"^offset 11 is beyond the file's 10 bytes$"):
        slices_of(file_of(7, 3), 11, 0)


def test_a_slice_is_compared_by_value() -> None:
    """It is a plain fact."""
    assert [Slice(block_of(7), 1, 3)] == slices_of(file_of(7), 1, 2)


def test_a_committed_file_is_readable() -> None:
    """Any other is a plan."""
    check_readable(file_of(1))
    with pytest.raises(Incomplete, match=r"^a is not complete: its blocks are not all stored yet$"):
        check_readable(file_of(1, state="pending"))


def test_replicas_are_asked_in_their_order() -> None:
    """The preferred one first."""
    assert ["x:1", "y:1"] == addresses_of(block_of(1, 0, "x:1", "y:1"))


def test_an_old_plan_has_one_place() -> None:
    """That of `data_server`, where there are no replicas."""
    assert ["x:1"] == addresses_of(block_of(1))


@pytest.mark.parametrize(
    ("kind", "worth"),
    [
        (Unavailable, True),
        (TimedOut, True),
        (Busy, True),
        (Corrupt, True),
        (NotFound, False),
        (BadRequest, False),
        (BadRange, False),
        (Conflict, False),
        (DiskFull, False),
        (TooLarge, False),
        (Internal, False),
    ],
)
def test_what_may_pass_is_worth_a_retry(kind: type[FileFlyError], worth: bool) -> None:
    """What will be the same in a second is not."""
    assert worth == worth_a_retry(kind("x"))


ANY_TIME: list[Request] = [
    GetMetadata("a"),
    StoreFile("a", 1),
    CompleteFile(generation=1),
    ReportReplica("a-0", "x:1"),
    RenewPlan(1),
]
ONCE: list[Request] = [DeleteFile("a"), RenameFile("a", "b")]
REPLACE = ReplaceReplica(1, "a-0", "x:1")


@pytest.mark.parametrize(
    ("request_kinds", "kinds", "again"),
    [
        (ANY_TIME, [Unreachable, Unavailable, TimedOut], True),
        (ANY_TIME, [Silent, Busy, Corrupt, NotFound, Conflict, BadRequest, Internal], False),
        ([REPLACE], [Unreachable, TimedOut], True),
        ([REPLACE], [Unavailable, Silent, Conflict], False),
        (ONCE, [Unreachable, Unavailable, TimedOut, Silent, NotFound], False),
    ],
)
def test_what_is_harmless_is_worth_asking_again(
    request_kinds: list[Request], kinds: list[type[FileFlyError]], again: bool
) -> None:
    """That no data server is left is an answer, and to find out that a machine is dead has taken long enough."""
    for request in request_kinds:
        for kind in kinds:
            assert again == worth_asking_again(request, kind("x"))


@pytest.mark.parametrize(
    ("kind", "worth"),
    [
        (NotFound, True),
        (Unavailable, True),
        (TimedOut, True),
        (Corrupt, True),
        (BadRange, False),
        (FileFlyError, False),
    ],
)
def test_what_may_have_moved_is_worth_rereading(kind: type[FileFlyError], worth: bool) -> None:
    """What is wrong with the request, or with this machine's disk, is not."""
    assert worth == worth_rereading(kind("x"))


ERRORS: list[type[FileFlyError]] = [Unavailable, TimedOut, Busy, Corrupt, NotFound]


@settings(deadline=None)
@given(kinds=st.lists(st.sampled_from(ERRORS), min_size=1, max_size=5))
def test_one_error_tells_of_all(kinds: list[type[FileFlyError]]) -> None:
    """Of the kind that leaves most hope; the sentence has every place and what it said."""
    errors = {f"s{number}:1": kind(f"reason {number}") for number, kind in enumerate(kinds)}
    error = error_of_all("a-0", "read", errors)
    assert min(kinds, key=ERRORS.index) is type(error)
    reasons = "; ".join(f"s{number}:1: reason {number}" for number in range(len(kinds)))
    assert f"block a-0 cannot be read ({reasons})" == str(error)


def test_another_error_keeps_its_kind() -> None:
    """A full disk is not called unavailable."""
    assert DiskFull is type(error_of_all("a-0", "stored", {"s:1": DiskFull("full")}))


def test_a_block_without_an_address_is_unavailable() -> None:
    """As a metadata server tells it of data servers that it has not seen."""
    for block in (Block("a-0", 1, "", []), Block("a-0", 1, "", [Replica("")])):
        with pytest.raises(Unavailable, match=r"^block a-0 cannot be read: "):
            addresses_of(block)
    assert ["y:1"] == addresses_of(block_of(1, 0, "", "y:1"))


def with_places(*places: Sequence[str]) -> Metadata:
    return msgspec.structs.replace(
        file_of(), blocks=[block_of(1, index, *each) for index, each in enumerate(places)], replicas=2
    )


@pytest.mark.parametrize(
    ("now", "changed"),
    [
        (with_places(["x:1", "y:1"], ["x:1"]), False),
        (with_places(["y:1", "x:1"], ["x:1"]), False),
        (with_places(["x:1", "z:1"], ["x:1"]), True),
        (with_places(["x:1", "y:1"], ["x:1", "y:1"]), True),
        (with_places(["x:1", "y:1"]), True),
    ],
)
def test_metadata_is_other_when_a_reader_would_ask_elsewhere(now: Metadata, changed: bool) -> None:
    """Another order of the same places makes no difference."""
    assert changed == changed_since(with_places(["x:1", "y:1"], ["x:1"]), now)


def test_other_blocks_are_another_file() -> None:
    """Wherever they are."""
    now = msgspec.structs.replace(file_of(), blocks=[Block("a-0.2", 1, "x:1", [Replica("x:1")])])
    assert changed_since(with_places(["x:1"]), now)


def test_a_replacement_is_what_was_not_known() -> None:
    """Of all places that the block ever had."""
    block = block_of(1, 0, "x:1", "z:1", "y:1")
    assert "z:1" == replacement_in(block, {"x:1", "y:1"})
    assert None is replacement_in(block, {"x:1", "y:1", "z:1"})


def test_blocks_with_fewer_replicas_are_counted() -> None:
    """Than the file should have; more are fine."""
    assert 1 == short_blocks(with_places(["x:1", "y:1"], ["x:1"], ["x:1", "y:1", "z:1"]))
    assert 0 == short_blocks(file_of())


def test_what_an_older_plan_has_alike_may_be_linked() -> None:
    """Blocks of one index and size, in the places that both plans name."""
    older = msgspec.structs.replace(
        file_of(),
        blocks=[
            Block("a-0", 7, "x:1", [Replica("x:1"), Replica("y:1")]),
            Block("a-1", 7, "z:1", [Replica("z:1")]),
            Block("a-2", 3, "x:1", [Replica("x:1")]),
            Block("a-3", 7, "x:1", [Replica("x:1")]),
        ],
    )
    plan = msgspec.structs.replace(
        file_of(),
        blocks=[Block(f"a-{index}.2", 7, "y:1", [Replica("y:1"), Replica("x:1")]) for index in range(3)],
    )
    assert {"a-0.2": ("a-0", ["y:1", "x:1"])} == links_of(plan, older)


def test_every_block_has_its_place() -> None:
    """Behind those before it, whatever their sizes."""
    assert [("a-0", 0), ("a-1", 5), ("a-2", 7)] == [
        (block.id, offset) for block, offset in offsets_of(file_of(5, 2, 9).blocks)
    ]


def test_blocks_that_do_not_make_up_the_file_are_corrupt() -> None:
    """A reader would give back something other than what was stored."""
    metadata = file_of(7, 3)
    with pytest.raises(Corrupt, match="does not add up"):
        check_readable(msgspec.structs.replace(metadata, total_size=11))
