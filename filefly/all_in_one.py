"""`twistd filefly`: a metadata server and data servers in one process, under one folder, for one machine."""

from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import evolve
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.usage import UsageError

from filefly.daemon.limits import allow_many_files, give_memory_back
from filefly.daemon.logs import with_log
from filefly.daemon.options import DaemonOptions, absolute, bind, positive
from filefly.daemon.service import refuse
from filefly.data.tap import DATA_FLAGS, DATA_PARAMETERS, data_service, take_storage
from filefly.meta.tap import META_PARAMETERS, check_meta_options, meta_service, take_catalog
from filefly.wire.address import HostPort, parse_host_port

NAME = "filefly"
_SHARED = {parameter[0] for parameter in META_PARAMETERS}
"""Options of both servers, which stand here once."""


class Options(DaemonOptions):
    """The command line of `twistd filefly`."""

    synopsis = "[--root ./filefly-root]"
    longdesc = """Run a whole FileFly in one process: a metadata server and data servers under one folder.

    Example: twistd -n --pidfile= filefly --root /srv/filefly"""

    optParameters: ClassVar[Sequence[Sequence[Any]]] = [
        ["root", None, "./filefly-root", "Folder for everything; created if its parent exists."],
        ["addr", None, "localhost:9000", "Where the metadata server listens; the data servers take the ports behind."],
        [
            "data-servers-count",
            None,
            2,
            "How many data servers, each with a folder data1, data2, ... of its own.",
            positive,
        ],
        *META_PARAMETERS,
        *(parameter for parameter in DATA_PARAMETERS if parameter[0] not in _SHARED),
    ]
    optFlags: ClassVar[Sequence[Sequence[Any]]] = DATA_FLAGS

    def postOptions(self) -> None:
        """Check what belongs together."""
        check_meta_options(self)
        address = parse_host_port(self["addr"])
        if address is None or address.tls or address.port == 0 or address.port + self["data-servers-count"] > 65535:
            raise UsageError("--addr takes HOST:PORT or :PORT here, with room for the data servers' ports behind it")
        self.address = address


class _DataServersLast(MultiService):
    """Stops one service after the other: first the metadata server, then the data servers, which it asks."""

    def stopService(self) -> Deferred[Any]:
        """Stop; fires when all is over."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.running = 0
        for service in self:
            await maybeDeferred(service.stopService)


def makeService(options: Options) -> IService:
    """Take the folders and the ports, and return the daemons; ends the process with a sentence if it cannot."""
    from twisted.internet import reactor

    allow_many_files()
    give_memory_back()
    root = absolute(options["root"])
    try:
        root.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        refuse(NAME, f"cannot create {root}: {error.strerror}; name another --root")
    host, port = options.address.host, options.address.port
    addresses = [HostPort(host, port + 1 + number) for number in range(options["data-servers-count"])]
    together = _DataServersLast()
    database = take_catalog(NAME, f"sqlite:///{root / 'catalog.sqlite'}")
    with_tls = options["tls-cert"] is not None
    listed: dict[str, str | None] = {str(evolve(address, tls=with_tls)): None for address in addresses}
    meta_service(reactor, database, bind(reactor, NAME, options["addr"]), options, listed).setServiceParent(together)
    for number, address in enumerate(addresses, 1):
        storage = take_storage(NAME, root / f"data{number}")
        service = data_service(reactor, storage, bind(reactor, NAME, str(address)), options)
        service.warns_if_open = False  # the metadata server, at the same host, does
        service.setServiceParent(together)
    return with_log(NAME, together, options)
