"""Peers that leave half-way, never read, or dawdle: the others are served, memory is bounded, nothing is left."""

import base64
import fcntl
import json
import socket
import struct
import termios
from collections.abc import Iterator

import pytest

from filefly.units import KIB, MIB
from tests.system.processes import Daemon, Processes, connect, processes, wait_until

FILE = b"0123456789abcdef" * (256 * KIB)  # 4 MiB, four blocks
MEMORY_LIMIT = 120 * MIB
WANTED_REPLIES = 200 * MIB
PEERS = 16  # each may have 2 to 3 MiB of its payload or reply in a daemon's memory

every_way_to_leave = pytest.mark.parametrize("leave", ["FIN", "RST"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run a cluster that holds one file, `others`, which the other clients ask for."""
    with processes(tmp_path_factory.mktemp("busy"), "--block-size", "1MiB") as started:
        started.client("upload", "-q", "--name", "others", "-", stdin=FILE)
        yield started


@pytest.fixture
def busy(running: Processes) -> Processes:
    """Return that cluster with the daemons' peaks so far forgotten."""
    for daemon in running.all:
        daemon.forget_peak_memory()
    return running


def go_away(peer: socket.socket, how: str) -> None:
    """Close the connection in good order, or by a reset as a crash does."""
    if how == "RST":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def serves_others(cluster: Processes) -> None:
    """Check that each daemon answers, and that the file is read and another is written meanwhile."""
    for daemon in cluster.all:
        assert "ok" == cluster.ask_one("ping", daemon)["status"]
    assert FILE == cluster.fetch("others")
    cluster.store_by_hand("meanwhile", b"something else")
    assert b"something else" == cluster.fetch("meanwhile")


def assert_bounded(cluster: Processes) -> None:
    for daemon in cluster.all:
        assert daemon.peak_memory() <= MEMORY_LIMIT, daemon.name


def wait_for_no_unfinished(cluster: Processes) -> None:
    wait_until(lambda: not cluster.unfinished(), ".incoming to be emptied")


def unread(peer: socket.socket) -> int:
    """Return how many bytes have come that the peer has not read."""
    (count,) = struct.unpack("i", fcntl.ioctl(peer, termios.FIONREAD, b"\0" * 4))
    return int(count)


# Half a payload


@every_way_to_leave
def test_half_a_payload_leaves_nothing_behind(busy: Processes, leave: str) -> None:
    """A peer that leaves in the middle of a payload has stored no block, and its temporary file goes."""
    peer = connect(busy.data[0].ports[0])
    peer.sendall(b'{"command":"store","block_id":"half-0","size":8388608}\n' + b"h" * (4 * MIB))
    wait_until(lambda: bool(busy.unfinished()), "the payload to arrive")
    serves_others(busy)
    go_away(peer, leave)
    wait_for_no_unfinished(busy)
    assert "half-0" not in busy.block_files(1)
    assert_bounded(busy)


@every_way_to_leave
def test_half_a_payload_leaves_the_block_that_was_there(busy: Processes, leave: str) -> None:
    """A peer that leaves while it replaces a block has changed nothing."""
    name = f"kept-{leave}-0"
    busy.ask_one("store", busy.data[0], block_id=name, data=base64.b64encode(b"kept").decode())
    peer = connect(busy.data[0].ports[0])
    peer.sendall(b'{"command":"store","block_id":"%s","size":4194304}\n' % name.encode() + b"h" * (2 * MIB))
    wait_until(lambda: bool(busy.unfinished()), "the payload to arrive")
    go_away(peer, leave)
    wait_for_no_unfinished(busy)
    assert b"kept" == busy.block_files(1)[name]


def test_half_a_payload_is_told_of(busy: Processes) -> None:
    """A peer that only ends its input is told how much of the payload came."""
    with connect(busy.data[0].ports[0]) as peer:
        peer.sendall(b'{"command":"store","block_id":"told-0","size":100}\n' + b"h" * 60)
        peer.shutdown(socket.SHUT_WR)
        assert "payload ended after 60 of 100 bytes" == json.loads(peer.makefile().readline())["error"]
    wait_for_no_unfinished(busy)


def test_many_half_payloads_at_once_are_bounded(busy: Processes) -> None:
    """Sixteen peers, each half-way through a block of 4 MiB, take little memory, and leave nothing behind."""
    peers = [connect(busy.data[1].ports[0]) for _ in range(PEERS)]
    for number, peer in enumerate(peers):
        peer.sendall(b'{"command":"store","block_id":"many-%d","size":4194304}\n' % number + b"m" * (2 * MIB))
    wait_until(lambda: len(busy.unfinished()) == len(peers), "the payloads to arrive")
    serves_others(busy)
    for number, peer in enumerate(peers):
        go_away(peer, ["FIN", "RST"][number % 2])
    wait_for_no_unfinished(busy)
    assert not [name for name in busy.block_files(2) if name.startswith("many-")]
    assert_bounded(busy)


@every_way_to_leave
@pytest.mark.parametrize("which", ["meta", "data"])
def test_half_a_line_is_forgotten(busy: Processes, which: str, leave: str) -> None:
    """A peer that leaves in the middle of a long line has asked for nothing."""
    peer = connect((busy.meta if which == "meta" else busy.data[0]).ports[0])
    peer.sendall(b'{"command":"store_file","file_name":"half a line","data":"' + b"QUJD" * (2 * MIB // 4))
    serves_others(busy)
    go_away(peer, leave)
    assert "not_found" == busy.ask_one("get_metadata", file_name="half a line")["code"]
    assert_bounded(busy)


# Replies that nobody reads


def asks_and_never_reads(cluster: Processes, daemon: Daemon, request: bytes, reply_size: int) -> None:
    """Pipeline a request until its replies are 200 MiB; check that the others are served; leave."""
    with connect(daemon.ports[0]) as peer:
        peer.sendall(request * (WANTED_REPLIES // reply_size))
        wait_until(lambda: unread(peer) > 0, "the first reply")
        for _ in range(3):
            serves_others(cluster)
        assert_bounded(cluster)
    serves_others(cluster)


@pytest.mark.parametrize("raw", [b"true", b"false"], ids=["raw", "base64"])
def test_a_peer_that_never_reads_blocks_holds_nobody_up(busy: Processes, raw: bytes) -> None:
    """200 MiB of retrieves without a byte of the replies read: memory stays bounded, others read and write."""
    block = busy.ask_one("get_metadata", file_name="others")["metadata"]["blocks"][0]
    [daemon] = [each for each in busy.data if each.address == block["data_server"]]
    request = b'{"command":"retrieve","block_id":"%s","raw":%s}\n' % (block["id"].encode(), raw)
    asks_and_never_reads(busy, daemon, request, block["size"])


@pytest.mark.parametrize("raw", [b"true", b"false"], ids=["raw", "base64"])
def test_a_peer_that_never_reads_files_holds_nobody_up(busy: Processes, raw: bytes) -> None:
    """200 MiB of fetch_file without a byte of the replies read: memory stays bounded, others read and write."""
    request = b'{"command":"fetch_file","file_name":"others","raw":%s}\n' % raw
    asks_and_never_reads(busy, busy.meta, request, len(FILE))


def test_many_small_replies_that_nobody_reads_are_bounded(busy: Processes) -> None:
    """A peer that asks for small things only is not answered for ever either: its requests are left unread."""
    with connect(busy.meta.ports[0]) as peer:
        requests = b'{"command":"get_metadata","file_name":"others"}\n' * 10_000
        peer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.sendall(requests * (WANTED_REPLIES // len(requests)))
        serves_others(busy)
        assert_bounded(busy)


def test_many_peers_that_never_read_are_bounded(busy: Processes) -> None:
    """Replies to sixteen peers, none of which reads: what is ahead of each of them is small."""
    peers = [connect(busy.meta.ports[0]) for _ in range(PEERS)]
    for peer in peers:
        peer.sendall(b'{"command":"fetch_file","file_name":"others","raw":true}\n')
    wait_until(lambda: all(unread(peer) > 0 for peer in peers), "the first replies")
    serves_others(busy)
    for peer in peers:
        go_away(peer, "RST")
    serves_others(busy)
    assert_bounded(busy)


# A byte at a time


@pytest.mark.parametrize(
    ("which", "request_", "expected"),
    [
        ("meta", b'{"command":"get_metadata","file_name":"nobody"}\n', "file not found"),
        ("data", b'{"command":"store","block_id":"slow-0","size":40,"crc32c":"00000000"}\n' + b"s" * 40, "corrupt"),
        ("data", b'{"command":"retrieve","block_id":"nobody-0"}\n', "block not found"),
    ],
    ids=["get_metadata", "store", "retrieve"],
)
def test_a_peer_that_sends_a_byte_at_a_time_is_answered(
    busy: Processes, which: str, request_: bytes, expected: str
) -> None:
    """Its request is understood, and everybody else is served between two of its bytes."""
    daemon = busy.meta if which == "meta" else busy.data[0]
    with connect(daemon.ports[0]) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(len(request_)):
            peer.send(request_[number : number + 1])
            assert "ok" == busy.ask_one("ping", daemon)["status"]
        reply = json.loads(peer.makefile().readline())
    assert expected in (reply["code"], reply["error"])
    wait_for_no_unfinished(busy)


def test_a_block_sent_a_byte_at_a_time_is_stored(busy: Processes) -> None:
    """The payload may come as slowly as it likes, and is whole."""
    with connect(busy.data[0].ports[0]) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b'{"command":"store","block_id":"dawdler-0","size":256}\n' + bytes(range(256)):
            peer.send(bytes([byte]))
        serves_others(busy)
        assert 256 == json.loads(peer.makefile().readline())["size"]
    assert bytes(range(256)) == busy.block_files(1)["dawdler-0"]
    wait_for_no_unfinished(busy)
