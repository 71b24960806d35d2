import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure

from filefly.client.connection import STAY_UNKNOWN
from filefly.daemon.secrets import LOOK_SECONDS, LOOKS_BEFORE_SIGNING, SecretFile, prove_to_data_servers, take_secret
from filefly.security.keys import Keyring, create_secret, read_secret, retire_keys, rotate_secret
from filefly.threads import WorkerPool
from tests.client.test_signing_in import any_storage
from tests.peer import now


class InlineThreads:
    """A thread pool without threads."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def callInThreadWithCallback(self, on_result: Any, function: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N802
        """Call `function` at once."""
        on_result(True, function(*args, **kwargs))


class Watched:
    """A secret file, and a daemon that has it; time is the test's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first = create_secret(path)
        self.clock = Clock()
        self.secret = SecretFile(self.clock, path, WorkerPool(self.clock, "secret", 1, InlineThreads()))
        self.secret.start()

    def logged_in(self, rounds: int = 1) -> list[str]:
        """Let the daemon look so often, and return what it logs."""
        with capturedLogs() as events:
            for _ in range(rounds):
                self.clock.advance(LOOK_SECONDS)
        return [f"{event['log_level'].name}: {formatEvent(event)}" for event in events]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path / "secret")
    yield watched
    now(watched.secret.stop())
    assert [] == watched.clock.getDelayedCalls()


def test_a_daemon_has_the_keys_of_its_file(watched: Watched) -> None:
    """From the start, and as long as the file stays as it is."""
    assert watched.first == watched.secret.keyring
    assert [] == watched.logged_in(rounds=3)
    assert watched.first == watched.secret.keyring


def test_changed_keys_are_taken_without_a_restart(watched: Watched) -> None:
    """A new one, and that an old one is retired; the log says which key signs, and not the key."""
    new = rotate_secret(watched.path)
    assert [f"info: {watched.path} was read again: key {new.signing.id} is valid"] == watched.logged_in()
    assert [f"info: key {new.signing.id} signs"] == watched.logged_in(rounds=LOOKS_BEFORE_SIGNING)
    assert new == watched.secret.keyring
    retired = retire_keys(watched.path)
    assert 1 == len(watched.logged_in(rounds=5))
    assert retired == watched.secret.keyring == Keyring([new.signing])


def test_a_new_key_is_known_to_all_before_one_signs_with_it(watched: Watched) -> None:
    """Those that share the file find it within one look, whenever they look."""
    new = rotate_secret(watched.path)
    for _ in range(LOOKS_BEFORE_SIGNING):
        watched.logged_in()
        assert watched.first.signing == watched.secret.keyring.signing
        assert new.signing == watched.secret.keyring.find(new.signing.id)
    watched.logged_in()
    assert new.signing == watched.secret.keyring.signing


def test_a_new_key_signs_at_once_where_the_old_one_is_void(watched: Watched) -> None:
    """There is no other: it was retired in the same moment, or before the new one's time had come."""
    rotate_secret(watched.path)
    new = retire_keys(watched.path)
    assert [f"info: {watched.path} was read again: key {new.signing.id} signs"] == watched.logged_in()
    assert new == watched.secret.keyring
    rotate_secret(watched.path)
    watched.logged_in()
    newest = retire_keys(watched.path)
    assert [f"info: {watched.path} was read again: key {newest.signing.id} signs"] == watched.logged_in()
    assert newest == watched.secret.keyring
    assert [] == watched.logged_in(rounds=5)


def damage(path: Path) -> None:
    path.write_text("garbage\n")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (damage, " is no secret file; "),
        (os.unlink, "there is no "),
        (lambda path: path.chmod(0o644), " is open to others than its owner (mode 0644); "),
    ],
)
def test_a_file_that_cannot_be_used_leaves_the_keys_valid(watched: Watched, spoil: Any, sentence: str) -> None:
    """One warning says so; once the file is mended it counts again."""
    spoil(watched.path)
    [warning] = watched.logged_in(rounds=3)
    assert warning.startswith("warn: ")
    assert sentence in warning
    assert warning.endswith("; the keys that were read before stay valid")
    assert watched.first == watched.secret.keyring
    watched.path.unlink(missing_ok=True)
    mended = create_secret(watched.path)
    watched.logged_in()
    assert mended == watched.secret.keyring


def test_a_file_that_is_only_touched_is_no_news(watched: Watched) -> None:
    """Nor one that is copied over it with the same keys."""
    os.utime(watched.path, (1, 1))
    assert [] == watched.logged_in()
    other = watched.path.with_name("copy")
    other.write_bytes(watched.path.read_bytes())
    other.chmod(0o600)
    other.replace(watched.path)
    assert [] == watched.logged_in()


def test_a_failing_look_is_not_the_last(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, logged_failures: list[Failure]
) -> None:
    """Whatever it failed of."""

    def fail(*_: Any) -> None:
        raise RuntimeError("unheard of")

    new = rotate_secret(watched.path)
    with monkeypatch.context() as patched:
        patched.setattr("filefly.daemon.secrets._read_thd", fail)
        with capturedLogs() as events:
            watched.clock.advance(LOOK_SECONDS)
    assert [LogLevel.critical] == [event["log_level"] for event in events]
    logged_failures.clear()
    watched.logged_in()
    assert new.signing in watched.secret.keyring.keys


def test_a_daemon_without_the_option_has_no_secret() -> None:
    """It is open, and proves nothing to anybody."""
    assert take_secret(Clock(), "filefly-test", {"secret-file": None}) is None
    assert STAY_UNKNOWN is prove_to_data_servers(None, any_storage)


def test_the_option_names_the_file(tmp_path: Path) -> None:
    """Wherever the daemon goes: its path is made absolute at once."""
    create_secret(tmp_path / "secret")
    taken = take_secret(Clock(), "filefly-test", {"secret-file": str(tmp_path / "secret")})
    assert taken is not None
    assert read_secret(tmp_path / "secret") == taken.keyring


def test_a_daemon_does_not_start_with_a_secret_that_cannot_be_used(tmp_path: Path) -> None:
    """Rather than being open when it should be closed; the sentence says what to do."""
    path = tmp_path / "secret"
    with pytest.raises(SystemExit) as ended:
        take_secret(Clock(), "filefly-test", {"secret-file": str(path)})
    assert (
        f"filefly-test: --secret-file: there is no {path}; name the cluster's secret, "
        f"or make a new one with: filefly-client secret new {path}" == ended.value.code
    )
