"""`twistd filefly-data`: options in, a service out; every check that can fail at start is made here."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import UsageError

from filefly.daemon.failures import Failures
from filefly.daemon.limit_options import LIMIT_PARAMETERS, check_limits
from filefly.daemon.limits import ConnectionLimits, allow_many_files, give_memory_back
from filefly.daemon.logs import LOG_PARAMETERS, with_log
from filefly.daemon.options import CONNECTION_PARAMETERS, DaemonOptions, absolute, bind, positive, size
from filefly.daemon.protocol import ServerFactory
from filefly.daemon.secrets import SECRET_PARAMETERS, SecretFile, take_secret
from filefly.daemon.service import DaemonService, Part, refuse
from filefly.daemon.tls import TLS_PARAMETERS, take_tls
from filefly.data.blocks import BlockStore
from filefly.data.linux import system_disk
from filefly.data.local import WithLocalSocket
from filefly.data.rights import DataGuard
from filefly.data.server import DataServer
from filefly.data.storage import Storage, StorageUnusable, open_storage
from filefly.threads import WorkerPool
from filefly.units import parse_size

NAME = "filefly-data"
DISK_THREADS = 8


DATA_PARAMETERS: Sequence[Sequence[Any]] = [
    ["max-block-size", None, "64MiB", "Largest block to accept: 8, 64KiB, 8MiB.", size],
    ["max-line", None, "24MiB", "Longest request line, and so the largest base64 block.", size],
    ["reserve", None, "1GiB", "Room to leave free; below it new blocks are refused: 0, 512MiB, 2GiB.", parse_size],
    ["disk-threads", None, DISK_THREADS, "Most blocks to read and write at once.", positive],
    *CONNECTION_PARAMETERS,
    *LIMIT_PARAMETERS,
    *LOG_PARAMETERS,
    *SECRET_PARAMETERS,
    *TLS_PARAMETERS,
]
DATA_FLAGS: Sequence[Sequence[Any]] = [
    ["no-local-reads", None, "Hand out no open files to clients on this machine: they get bytes, over TCP."],
]
"""What every form of the data server takes."""


class Options(DaemonOptions):
    """The command line of `twistd filefly-data`."""

    synopsis = "[--addr :9001] [--storage-dir ./blocks]"
    longdesc = """Keep blocks as plain files in one folder and serve them.

    Example: twistd -n --pidfile= filefly-data --addr :9001 --storage-dir /srv/filefly"""

    optParameters: ClassVar[Sequence[Sequence[Any]]] = [
        ["addr", None, ":9001", "Where to listen: HOST:PORT, :PORT for all interfaces, or a Twisted endpoint."],
        ["storage-dir", None, None, "Folder for the blocks; created if its parent exists.  [default: ./blocks]"],
        ["storage_dir", None, None, "The same as --storage-dir."],
        *DATA_PARAMETERS,
    ]
    optFlags: ClassVar[Sequence[Sequence[Any]]] = DATA_FLAGS

    def postOptions(self) -> None:
        """Merge the two spellings of one option."""
        given = {self.pop("storage_dir"), self["storage-dir"]} - {None}
        if len(given) > 1:
            raise UsageError("--storage_dir and --storage-dir are one option; give it once")
        self["storage-dir"] = given.pop() if given else "./blocks"
        check_limits(self)


def makeService(options: Options) -> IService:
    """Check and take the folder and the port, and return the daemon; ends the process with a sentence if it cannot."""
    from twisted.internet import reactor

    allow_many_files()
    give_memory_back()
    storage = take_storage(NAME, absolute(options["storage-dir"]))
    return with_log(NAME, data_service(reactor, storage, bind(reactor, NAME, options["addr"]), options), options)


def take_storage(daemon: str, folder: Path) -> Storage:
    """Lock the storage directory `folder`; ends the process with a sentence if that cannot be."""
    try:
        return open_storage(folder, lambda: os.urandom(16).hex(), system_disk())
    except StorageUnusable as error:
        refuse(daemon, str(error))


def data_service(reactor: Any, storage: Storage, endpoint: IStreamServerEndpoint, options: Any) -> DaemonService:
    """Return the data server of `storage`; `options` has those of DATA_PARAMETERS and DATA_FLAGS."""
    disk_pool = WorkerPool(reactor, "disk", options["disk-threads"])
    store = BlockStore(storage, system_disk(), options["max-block-size"], options["reserve"])
    secret = take_secret(reactor, NAME, options)
    guard = None if secret is None else _guard(reactor, secret, store, options)
    tls = take_tls(reactor, NAME, options)
    server = DataServer(store, disk_pool, reactor, guard, tls.tls)
    endpoint = tls.over(NAME, endpoint)
    anybody = options["tls-client-ca"] is None
    if not options["no-local-reads"] and anybody:  # the local socket asks for no certificate
        endpoint = WithLocalSocket(reactor, endpoint, storage.storage_id, server.listens_beside)
    factory = ServerFactory(
        reactor, server, options["max-line"], ConnectionLimits.of(options), guard, audited=options["audit"]
    )
    parts: list[Part] = [tls, disk_pool, server]
    return DaemonService(reactor, NAME, endpoint, factory, parts if secret is None else [secret, *parts], anybody)


def _guard(reactor: Any, secret: SecretFile, store: BlockStore, options: Any) -> DataGuard:
    return DataGuard(secret, store.identity, reactor.seconds, Failures.of(reactor, options))
