"""A cluster's private CA: a folder with its certificate and key, and those of each host.

| file | what it is |
| --- | --- |
| `ca.crt` | whom everybody of the cluster trusts; it may be given away |
| `ca.key` | signs certificates; whoever has it can pretend to be any host |
| `HOST.crt`, `HOST.key` | what a host shows, as a server and as a client |

Keys are for their owner alone, and nothing is overwritten but by `renew`, which leaves the keys as they are.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from filefly.private import replace, write_new
from filefly.wire.tls.certificates import read_certificates, read_key
from filefly.wire.tls.files import TlsUnusable

CA_DAYS = 3650
HOST_DAYS = 825  # more than some systems believe of any certificate

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
"""Names that every host's certificate has, too: as these, the host's own processes reach each other."""

_CLOCKS_DIFFER = timedelta(hours=1)
_LABEL = r"\w([\w-]*\w)?"
_NAME = re.compile(rf"(?=.{{1,200}}$){_LABEL}(\.{_LABEL})*", re.ASCII)
_CA = "ca"


@frozen
class HostCertificate:
    """One host's certificate and key, as files; the first of the names is the files'."""

    names: Sequence[str]
    certificate: Path
    key: Path
    until: datetime


class Authority:
    """The CA in a folder."""

    def __init__(self, folder: Path, now: datetime) -> None:
        """Take the CA that is there; raises TlsUnusable."""
        self._folder = folder
        self._now = now
        self.certificate_file, self.key_file = _files(folder, _CA)
        for there, missing in permutations((self.certificate_file, self.key_file)):
            if there.exists() and not missing.exists():
                raise TlsUnusable(f"{there} is there, and {missing} is not: put that back, or move {there} away")
        self._certificate = read_certificates(self.certificate_file)[0]
        self._key = read_key(self.key_file)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a CA, or some of it."""
        return any(file.exists() for file in _files(folder, _CA))

    @classmethod
    def create(cls, folder: Path, now: datetime) -> "Authority":
        """Make a CA in `folder`, which is created if its parent exists; raises TlsUnusable."""
        certificate_file, key_file = _files(folder, _CA)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"FileFly CA {os.urandom(4).hex()}")])
        made = _builder(name, name, key.public_key(), now, CA_DAYS)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(_usage(signs_certificates=True), critical=True)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise TlsUnusable(f"cannot create {folder}: {error.strerror}") from None
        _write_both(certificate_file, made.sign(key, hashes.SHA256()), key_file, key)
        return cls(folder, now)

    def issue(self, names: Sequence[str]) -> HostCertificate:
        """Make a key and a certificate for a host of these names; raises TlsUnusable, also if they exist."""
        for name in names:
            check_name(name)
        certificate_file, key_file = _files(self._folder, names[0])
        for file in (certificate_file, key_file):
            if file.exists():
                renew = f"filefly-client tls renew {self._folder}"
                raise TlsUnusable(f"{file} exists; to prolong certificates: {renew}; for a new key, move it away first")
        key = ec.generate_private_key(ec.SECP256R1())
        every = list(dict.fromkeys([*names, *THIS_MACHINE]))
        certificate = self._sign(every, key.public_key())
        _write_both(certificate_file, certificate, key_file, key)
        return HostCertificate(every, certificate_file, key_file, certificate.not_valid_after_utc)

    def renew(self) -> list[HostCertificate]:
        """Put in the place of each host's certificate one for the same key and names that begins now."""
        renewed = []
        for certificate_file in sorted(self._folder.glob("*.crt")):
            key_file = certificate_file.with_suffix(".key")
            if certificate_file == self.certificate_file or not key_file.exists():
                continue
            [old, *_] = read_certificates(certificate_file)
            names = _names_in(old)
            certificate = self._sign(names, read_key(key_file).public_key())
            _replace(certificate_file, certificate.public_bytes(Encoding.PEM))
            renewed.append(HostCertificate(names, certificate_file, key_file, certificate.not_valid_after_utc))
        return renewed

    def _sign(self, names: Sequence[str], public_key: Any) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
        issuer = self._certificate.subject
        made = _builder(subject, issuer, public_key, self._now, HOST_DAYS, self._certificate.not_valid_after_utc)
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(signs_certificates=False), True),
            (x509.ExtendedKeyUsage(both), False),
            (x509.SubjectAlternativeName([_general_name(name) for name in names]), False),
            (signer, False),
        ):
            made = made.add_extension(extension, critical)
        return made.sign(self._key, hashes.SHA256())


def check_name(name: str) -> None:
    """Raise TlsUnusable unless `name` is a host's name or IP address; it becomes a file's name, too."""
    if name == _CA:
        raise TlsUnusable(f"a host cannot be called {_CA}: these files are the CA's")
    if not _is_ip(name) and _NAME.fullmatch(name) is None:
        raise TlsUnusable(f"{name!r} is neither the name of a host nor an IP address")


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _files(folder: Path, stem: str) -> tuple[Path, Path]:
    return folder / f"{stem}.crt", folder / f"{stem}.key"


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: Any, now: datetime, days: int, at_most: datetime | None = None
) -> x509.CertificateBuilder:
    until = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(until if at_most is None else min(until, at_most))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_ip(name) else x509.DNSName(name)


def _names_in(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [str(name.value) for name in extension.value]


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_new(file: Path, data: bytes, mode: int) -> None:
    try:
        write_new(file, data, mode)
    except FileExistsError:
        raise TlsUnusable(f"{file} exists already") from None
    except OSError as error:
        raise TlsUnusable(f"cannot write {file}: {error.strerror}") from None


def _write_both(certificate_file: Path, certificate: x509.Certificate, key_file: Path, key: Any) -> None:
    """Write a certificate and its key, or neither of them."""
    _write_new(key_file, _pem_of(key), 0o600)
    try:
        _write_new(certificate_file, certificate.public_bytes(Encoding.PEM), 0o644)
    except TlsUnusable:
        key_file.unlink()
        raise


def _replace(file: Path, data: bytes) -> None:
    try:
        replace(file, data, 0o644)
    except OSError as error:
        raise TlsUnusable(f"cannot write {file}: {error.strerror}") from None
