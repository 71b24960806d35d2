"""FileFly as a user runs it: `twistd` daemons and whole `filefly-client` processes."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from attrs import define, evolve, frozen

from benchmarks.processes import BIN, Command, Daemon, Failed, Processes, timed, wait_until

_LISTENING = r"is listening on (\S+:\d+)"
_CLEARED_SECONDS = 300.0  # blocks are deleted once a second, batch by batch
TWISTD: Command = (BIN / "twistd",)


@frozen
class DataServer:
    """A running data server and its storage directory."""

    daemon: Daemon
    address: str
    storage: Path

    @property
    def receives(self) -> bool:
        """Whether a block is on its way in."""
        return any(name != "identity" for name in os.listdir(self.storage / ".incoming"))

    def block_files(self) -> list[Path]:
        """Return the block files."""
        return [self.storage / name for name in os.listdir(self.storage) if not name.startswith(".")]

    def stored_bytes(self) -> int:
        """Return how many bytes of blocks it has; one that is deleted meanwhile does not count."""
        total = 0
        for path in self.block_files():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def remove_blocks(self) -> None:
        """Delete the block files by hand, as the plain-file rule allows."""
        for path in self.block_files():
            path.unlink()


def start_data_server(processes: Processes, folder: Path, name: str, *options: str) -> DataServer:
    """Start a data server with the storage directory `folder/name`, on a free port."""
    command = [*TWISTD, "-n", "--pidfile=", "filefly-data", "--addr", "127.0.0.1:0", "--storage-dir", name, *options]
    daemon = processes.start("data server", command, folder)
    return DataServer(daemon, _address(daemon), folder / name)


def start_metadata_server(
    processes: Processes, folder: Path, data: Sequence[DataServer], *options: str, twistd: Command = TWISTD
) -> str:
    """Start a metadata server over `data`, with a catalog in `folder`, and return its address."""
    servers = ",".join(server.address for server in data)
    command = [*twistd, "-n", "--pidfile=", "filefly-meta", "--addr", "127.0.0.1:0", "--data-servers", servers]
    # What is deleted goes at once, so that the next run finds the room; no copy of the catalog is stored meanwhile.
    given = ["--trash-grace", "0", "--catalog-backup-interval", "0", *options]
    return _address(processes.start("metadata server", [*command, *given], folder))


def _address(daemon: Daemon) -> str:
    wait_until(lambda: daemon.said(_LISTENING) is not None, f"{daemon.role} to listen")
    found = daemon.said(_LISTENING)
    assert found is not None
    return found[1]


@define(eq=False)
class Cluster:
    """A metadata server and data servers, used through `filefly-client`."""

    metadata_server: str
    data: Sequence[DataServer]
    _client_options: Sequence[str | Path] = ()

    @classmethod
    def start(
        cls,
        processes: Processes,
        folder: Path,
        data_servers: int = 1,
        meta_options: Sequence[str] = (),
        data_options: Sequence[str] = (),
    ) -> "Cluster":
        """Start `data_servers` data servers and a metadata server in `folder`."""
        names = [f"blocks{number}" for number in range(data_servers)]
        data = [start_data_server(processes, folder, name, *data_options) for name in names]
        return cls(start_metadata_server(processes, folder, data, *meta_options), data)

    @classmethod
    def start_with_tls(cls, processes: Processes, folder: Path, data_options: Sequence[str] = ()) -> "Cluster":
        """Start a data server and a metadata server that speak TLS, with certificates that are made for them."""
        tls = folder / "tls"
        timed([BIN / "filefly-client", "tls", "new", tls, "--host", "localhost"])
        shown = [
            f"--tls-cert={tls / 'localhost.crt'}",
            f"--tls-key={tls / 'localhost.key'}",
            f"--tls-ca={tls / 'ca.crt'}",
        ]
        data = start_data_server(processes, folder, "blocks0", *shown, *data_options)
        data = evolve(data, address=f"tls://{data.address}")
        metadata_server = start_metadata_server(processes, folder, [data], *shown)
        return cls(f"tls://{metadata_server}", [data], ("--tls-ca", tls / "ca.crt"))

    def client(self, *arguments: str | Path) -> float:
        """Run `filefly-client` and return how many seconds the whole process took."""
        options = ("--metadata-addr", self.metadata_server, *self._client_options)
        return timed([BIN / "filefly-client", *arguments[:1], *options, *arguments[1:]])

    def upload(self, path: Path, name: str, *options: str) -> float:
        """Upload a file, or a folder with `-r`, and return the seconds; raises Failed if not all of it is stored."""
        before = self.stored_bytes()
        seconds = self.client("upload", "-q", *options, "--file-name", name, path)
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        missing = sum(file.stat().st_size for file in files) - (self.stored_bytes() - before)
        if missing > 0:
            raise Failed(f"{missing} bytes of {name} are not stored")
        return seconds

    def download(self, name: str, target: Path, *options: str) -> float:
        """Download a file, or a folder with `-r`, and return the seconds."""
        return self.client("download", "-q", *options, name, "-o", target)

    def remove(self, name: str, *options: str) -> None:
        """Delete a file, or a folder with `-r`, and wait until no block is left."""
        self.client("rm", "-q", *options, name)
        wait_until(self._is_empty, f"the blocks of {name} to be deleted", _CLEARED_SECONDS)

    def _is_empty(self) -> bool:
        return not self.block_files()

    def block_files(self) -> list[Path]:
        """Return the block files of all data servers."""
        return [path for server in self.data for path in server.block_files()]

    def stored_bytes(self) -> int:
        """Return how many bytes of blocks the data servers have."""
        return sum(server.stored_bytes() for server in self.data)


def interpreter_start() -> float:
    """Return how many seconds a Python takes that does nothing but import what every client needs."""
    return timed([sys.executable, "-c", "import twisted.internet.reactor, click"])
