"""Certificates and keys in PEM files, and the OpenSSL contexts that are made of them: synchronous.

TLS 1.2 and 1.3 only, with ciphers that encrypt and authenticate in one and keys that are forgotten afterwards; neither
compression nor renegotiation nor sessions that go on.
"""

import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509

from filefly.private import why_not_private
from filefly.units import MIB
from filefly.wire.tls.files import Contexts, TlsFiles, TlsUnusable

_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all like that
_OPTIONS = (
    SSL.OP_NO_COMPRESSION
    | SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_TICKET
    | SSL.OP_CIPHER_SERVER_PREFERENCE
    | SSL.OP_SINGLE_ECDH_USE
)
_MOST_BYTES = 4 * MIB
_WORDS = {9: "is not valid yet", 10: "has expired", 23: "was revoked", 26: "is for another purpose"}
_UNKNOWN_SIGNERS = frozenset({2, 18, 19, 20, 21, 27})


def read_contexts(files: TlsFiles, now: datetime | None = None) -> Contexts:
    """Return what connections are made with; raises TlsUnusable with a sentence."""
    shown = None
    if files.certificate is not None and files.key is not None:
        shown = _read_shown(files.certificate, files.key, now or datetime.now(UTC))
    client = _context(shown)
    if files.ca is None:
        client.set_default_verify_paths()
    else:
        _trust(client, files.ca)
    client.set_verify(SSL.VERIFY_PEER, _note_why)
    if shown is None:
        return Contexts(client, None)
    server = _context(shown)
    if files.client_ca is not None:
        _trust(server, files.client_ca)
        server.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _note_why)
    return Contexts(client, server)


def _context(shown: tuple[Sequence[x509.Certificate], Any] | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"filefly")
    if shown is not None:
        [certificate, *between], key = shown
        context.use_certificate(certificate)
        for each in between:
            context.add_extra_chain_cert(each)
        context.use_privatekey(key)
    context.set_cipher_list(_CIPHERS)
    return context


def _trust(context: SSL.Context, file: Path) -> None:
    store = context.get_cert_store()
    assert store is not None  # noqa: S101 - a new context has one
    for certificate in read_certificates(file):
        store.add_cert(X509.from_cryptography(certificate))


def _note_why(connection: SSL.Connection, certificate: X509, error: int, depth: int, fine: int) -> bool:
    """Tell the connection's transport why a certificate is refused; OpenSSL itself would only say that it is."""
    if not fine:
        what = "its certificate" if depth == 0 else "the certificate of its CA"
        transport: Any = connection.get_app_data()
        transport.verify_error = f"{what} {_words(error)}"
    return bool(fine)


def _words(error: int) -> str:
    if error in _UNKNOWN_SIGNERS:
        return "is signed by nobody that is trusted here (--tls-ca)"
    return _WORDS.get(error, f"cannot be verified (OpenSSL's error {error})")


def _read_shown(file: Path, key_file: Path, now: datetime) -> tuple[Sequence[x509.Certificate], Any]:
    """Return a certificate, with those that lead from it to its CA, and its key."""
    certificates = read_certificates(file)
    first = certificates[0]
    if now > first.not_valid_after_utc:
        raise TlsUnusable(f"{file} has expired on {first.not_valid_after_utc:%Y-%m-%d}; renew it")
    if now < first.not_valid_before_utc:
        raise TlsUnusable(f"{file} is not valid before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    key = read_key(key_file)
    if _public(key.public_key()) != _public(first.public_key()):
        raise TlsUnusable(f"{key_file} is not the key of {file}")
    return certificates, key


def _public(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def read_certificates(file: Path) -> Sequence[x509.Certificate]:
    """Return the certificates in a file, at least one; raises TlsUnusable."""
    try:
        return x509.load_pem_x509_certificates(_read(file))
    except ValueError:
        raise TlsUnusable(f"{file} has no certificate in PEM form") from None


def read_key(file: Path) -> Any:
    """Return a private key that is this user's alone; raises TlsUnusable."""
    text = _read(file, private=True)
    try:
        return load_pem_private_key(text, None)
    except TypeError:
        raise TlsUnusable(f"{file} needs a passphrase; a daemon has nobody to ask, so write it without one") from None
    except ValueError:
        raise TlsUnusable(f"{file} has no private key in PEM form") from None


def _read(file: Path, private: bool = False) -> bytes:
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise TlsUnusable(f"{file} is no file")
            if private and (sentence := why_not_private(file, found)):
                raise TlsUnusable(sentence)
            return opened.read(_MOST_BYTES)
    except FileNotFoundError:
        raise TlsUnusable(f"there is no {file}; certificates are made by: filefly-client tls new") from None
    except OSError as error:
        raise TlsUnusable(f"cannot read {file}: {error.strerror}") from None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for
