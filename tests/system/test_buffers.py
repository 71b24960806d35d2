"""Long lines by many at once, and requests without end: all are answered, in memory that does not grow with them."""

import base64
import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest

from filefly.units import MIB
from tests.system.processes import Daemon, Processes, connect, processes, talk

MEMORY_LIMIT = 150 * MIB
STORES = 10
PINGS = 10_000
PING = b'{"command":"ping"}\n'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run a data server and a metadata server."""
    with processes(tmp_path_factory.mktemp("buffers"), data_servers=1) as running:
        yield running


@pytest.fixture
def data(cluster: Processes) -> Daemon:
    """Return the data server with its peak so far forgotten."""
    cluster.data[0].forget_peak_memory()
    return cluster.data[0]


def test_many_large_blocks_in_base64_are_all_stored(cluster: Processes, data: Daemon) -> None:
    """8 MiB each and at once: they take turns, and never have more memory than all may have together."""
    blocks = {f"b-{number}": os.urandom(8 * MIB) for number in range(STORES)}

    def store(block_id: str) -> str:
        request = {"command": "store", "block_id": block_id, "data": base64.b64encode(blocks[block_id]).decode()}
        return str(json.loads(talk(data.ports[0], json.dumps(request).encode() + b"\n"))["status"])

    with ThreadPoolExecutor(STORES) as at_once:
        assert ["ok"] * STORES == list(at_once.map(store, blocks))
    assert blocks == {name: content for name, content in cluster.block_files(1).items() if name.startswith("b-")}
    assert data.peak_memory() < MEMORY_LIMIT


def test_requests_without_end_are_answered_one_by_one(data: Daemon) -> None:
    """10,000 of them are sent before a reply is read; what is not yet looked at stays with the kernel."""
    with connect(data.ports[0]) as peer:
        sending = Thread(target=_send, args=(peer, PING * PINGS))
        sending.start()
        with peer.makefile("rb") as replies:
            assert PINGS == sum(b'"pong":true' in replies.readline() for _ in range(PINGS))
        sending.join()
    assert data.peak_memory() < 80 * MIB


def _send(peer: socket.socket, requests: bytes) -> None:
    peer.sendall(requests)
