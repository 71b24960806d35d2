"""TLS as a process has it: the files with its certificates, and what they come to on a connection.

OpenSSL is loaded only when there is a connection to make with it: most programs start without.

| file | what it is for |
| --- | --- |
| `certificate`, `key` | what this process shows: always as a server, as a client if it is asked |
| `ca` | who has signed the servers that it dials; without it, whom the system trusts |
| `client_ca` | who has signed those that connect to it; without it nobody is asked for a certificate |

They are two: a metadata server dials data servers whose certificates a private CA has signed, also where its clients
have none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from filefly.errors import FileFlyError
from filefly.private import FileSignature, signature_of

if TYPE_CHECKING:
    from OpenSSL.SSL import Context

Signature = tuple[FileSignature, ...]
"""What changes with files; None where there is none."""


class TlsUnusable(FileFlyError):
    """A certificate or a key cannot be used."""


@frozen
class TlsFiles:
    """Where the certificates and the key are, in PEM; see the module's docstring."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    client_ca: Path | None = None

    @property
    def given(self) -> Sequence[Path]:
        """The files that there should be."""
        return [file for file in (self.certificate, self.key, self.ca, self.client_ca) if file is not None]

    def signature(self) -> Signature:
        """Return what changes when one of the files does."""
        return tuple(map(signature_of, self.given))


@frozen
class Contexts:
    """What connections are made with: as a client, and as a server if there is a certificate to show."""

    client: "Context"
    server: "Context | None"


class Tls:
    """A process's TLS: the files are read when the first connection is made, or by `read`."""

    def __init__(self, files: TlsFiles = TlsFiles()) -> None:
        self.files = files
        self._contexts: Contexts | None = None

    @property
    def contexts(self) -> Contexts:
        """What connections are made with; raises TlsUnusable."""
        if self._contexts is None:
            self._contexts = self.read()
        return self._contexts

    def read(self) -> Contexts:
        """Read the files, in any thread, and return what to give to `use`; raises TlsUnusable."""
        from filefly.wire.tls.certificates import read_contexts

        return read_contexts(self.files)

    def use(self, contexts: Contexts) -> None:
        """Make connections with these from now on."""
        self._contexts = contexts
