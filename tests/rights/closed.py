"""A closed cluster on simulated machines: a metadata server and two data servers, as production makes them."""

import base64
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import TCP4ServerEndpoint

from filefly.data.storage import open_storage
from filefly.data.tap import Options, data_service
from tests.data.disks import QuickDisk
from tests.faults.simulation import Machine, Process, Simulation
from tests.faults.wiring import MetaHost, simulated_threads
from tests.rights.talking import KEY, OLD

PORT = 9001
_LONGEST_STOP_SECONDS = 180


@define(eq=False)
class _DataHost:
    """A machine with a data server."""

    folder: Path
    address: str
    arguments: list[str]

    def boot(self, process: Process) -> None:
        """Start the data server."""
        options = Options()
        options.parseOptions(["--no-local-reads", *self.arguments])
        storage = open_storage(self.folder, lambda: f"id of {self.address}", QuickDisk())
        process.at_death.append(storage.release)
        with simulated_threads(process):
            service = data_service(process, storage, TCP4ServerEndpoint(process, PORT), options)
        service.startService()
        process.stop = service.stopService


@define(eq=False)
class ClosedCluster:
    """The machines, once they run; the metadata server takes `options`, too."""

    folder: Path
    options: dict[str, Any] = field(factory=dict)
    simulation: Simulation = field(factory=lambda: Simulation(seed=1))
    meta: MetaHost = field(init=False)
    machines: list[Machine] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Start them."""
        secret = self.folder / "secret"
        keys = [f"{key.id} {base64.urlsafe_b64encode(key.secret).decode()}\n" for key in (KEY, OLD)]
        secret.write_text("".join(keys))
        secret.chmod(0o600)
        hosts = [
            _DataHost(self.folder / f"data{number}", f"10.0.1.{number}", ["--secret-file", str(secret)])
            for number in (1, 2)
        ]
        listed = [f"{host.address}:{PORT}" for host in hosts]
        self.meta = MetaHost(self.simulation, self.folder, listed, {"secret-file": str(secret), **self.options})
        self.machines = [self.meta.machine, *(Machine(self.simulation, host.address, host.boot) for host in hosts)]
        for machine in reversed(self.machines):
            assert machine.start(), list(self.simulation.story)
        self.simulation.run(20)

    @property
    def factory(self) -> Any:
        """Return what makes the metadata server's ends of conversations."""
        process: Any = self.meta.machine.process
        return process.listening[9000]

    def stop(self) -> None:
        """End them, in order."""
        for machine in self.machines:
            machine.stop(_LONGEST_STOP_SECONDS)
