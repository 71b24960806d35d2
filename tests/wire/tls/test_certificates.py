import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from filefly.wire.tls.certificates import read_contexts, read_key
from filefly.wire.tls.files import Tls, TlsFiles, TlsUnusable
from tests.certificates import Made, make


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Make a CA and a certificate."""
    return make(tmp_path / "tls")


def unusable(files: TlsFiles, now: datetime | None = None) -> str:
    """Return why the files cannot be used."""
    with pytest.raises(TlsUnusable) as caught:
        read_contexts(files, now)
    return str(caught.value)


def test_files_are_read_once(made: Made) -> None:
    """Connections share what is made of them, until there is something else to use."""
    tls = Tls(made.server)
    first = tls.contexts
    assert first is tls.contexts
    tls.use(tls.read())
    assert first is not tls.contexts


def test_without_a_certificate_there_is_no_server(made: Made) -> None:
    """A client needs none."""
    assert None is Tls(made.client).contexts.server


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(made: Made, mode: int) -> None:
    """What to do is said."""
    made.key.chmod(mode)
    expected = f"{made.key} is open to others than its owner (mode {mode:04o}); run: chmod 600 {made.key}"
    assert expected == unusable(made.server)


def test_a_key_of_another_user_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can change it could speak for this server."""
    owner = made.key.stat().st_uid
    os.chown(made.key, 12345, -1) if owner == 0 else monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert unusable(made.server).startswith(f"{made.key} is another user's ({made.key.stat().st_uid}); run ")


def test_a_key_of_another_certificate_is_refused(made: Made, tmp_path: Path) -> None:
    """At start, not in the first handshake."""
    other = make(tmp_path / "other")
    assert f"{other.key} is not the key of {made.certificate}" == unusable(TlsFiles(made.certificate, other.key))


def test_a_key_with_a_passphrase_is_refused(made: Made) -> None:
    """A daemon has nobody to ask."""
    locked = BestAvailableEncryption(b"secret")
    made.key.write_bytes(read_key(made.key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    assert f"{made.key} needs a passphrase; a daemon has nobody to ask, so write it without one" == unusable(
        made.server
    )


def test_a_certificate_that_has_expired_is_refused(tmp_path: Path) -> None:
    """Its day is told."""
    old = make(tmp_path / "old", days_ago=900)
    day = datetime.now(UTC) - timedelta(days=75)
    assert f"{old.certificate} has expired on {day:%Y-%m-%d}; renew it" == unusable(old.server)


def test_a_certificate_that_is_not_valid_yet_is_refused(made: Made) -> None:
    """As on a machine whose clock is wrong."""
    assert f"{made.certificate} is not valid before " in unusable(made.server, datetime(2001, 1, 1, tzinfo=UTC))


def remove(file: Path) -> None:
    file.unlink()


def spoil(file: Path) -> None:
    file.write_bytes(b"garbage\n")


def make_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize("which", ["ca", "certificate", "key"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove, "there is no {}; certificates are made by: filefly-client tls new"),
        (spoil, "{} has no (certificate|private key) in PEM form"),
        (make_a_folder, "cannot read {}: Is a directory"),
        (make_a_pipe, "{} is no file"),
    ],
)
def test_a_file_that_is_none_is_told(made: Made, damage: Callable[[Path], None], expected: str, which: str) -> None:
    """Whichever it is; a pipe is not waited for."""
    file = getattr(made, which)
    file.chmod(0o600)
    damage(file)
    said = unusable(TlsFiles(made.certificate, made.key, made.ca))
    assert re.fullmatch(expected.format(re.escape(str(file))), said), said
