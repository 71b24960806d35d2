import hashlib
from itertools import combinations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from filefly.errors import BadRequest
from filefly.wire.names import (
    check_block_id,
    check_file_name,
    id_of_name_on_disk,
    make_block_id,
    name_on_disk,
    split_block_id,
    stem_of,
)

HASH = hashlib.sha256(b"x").hexdigest()[:32]

characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/")
tricky = st.sampled_from(["a", "-", "0", ".", "1", "~", "%", "%2F", " ", "é", "日", "-0", "-0.1", "~" + HASH, "." * 3])
segments = (
    st.text(characters, min_size=1, max_size=30) | st.lists(tricky, min_size=1, max_size=5).map("".join)
).filter(lambda text: text not in {".", ".."})
names = st.lists(segments, min_size=1, max_size=4).map("/".join)
long_names = st.builds(
    lambda piece, count, end: (piece * count).encode()[: count - len(end)].decode(errors="ignore") + end,
    st.text(characters, min_size=1, max_size=8).filter(lambda text: text.strip(".")),
    st.integers(200, 1024),
    st.sampled_from(["", "z", "-0", "~" + HASH]),
)
indexes = st.integers(0, 19_999)
generations = st.none() | st.integers(0, 2**53 - 1)

REFUSED_PATHS = [
    "../x",
    "/tmp/x",
    "a/../../x",
    "a/..",
    "..",
    ".",
    "./x",
    "a/./b",
    "/",
    "a//b",
    "a/",
    "a\0b",
    "a\nb",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "x" * 1025,
    "é" * 513,
    "a\ud800",
    "\udfff",
]


@given(names | long_names, indexes, generations)
def test_an_id_survives_its_name_on_disk(name: str, index: int, generation: int | None) -> None:
    """What is written on disk is read back as the id that was meant."""
    block_id = make_block_id(stem_of(name), index, generation)
    assert block_id == id_of_name_on_disk(name_on_disk(block_id))


@given(names | long_names, indexes, generations)
def test_an_id_is_one_visible_name_on_disk(name: str, index: int, generation: int | None) -> None:
    """No id leaves the storage directory, hides there, or is too long for a Linux file system."""
    check_file_name(name)
    block_id = make_block_id(stem_of(name), index, generation)
    check_block_id(block_id)
    on_disk = name_on_disk(block_id)
    assert b"/" not in on_disk
    assert not on_disk.startswith(b".")
    assert len(on_disk) <= 255


@pytest.mark.parametrize("character", ["a", "%", "/b", "é", "日", "😀", " "])
@pytest.mark.parametrize("length", [*range(196, 204), 255, 256, 512, 1023, 1024])
def test_the_longest_id_of_a_long_name_fits(character: str, length: int) -> None:
    """A name of up to 1,024 bytes makes ids that a Linux file system takes, whatever each byte costs there."""
    name = "n" + (character * length).encode()[: length - 1].decode(errors="ignore")
    name = name.removesuffix("/")
    check_file_name(name)
    block_id = make_block_id(stem_of(name), 19_999, 2**53 - 1)
    check_block_id(block_id)
    assert len(name_on_disk(block_id)) <= 255


@given(st.lists(names | long_names, min_size=2, max_size=6, unique=True))
@example(["a", "a-0", "a-0.1", "a-0-0"])
@example(["x" * 300, stem_of("x" * 300)])
@example(["x" * 300, "x" * 301, "x" * 299 + "y"])
def test_distinct_names_share_no_stem(some: list[str]) -> None:
    """Two files never have a stem in common."""
    for one, other in combinations(some, 2):
        assert stem_of(one) != stem_of(other)


@given(names | long_names, indexes, generations, names | long_names, indexes, generations)
@example("a", 0, 1, "a-0.1", 0, None)
@example("a-0", 1, None, "a", 0, None)
def test_distinct_names_share_no_id(
    one: str, index: int, generation: int | None, other: str, other_index: int, other_generation: int | None
) -> None:
    """Blocks of two files never have an id in common."""
    assume(one != other)
    assert make_block_id(stem_of(one), index, generation) != make_block_id(
        stem_of(other), other_index, other_generation
    )


def test_a_short_name_is_its_own_stem() -> None:
    """The ids of a file with a short name are readable."""
    assert "docs/hello world.txt" == stem_of("docs/hello world.txt")


def test_a_long_name_keeps_its_beginning() -> None:
    """The stem of a long name begins as the name does and ends with the name's hash."""
    name = "long-" * 100
    assert name[:165] + "~" + hashlib.sha256(name.encode()).hexdigest()[:32] == stem_of(name)


def test_a_name_that_ends_like_a_hashed_stem_is_hashed() -> None:
    """A name cannot pass for the stem of another."""
    name = "x~" + HASH
    assert f"{name}~{hashlib.sha256(name.encode()).hexdigest()[:32]}" == stem_of(name)


def test_the_generation_is_left_out_of_a_short_id() -> None:
    """A short id is the stem and the index."""
    assert "hello.txt-0" == make_block_id("hello.txt", 0, None)


def test_the_generation_follows_a_dot() -> None:
    """A long id is the short one and the generation."""
    assert "hello.txt-0.17" == make_block_id("hello.txt", 0, 17)


@pytest.mark.parametrize(
    ("block_id", "expected"),
    [
        ("hello world.txt-0", b"hello world.txt-0"),
        ("-rf-0", b"-rf-0"),
        (".profile-0", b"%2Eprofile-0"),
        ("...-0", b"%2E..-0"),
        ("a/b-0", b"a%2Fb-0"),
        ("100%-0", b"100%25-0"),
        ("größe-0", "größe-0".encode()),
    ],
)
def test_the_name_on_disk_is_readable(block_id: str, expected: bytes) -> None:
    """Only what a file name cannot hold is spelled otherwise."""
    assert expected == name_on_disk(block_id)


@pytest.mark.parametrize(
    "foreign",
    [
        b".lock",
        b".filefly.json",
        b".incoming",
        b"a%2fb",
        b"%41",
        b"100%",
        b"%2",
        b"%2E",
        b"%2E%2E",
        b"%2E.",
        b"a%2F",
        b"a%2F%2Fb",
        b"a%00",
        b"a%0Ab",
        b"a\nb",
        b"a%7F",
        b"a\xffb",
        b"a%FF",
        b"a\xc2\x85b",
        b"\xed\xa0\x80",
    ],
)
def test_a_foreign_name_is_no_id(foreign: bytes) -> None:
    """A file name that no id is spelled as is not taken for a block."""
    assert id_of_name_on_disk(foreign) is None


@given(st.lists(st.sampled_from([b"a", b".", b"%", b"%2F", b"%2E", b"%25", b"2", b"F", b"f"])).map(b"".join))
def test_whatever_is_taken_for_an_id_is_spelled_so(name: bytes) -> None:
    """Two files in a folder are never the same block."""
    block_id = id_of_name_on_disk(name)
    assert block_id is None or name == name_on_disk(block_id)


@pytest.mark.parametrize("name", REFUSED_PATHS)
def test_a_dangerous_file_name_is_refused(name: str) -> None:
    """No file name leaves its place, is empty in part, has control characters, is too long or is no UTF-8."""
    with pytest.raises(BadRequest, match=r"^file_name "):
        check_file_name(name)


@pytest.mark.parametrize("block_id", REFUSED_PATHS)
def test_a_dangerous_block_id_is_refused(block_id: str) -> None:
    """What no file name may have, no block id may have either."""
    with pytest.raises(BadRequest, match=r"^block_id "):
        check_block_id(block_id)


@given(st.text(characters), st.characters(categories=["Cc"]), st.text(characters))
def test_a_control_character_is_refused_wherever_it_is(before: str, control: str, after: str) -> None:
    """A name with a control character could fake lines of a listing."""
    with pytest.raises(BadRequest):
        check_file_name(before + control + after)


def test_an_empty_file_name_is_missing() -> None:
    """An empty name gets the sentence of a missing one."""
    with pytest.raises(BadRequest, match=r"^missing file_name$"):
        check_file_name("")


def test_an_empty_block_id_is_missing() -> None:
    """An empty id gets the sentence of a missing one."""
    with pytest.raises(BadRequest, match=r"^missing block_id$"):
        check_block_id("")


def test_an_id_that_fits_exactly_is_taken() -> None:
    """255 bytes on disk are the limit."""
    check_block_id("x" * 255)


@pytest.mark.parametrize("block_id", ["x" * 256, "%" * 86, "é" * 128])
def test_an_id_that_does_not_fit_on_disk_is_refused(block_id: str) -> None:
    """The limit is on the bytes that the file name takes."""
    with pytest.raises(BadRequest, match=r"^block_id takes more than 255 bytes on disk$"):
        check_block_id(block_id)


@pytest.mark.parametrize(
    "name", ["x" * 1024, "é" * 512, "...", "..a", "a..", "-rf", " ", "~", "a b/c d", "%2F", "\u202e"]
)
def test_an_odd_but_harmless_name_is_taken(name: str) -> None:
    """What a file system would take is taken."""
    check_file_name(name)


@pytest.mark.parametrize("name", ["hello.txt", "a-0", "a-0.17", "-", "x.5-3", "é/ü-1"])
@pytest.mark.parametrize("generation", [None, 17])
def test_an_id_is_split_into_what_it_was_made_of(name: str, generation: int | None) -> None:
    """Whatever dashes, dots and digits the name has."""
    assert (name, 3, generation) == split_block_id(make_block_id(name, 3, generation))


@pytest.mark.parametrize("block_id", ["", "a", "-3", "a-", "a-x", "a-3.", "a-3.x", "a-\u0663", "a-1234567890"])
def test_what_is_no_id_of_ours_is_not_split(block_id: str) -> None:
    """Somebody may have stored it by hand."""
    assert split_block_id(block_id) is None
