"""Real connections that come to a stop are lost, also where a thread has the socket; others do not notice."""

import json
import select
from collections.abc import Iterator

import pytest

from filefly.units import MIB
from tests.system.processes import Daemon, Processes, connect, processes, wait_until

BLOCK = b"0123456789abcdef" * (MIB // 2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run servers that wait two seconds for their peers, with one large block."""
    patience = ["--peer-timeout", "2s", "--idle-timeout", "3s"]
    with processes(
        tmp_path_factory.mktemp("patience"), *patience, data_servers=1, data_options=[*patience, "--max-line", "12MiB"]
    ) as running:
        running.store_by_hand("large", BLOCK)
        yield running


@pytest.fixture
def data(cluster: Processes) -> Daemon:
    return cluster.data[0]


def test_a_payload_that_stops_is_lost(cluster: Processes, data: Daemon) -> None:
    """With an error that names the option, and nothing is left of it."""
    with connect(data.ports[0]) as peer:
        peer.sendall(b'{"command":"store","block_id":"half-0","size":8388608}\n' + b"h" * (4 * MIB))
        error = json.loads(peer.makefile("rb").readline())
    assert ("timeout", "nothing more of the payload came for 2 seconds (--peer-timeout)") == (
        error["code"],
        error["error"],
    )
    wait_until(lambda: not cluster.unfinished(), ".incoming to be emptied")


@pytest.mark.parametrize("raw", [b"true", b"false"])
def test_a_reply_that_nobody_reads_is_lost(cluster: Processes, data: Daemon, raw: bytes) -> None:
    """What did not fit between the two is not sent."""
    block = cluster.ask_one("get_metadata", file_name="large")["metadata"]["blocks"][0]["id"].encode()
    with connect(data.ports[0]) as peer:
        peer.sendall(b'{"command":"retrieve","block_id":"%s","raw":%s}\n' % (block, raw))
        reset = select.poll()
        reset.register(peer, 0)  # it tells of nothing but errors
        assert [(peer.fileno(), select.POLLERR | select.POLLHUP)] == reset.poll(60_000)


@pytest.mark.parametrize("which", ["meta", "data"])
def test_an_idle_connection_is_closed(cluster: Processes, which: str) -> None:
    """And its peer is told why."""
    with connect((cluster.meta if which == "meta" else cluster.data[0]).ports[0]) as peer:
        peer.sendall(b'{"command":"ping"}\n')
        replies = peer.makefile("rb")
        assert b'"status":"ok"' in replies.readline()
        told = b'{"status":"error","error":"no request came for 3 seconds (--idle-timeout)","code":"timeout"}\n'
        assert told == replies.read()
