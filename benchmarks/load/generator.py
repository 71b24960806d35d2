"""Load on servers over raw sockets, cheap enough to leave the machine to them.

Usage: python -m benchmarks.load.generator store|retrieve|pairs HOST:PORT[,HOST:PORT] --count N   (see `works`)

Each connection has `--depth` *scripts* under way: generators that yield a request and are sent its reply. As replies
come in the order of the requests, a connection is a queue of scripts that wait. Every reply is checked by its script.
"""

import argparse
import json
import multiprocessing
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice
from typing import Any

from attrs import define, field

from benchmarks.load.works import WORKS, Reply, Request, Script, Work
from filefly.units import KIB

_RECEIVE = 256 * KIB
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_SILENT_SECONDS = 60.0


class Wrong(Exception):
    """A server answered what it should not, or not at all."""


@define(eq=False)
class Conversation:
    """A connection, the scripts that wait for its replies, and what came of the first of them so far."""

    socket: socket.socket
    latencies: "array[float]"
    scripts: Iterator[Script]
    _waiting: deque[tuple[Script, Request, float]] = field(factory=deque)
    _received: bytearray = field(factory=bytearray)
    unsent: bytes = b""

    @property
    def over(self) -> bool:
        """Whether every reply has come, and there is no script left."""
        return not self._waiting

    def start(self, depth: int) -> None:
        """Begin as many scripts."""
        self._send([request for _ in range(depth) if (request := self._next_script()) is not None])

    def _next_script(self) -> bytes | None:
        script = next(self.scripts, None)
        if script is None:
            return None
        return self._await(script, next(script))

    def _await(self, script: Script, request: Request) -> bytes:
        self._waiting.append((script, request, time.perf_counter()))
        return request.line

    def receive(self) -> None:
        """Take what has come and send what follows from it."""
        data = self.socket.recv(_RECEIVE)
        if not data:
            raise Wrong("the server closed the connection")
        self._received += data
        now, requests = time.perf_counter(), []
        while self._waiting and (reply := self._take_reply(self._waiting[0][1])) is not None:
            script, _request, begun = self._waiting.popleft()
            self.latencies.append(now - begun)
            following = self._continue(script, reply)
            if following is not None:
                requests.append(following)
        self._send(requests)

    def _continue(self, script: Script, reply: Reply) -> bytes | None:
        try:
            return self._await(script, script.send(reply))
        except StopIteration:
            return self._next_script()

    def _take_reply(self, request: Request) -> Reply | None:
        end = self._received.find(b"\n") + 1
        if not end:
            return None
        line = bytes(self._received[:end])
        if b'"status":"ok"' not in line:
            raise Wrong(f"{request.line[:200]!r} was answered {line[:500]!r}")
        if len(self._received) < end + request.payload:
            return None
        payload = bytes(self._received[end : end + request.payload])
        del self._received[: end + request.payload]
        return Reply(line, payload)

    def _send(self, requests: Sequence[bytes]) -> None:
        self.unsent += b"".join(requests)
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes."""
        with suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]


def connect(address: str) -> socket.socket:
    """Connect to a server, ready for a conversation."""
    host, _colon, port = address.rpartition(":")
    connected = socket.create_connection((host, int(port)))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setblocking(False)
    return connected


def run(addresses: str, work: Work, connections: int, depth: int) -> dict[str, Any]:
    """Do all of `work` over `connections`, to the addresses in turn; return how fast it went and what requests took."""
    latencies = array("d")
    scripts = work.scripts()
    sockets = [connect(address) for address in islice(cycle(addresses.split(",")), connections)]
    conversations = {each.fileno(): Conversation(each, latencies, scripts) for each in sockets}
    begun = time.perf_counter()
    _drive(conversations, depth)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "per_second": work.count / seconds, **_in_milliseconds(latencies)}


def _drive(conversations: dict[int, Conversation], depth: int) -> None:
    poll = select.epoll()
    for descriptor, conversation in conversations.items():
        conversation.start(depth)
        poll.register(descriptor, select.EPOLLIN | select.EPOLLOUT)  # until all of that is sent
    active = len(conversations)
    while active:
        events = poll.poll(_SILENT_SECONDS)
        if not events:
            raise Wrong(f"nothing came for {_SILENT_SECONDS:g} seconds")
        for descriptor, event in events:
            conversation = conversations[descriptor]
            if event & ~select.EPOLLOUT:
                conversation.receive()
            if conversation.over:
                poll.unregister(descriptor)
                active -= 1
            elif event & select.EPOLLOUT or conversation.unsent:
                conversation.flush()
                poll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if conversation.unsent else 0))


def _in_milliseconds(latencies: "array[float]") -> dict[str, float]:
    in_order = sorted(latencies)
    found = {name: in_order[int(share * (len(in_order) - 1))] for name, share in _PERCENTILES.items()}
    return {name: seconds * 1000 for name, seconds in {**found, "max": in_order[-1]}.items()}


def main() -> None:
    """Do the work that the arguments name and print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("store", "retrieve", "pairs"))
    parser.add_argument("addresses")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--prefix", default="block")
    parser.add_argument(
        "--processes", type=int, default=1, help="do the work as often, with a share of the connections each"
    )
    given = parser.parse_args()
    with multiprocessing.get_context("fork").Pool(given.processes) as pool:
        reports = pool.map(_run_share, [given] * given.processes)
    slowest = max(reports, key=lambda report: report["seconds"])
    print(json.dumps({**slowest, "per_second": slowest["per_second"] * given.processes}))


def _run_share(given: argparse.Namespace) -> dict[str, Any]:
    return run(given.addresses, WORKS[given.work](given), given.connections // given.processes, given.depth)


if __name__ == "__main__":
    main()
