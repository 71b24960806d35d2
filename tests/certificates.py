"""Certificates for tests: real ones, of a CA of their own."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen

from filefly.security.authority import Authority
from filefly.wire.tls.files import TlsFiles


@frozen
class Made:
    """A CA in a folder, and the certificate of one host."""

    folder: Path
    host: str

    @property
    def ca(self) -> Path:
        """Whom to trust."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """What the host shows."""
        return self.folder / f"{self.host}.crt"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.folder / f"{self.host}.key"

    @property
    def options(self) -> list[str]:
        """What a daemon of the host is started with."""
        return ["--tls-cert", f"{self.certificate}", "--tls-key", f"{self.key}", "--tls-ca", f"{self.ca}"]

    @property
    def server(self) -> TlsFiles:
        """The files of a server."""
        return TlsFiles(self.certificate, self.key)

    @property
    def strict_server(self) -> TlsFiles:
        """The files of a server that wants to see certificates of its CA."""
        return TlsFiles(self.certificate, self.key, client_ca=self.ca)

    @property
    def client(self) -> TlsFiles:
        """The files of a client that has no certificate."""
        return TlsFiles(ca=self.ca)

    @property
    def known_client(self) -> TlsFiles:
        """The files of a client that has one."""
        return TlsFiles(self.certificate, self.key, self.ca)


def make(folder: Path, host: str = "localhost", days_ago: int = 0) -> Made:
    """Make a CA in `folder`, as it would have been made `days_ago`, and a certificate for `host`."""
    Authority.create(folder, datetime.now(UTC) - timedelta(days=days_ago)).issue([host])
    return Made(folder, host)


def replace_host(made: Made, host: str) -> None:
    """Put another host's certificate, of the same CA, and its key in the place of the host's, the key first."""
    other = Authority(made.folder, datetime.now(UTC)).issue([host])
    other.key.replace(made.key)
    other.certificate.replace(made.certificate)
