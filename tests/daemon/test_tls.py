from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from filefly.daemon.tls import LOOK_SECONDS, TLS_PARAMETERS, DaemonTls, take_tls
from filefly.security.authority import Authority
from filefly.threads import WorkerPool
from filefly.wire.tls.certificates import read_certificates
from filefly.wire.tls.files import TlsFiles
from tests.certificates import Made, make, replace_host
from tests.daemon.test_secrets import InlineThreads
from tests.peer import now


class Watched:
    """A daemon's certificates; time is the test's."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.clock = Clock()
        self.tls = DaemonTls(self.clock, made.server, WorkerPool(self.clock, "tls", 1, InlineThreads()))
        self.tls.start()

    def logged_in(self, rounds: int = 1) -> list[str]:
        """Let the daemon look so often, and return what it logs."""
        with capturedLogs() as events:
            for _ in range(rounds):
                self.clock.advance(LOOK_SECONDS)
        return [f"{event['log_level'].name}: {formatEvent(event)}" for event in events]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Start to look after a certificate, and stop in the end."""
    watched = Watched(make(tmp_path / "tls"))
    yield watched
    now(watched.tls.stop())
    assert [] == watched.clock.getDelayedCalls()


def test_files_that_stay_as_they_are_are_left_alone(watched: Watched) -> None:
    """What connections are made with stays, too."""
    contexts = watched.tls.tls.contexts
    assert [] == watched.logged_in(rounds=3)
    assert contexts is watched.tls.tls.contexts


def test_a_new_certificate_is_taken_without_a_restart(watched: Watched) -> None:
    """The log says so."""
    contexts = watched.tls.tls.contexts
    replace_host(watched.made, "other")
    assert ["info: the certificates were read again"] == watched.logged_in(rounds=3)
    assert contexts is not watched.tls.tls.contexts


def test_files_that_cannot_be_used_leave_what_was_there(watched: Watched) -> None:
    """One warning, however often they are looked at; what replaces them is taken."""
    contexts, certificate = watched.tls.tls.contexts, watched.made.certificate.read_bytes()
    watched.made.certificate.write_bytes(b"garbage\n")
    expected = f"{watched.made.certificate} has no certificate in PEM form; what was read before stays in use"
    assert [f"warn: {expected}"] == watched.logged_in(rounds=3)
    assert contexts is watched.tls.tls.contexts
    watched.made.certificate.write_bytes(certificate + b"\n")
    assert ["info: the certificates were read again"] == watched.logged_in(rounds=3)


def test_a_renewed_certificate_is_taken(watched: Watched) -> None:
    """`filefly-client tls renew` is enough."""
    [before] = read_certificates(watched.made.certificate)
    Authority(watched.made.folder, before.not_valid_after_utc).renew()
    assert 1 == len(watched.logged_in())


def test_a_daemon_without_files_has_nothing_to_look_after(tmp_path: Path) -> None:
    """And no thread for it."""
    clock = Clock()
    tls = DaemonTls(clock, TlsFiles(), WorkerPool(clock, "tls", 1, InlineThreads()))
    tls.start()
    assert [] == clock.getDelayedCalls()
    assert not tls.shown
    now(tls.stop())


# At start


def options(**given: Any) -> Mapping[str, Any]:
    return {parameter[0]: None for parameter in TLS_PARAMETERS} | {
        f"tls-{name.replace('_', '-')}": value for name, value in given.items()
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("cert",), "filefly-x: --tls-cert and --tls-key go together"),
        (("key",), "filefly-x: --tls-cert and --tls-key go together"),
        (("client_ca",), "filefly-x: --tls-client-ca needs --tls-cert and --tls-key: without them there is no TLS"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, given: tuple[str, ...], expected: str) -> None:
    """With a sentence, before anything is done."""
    made = make(tmp_path / "tls")
    files = {"cert": made.certificate, "key": made.key, "client_ca": made.ca}
    with pytest.raises(SystemExit) as caught:
        take_tls(Clock(), "filefly-x", options(**{name: files[name] for name in given}))
    assert str(caught.value).startswith(expected)


def test_files_that_cannot_be_used_end_the_start(tmp_path: Path) -> None:
    """With the sentence that says why."""
    missing = tmp_path / "missing.crt"
    with pytest.raises(SystemExit, match=rf"^filefly-x: TLS: there is no {missing}; "):
        take_tls(Clock(), "filefly-x", options(cert=missing, key=missing))


def test_an_endpoint_string_says_itself_what_it_is(tmp_path: Path) -> None:
    """`ssl:` has options of its own, and what would `unix:` with a certificate be?"""
    made = make(tmp_path / "tls")
    tls = take_tls(Clock(), "filefly-x", options(cert=made.certificate, key=made.key))
    with pytest.raises(SystemExit, match=r"^filefly-x: --tls-cert goes with --addr HOST:PORT or :PORT; "):
        tls.over("filefly-x", TCP4ServerEndpoint(Clock(), 0))
