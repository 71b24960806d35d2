"""Servers and clients that are cut off: whoever waits for them ends in time, nothing grows, and then all is well."""

import random
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet.defer import Deferred

from filefly.client.api import Client
from filefly.errors import FileFlyError, TimedOut, Unavailable
from filefly.units import KIB, MIB
from tests.faults.crowd import BusyProcess, Crowd, check
from tests.faults.inspection import (
    check_block_files,
    wait_for_replicas,
    wait_for_state,
    wait_until_clean,
    wait_until_up,
)
from tests.faults.manifest import BLOCK as SMALL_BLOCK
from tests.on_reactor import next_turn, on_reactor
from tests.system.processes import BIN, DEADLINE_SECONDS, Daemon, Processes, connect, processes, wait_until

BLOCK = 64 * KIB
CLIENT_TIMEOUT_SECONDS = 1.0
LARGE = 24 * MIB
GROWTH_LIMIT = 16 * MIB
"""Less than the large file, which nobody is to hold."""
SPARE_FILES = 2 * 16 * 3
"""How many more files a daemon may have open than before: idle connections of two pools to three data servers."""
SLOW_ROUNDS = 40
CUT_OFF_STEPS = 8


@define(eq=False)
class Cut:
    """A cluster, parts of which are cut off, and what is in it: each file's name tells how many replicas it has."""

    cluster: Processes
    contents: dict[str, bytes]

    def on(self, server: Daemon, replicas: int) -> list[str]:
        """Return the files of so many replicas of which `server` has a block."""
        names = [name for name in self.contents if name.startswith(f"{replicas} ")]
        return [name for name in names if server.address in self.places(name)]

    def places(self, name: str) -> set[str]:
        """Return where a file's blocks are."""
        metadata = self.cluster.ask_one("get_metadata", file_name=name)["metadata"]
        return {replica["data_server"] for block in metadata["blocks"] for replica in block["replicas"]}

    def check(self) -> None:
        """See that the cluster is well again by itself, and that everything is right."""
        wait_until_up(self.cluster)
        wait_until_clean(self.cluster)
        wait_for_replicas(self.cluster, list(self.contents))
        for name, wanted in self.contents.items():
            assert wanted == self.cluster.fetch(name), name
        check_block_files(self.cluster, self.contents)


@contextmanager
def cut(folder: Path) -> Iterator[Cut]:
    """Run a cluster that soon notices who is away, with some files."""
    options = {"block-size": BLOCK, "trash-grace": 0, "health-interval": 1, "down-after": 2, "repair-delay": 1}
    words = [word for name, value in options.items() for word in (f"--{name}", f"{value}")]
    with processes(folder, *words, data_servers=3) as cluster:
        wait_until_up(cluster)
        yield Cut(cluster, {})


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cut]:
    """Run a cluster; each test leaves it healed."""
    with cut(tmp_path_factory.mktemp("parted")) as running:
        folder = running.cluster.folder / "local"
        folder.mkdir()
        for replicas in (1, 2):
            names = [f"{replicas} of {number}" for number in range(6)]
            for name in names:
                running.contents[name] = random.Random(name).randbytes(BLOCK + 7)
                (folder / name).write_bytes(running.contents[name])
            running.cluster.client("upload", "-q", "--replicas", f"{replicas}", *(folder / name for name in names))
        yield running


@asynccontextmanager
async def impatient(reactor: Any, parted: Cut) -> AsyncIterator[Client]:
    """Make a client that does not wait for long; in the end its connections are closed."""
    client = Client(reactor, parted.cluster.meta.address, timeout_seconds=CLIENT_TIMEOUT_SECONDS)
    try:
        yield client
    finally:
        client.close()
        for _ in range(3):
            await next_turn()


@contextmanager
def not_growing(daemons: Sequence[Daemon]) -> Iterator[None]:
    """See that daemons have no more files open afterwards, and never much more memory."""
    before = [daemon.open_files() for daemon in daemons]
    for daemon in daemons:
        daemon.forget_peak_memory()
    resident = [daemon.peak_memory() for daemon in daemons]
    yield
    for daemon, files, memory in zip(daemons, before, resident, strict=True):
        wait_until(
            lambda: daemon.open_files() <= files + SPARE_FILES,  # noqa: B023
            f"{daemon.name} to close what it opened beyond {files} files",
        )
        assert daemon.peak_memory() <= memory + GROWTH_LIMIT, daemon.name


async def no_answer(asking: Awaitable[Any]) -> None:
    """See that something ends in an error that tells of a server's silence."""
    with pytest.raises(FileFlyError) as failed:
        await asking
    assert isinstance(failed.value, TimedOut | Unavailable), failed.value


# A data server


@on_reactor
async def test_a_stopped_data_server_holds_up_nobody(reactor: Any, parted: Cut) -> None:
    """What is elsewhere too is read, what is stored goes elsewhere, what is only there is an error until then."""
    cluster, stopped = parted.cluster, parted.cluster.data[0]
    with not_growing(cluster.all):
        async with impatient(reactor, parted) as client:
            twice, once = parted.on(stopped, 2), parted.on(stopped, 1)
            assert (True, True) == (bool(twice), bool(once))
            with stopped.frozen():
                for name in twice:
                    assert parted.contents[name] == await client.read(name)
                await no_answer(client.read(once[0]))
                for replicas in (1, 2):
                    name = f"{replicas} while one was stopped"
                    parted.contents[name] = random.Random(name).randbytes(3 * BLOCK)
                    await client.upload(name, parted.contents[name], replicas=replicas)
                    assert parted.contents[name] == await client.read(name)
                wait_for_state(cluster, stopped, "down")
                assert parted.contents[twice[0]] == cluster.fetch(twice[0])
        parted.check()


@pytest.mark.slow
def test_a_stopped_data_server_is_a_time_out_of_fetch_file(parted: Cut) -> None:
    """Whether it is known to be down or not, who needs it is told so after twenty seconds, and hears it once."""
    cluster, stopped = parted.cluster, parted.cluster.data[0]
    name = parted.on(stopped, 1)[0]
    with stopped.frozen():
        first = cluster.ask_one("fetch_file", file_name=name)
        wait_for_state(cluster, stopped, "down")
        for reply in (first, cluster.ask_one("fetch_file", file_name=name)):
            assert ("error", "timeout") == (reply["status"], reply["code"])
    parted.check()


@contextmanager
def unreachable(daemon: Daemon) -> Iterator[None]:
    """Let connections to a daemon's port hang, as if its machine had no power: a queue that is full takes no more."""
    daemon.kill()
    address = ("127.0.0.1", daemon.ports[0])
    with ExitStack() as open_sockets:
        listening = open_sockets.enter_context(socket.create_server(address, backlog=0))
        for _ in range(8):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield
    daemon.start()


@on_reactor
async def test_an_unreachable_data_server_holds_up_nobody(reactor: Any, parted: Cut) -> None:
    """Once it is known to be down nobody dials it; it is found again when it is back."""
    cluster, gone = parted.cluster, parted.cluster.data[1]
    others = [daemon for daemon in cluster.all if daemon is not gone]
    with not_growing(others):
        async with impatient(reactor, parted) as client:
            with unreachable(gone):
                wait_for_state(cluster, gone, "down")
                for name in parted.on(gone, 2):
                    assert parted.contents[name] == await client.read(name)
                name = "1 while one was unreachable"
                parted.contents[name] = random.Random(name).randbytes(3 * BLOCK)
                await client.upload(name, parted.contents[name])
                assert gone.address not in parted.places(name)
        parted.check()


# The metadata server


@on_reactor
async def test_a_stopped_metadata_server_is_an_error_in_time(reactor: Any, parted: Cut) -> None:
    """Whatever is asked of it ends in an error, none of it piles up, and the same client goes on afterwards."""
    cluster = parted.cluster
    name = next(iter(parted.contents))
    with not_growing(cluster.all):
        async with impatient(reactor, parted) as client:
            assert parted.contents[name] == await client.read(name)
            with cluster.meta.frozen():
                asking: list[Deferred[Any]] = [
                    client.read(name),
                    client.stat(name),
                    client.upload("late", b"late"),
                    client.delete("late"),
                ]
                asking += [client.stat(f"{number}") for number in range(30)]
                for each in asking:
                    each.addErrback(lambda failure: failure)
                for each in asking:
                    await no_answer(each)
            assert parted.contents[name] == await client.read(name)
            await client.upload("1 afterwards", b"afterwards")
            parted.contents["1 afterwards"] = b"afterwards"
        parted.check()


# A client


@contextmanager
def large_client(parted: Cut, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run filefly-client until it is to end, or to be killed."""
    command = [f"{BIN}/filefly-client", "--metadata-addr", parted.cluster.meta.address, *arguments]
    with subprocess.Popen(command, cwd=parted.cluster.folder, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


async def others_go_on(parted: Cut, client: Client) -> None:
    """See that files are stored and read."""
    for replicas in (1, 2):
        name = f"{replicas} of others"
        parted.contents[name] = random.Random(name).randbytes(2 * BLOCK)
        await client.upload(name, parted.contents[name], replicas=replicas)
        assert parted.contents[name] == await client.read(name)
        assert parted.contents[name] == parted.cluster.fetch(name)


@on_reactor
async def test_a_stopped_uploader_holds_up_nobody(reactor: Any, parted: Cut) -> None:
    """Others store and read meanwhile; what it stores once it goes on is whole, and if it dies it leaves nothing."""
    cluster = parted.cluster
    data = random.Random("large").randbytes(LARGE)
    (cluster.folder / "large").write_bytes(data)
    with not_growing(cluster.all):
        async with impatient(reactor, parted) as client:
            for goes_on in (True, False):
                before = block_count(cluster)
                with large_client(parted, "upload", "-q", "large") as uploader:
                    wait_until(lambda: block_count(cluster) > before + 20, "blocks to be stored")  # noqa: B023
                    uploader.send_signal(signal.SIGSTOP)
                    assert uploader.poll() is None
                    await others_go_on(parted, client)
                    if goes_on:
                        uploader.send_signal(signal.SIGCONT)
                        assert 0 == uploader.wait(DEADLINE_SECONDS)
            assert data == cluster.client("cat", "large").stdout
            await client.delete("large")
    parted.check()


def block_count(cluster: Processes) -> int:
    """Return how many block files there are."""
    storages = [cluster.storage(number) for number in range(1, len(cluster.data) + 1)]
    return sum(file.name[0] != "." for storage in storages for file in storage.iterdir())


@on_reactor
async def test_a_stopped_reader_holds_up_nobody(reactor: Any, parted: Cut) -> None:
    """Others store and read meanwhile, and what it has asked for does not pile up; once it goes on it gets it all."""
    cluster = parted.cluster
    data = random.Random("large").randbytes(LARGE)
    (cluster.folder / "large").write_bytes(data)
    cluster.client("upload", "-q", "large")
    with not_growing(cluster.all):
        async with impatient(reactor, parted) as client:
            with (
                large_client(parted, "cat", "large", stdout=subprocess.PIPE) as reader,
                connect(cluster.meta.ports[0]) as fetching,
            ):
                assert reader.stdout is not None
                first = reader.stdout.read(1)
                reader.send_signal(signal.SIGSTOP)
                fetching.sendall(b'{"command":"fetch_file","file_name":"large","raw":true}\n')
                fetching.shutdown(socket.SHUT_WR)
                await others_go_on(parted, client)
                reader.send_signal(signal.SIGCONT)
                assert data == first + reader.stdout.read()
                with fetching.makefile("rb") as answer:
                    assert b'"status":"ok"' in answer.readline()
                    assert data == answer.read()
            await client.delete("large")
    parted.check()


# Everybody, again and again


@pytest.mark.slow
def test_many_partitions_lose_nothing_acknowledged(tmp_path: Path) -> None:
    """Servers and clients are cut off one after another while clients are at work; prints what was done."""
    chance = random.Random(2026)
    options = {
        "block-size": SMALL_BLOCK,
        "trash-grace": 0,
        "pending-ttl": 30,
        "health-interval": 1,
        "down-after": 2,
        "repair-delay": 1,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", f"{value}")]
    with processes(tmp_path, *words, data_servers=3) as cluster:
        wait_until_up(cluster)
        crowd = Crowd(cluster)
        try:
            with not_growing(cluster.all):
                crowd.start(3, timeout_seconds=2)
                everybody: Sequence[Daemon | BusyProcess] = [*cluster.all, *crowd.clients]
                for _ in range(SLOW_ROUNDS):
                    crowd.wait_for_steps(chance.randrange(10, 60))
                    with chance.choice(everybody).frozen():
                        crowd.wait_for_steps(CUT_OFF_STEPS)
                crowd.wait_for_steps(20)
                operations = crowd.stop()
            print(f"partitions: {SLOW_ROUNDS} times one was cut off, {check(cluster, operations)}")
        finally:
            crowd.kill()
