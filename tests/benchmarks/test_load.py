"""The load generator checks what it is answered, however it comes."""

import json
import socket
from argparse import Namespace
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from benchmarks.load.alternation import alternate
from benchmarks.load.generator import Conversation, Wrong
from benchmarks.load.works import BLOCK_SIZE, WORKS, Unexpected, Work, block

GIVEN = Namespace(count=3, prefix="b", names=200, page=10)
OK = b'{"status":"ok","size":1024,"crc32c":"00000000"}\n'
BLOCK = b'{"id":"b-0","replicas":[{"data_server":"x"}]}'
PLAN = b'{"status":"ok","metadata":{"generation":7,"state":"pending","blocks":[' + BLOCK + b"]}}\n"
COMMITTED = b'{"status":"ok","metadata":{"state":"committed"}}\n'


@contextmanager
def conversation(work: Work) -> Iterator[tuple[Conversation, socket.socket]]:
    """Give a conversation about some work and the server's end of its connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield Conversation(ours, array("d"), work.scripts()), theirs


def lines(server: socket.socket) -> list[dict[str, object]]:
    """Return the requests that have come, without the bytes of blocks."""
    received = server.recv(1024 * 1024)
    return [json.loads(line[line.index(b"{") :]) for line in received.split(b"\n") if b'"command"' in line]


def test_a_connection_has_as_many_requests_under_way_as_asked_for() -> None:
    """A reply is followed by the next request until none is left."""
    with conversation(WORKS["store"](GIVEN)) as (client, server):
        client.start(2)
        assert ["b-0", "b-1"] == [request["block_id"] for request in lines(server)]
        server.sendall(OK)
        client.receive()
        assert ["b-2"] == [request["block_id"] for request in lines(server)]
        server.sendall(OK + OK)
        client.receive()

        assert client.over
        assert 3 == len(client.latencies)


def test_a_reply_may_come_in_pieces() -> None:
    """Nothing is taken for a reply before its line and its bytes are there."""
    with conversation(WORKS["retrieve"](GIVEN)) as (client, server):
        client.start(1)
        [request] = lines(server)
        number = int(str(request["block_id"]).removeprefix("b-"))
        reply = OK + block(number)
        for piece in (reply[:10], reply[10:60], reply[60:]):
            assert not client.latencies
            server.sendall(piece)
            client.receive()

        assert 1 == len(client.latencies)


def test_another_block_than_the_one_asked_for_ends_the_load() -> None:
    """Every byte is compared."""
    with conversation(WORKS["retrieve"](GIVEN)) as (client, server):
        client.start(1)
        server.sendall(OK + bytes(BLOCK_SIZE - 1) + b"\x09")
        with pytest.raises(Unexpected):
            client.receive()


def test_an_error_ends_the_load() -> None:
    """A refused request is not counted as a quick one."""
    with conversation(WORKS["store"](GIVEN)) as (client, server):
        client.start(1)
        server.sendall(b'{"status":"error","error":"disk full","code":"disk_full"}\n')
        with pytest.raises(Wrong, match="disk_full"):
            client.receive()


def test_a_closed_connection_ends_the_load() -> None:
    """Instead of waiting for ever."""
    with conversation(WORKS["store"](GIVEN)) as (client, server):
        client.start(1)
        server.shutdown(socket.SHUT_WR)
        with pytest.raises(Wrong, match="closed"):
            client.receive()


def test_a_pair_is_a_plan_and_the_commit_of_that_plan() -> None:
    """The second request is made of the first reply, and the next pair begins after it."""
    with conversation(WORKS["pairs"](GIVEN)) as (client, server):
        client.start(1)
        assert [("store_file", "b/0")] == [(request["command"], request["file_name"]) for request in lines(server)]
        server.sendall(PLAN)
        client.receive()
        stored = {"id": "b-0", "crc32c": "00000000", "replicas": [{"data_server": "x"}]}
        assert [{"command": "complete_file", "generation": 7, "blocks": [stored]}] == lines(server)
        server.sendall(COMMITTED)
        client.receive()
        assert ["b/1"] == [request["file_name"] for request in lines(server)]


@pytest.mark.parametrize(("work", "reply"), [("metadata", PLAN), ("plan", COMMITTED)])
def test_a_plan_and_a_file_are_not_taken_for_each_other(work: str, reply: bytes) -> None:
    """An open plan is no file."""
    with conversation(WORKS[work](GIVEN)) as (client, server):
        client.start(1)
        server.sendall(reply)
        with pytest.raises(Unexpected):
            client.receive()


def test_a_page_has_to_be_full() -> None:
    """A short page would be a quick one."""
    with conversation(WORKS["list"](GIVEN)) as (client, server):
        client.start(1)
        server.sendall(json.dumps({"status": "ok", "files": [{}] * 9}, separators=(",", ":")).encode() + b"\n")
        with pytest.raises(Unexpected):
            client.receive()


def test_two_servers_are_asked_in_turn_and_each_has_its_own_median() -> None:
    """Each is asked as much as the other, and not before the other has answered."""
    asked: list[str] = []

    def answer(name: str, server: socket.socket) -> None:
        for _number in range(GIVEN.count):
            server.recv(64 * 1024)
            asked.append(name)
            server.sendall(OK)

    work = WORKS["store"](GIVEN)
    with conversation(work) as (first, one), conversation(work) as (second, other):
        threads = [Thread(target=answer, args=each) for each in (("one", one), ("other", other))]
        for thread in threads:
            thread.start()
        medians = alternate([first, second], [work, work])
        for thread in threads:
            thread.join()

    assert ["other", "one", "one", "other", "other", "one"] == asked
    assert [sorted(each.latencies)[1] for each in (first, second)] == medians
