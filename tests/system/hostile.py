"""Peers as no server would wish for, many of one kind in a process of their own: `python -m tests.system.hostile`.

They say `ready` once all of them are at it, come back when they are thrown out, and end with their standard input.
"""

import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle

from attrs import define, field

from filefly.units import KIB
from tests.system.processes import Processes

_BYTE_SECONDS = 1.0  # those that are slow send one byte in so long
_GARBAGE_SECONDS = 0.05  # those that send garbage send a line in so long
_LOOK_SECONDS = 0.01

OF_LINE = b'{"command":"ping","x":"'
OF_PAYLOAD = b'{"command":"store","block_id":"slow-%d","size":8388608}\n' % os.getpid()
OF_LONG_LINE = b'{"command":"store","block_id":"slow-0","data":"' + b"A" * (65 * KIB)


@define(eq=False)
class Hostile:
    """One peer: what it sends first, then how often what, and whether it reads."""

    address: tuple[str, int]
    first: bytes
    more: Callable[[], bytes] | None = None
    every_seconds: float = 0
    reads: bool = False
    peer: socket.socket | None = None
    _unsent: bytes = b""
    _next: float = 0

    def connect(self) -> None:
        """Begin anew."""
        if self.peer is not None:
            self.peer.close()
        self.peer = socket.create_connection(self.address)
        self.peer.setblocking(False)
        self._unsent = self.first
        self._next = time.monotonic() + random.random() * self.every_seconds

    def go_on(self, now: float) -> None:
        """Do what is due; raises OSError if it was thrown out."""
        assert self.peer is not None
        if self.more is not None and now >= self._next and not self._unsent:
            self._next = now + self.every_seconds
            self._unsent = self.more()
        try:
            if self._unsent:
                self._unsent = self._unsent[self.peer.send(self._unsent) :]
            if self.reads:
                while self.peer.recv(64 * KIB):
                    pass
                raise ConnectionResetError
        except BlockingIOError:
            pass


def garbage() -> bytes:
    """Return a line that nobody understands."""
    return random.randbytes(random.randrange(1, 2 * KIB)).replace(b"\n", b"") + b"\n"


LARGE_REPLIES_OF_META = [
    b'{"command":"list_files","limit":10000}\n' * 4,
    b'{"command":"fetch_file","file_name":"large"}\n',
    b'{"command":"fetch_file","file_name":"large","raw":true}\n',
]


def kinds(meta: tuple[str, int], data: tuple[str, int], block: str) -> dict[str, Callable[[], Iterator[Hostile]]]:
    """Return each kind's endless row of peers."""
    one, batch = b'"block_id":"%s"' % block.encode(), b'"blocks":[{"block_id":"%s"}]' % block.encode()
    of_data = [
        b'{"command":"retrieve",%s}\n' % one,
        b'{"command":"retrieve",%s,"raw":true}\n' % one,
        b'{"command":"retrieve_blocks",%s}\n' % batch,
    ]
    slow = [(meta, OF_LINE), (data, OF_LINE), (data, OF_PAYLOAD), (meta, OF_LONG_LINE), (data, OF_LONG_LINE)]
    deaf = [(data, of_data[0]), (meta, LARGE_REPLIES_OF_META[0]), (data, of_data[1])]
    deaf += [(meta, LARGE_REPLIES_OF_META[1]), (data, of_data[2]), (meta, LARGE_REPLIES_OF_META[2])]
    return {
        "idle": lambda: (Hostile(address, b"") for address in cycle([meta, data])),
        "slow": lambda: (Hostile(*each, lambda: b"A", _BYTE_SECONDS) for each in cycle(slow)),
        "deaf": lambda: (Hostile(*each) for each in cycle(deaf)),
        "garbage": lambda: (
            Hostile(address, b"", garbage, _GARBAGE_SECONDS, reads=True) for address in cycle([meta, data])
        ),
    }


def main(kind: str, count: int, meta_port: int, data_port: int, block: str) -> None:
    """Be `count` peers of one kind until standard input ends."""
    row = kinds(("127.0.0.1", meta_port), ("127.0.0.1", data_port), block)[kind]()
    peers = [next(row) for _ in range(count)]
    ends = select.poll()  # tells who is thrown out although it does not read: one call for all costs others little

    def connect(peer: Hostile) -> None:
        if peer.peer is not None:
            ends.unregister(peer.peer)
        peer.connect()
        ends.register(peer.peer or -1, 0 if peer.reads else select.POLLRDHUP)

    for peer in peers:
        connect(peer)
    print("ready", flush=True)
    begun_anew = 0
    while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
        now = time.monotonic()
        ended = {descriptor for descriptor, _event in ends.poll(0)}
        for peer in peers:
            try:
                peer.go_on(now)
                if peer.peer is not None and not peer.reads and peer.peer.fileno() in ended:
                    raise ConnectionResetError
            except OSError:
                begun_anew += 1
                connect(peer)
    print(begun_anew, flush=True)


@define
class Crowd:
    """Hostile processes, by kind; once they are gone, how often peers of each kind were thrown out."""

    thrown_out: dict[str, int] = field(factory=dict)


@contextmanager
def crowd(cluster: Processes, block: str, **counts: int) -> Iterator[Crowd]:
    """Let so many peers of each kind be at it until the end of the block."""
    found = Crowd()
    ports = [str(cluster.meta.ports[0]), str(cluster.data[0].ports[0])]
    with ExitStack() as stack:
        running: dict[str, subprocess.Popen[bytes]] = {}
        for kind, count in counts.items():
            arguments: Sequence[str] = [sys.executable, "-m", "tests.system.hostile", kind, str(count), *ports, block]
            running[kind] = stack.enter_context(
                subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            stack.callback(running[kind].kill)
        for process in running.values():
            assert process.stdout is not None
            assert b"ready\n" == process.stdout.readline()
        yield found
        for kind, process in running.items():
            assert process.poll() is None, kind
            found.thrown_out[kind] = int(process.communicate(b"\n", timeout=60)[0])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
