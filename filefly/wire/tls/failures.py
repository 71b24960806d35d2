"""How a connection ends that TLS has ended; known also to those who need not load OpenSSL."""

from twisted.internet.error import ConnectError, ConnectionLost


class TlsRefused(ConnectError):
    """There is no TLS with that server; `string` is the sentence that says why."""

    def __str__(self) -> str:
        """Return the sentence alone."""
        return str(self.args[0])


class TlsFailed(ConnectionLost):
    """TLS has ended a connection; its argument is the sentence that says why."""

    def __str__(self) -> str:
        """Return the sentence alone."""
        return str(self.args[0])
