import errno
import os
import stat
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from filefly.security.authority import CA_DAYS, HOST_DAYS, Authority
from filefly.wire.tls.certificates import read_certificates, read_contexts
from filefly.wire.tls.files import TlsFiles, TlsUnusable

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Make a CA."""
    return Authority.create(tmp_path / "tls", NOW)


def names_in(file: Path) -> list[str]:
    [certificate] = read_certificates(file)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_keys_are_their_owners_alone(authority: Authority, tmp_path: Path) -> None:
    """And the folder in which they are made, too."""
    host = authority.issue(["nas"])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert {"ca.crt": 0o644, "ca.key": 0o600, "nas.crt": 0o644, "nas.key": 0o600} == modes
    assert 0o700 == stat.S_IMODE((tmp_path / "tls").stat().st_mode)
    assert (host.certificate.name, host.key.name) == ("nas.crt", "nas.key")


def test_a_host_has_its_names_and_this_machines(authority: Authority) -> None:
    """By which a host's own processes reach each other; IP addresses are such, not names."""
    host = authority.issue(["nas", "nas.example", "192.168.1.5", "fd00::5"])
    expected = ["nas", "nas.example", "192.168.1.5", "fd00::5", "localhost", "127.0.0.1", "::1"]
    assert expected == list(host.names) == names_in(host.certificate)


def test_a_certificate_serves_both_ends_and_signs_nothing(authority: Authority) -> None:
    """A host is a server to some and a client to others."""
    [certificate] = read_certificates(authority.issue(["nas"]).certificate)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH] == list(usage)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    [ca] = read_certificates(authority.certificate_file)
    certificate.verify_directly_issued_by(ca)
    assert (
        x509.BasicConstraints(ca=True, path_length=0)
        == ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    )


def test_what_is_made_can_be_used(authority: Authority) -> None:
    """By a daemon that shows it and believes its CA."""
    host = authority.issue(["nas"])
    ca = authority.certificate_file
    assert read_contexts(TlsFiles(host.certificate, host.key, ca, ca)).server is not None


def test_a_certificate_is_valid_for_a_while(authority: Authority) -> None:
    """From a little before it is made: clocks differ."""
    [ca] = read_certificates(authority.certificate_file)
    [certificate] = read_certificates(authority.issue(["nas"]).certificate)
    assert NOW + timedelta(days=CA_DAYS) == ca.not_valid_after_utc
    assert NOW + timedelta(days=HOST_DAYS) == certificate.not_valid_after_utc
    assert NOW - timedelta(hours=1) == certificate.not_valid_before_utc


def test_no_certificate_outlives_its_ca(authority: Authority, tmp_path: Path) -> None:
    """What its CA is no more, nobody would believe anyway."""
    [ca] = read_certificates(authority.certificate_file)
    late = Authority(tmp_path / "tls", NOW + timedelta(days=CA_DAYS - 5))
    assert ca.not_valid_after_utc == late.issue(["nas"]).until


def test_nothing_is_overwritten(authority: Authority, tmp_path: Path) -> None:
    """Neither a CA nor a host's key."""
    host = authority.issue(["nas"])
    before = {path: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    with pytest.raises(TlsUnusable, match=r"ca\.key exists already$"):
        Authority.create(tmp_path / "tls", NOW)
    with pytest.raises(TlsUnusable, match=rf"^{host.certificate} exists; to prolong certificates: .* tls renew "):
        authority.issue(["nas"])
    assert before == {path: path.read_bytes() for path in (tmp_path / "tls").iterdir()}


@pytest.mark.parametrize("good", [0, 1])
def test_half_of_a_certificate_and_its_key_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """A disk that is full for either of them: the next try would find what it must not overwrite."""
    calls = count()

    def full(_descriptor: int) -> None:
        if next(calls) >= good:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(TlsUnusable, match=r"^cannot write .*: No space left on device$"):
            Authority.create(tmp_path / "tls", NOW)
    assert [] == list((tmp_path / "tls").iterdir())
    Authority.create(tmp_path / "tls", NOW)


def test_a_certificate_that_cannot_be_replaced_stays(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is left beside it."""
    authority.issue(["nas"])
    before = {path: path.read_bytes() for path in (tmp_path / "tls").iterdir()}

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TlsUnusable, match="No space left on device"):
        authority.renew()
    assert before == {path: path.read_bytes() for path in (tmp_path / "tls").iterdir()}


@pytest.mark.parametrize("missing", ["ca.crt", "ca.key"])
def test_half_a_ca_is_told(authority: Authority, tmp_path: Path, missing: str) -> None:
    """Somebody moved the key away, say: that is not mended by making another CA."""
    (tmp_path / "tls" / missing).unlink()
    with pytest.raises(TlsUnusable, match=rf" is there, and \S+/{missing} is not: put that back, or move "):
        Authority(tmp_path / "tls", NOW)


def test_a_certificate_is_prolonged(authority: Authority, tmp_path: Path) -> None:
    """With the names and the key that it had."""
    host = authority.issue(["nas", "10.0.0.5"])
    key = host.key.read_bytes()
    later = NOW + timedelta(days=100)
    [renewed] = Authority(tmp_path / "tls", later).renew()
    assert (host.certificate, host.names, later + timedelta(days=HOST_DAYS)) == (
        renewed.certificate,
        renewed.names,
        renewed.until,
    )
    assert key == host.key.read_bytes()
    read_contexts(TlsFiles(host.certificate, host.key), later)
    assert ["ca.crt", "ca.key", "nas.crt", "nas.key"] == sorted(path.name for path in (tmp_path / "tls").iterdir())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "ca", ".hidden", "a b", "a..b", "-x", "ä", "x" * 201])
def test_a_name_that_no_host_has_is_refused(authority: Authority, tmp_path: Path, name: str) -> None:
    """It would be a file's name, too."""
    with pytest.raises(TlsUnusable):
        authority.issue([name])
    assert ["ca.crt", "ca.key"] == sorted(path.name for path in (tmp_path / "tls").iterdir())
