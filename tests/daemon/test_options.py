from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from twisted.internet.protocol import Factory
from twisted.python.usage import UsageError

from filefly.daemon.options import DaemonOptions, absolute, bind, positive, size
from filefly.data.tap import DATA_PARAMETERS
from filefly.meta.tap import META_PARAMETERS
from tests.on_reactor import on_reactor


def test_a_positive_number_is_read() -> None:
    """Counts are whole numbers from 1."""
    assert [1, 8] == [positive("1"), positive("8")]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "x"])
def test_what_is_no_positive_number_is_refused(text: str) -> None:
    """Zero threads would do no work."""
    with pytest.raises(ValueError, match=r"."):
        positive(text)


def test_a_size_is_read() -> None:
    """With or without its unit."""
    assert [8, 65536] == [size("8"), size("64KiB")]


@pytest.mark.parametrize("text", ["0", "0MiB", "-1", "x"])
def test_what_is_no_positive_size_is_refused(text: str) -> None:
    """A limit of nothing would let nothing through."""
    with pytest.raises(ValueError, match=r"."):
        size(text)


def test_a_path_holds_wherever_the_daemon_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A daemon leaves the folder that it was started in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert [tmp_path / "blocks", Path("/home/somebody/x")] == [absolute("./blocks"), absolute("~/x")]


@on_reactor
async def test_a_taken_port_ends_the_process_with_a_sentence(reactor: Any) -> None:
    """The sentence says what to do."""
    port: Any = await bind(reactor, "filefly-data", "127.0.0.1:0").listen(Factory())
    address = f"127.0.0.1:{port.getHost().port}"
    with pytest.raises(SystemExit) as caught:
        bind(reactor, "filefly-data", address)
    await port.stopListening()
    assert (
        f"filefly-data: cannot listen on {address}: Address already in use; stop what uses it, or name another --addr"
        == caught.value.code
    )


def test_a_bad_address_ends_the_process_with_a_sentence(reactor: Any) -> None:
    """The sentence names the option."""
    with pytest.raises(SystemExit, match=r"^filefly-data: --addr: 'nonsense' is neither HOST:PORT nor"):
        bind(reactor, "filefly-data", "nonsense")


class _SomeOptions(DaemonOptions):
    optParameters: ClassVar[Sequence[Sequence[Any]]] = [
        ["room", None, "8MiB", "Something with a unit.", size],
        ["count", None, 3, "A number.", positive],
        ["name", None, "8MiB", "A text."],
        ["nothing", None, None, "Nothing.", size],
    ]


def test_a_default_is_shown_as_one_writes_it() -> None:
    """And used as if one had given it."""
    options: Any = _SomeOptions()
    assert "[default: 8MiB]" in str(options)
    assert {"room": 8 << 20, "count": 3, "name": "8MiB", "nothing": None} == dict(options)
    options.parseOptions(["--room", "1KiB"])
    assert 1024 == options["room"]


def test_an_error_names_the_option() -> None:
    """On a line with twenty of them nobody would find it."""
    with pytest.raises(UsageError, match=r"^--room: 'much' is not a size; write 8, 64KiB or 8MiB$"):
        _SomeOptions().parseOptions(["--room", "much"])


@pytest.mark.parametrize("parameters", [DATA_PARAMETERS, META_PARAMETERS])
def test_no_help_shows_a_number_of_seconds_or_bytes(parameters: Sequence[Sequence[Any]]) -> None:
    """Nobody counts zeros."""
    others = [parameter for parameter in parameters if parameter[4:] and parameter[4] is not positive]
    assert 7 <= len(others)
    assert [] == [name for name, _short, default, *_ in others if isinstance(default, int)]
