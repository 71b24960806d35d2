from collections.abc import Sequence
from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filefly.units import MOST_CHUNKS, counted, format_size, parse_size, write_all


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("8", 8),
        ("8B", 8),
        ("1k", 1024),
        ("64KiB", 65536),
        ("64 kib", 65536),
        (" 8MiB ", 8 * 1024**2),
        ("2G", 2 * 1024**3),
        ("1TiB", 1024**4),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    """Units are powers of 1024, in any case."""
    assert size == parse_size(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5MiB", "MiB", "8 MB", "8x", "1 2", "8MiBs", "1" * 17, "0x8"])
def test_what_is_no_size_is_refused_with_a_sentence(text: str) -> None:
    """The sentence shows what to write instead."""
    with pytest.raises(ValueError, match=r"is not a size; write 8, 64KiB or 8MiB$"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1572864, "1.5 MiB"),
        (8 * 1024**3, "8.0 GiB"),
        (5 * 1024**5, "5120.0 TiB"),
    ],
)
def test_a_size_is_shown_with_one_digit(size: int, text: str) -> None:
    """A person sees the order of magnitude at a glance."""
    assert text == format_size(size)


@given(st.integers(0, 10**15))
def test_a_size_in_bytes_is_read_exactly(size: int) -> None:
    """Nothing is rounded."""
    assert size == parse_size(str(size))


@given(st.lists(st.binary(max_size=5), max_size=50), st.lists(st.integers(1, 9), min_size=1))
def test_all_is_written_however_little_goes_at_once(chunks: list[bytes], counts: list[int]) -> None:
    """Each write begins where the last one ended."""
    written, at_once = bytearray(), cycle(counts)

    def write(pieces: Sequence[memoryview], offset: int) -> int:
        assert len(written) == offset
        taken = b"".join(pieces)[: next(at_once)]
        written.extend(taken)
        return len(taken)

    write_all(write, chunks)
    assert b"".join(chunks) == written


def test_not_more_is_written_at_once_than_the_system_takes() -> None:
    """Of very many tiny pieces; empty ones are none."""
    sizes: list[int] = []

    def write(pieces: Sequence[memoryview], _offset: int) -> int:
        sizes.append(len(pieces))
        return sum(map(len, pieces))

    write_all(write, [b"x", b""] * (MOST_CHUNKS + 1))
    assert [MOST_CHUNKS, 1] == sizes


@pytest.mark.parametrize(("number", "shown"), [(0, "0 blocks"), (1, "1 block"), (1234, "1,234 blocks")])
def test_things_are_counted(number: int, shown: str) -> None:
    """As a person does."""
    assert shown == counted(number, "block")
