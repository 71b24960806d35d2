from typing import Any

import pytest
from twisted.python.failure import Failure

from filefly.cli.run import _status_of, say
from filefly.errors import FileFlyError, NotFound, Unavailable


def test_a_command_that_went_well_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    """And silent."""
    assert 0 == _status_of(None, "x:1")
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize("status", [0, 1])
def test_a_command_may_say_what_its_status_is(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """It has told why by itself."""
    assert status == _status_of(status, "x:1")
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotFound("a: file not found"), "a: file not found"),
        (FileFlyError("something"), "something"),
        (Unavailable("cannot reach y:1: refused"), "cannot reach y:1: refused"),
        (
            Unavailable("cannot reach x:1: refused"),
            "cannot reach x:1: refused; is the metadata server running there? (--metadata-addr)",
        ),
        (
            Unavailable("cannot reach x:1: this host name is not known"),
            "cannot reach x:1: this host name is not known; is it spelled right? (--metadata-addr)",
        ),
    ],
)
def test_an_error_is_status_1_and_a_sentence(
    error: FileFlyError, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a hint where the metadata server itself is not there."""
    assert 1 == _status_of(Failure(error), "x:1")
    assert ("", f"filefly-client: {said}\n") == capsys.readouterr()


def test_a_bug_is_not_hidden() -> None:
    """A traceback is better than a wrong sentence."""
    failure: Any = Failure(KeyError("x"))
    with pytest.raises(KeyError):
        _status_of(failure, "x:1")


def test_what_is_said_is_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    """It goes to stderr."""
    say("hello")
    assert ("", "filefly-client: hello\n") == capsys.readouterr()
