"""`twistd filefly-meta`: options in, a service out; every check that can fail at start is made here."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from twisted.application.service import IService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import UsageError

from filefly.catalog.database import Database, open_database
from filefly.catalog.inventory import catalog_row, take_data_servers
from filefly.catalog.revocations import list_revoked_tokens
from filefly.catalog.schema import CatalogUnusable
from filefly.catalog.snapshots import Snapshots, catalog_file
from filefly.daemon.failures import Failures
from filefly.daemon.limit_options import LIMIT_PARAMETERS, check_limits
from filefly.daemon.limits import ConnectionLimits, allow_many_files, give_memory_back
from filefly.daemon.logs import LOG_PARAMETERS, with_log
from filefly.daemon.options import CONNECTION_PARAMETERS, DaemonOptions, absolute, bind, positive, size
from filefly.daemon.protocol import ServerFactory
from filefly.daemon.secrets import SECRET_PARAMETERS, take_secret
from filefly.daemon.service import DaemonService, Part, refuse
from filefly.daemon.tls import TLS_PARAMETERS, take_tls
from filefly.meta.access import Access, Revocations
from filefly.meta.administration import Administration
from filefly.meta.backup import PREFIX, Backups
from filefly.meta.checking import Checker
from filefly.meta.cluster import Cluster
from filefly.meta.commits import Committer
from filefly.meta.fsck import Inspector
from filefly.meta.health import Health
from filefly.meta.planning import Planner
from filefly.meta.repair import Repairer
from filefly.meta.rights import Rights
from filefly.meta.running_time import RunningTime
from filefly.meta.scrub import Scrubber
from filefly.meta.server import MetadataServer
from filefly.meta.tickets import TicketOffice
from filefly.meta.transactions import Transactions
from filefly.meta.trash import TrashCollector
from filefly.meta.uploading import Uploader
from filefly.threads import WorkerPool
from filefly.units import parse_duration as duration
from filefly.wire.address import check_client_address
from filefly.wire.messages import MAX_BLOCK_SIZE, MAX_BLOCKS, MAX_PAGE
from filefly.wire.times import rfc3339

NAME = "filefly-meta"

META_PARAMETERS: Sequence[Sequence[Any]] = [
    ["block-size", None, "8MiB", "Size of the blocks of new files: 8, 64KiB, 8MiB; at most 64MiB.", size],
    ["replicas", None, 1, "Copies of each block, on distinct data servers, unless a client asks otherwise.", positive],
    ["trash-grace", None, "10m", "How long deleted files' blocks are kept, in running time: 0, 30s, 10m.", duration],
    ["pending-ttl", None, "24h", "Without a sign of life for so long, an upload is given up: 30m, 24h.", duration],
    ["health-interval", None, "5s", "How often each data server is pinged.", duration],
    ["down-after", None, "15s", "Without an answer for so long, a data server is down.", duration],
    ["repair-delay", None, "10m", "A data server that is down for so long has its blocks copied elsewhere.", duration],
    ["repair-rate", None, "100MiB", "Most bytes a second to copy for repair: 20MiB, 1GiB.", size],
    ["scrub-period", None, "14d", "In so long every block is re-read and checked: 36h, 14d.", duration],
    [
        "catalog-backup-interval",
        None,
        "1h",
        "How often the catalog is stored as a file, too; 0: never.",
        duration,
    ],
    ["max-line", None, "24MiB", "Longest request line, and so the largest base64 data.", size],
    ["max-blocks-per-file", None, MAX_BLOCKS, "Most blocks of a file; larger ones get larger blocks.", positive],
    [
        "max-page",
        None,
        MAX_PAGE,
        "Most files in a page of a listing; where more are asked for, it ends there.",
        positive,
    ],
    *SECRET_PARAMETERS,
    *CONNECTION_PARAMETERS,
    *LIMIT_PARAMETERS,
    *LOG_PARAMETERS,
    *TLS_PARAMETERS,
]
"""What every form of the metadata server takes."""


class Options(DaemonOptions):
    """The command line of `twistd filefly-meta`."""

    synopsis = "--data-servers HOST:PORT,HOST:PORT [--addr :9000]"
    longdesc = """Keep the catalog of files and hand out plans.

    Example: twistd -n --pidfile= filefly-meta --addr :9000 --data-servers :9001,:9002"""

    optParameters: ClassVar[Sequence[Sequence[Any]]] = [
        ["addr", None, ":9000", "Where to listen: HOST:PORT, :PORT for all interfaces, or a Twisted endpoint."],
        ["data-servers", None, None, "Addresses of the data servers, separated by commas; at least one."],
        ["advertised-data-servers", None, None, "What clients are told instead, in the same order."],
        ["catalog", None, "sqlite:///filefly-catalog.sqlite", "SQLAlchemy URL of the catalog's database."],
        *META_PARAMETERS,
    ]

    def postOptions(self) -> None:
        """Check what belongs together."""
        check_meta_options(self)
        servers = _addresses(self["data-servers"])
        if not servers:
            raise UsageError("--data-servers is needed: HOST:PORT of each data server, separated by commas")
        if len(set(servers)) < len(servers):
            raise UsageError("--data-servers names one address twice")
        advertised = _addresses(self["advertised-data-servers"])
        if advertised and len(advertised) != len(servers):
            raise UsageError(
                f"--advertised-data-servers has {len(advertised)} addresses, --data-servers {len(servers)}"
            )
        told: Sequence[str | None] = advertised or [None] * len(servers)
        self.listed = dict(zip(servers, told, strict=True))


def check_meta_options(options: Mapping[str, Any]) -> None:
    """Raise UsageError for what is beyond what a block, a file or a page may have."""
    if options["block-size"] > MAX_BLOCK_SIZE:
        raise UsageError("--block-size is at most 64MiB")
    for name, most in (("max-blocks-per-file", MAX_BLOCKS), ("max-page", MAX_PAGE)):
        if options[name] > most:
            raise UsageError(f"--{name} is at most {most}")
    check_limits(options)


def _addresses(text: str | None) -> list[str]:
    addresses = [part.strip() for part in (text or "").split(",") if part.strip()]
    for address in addresses:
        try:
            check_client_address(address)
        except ValueError as error:
            raise UsageError(str(error)) from None
    return addresses


def makeService(options: Options) -> IService:
    """Check and take the catalog and the port, and return the daemon; ends the process with a sentence if it cannot."""
    from twisted.internet import reactor

    allow_many_files()
    give_memory_back()
    database = take_catalog(NAME, options["catalog"])
    service = meta_service(reactor, database, bind(reactor, NAME, options["addr"]), options, options.listed)
    return with_log(NAME, service, options)


def take_catalog(daemon: str, url: str) -> Database:
    """Lock and migrate the catalog at `url`; ends the process with a sentence if that cannot be."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        refuse(daemon, f"--catalog {url!r} is not a database URL; write sqlite:///catalog.sqlite")
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        url = parsed.set(database=str(absolute(str(parsed.database)))).render_as_string(hide_password=False)
    try:
        return open_database(url, lambda: os.urandom(16).hex())
    except CatalogUnusable as error:
        refuse(daemon, str(error))


def meta_service(
    reactor: Any,
    database: Database,
    endpoint: IStreamServerEndpoint,
    options: Mapping[str, Any],
    listed: Mapping[str, str | None],
    monotonic: Callable[[], float] = time.monotonic,
) -> DaemonService:
    """Return the metadata server of an opened catalog with the data servers `listed` (address to advertised address).

    It ends the process with a sentence if the secret cannot be used.
    """
    secret = take_secret(reactor, NAME, options)
    compute = WorkerPool(reactor, "compute", 2)
    transactions = Transactions(reactor, database)
    tls = take_tls(reactor, NAME, options)
    cluster = Cluster(reactor, compute, lambda block_id, address: checker.hint(block_id, address), secret, tls.tls)
    running = RunningTime(monotonic, database.read(catalog_row).running_seconds)
    health = Health(
        reactor,
        transactions,
        cluster,
        running,
        options["health-interval"],
        options["down-after"],
        options["repair-delay"],
        options["block-size"],
    )
    trash = TrashCollector(
        reactor,
        transactions,
        cluster,
        health,
        running,
        options["trash-grace"],
        options["pending-ttl"],
        lambda generation: committer.settle(generation),
    )
    checker = Checker(transactions, cluster)
    repairer = Repairer(reactor, transactions, cluster, checker, running, trash.due, options["repair-rate"])
    scrubber = Scrubber(reactor, transactions, cluster, checker, running, options["scrub-period"])
    revocations = Revocations(database.read(list_revoked_tokens))
    access = Access(transactions, revocations, lambda: rfc3339(reactor.seconds()))
    committer = Committer(
        transactions,
        cluster,
        running,
        lambda: rfc3339(reactor.seconds()),
        trash.due,
        lambda request, session, reply: factory.audit.note(request, session, reply),
    )
    sizes = (options["block-size"], options["replicas"], options["max-blocks-per-file"])
    planner = Planner(transactions, cluster, compute, running, *sizes)
    backups = Backups(
        reactor,
        transactions,
        cluster,
        health,
        Uploader(transactions, cluster, planner, committer, trash.due),
        Snapshots(database.read(catalog_file), PREFIX),
        WorkerPool(reactor, "backup", 2),
        running,
        trash.due,
        options["catalog-backup-interval"],
        database.read(catalog_row).backed_up,
    )
    inspector = Inspector(transactions, cluster, health, checker)
    administration = Administration(transactions, cluster, health, repairer, scrubber, inspector, backups)
    server = MetadataServer(
        transactions,
        cluster,
        planner,
        committer,
        checker,
        administration,
        access,
        TicketOffice(cluster, secret, reactor.seconds, compute),
        trash.due,
        options["max-page"],
    )
    [rows] = database.write([lambda connection: take_data_servers(connection, listed)])
    cluster.take(rows)
    database.close_connections()
    parts: list[Part] = [tls, compute, transactions, cluster, health, checker, trash, repairer, scrubber, backups]
    guard = None
    if secret is not None:
        parts.insert(0, secret)
        guard = Rights(secret, reactor.seconds, Failures.of(reactor, options), revocations.is_revoked)
    factory = ServerFactory(
        reactor, server, options["max-line"], ConnectionLimits.of(options), guard, audited=options["audit"]
    )
    return DaemonService(reactor, NAME, tls.over(NAME, endpoint), factory, parts, options["tls-client-ca"] is None)
