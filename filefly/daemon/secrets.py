"""The cluster's secret in a daemon: taken at start, and read again when its file changes, so that keys can be changed.

A file that cannot be used any more leaves the keys that were in it valid: a slip must not stop a cluster.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from filefly.client.connection import STAY_UNKNOWN, SignIn
from filefly.client.signing_in import CheckStorage, prove
from filefly.daemon.failures import DEFAULT_FREE, DEFAULT_MOST
from filefly.daemon.options import absolute, positive
from filefly.daemon.service import refuse
from filefly.private import FileSignature, signature_of
from filefly.security.keys import Keyring, SecretUnusable, read_secret
from filefly.threads import WorkerPool

LOOK_SECONDS = 2.0
"""How often a daemon looks whether the file was changed."""

LOOKS_BEFORE_SIGNING = 2
"""A new key signs so many looks after it was found: the other daemons of a shared file have found it, too."""

SECRET_PARAMETERS: Sequence[Sequence[Any]] = [
    ["secret-file", None, None, "The cluster's secret: nobody does anything without a token; `secret new` makes it."],
    [
        "free-auth-failures",
        None,
        DEFAULT_FREE,
        "After so many wrong tokens or proofs from one address, answers to further ones wait, up to 4s.",
        positive,
    ],
    [
        "max-auth-failures",
        None,
        DEFAULT_MOST,
        "After so many, further wrong ones are refused as busy, for 10m; right ones never are.",
        positive,
    ],
]
"""What closes a server of either kind."""


class SecretFile:
    """A secret file, and the keys that were in it last; a daemon's Part, with a thread pool of its own."""

    log = Logger()

    def __init__(self, reactor: Any, path: Path, pool: WorkerPool) -> None:
        """Read the file; raises SecretUnusable."""
        self._path = path
        self._pool = pool
        self._seen = signature_of(path)  # first: what changes meanwhile will be seen
        self.keyring: Keyring = read_secret(path)
        self._read = self.keyring
        self._looks_to_go = 0  # until the first key that was read signs
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._loop.clock = reactor
        self._ended: Deferred[Any] = succeed(None)

    def start(self) -> None:
        """Look after the file from now on."""
        self._pool.start()
        self._ended = self._loop.start(LOOK_SECONDS, now=False)

    def stop(self) -> Deferred[Any]:
        """Stop looking after it."""
        if self._loop.running:
            self._loop.stop()
        return self._ended.addCallback(lambda _: self._pool.stop())

    async def _look(self) -> None:
        try:
            found = await self._pool(_read_thd, self._path, self._seen)
        except Exception:  # a background loop logs and goes on
            self.log.failure("looking at {path} failed; trying again", path=self._path)
            return
        if found is None:
            self._come_nearer_to_signing()
            return
        self._seen, keyring = found
        if isinstance(keyring, SecretUnusable):
            self.log.warn("{error}; the keys that were read before stay valid", error=keyring)
        elif keyring != self._read:
            self._take(keyring)

    def _take(self, keyring: Keyring) -> None:
        """Use other keys; what signed until now does so a little longer, if it is one of them."""
        signing, self._read = self.keyring.signing, keyring
        if keyring.signing not in self.keyring.keys and signing in keyring.keys:
            self._looks_to_go = LOOKS_BEFORE_SIGNING
            self.keyring = Keyring([signing, *(key for key in keyring.keys if key != signing)])
            self.log.info("{path} was read again: key {id} is valid", path=self._path, id=keyring.signing.id)
        else:
            self._looks_to_go = 0
            self.keyring = keyring
            self.log.info("{path} was read again: key {id} signs", path=self._path, id=keyring.signing.id)

    def _come_nearer_to_signing(self) -> None:
        if self._looks_to_go:
            self._looks_to_go -= 1
            if not self._looks_to_go:
                self.keyring = self._read
                self.log.info("key {id} signs", id=self.keyring.signing.id)


def _read_thd(path: Path, seen: FileSignature) -> tuple[FileSignature, Keyring | SecretUnusable] | None:
    """Return what is in the file now, or why that cannot be used; None if it is the same file as was `seen`."""
    signature = signature_of(path)
    if signature == seen:
        return None
    try:
        return signature, read_secret(path)
    except SecretUnusable as error:
        return signature, error


def take_secret(reactor: Any, daemon: str, options: Mapping[str, Any]) -> SecretFile | None:
    """Return the secret that `--secret-file` names, None if it names none; ends the process if it cannot be used."""
    if options["secret-file"] is None:
        return None
    try:
        return SecretFile(reactor, absolute(options["secret-file"]), WorkerPool(reactor, "secret", 1))
    except SecretUnusable as error:
        refuse(daemon, f"--secret-file: {error}")


def prove_to_data_servers(secret: SecretFile | None, check_storage: CheckStorage) -> SignIn:
    """Return how a pool's connections show that they have the secret; without one they stay unknown."""
    return STAY_UNKNOWN if secret is None else prove(lambda: secret.keyring, check_storage)
