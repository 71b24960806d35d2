from pathlib import Path
from typing import Any

import pytest
from twisted.internet.protocol import Factory

from filefly.daemon.options import absolute, bind, positive, size
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
    """A default is a number already."""
    assert [8, 65536, 7] == [size("8"), size("64KiB"), size(7)]


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
