import itertools
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from filefly.daemon import failures
from filefly.daemon.failures import Failures
from filefly.daemon.guard import Session
from filefly.daemon.protocol import ServerFactory, ServerProtocol, Verbs
from filefly.data.server import DataServer
from filefly.errors import DiskFull
from filefly.threads import InThread
from filefly.wire.blocks import Store
from filefly.wire.codec import commands_of
from filefly.wire.framing import DEFAULT_MAX_LINE, Conversation
from filefly.wire.messages import Ping, Pong, Reply, Request
from tests.daemon.test_guard import AnyGuard, KnownSecret
from tests.data.disks import open_store
from tests.peer import HeldThreads, Peer, inline

KIB = 1024
MIB = 1024 * KIB
PONG = b'{"status":"ok","pong":true}\n'


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def stored(data: bytes) -> bytes:
    return b'{"status":"ok","size":%d,"crc32c":"%08x"}\n' % (len(data), crc32c(data))


def error(sentence: str, code: str = "bad_request") -> bytes:
    return b'{"status":"error","error":"%s","code":"%s"}\n' % (sentence.encode(), code.encode())


class Server:
    """A data server in memory, but with real files."""

    def __init__(self, verbs: Verbs, max_line: int = DEFAULT_MAX_LINE) -> None:
        self.clock = Clock()
        self.factory = ServerFactory(self.clock, verbs, max_line)

    def connect(self) -> Peer:
        return Peer(self.factory.buildProtocol(None))

    def settle(self) -> None:
        """Let the reactor have its turns until all that is due is done."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def answers(self, *packets: bytes) -> bytes:
        """Return what a new peer receives that sends `packets` and then ends its input."""
        peer = self.connect()
        peer.give(*packets)
        peer.end_input()
        self.settle()
        received: bytes = peer.transport.value()
        assert peer.transport.disconnecting
        peer.hang_up()
        return received


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def new_server(folder: Path) -> Iterator[Callable[..., Server]]:
    stores = []

    def make(in_thread: InThread = inline, max_line: int = DEFAULT_MAX_LINE, max_block_size: int = 64 * MIB) -> Server:
        store = open_store(folder, max_block_size=max_block_size)
        stores.append(store)
        return Server(DataServer(store, in_thread, Clock()), max_line)

    yield make
    for store in stores:
        store.storage.release()


@pytest.fixture
def server(new_server: Callable[..., Server]) -> Server:
    return new_server(max_block_size=1000)


HELLO = b'hello\r\n\n{"command":"ping"}\n\xff\0world'
TRAP = b'{"command":"delete","block_id":"a-0"}\n'

MIXED: list[tuple[bytes, bytes]] = [
    (b'{"command":"ping"}\n', PONG),
    (b'{"command":"ping"}\r\n', PONG),
    (b"\n\r\n  \n\n", b""),
    (line(command="store", block_id="a-0", size=len(HELLO)) + HELLO, stored(HELLO)),
    (line(command="retrieve", block_id="a-0", raw=True), stored(HELLO) + HELLO),
    (line(command="store", block_id="b/\u00e9-0", data=b64encode(HELLO).decode()), stored(HELLO)),
    (line(command="store", block_id="c-0", size=0), stored(b"")),
    (
        line(command="retrieve", block_id="b/\u00e9-0", offset=1, length=4),
        b'{"size":4,"crc32c":"%08x","data":"ZWxsbw==","status":"ok"}\n' % crc32c(b"ello"),
    ),
    (line(command="dance", size=7), error("unknown command", "unknown_command")),
    (b"not json\n", b""),
    (
        line(command="store", block_id="../x", size=len(TRAP)) + TRAP,
        error("block_id '../x' has an empty, '.' or '..' part"),
    ),
    (line(command="store", size=len(TRAP)) + TRAP, error("missing block_id")),
    (line(command="store", block_id="a-0", size=len(TRAP), crc32c="X") + TRAP, b""),
    (
        line(command="store", block_id="a-0", size=len(TRAP), crc32c="00000000") + TRAP,
        error(f"crc32c is {crc32c(TRAP):08x}, expected 00000000", "corrupt"),
    ),
    (line(command="store", block_id="d-0", data="*"), error("invalid base64 data")),
    (line(command="store", block_id="d-0"), error("missing size or data")),
    (line(command="retrieve", block_id="d-0", raw=True), error("block not found", "not_found")),
    (line(command="stat", block_id="a-0"), b'{"status":"ok","size":%d}\n' % len(HELLO)),
    (
        line(command="list_blocks", after="a-0", limit=1),
        b'{"status":"ok","blocks":[{"id":"b/\xc3\xa9-0","size":34}],"next":"b/\xc3\xa9-0"}\n',
    ),
    (line(command="delete", block_id="c-0"), b'{"status":"ok"}\n'),
    (b'{"command":"ping"}', PONG),
]
CONVERSATION = b"".join(sent for sent, _reply in MIXED)


def check_mixed(replies: bytes) -> None:
    for sent, reply in MIXED:
        if reply:
            assert replies.startswith(reply), sent
            replies = replies.removeprefix(reply)
        elif sent.strip():
            first, _end, replies = replies.partition(b"\n")
            assert b"bad_request" in first
    assert b"" == replies


def test_each_request_of_a_mixed_conversation_is_answered(server: Server) -> None:
    """Lines, payloads, blank lines and errors in one packet get the replies that each alone would get."""
    check_mixed(server.answers(CONVERSATION))


def test_every_split_into_two_packets_gets_the_same_replies(server: Server) -> None:
    """Where TCP cuts a conversation means nothing."""
    expected = server.answers(CONVERSATION)
    for cut in range(1, len(CONVERSATION)):
        assert expected == server.answers(CONVERSATION[:cut], CONVERSATION[cut:]), cut


def test_single_bytes_get_the_same_replies(server: Server) -> None:
    """Packets of one byte are a conversation, too."""
    assert server.answers(CONVERSATION) == server.answers(*(CONVERSATION[n : n + 1] for n in range(len(CONVERSATION))))


@given(st.lists(st.integers(1, len(CONVERSATION)), max_size=12, unique=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_random_splits_get_the_same_replies(server: Server, cuts: list[int]) -> None:
    """However many packets there are, the replies are the same."""
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    packets = [CONVERSATION[begin:end] for begin, end in itertools.pairwise(edges)]
    assert server.answers(CONVERSATION) == server.answers(*packets)


@pytest.mark.parametrize("cut", range(0, len(CONVERSATION), 97))
def test_slow_threads_change_no_reply(new_server: Callable[..., Server], cut: int) -> None:
    """What arrives while a request is in a thread waits for its turn."""
    threads = HeldThreads()
    server = new_server(threads, max_block_size=1000)
    peer = server.connect()
    peer.give(CONVERSATION[:cut], CONVERSATION[cut:])
    peer.end_input()
    threads.run_all()
    check_mixed(peer.transport.value())
    assert peer.transport.disconnecting
    peer.hang_up()


def test_a_peer_that_ends_its_input_gets_every_reply(new_server: Callable[..., Server]) -> None:
    """`nc -N` sees the replies that were still being computed when it closed its side."""
    threads = HeldThreads()
    server = new_server(threads)
    peer = server.connect()
    peer.give(line(command="stat", block_id="a-0") * 3)
    peer.end_input()
    before = peer.transport.value()
    threads.run_all()
    assert (b"", error("block not found", "not_found") * 3) == (before, peer.transport.value())
    assert peer.transport.disconnecting
    peer.hang_up()


def test_a_peer_that_says_nothing_gets_nothing(server: Server) -> None:
    """A connection without a request is closed without a reply."""
    assert b"" == server.answers()


def test_900_requests_of_one_packet_are_answered_in_order(server: Server) -> None:
    """A client may send all it wants to know at once."""
    packet = b"".join(line(command="store", block_id=f"n-{n}", size=n % 7) + b"x" * (n % 7) for n in range(900))
    assert b"".join(stored(b"x" * (n % 7)) for n in range(900)) == server.answers(packet)


def test_who_asks_much_at_once_does_not_keep_others_waiting(server: Server) -> None:
    """After a while others have a turn, though each request could be answered at once."""
    greedy, modest = server.connect(), server.connect()
    greedy.give(line(command="ping") * 1000)
    modest.give(line(command="ping"))
    answered = greedy.transport.value().count(PONG)
    assert PONG == modest.transport.value()
    server.settle()
    assert (64, 1000) == (answered, greedy.transport.value().count(PONG))
    greedy.hang_up()
    modest.hang_up()


def test_requests_take_effect_one_after_another(server: Server) -> None:
    """A later request of a connection sees what an earlier one did."""
    one, two = b"one", b"three"
    assert stored(one) + stored(two) + b'{"status":"ok","size":5}\n' + b'{"status":"ok"}\n' + error(
        "block not found", "not_found"
    ) == server.answers(
        line(command="store", block_id="a-0", size=3) + one,
        line(command="store", block_id="a-0", size=5) + two,
        line(command="stat", block_id="a-0"),
        line(command="delete", block_id="a-0"),
        line(command="stat", block_id="a-0"),
    )


def test_the_next_request_waits_for_the_last(new_server: Callable[..., Server]) -> None:
    """A request that would be ready at once does not overtake one that is in a thread."""
    threads = HeldThreads()
    peer = new_server(threads).connect()
    peer.give(line(command="stat", block_id="a-0"), line(command="ping"))
    before = peer.transport.value()
    threads.run_all()
    assert (b"", error("block not found", "not_found") + PONG) == (before, peer.transport.value())
    peer.hang_up()


# Payloads


@pytest.mark.parametrize(
    ("request_fields", "sentence", "code"),
    [
        ({"block_id": "../x"}, "block_id '../x' has an empty, '.' or '..' part", "bad_request"),
        ({"block_id": ""}, "missing block_id", "bad_request"),
        ({"block_id": "x" * 256}, "block_id takes more than 255 bytes on disk", "bad_request"),
        ({}, "missing block_id", "bad_request"),
        ({"block_id": 7}, "block_id: expected a string, got an integer", "bad_request"),
        ({"block_id": "a-0", "crc32c": 7}, "crc32c: expected a string, got an integer", "bad_request"),
        ({"block_id": "a-0", "crc32c": "00000000"}, f"crc32c is {crc32c(TRAP):08x}, expected 00000000", "corrupt"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_payload_of_a_rejected_store_is_dropped(
    server: Server, folder: Path, together: bool, request_fields: dict[str, object], sentence: str, code: str
) -> None:
    """The content of a file is never read as commands, and the next line is answered."""
    (folder / "a-0").write_bytes(b"still here")
    packets = [line(command="store", size=len(TRAP), **request_fields), TRAP, line(command="ping")]
    replies = server.answers(*([b"".join(packets)] if together else packets))
    assert error(sentence, code) + PONG == replies
    assert b"still here" == (folder / "a-0").read_bytes()


class OnlyPing:
    """Verbs of a server that knows no `store`."""

    commands = commands_of(Ping)
    max_payload = 1000

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        return Pong(pong=True)


def test_the_payload_of_an_unknown_store_is_dropped() -> None:
    """A server that knows no `store` does not take a payload for commands either."""
    server = Server(OnlyPing())
    assert error("unknown command", "unknown_command") + PONG == server.answers(
        line(command="store", block_id="a-0", size=len(TRAP)) + TRAP + line(command="ping")
    )


class Refusing:
    """Says no to whatever is asked, each time with the same error: those of one transaction may share one."""

    commands = commands_of(Store)
    max_payload = MIB
    error = DiskFull("full")

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        raise self.error


def test_one_error_may_be_the_answer_to_several_peers() -> None:
    """One of which is still sending its payload when the other one is answered."""
    server = Server(Refusing())
    slow, quick = server.connect(), server.connect()
    slow.give(line(command="store", block_id="a-0", size=4) + b"ab")
    quick.give(line(command="store", block_id="a-0", size=4) + b"abcd")
    slow.give(b"cd")
    for peer in (quick, slow):
        assert error("full", "disk_full") == peer.transport.value()
        peer.hang_up()


def test_data_in_base64_means_no_payload(server: Server) -> None:
    """A size beside the data is not believed."""
    assert stored(b"hi") + PONG == server.answers(
        line(command="store", block_id="a-0", data="aGk=", size=19) + line(command="ping")
    )


@pytest.mark.parametrize("size", [30.0, True, "30", None, -1, 2**53, 1e400, [30]])
def test_an_invalid_size_ends_the_conversation(server: Server, folder: Path, size: object) -> None:
    """Where nobody can tell how long a payload is, nothing behind it is interpreted."""
    (folder / "a-0").touch()
    peer = server.connect()
    peer.give(line(command="store", block_id="b-0", size=size).replace(b"Infinity", b"30.5") + TRAP, TRAP)
    assert error("size: expected an integer from 0 to 9007199254740991") == peer.transport.value()
    assert peer.transport.sending_ended
    assert (folder / "a-0").exists()
    peer.hang_up()


def test_a_size_with_data_of_null_ends_the_conversation(server: Server, folder: Path) -> None:
    """Whether a payload follows such a request nobody can tell."""
    (folder / "a-0").touch()
    peer = server.connect()
    peer.give(line(command="store", block_id="b-0", data=None, size=len(TRAP)) + TRAP)
    assert error("data: expected a string, got null") == peer.transport.value()
    assert peer.transport.sending_ended
    assert (folder / "a-0").exists()
    peer.hang_up()


def test_a_size_over_the_limit_ends_the_conversation(server: Server, folder: Path) -> None:
    """A block that is too large is refused before it is received, with the option's name."""
    (folder / "a-0").touch()
    peer = server.connect()
    peer.give(line(command="store", block_id="b-0", size=1001) + TRAP * 99)
    assert error("size is over the limit of 1000 bytes (--max-block-size)", "too_large") == peer.transport.value()
    assert peer.transport.sending_ended
    assert (folder / "a-0").exists()
    peer.hang_up()


def test_a_block_as_large_as_the_limit_is_stored(server: Server) -> None:
    """The limit itself is allowed."""
    data = b"x" * 1000
    assert stored(data) == server.answers(line(command="store", block_id="a-0", size=1000) + data)


def test_base64_over_the_limit_does_not_end_the_conversation(server: Server) -> None:
    """Where the next line begins is known."""
    assert error("block is over the limit of 1000 bytes (--max-block-size)", "too_large") + PONG == server.answers(
        line(command="store", block_id="a-0", data=b64encode(b"x" * 1001).decode()) + line(command="ping")
    )


def test_a_payload_that_ends_early_stores_nothing(server: Server, folder: Path) -> None:
    """The reply says how much came."""
    assert error("payload ended after 7 of 30 bytes") == server.answers(
        line(command="store", block_id="a-0", size=30) + b"0123456"
    )
    assert not (folder / "a-0").exists()
    assert [] == list((folder / ".incoming").iterdir())


def test_a_rejected_payload_that_ends_early_is_answered(server: Server) -> None:
    """One reply for one request, whatever else is wrong with it."""
    replies = server.answers(line(command="store", block_id="../x", size=30) + b"0123456")
    assert 1 == replies.count(b'"status":"error"')


@pytest.mark.parametrize("sent", [0, 1, MIB + 1, 3 * MIB - 1])
def test_a_connection_lost_inside_a_payload_leaves_nothing(
    new_server: Callable[..., Server], folder: Path, sent: int
) -> None:
    """A client that dies leaves no block, no temporary file and no conversation."""
    server = new_server()
    peer = server.connect()
    peer.give(line(command="store", block_id="a-0", size=3 * MIB) + b"x" * sent)
    peer.hang_up()
    assert not (folder / "a-0").exists()
    assert [] == list((folder / ".incoming").iterdir())
    assert {} == server.factory.conversations


def test_a_connection_lost_during_a_write_leaves_nothing(new_server: Callable[..., Server], folder: Path) -> None:
    """A write that is under way when the client dies is waited for, and its file removed."""
    threads = HeldThreads()
    server = new_server(threads)
    peer = server.connect()
    peer.give(line(command="store", block_id="a-0", size=3 * MIB) + b"x" * 2 * MIB)
    peer.hang_up()
    assert 1 == threads.held
    threads.run_all()
    assert [] == list((folder / ".incoming").iterdir())
    assert {} == server.factory.conversations


def test_a_connection_lost_during_the_commit_is_forgotten(new_server: Callable[..., Server], folder: Path) -> None:
    """A block whose commit was under way is there, whole, and nothing else is."""
    threads = HeldThreads()
    server = new_server(threads)
    peer = server.connect()
    peer.give(line(command="store", block_id="a-0", size=3) + b"abc")
    peer.hang_up()
    threads.run_all()
    assert b"abc" == (folder / "a-0").read_bytes()
    assert [] == list((folder / ".incoming").iterdir())
    assert {} == server.factory.conversations


# Lines


def test_a_line_over_the_limit_is_answered_with_its_option(new_server: Callable[..., Server]) -> None:
    """The sender learns which limit it is."""
    server = new_server(max_line=100)
    peer = server.connect()
    peer.give(line(command="ping"), b"x" * 101)
    assert PONG + error("line is over the limit of 100 bytes (--max-line)", "too_large") == peer.transport.value()
    peer.hang_up()


def test_nothing_behind_a_line_over_the_limit_is_interpreted(new_server: Callable[..., Server]) -> None:
    """What follows is dropped, and the connection closed gently."""
    server = new_server(max_line=100)
    peer = server.connect()
    peer.give(b"x" * 101)
    before = peer.transport.value()
    peer.give(b"\n", line(command="ping"), line(command="ping"))
    assert before == peer.transport.value()
    assert (True, False) == (peer.transport.sending_ended, peer.transport.disconnecting)
    peer.end_input()
    assert peer.transport.disconnecting
    peer.hang_up()


@pytest.mark.parametrize("request_", [b"POST / HTTP/1.1\r\n", b"get /a?b=%7B HTTP/1.0\n", b"PRI * HTTP/2.0\r\n"])
def test_a_web_page_gives_no_orders(server: Server, folder: Path, request_: bytes) -> None:
    """A browser that is on the same machine would pass on what a page of anybody's has chosen."""
    body = line(command="store", block_id="a-0", data="YQ==")
    received = server.answers(request_ + b"Host: localhost:9000\r\n\r\n" + body, body)
    assert error("this is no web server: a request is one line of JSON") == received
    assert [] == [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_who_guesses_too_much_at_once_is_not_heard_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and closed: another guess takes another connection."""
    monkeypatch.setattr(failures, "_MOST_WAITING_OF_ONE", 2)
    clock = Clock()
    guard = AnyGuard(KnownSecret(), clock.seconds, Failures(clock, free=0))
    factory = ServerFactory(clock, Failing(), guard=guard)
    peers = [Peer(factory.buildProtocol(None)) for _ in range(3)]
    for peer in peers:
        peer.give(line(command="auth", token="x") * 2)
    sentence = "too many wrong tokens or proofs wait for their answers; try again later"
    assert [b"", b"", error(sentence, "busy")] == [bytes(peer.transport.value()) for peer in peers]
    assert [False, False, True] == [peer.transport.sending_ended for peer in peers]
    for peer in peers:
        peer.hang_up()
    clock.advance(60)


def test_who_goes_on_sending_after_a_line_over_the_limit_is_cut_off(new_server: Callable[..., Server]) -> None:
    """Gentleness has a deadline."""
    server = new_server(max_line=100)
    peer = server.connect()
    peer.give(*[b"x" * 101] * 3)
    before = peer.transport.disconnected
    server.clock.advance(10)
    assert (False, True) == (before, peer.transport.disconnected)
    peer.hang_up()


def test_a_conversation_that_was_ended_gently_is_over_when_the_peer_is_gone(new_server: Callable[..., Server]) -> None:
    """A connection that lingers belongs to the factory until it is lost."""
    server = new_server(max_line=100)
    peer = server.connect()
    peer.give(b"x" * 101)
    before = len(server.factory.conversations)
    peer.hang_up()
    assert (1, {}) == (before, server.factory.conversations)


# A peer that does not read


def test_who_does_not_read_gets_one_reply(server: Server) -> None:
    """Requests wait while the replies are not taken."""
    peer = server.connect()
    peer.stop_reading()
    peer.give(line(command="ping") * 10)
    before = peer.transport.value()
    peer.read_on()
    assert (PONG, PONG * 10) == (before, peer.transport.value())
    peer.hang_up()


def test_who_does_not_read_is_not_read_from(server: Server) -> None:
    """A peer that only asks takes no memory: its requests stay with the kernel."""
    peer = server.connect()
    peer.stop_reading()
    packet = line(command="ping") * (64 * KIB // len(line(command="ping")))
    peer.give(*[packet] * 64)
    assert peer.transport.paused
    assert peer.protocol._input.kept <= 512 * KIB
    peer.hang_up()


def test_who_reads_again_gets_all_replies(server: Server) -> None:
    """What was kept back is answered in order."""
    peer = server.connect()
    peer.stop_reading()
    packet = line(command="ping") * (64 * KIB // len(line(command="ping")))
    peer.give(*[packet] * 8)
    peer.read_on()
    for _ in range(8):
        server.settle()
        peer.give()
    server.settle()
    assert PONG * (8 * packet.count(b"\n")) == peer.transport.value()
    peer.hang_up()


def test_a_block_is_read_from_disk_as_it_is_taken(new_server: Callable[..., Server], folder: Path) -> None:
    """Who asks for a large block and does not read it makes the server hold no more than a piece or two."""
    threads = HeldThreads()
    server = new_server(threads)
    (folder / "a-0").write_bytes(b"x" * 16 * MIB)
    peer = server.connect()
    peer.stop_reading()
    peer.give(line(command="retrieve", block_id="a-0", raw=True))
    threads.run_all()
    assert len(peer.transport.value()) <= 3 * MIB
    peer.hang_up()
    threads.run_all()


def test_a_payload_is_received_as_it_is_written(new_server: Callable[..., Server]) -> None:
    """Who sends faster than the disk writes is not read from."""
    threads = HeldThreads()
    server = new_server(threads)
    peer = server.connect()
    peer.give(line(command="store", block_id="a-0", size=16 * MIB), *[b"x" * 64 * KIB] * 256)
    assert peer.transport.paused
    assert peer.protocol._input.kept <= 512 * KIB
    while not peer.transport.value():
        threads.run_next()
        peer.give()
    assert stored(b"x" * 16 * MIB) == peer.transport.value()
    peer.hang_up()


# Failures and leaving


class Failing:
    """Verbs that have a bug."""

    commands = commands_of(Ping)
    max_payload = 0

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        raise ZeroDivisionError("a bug")


def test_a_bug_is_logged_and_answered(logged_failures: list[Failure]) -> None:
    """The peer learns that it was not its fault, and the conversation goes on."""
    reply = error("the server failed; its log says why", "internal")
    assert reply * 2 == Server(Failing()).answers(line(command="ping") * 2)
    assert [ZeroDivisionError] * 2 == [failure.type for failure in logged_failures]
    logged_failures.clear()


def test_an_idle_conversation_leaves_at_once(server: Server) -> None:
    """There is nothing to wait for."""
    peer = server.connect()
    peer.give(line(command="ping") + b'{"comma')
    assert isinstance(peer.protocol, ServerProtocol)
    peer.protocol.leave()
    assert peer.transport.disconnecting
    peer.hang_up()
    assert {} == server.factory.conversations


def test_a_busy_conversation_leaves_after_its_reply(new_server: Callable[..., Server]) -> None:
    """The request in flight is answered, and no later one."""
    threads = HeldThreads()
    peer = new_server(threads).connect()
    peer.give(line(command="stat", block_id="a-0") * 2)
    assert isinstance(peer.protocol, ServerProtocol)
    peer.protocol.leave()
    before = peer.transport.disconnecting
    threads.run_all()
    assert (False, True) == (before, peer.transport.disconnecting)
    assert error("block not found", "not_found") == peer.transport.value()
    peer.hang_up()


def test_the_factory_knows_when_a_conversation_is_over(new_server: Callable[..., Server]) -> None:
    """Its Deferred fires when the connection is lost and the work for it is done."""
    threads = HeldThreads()
    server = new_server(threads)
    peer = server.connect()
    peer.give(line(command="store", block_id="a-0", size=1) + b"x")
    over: Deferred[Any] = next(iter(server.factory.conversations.values()))
    peer.hang_up()
    before = over.called
    threads.run_all()
    assert (False, True) == (before, over.called)
