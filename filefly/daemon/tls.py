"""TLS in a daemon: its certificates are taken at start, and read again when their files change.

Files that cannot be used any more leave in use what was read before: a slip must not stop a cluster.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from filefly.daemon.options import absolute
from filefly.daemon.service import refuse
from filefly.threads import WorkerPool
from filefly.wire.tls.files import Contexts, Signature, Tls, TlsFiles, TlsUnusable

LOOK_SECONDS = 2.0
"""How often a daemon looks whether a file was changed."""

TLS_PARAMETERS: Sequence[Sequence[Any]] = [
    ["tls-cert", None, None, "Speak TLS with this certificate (PEM); `filefly-client tls new` makes one.", absolute],
    ["tls-key", None, None, "The key of --tls-cert; only its owner may be able to read it.", absolute],
    ["tls-ca", None, None, "The CA of servers at tls:// addresses.  [default: whom the system trusts]", absolute],
    ["tls-client-ca", None, None, "Whoever connects must show a certificate of this CA.", absolute],
]
"""What every form of a server takes."""


class DaemonTls:
    """A daemon's certificates; a Part, with a thread of its own while there are files to look after."""

    log = Logger()

    def __init__(self, reactor: Any, files: TlsFiles, pool: WorkerPool) -> None:
        """Read the files; raises TlsUnusable."""
        self._seen = files.signature()  # first: what changes meanwhile will be seen
        self.tls = Tls(files)
        if files.given:
            self.tls.use(self.tls.read())
        self._reactor = reactor
        self._pool = pool
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._loop.clock = reactor
        self._ended: Deferred[Any] = succeed(None)

    @property
    def shown(self) -> bool:
        """Whether there is a certificate to show: then the daemon speaks TLS, and nothing else, on its port."""
        return self.tls.files.certificate is not None

    def start(self) -> None:
        """Look after the files from now on."""
        if self.tls.files.given:
            self._pool.start()
            self._ended = self._loop.start(LOOK_SECONDS, now=False)

    def stop(self) -> Deferred[Any]:
        """Stop looking after them."""
        if not self._loop.running:
            return succeed(None)
        self._loop.stop()
        return self._ended.addCallback(lambda _: self._pool.stop())

    async def _look(self) -> None:
        try:
            found = await self._pool(_read_thd, self.tls, self._seen)
        except Exception:  # a background loop logs and goes on
            self.log.failure("looking at the certificates failed; trying again")
            return
        if found is None:
            return
        self._seen, contexts = found
        if isinstance(contexts, TlsUnusable):
            self.log.warn("{error}; what was read before stays in use", error=contexts)
        else:
            self.tls.use(contexts)
            self.log.info("the certificates were read again")

    def over(self, daemon: str, endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
        """Return the endpoint that speaks TLS over `endpoint`, or that itself if there is no certificate to show."""
        if not self.shown:
            return endpoint
        if not isinstance(endpoint, AdoptedStreamServerEndpoint):
            refuse(daemon, "--tls-cert goes with --addr HOST:PORT or :PORT; an endpoint string says itself what it is")
        from filefly.wire.tls.endpoints import TlsServerEndpoint

        return TlsServerEndpoint(self._reactor, endpoint, self.tls)


def _read_thd(tls: Tls, seen: Signature) -> tuple[Signature, Contexts | TlsUnusable] | None:
    """Return what is in the files now, or why that cannot be used; None if they are the same as were `seen`."""
    signature = tls.files.signature()
    if signature == seen:
        return None
    try:
        return signature, tls.read()
    except TlsUnusable as error:
        return signature, error


def take_tls(reactor: Any, daemon: str, options: Mapping[str, Any]) -> DaemonTls:
    """Return the certificates that the options of TLS_PARAMETERS name; ends the process if they cannot be used."""
    files = TlsFiles(options["tls-cert"], options["tls-key"], options["tls-ca"], options["tls-client-ca"])
    if (files.certificate is None) != (files.key is None):
        refuse(daemon, "--tls-cert and --tls-key go together")
    if files.client_ca is not None and files.certificate is None:
        refuse(daemon, "--tls-client-ca needs --tls-cert and --tls-key: without them there is no TLS to ask in")
    try:
        return DaemonTls(reactor, files, WorkerPool(reactor, "tls", 1))
    except TlsUnusable as error:
        refuse(daemon, f"TLS: {error}")
