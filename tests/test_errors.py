import pytest

from filefly.errors import Conflict, FileFlyError, Internal, NotFound, error_from_wire

CODES = [
    "bad_request",
    "unknown_command",
    "not_found",
    "conflict",
    "incomplete",
    "corrupt",
    "unavailable",
    "too_large",
    "bad_range",
    "disk_full",
    "wrong_storage",
    "busy",
    "timeout",
    "unauthorized",
    "forbidden",
    "quota_exceeded",
    "internal",
]


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_class(code: str) -> None:
    """A code leads to the one class that carries it."""
    assert code == type(error_from_wire(code, "x")).code


def test_there_are_no_other_codes() -> None:
    """Programs may rely on the closed list."""
    assert set(CODES) >= {kind.code for kind in FileFlyError.__subclasses__()}


def test_an_unknown_code_is_an_error_all_the_same() -> None:
    """What a newer server says keeps its sentence."""
    error = error_from_wire("purple", "too purple")
    assert (FileFlyError, "too purple") == (type(error), str(error))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (NotFound(), "file not found"),
        (Conflict(), "somebody else changed this first"),
        (Internal(), "the server failed; its log says why"),
        (NotFound("block not found"), "block not found"),
    ],
)
def test_a_class_that_has_nothing_more_precise_says_its_docstring(error: FileFlyError, sentence: str) -> None:
    """The sentence begins small and has no period: it stands behind a colon."""
    assert sentence == str(error)
