"""What OpenSSL says when TLS goes wrong, as sentences for users."""

import ipaddress
from collections.abc import Sequence

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from filefly.wire.address import is_ip

_NO_TLS = "it does not speak TLS; is its address HOST:PORT, without tls://?"
_NOT_OF_TLS = ("wrong version number", "packet length too long", "record layer failure", "bad record mac")
_WORDS: Sequence[tuple[str, str]] = (
    ("protocol version", "it speaks no version of TLS that is good enough: 1.2 or later"),
    ("unsupported protocol", "it speaks no version of TLS that is good enough: 1.2 or later"),
    ("certificate required", "it wants to see a certificate (--tls-cert, --tls-key)"),
    ("peer did not return a certificate", "it shows no certificate"),
    ("unknown ca", "it does not trust the CA of the certificate that we show"),
    ("certificate expired", "the certificate that we show has expired"),
    ("bad certificate", "it refuses the certificate that we show"),
    ("handshake failure", "it agrees to no way to encrypt, or wants to see a certificate (--tls-cert, --tls-key)"),
    ("unexpected eof", "it closed the connection without a goodbye"),
)


def sentence_of(error: SSL.Error, established: bool = False) -> str:
    """Return what `error` means, in a handshake or later.

    There is no colon and blank in it: who quotes a message of Twisted's takes what is behind the last one.
    """
    reasons = [str(each[-1]) for each in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    said = "; ".join(reason for reason in reasons if reason) or "unexpected eof"
    if any(words in said.lower() for words in _NOT_OF_TLS):
        return "what came was changed on its way" if established else _NO_TLS
    for words, sentence in _WORDS:
        if words in said.lower():
            return sentence
    return f"TLS failed ({said.replace(': ', ', ')})"


def wrong_host(connection: SSL.Connection, host: str) -> str | None:
    """Return why the server's certificate does not say that it is `host`; None if it does."""
    try:
        if is_ip(host):
            verify_ip_address(connection, str(ipaddress.ip_address(host)))
        else:
            verify_hostname(connection, host)
    except (VerificationError, CertificateError):
        names = _names_in(connection)
        return f"its certificate is for {names}, not for {host}; is it another server?"
    return None


def _names_in(connection: SSL.Connection) -> str:
    from cryptography import x509

    shown = connection.get_peer_certificate()
    try:
        if shown is None:
            return "nobody"
        extension = shown.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return "no host"
    return ", ".join(str(name.value) for name in extension.value) or "no host"
