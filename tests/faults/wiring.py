"""How the real servers are put on simulated machines: the only place that knows how production makes them."""

import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import define, field
from crc32c import crc32c
from twisted.internet.endpoints import TCP4ServerEndpoint

from filefly.catalog.database import open_database
from filefly.daemon.options import defaults_of
from filefly.daemon.protocol import ServerFactory
from filefly.daemon.service import DaemonService
from filefly.data.blocks import BlockStore
from filefly.data.server import DataServer
from filefly.data.storage import open_storage
from filefly.meta.tap import META_PARAMETERS, meta_service
from filefly.threads import WorkerPool
from filefly.wire.codec import crc32c_hex
from filefly.wire.messages import MAX_BLOCK_SIZE
from filefly.wire.names import name_on_disk
from tests.faults.pools import Died
from tests.faults.simulation import Machine, Process, Simulation
from tests.faults.torn_disk import Medium, TornDisk

BLOCK_SIZE = 40
META_HOST = "10.0.0.1"
META_ADDRESS = f"{META_HOST}:9000"
GRACE_SECONDS = 30
RESERVE_BYTES = 50
_DATA_PORT = 9001
_OPTIONS: dict[str, Any] = {
    "block-size": BLOCK_SIZE,
    "replicas": 2,
    "trash-grace": GRACE_SECONDS,
    "health-interval": 5,
    "repair-delay": 60,
}


def simulated_threads(process: Process) -> Any:
    """Have every WorkerPool that is made meanwhile use simulated threads."""
    return mock.patch("filefly.threads.ThreadPool", process.pool)


@define(eq=False)
class DataHost:
    """A machine with a data server."""

    simulation: Simulation
    folder: Path
    number: int
    medium: Medium = field(init=False)
    machine: Machine = field(init=False)
    _storages: Any = field(factory=lambda: count(1))

    def __attrs_post_init__(self) -> None:
        """Make its disk."""
        folder = self.folder / f"data{self.number}"
        folder.mkdir()
        (folder / "blocks").mkdir()
        self.medium = Medium(folder / "blocks", folder / "log", self.simulation.random)
        self.machine = Machine(self.simulation, f"10.0.1.{self.number}", self._boot)
        self.machine.at_power_loss.append(self.medium.lose_power)

    @property
    def listening(self) -> str:
        """Return the data server's address."""
        return f"{self.machine.address}:{_DATA_PORT}"

    def _boot(self, process: Process) -> None:
        def die() -> None:
            raise Died

        self.medium.operations_until_crash = None
        disk = TornDisk(self.medium, die)
        process.at_death.append(disk.abandon)
        storage = open_storage(self.medium.root, lambda: f"storage-{self.number}-{next(self._storages)}", disk)
        process.at_death.append(storage.release)
        with simulated_threads(process):
            pool = WorkerPool(process, "disk", 4)
        server = DataServer(BlockStore(storage, disk, MAX_BLOCK_SIZE, RESERVE_BYTES), pool, process)
        endpoint = TCP4ServerEndpoint(process, _DATA_PORT)
        factory = ServerFactory(process, server)
        service = DaemonService(process, "filefly-data", endpoint, factory, [pool, server])
        service.startService()
        process.stop = service.stopService

    def has(self, block_id: str, checksum: str) -> bool:
        """Whether a good copy of a block is on disk now."""
        file = self.medium.root / name_on_disk(block_id).decode()
        return file.is_file() and crc32c_hex(crc32c(file.read_bytes())) == checksum


@define(eq=False)
class MetaHost:
    """The machine with the metadata server; its SQLite file is taken to keep its own promises."""

    simulation: Simulation
    folder: Path
    listed: Sequence[str]
    options: Mapping[str, Any] = field(factory=dict)
    """What differs from how the others are started."""
    machine: Machine = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the machine."""
        self.machine = Machine(self.simulation, META_HOST, self._boot)

    @property
    def catalog(self) -> Path:
        """Return the catalog's file."""
        return self.folder / "catalog.sqlite"

    def _boot(self, process: Process) -> None:
        database = open_database(f"sqlite:///{self.catalog}", lambda: "simulated-catalog")

        def close() -> None:
            if not process.stopped:
                database.close()

        process.at_death.append(close)
        options = defaults_of(META_PARAMETERS) | _OPTIONS
        options |= self.options
        endpoint = TCP4ServerEndpoint(process, 9000)
        listed = dict.fromkeys(self.listed)
        with simulated_threads(process):
            service = meta_service(process, database, endpoint, options, listed, process.seconds)
        service.startService()
        process.stop = service.stopService

    def ask(self, query: str, *values: Any) -> list[Any]:
        """Return what the catalog says, whether its server runs or not."""
        with closing(sqlite3.connect(self.catalog)) as connection:
            return connection.execute(query, values).fetchall()

    def save_copy(self, copy: Path) -> None:
        """Keep a copy of the catalog, as a backup would."""
        with closing(sqlite3.connect(self.catalog)) as connection, closing(sqlite3.connect(copy)) as target:
            connection.backup(target)

    def restore(self, copy: Path) -> None:
        """Put a copy back in the place of the catalog, whose server does not run."""
        assert self.machine.process is None
        for name in ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.copy(copy, self.catalog)

    def suspended(self) -> bool:
        """Whether the catalog was found to be older than its data."""
        return self.ask("SELECT suspended FROM catalog") != [(None,)]

    def nameless(self) -> list[str]:
        """Return the addresses of data servers of which the catalog does not know what storage is there."""
        return [address for (address,) in self.ask("SELECT address FROM data_servers WHERE storage_id IS NULL")]

    def planned_names(self) -> list[str]:
        """Return the names that have open implicit plans: these commit themselves once all of it can be looked at."""
        query = "SELECT DISTINCT name FROM plans WHERE state = 'pending' AND NOT explicit"
        return [name for (name,) in self.ask(query)]

    def places(self) -> list[Any]:
        """Return what the catalog says of committed files: name, generation, block, data server."""
        return self.ask(
            """SELECT plans.name, generation, position, server, bad FROM plans
            LEFT JOIN replicas USING (generation) WHERE plans.state = 'committed' ORDER BY 1, 2, 3, 4"""
        )

    def unfinished(self) -> list[Any]:
        """Return what there is still to do: repairs, trash, servers that came back, deleted files, scrubs asked for."""
        return self.ask(
            """SELECT 'repair', plans.name, position, remaining FROM repairs LEFT JOIN plans USING (generation)
            UNION ALL SELECT 'trash', block_id, server, due FROM trash
            UNION ALL SELECT 'displaced', address, 0, 0 FROM data_servers WHERE displaced
            UNION ALL SELECT 'deleted', name, generation, due FROM plans WHERE state = 'deleted'
            UNION ALL SELECT 'scrub', address, 0, 0 FROM data_servers WHERE scrub_hurry AND scrub_finished IS NULL"""
        )

    def committed_blocks(self) -> list[Any]:
        """Return the blocks of committed files: file name, block id, how many replicas it should have."""
        return self.ask(
            """SELECT plans.name, blocks.id, plans.replicas FROM plans JOIN blocks USING (generation)
            WHERE plans.state = 'committed' ORDER BY 1, 2"""
        )

    def known_blocks(self) -> set[Any]:
        """Return the blocks that the catalog knows, of whatever plan or trash, and where."""
        return set(
            self.ask(
                """SELECT blocks.id, address FROM blocks JOIN replicas USING (generation, position)
                JOIN data_servers ON data_servers.key = replicas.server
                UNION SELECT block_id, address FROM trash JOIN data_servers ON data_servers.key = trash.server"""
            )
        )

    def good_replicas(self) -> list[Any]:
        """Return the replicas of committed files that nothing is known against: file, block, data server, checksum."""
        return self.ask(
            """SELECT plans.name, blocks.id, data_servers.address, blocks.crc32c FROM plans
            JOIN blocks USING (generation) JOIN replicas USING (generation, position)
            JOIN data_servers ON data_servers.key = replicas.server
            WHERE plans.state = 'committed' AND bad IS NULL AND address IS NOT NULL ORDER BY 1, 2, 3"""
        )

    def good_copies(self, block_id: str, hosts: Sequence[DataHost]) -> list[DataHost]:
        """Return the data servers that have a good copy of a committed block, where the catalog expects one."""
        places = {address: checksum for _name, block, address, checksum in self.good_replicas() if block == block_id}
        return [host for host in hosts if host.listening in places and host.has(block_id, places[host.listening])]
