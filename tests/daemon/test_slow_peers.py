"""How long a server waits for its peers, and what long lines hold meanwhile; time is a Clock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from filefly.daemon import patience
from filefly.daemon.failures import Failures
from filefly.daemon.guard import Guard, Session
from filefly.daemon.limits import ConnectionLimits
from filefly.daemon.protocol import ServerFactory
from filefly.units import KIB, MIB
from filefly.wire.blocks import Store
from filefly.wire.codec import commands_of, encode
from filefly.wire.framing import Conversation
from filefly.wire.messages import Ping, Pong, Reply, Request
from tests.daemon.test_guard import AnyGuard, KnownSecret, signed
from tests.peer import Peer

MAX_LINE = 4 * MIB
PING = b'{"command":"ping"}\n'
LONG = b'{"command":"ping","x":"' + b"A" * 3 * MIB + b'"}\n'
IDLE_TIMEOUT = "no request came for 600 seconds (--idle-timeout)"
LINE_TIMEOUT = "nothing more of the line came for 60 seconds (--peer-timeout)"
PAYLOAD_TIMEOUT = "nothing more of the payload came for 60 seconds (--peer-timeout)"


class Verbs:
    """Answers pings when it is told to, and takes stores' payloads."""

    commands = commands_of(Ping, Store)
    max_payload = 8 * MIB

    def __init__(self) -> None:
        self.held: list[Deferred[None]] | None = None

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        if isinstance(request, Store):
            await conversation.skip_payload()
            return Reply()
        if self.held is not None:
            wait: Deferred[None] = Deferred()
            self.held.append(wait)
            await wait
        return Pong(pong=True)


class Server:
    """A server on a Clock, with an idle time-out of ten minutes."""

    def __init__(self, guard: Guard | None = None) -> None:
        self.clock = Clock()
        self.verbs = Verbs()
        limits = ConnectionLimits(max_buffered=2 * MAX_LINE + 2 * MIB, idle_seconds=600, peer_seconds=60)
        self.factory = ServerFactory(self.clock, self.verbs, MAX_LINE, limits, guard)
        self.peers: list[Peer] = []

    def connect(self) -> Peer:
        self.peers.append(Peer(self.factory.buildProtocol(IPv4Address("TCP", "a", 1))))
        return self.peers[-1]

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)


@contextmanager
def running_server(guard: Guard | None = None) -> Iterator[Server]:
    """Run a server; in the end no conversation may be left."""
    running = Server(guard)
    yield running
    for peer in running.peers:
        if peer.protocol.lost is None:
            peer.hang_up()
    for answer in running.verbs.held or []:
        answer.callback(None)
    assert {} == running.factory.conversations


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


def errors(peer: Peer) -> list[str]:
    return [reply["error"] for reply in peer.replies() if reply["status"] == "error"]


def over(peer: Peer) -> bool:
    return bool(peer.transport.disconnecting or peer.transport.sending_ended)


def test_a_connection_without_a_request_is_closed_in_the_end(server: Server) -> None:
    """It is told why; a request begins the time anew."""
    peer = server.connect()
    server.pass_time(500)
    peer.give(PING)
    server.pass_time(590)
    assert not over(peer)
    server.pass_time(20)
    assert (True, [IDLE_TIMEOUT]) == (over(peer), errors(peer))


BEGUN: dict[str, tuple[bytes, str]] = {
    "a line": (b'{"command":', LINE_TIMEOUT),
    "a payload": (b'{"command":"store","block_id":"a-0","size":100}\nabc', PAYLOAD_TIMEOUT),
}


@pytest.mark.parametrize(("begun", "sentence"), BEGUN.values(), ids=BEGUN)
def test_who_does_not_go_on_is_told_and_lost(server: Server, begun: bytes, sentence: str) -> None:
    """The sentence names the option; who does not leave then is cut off."""
    peer = server.connect()
    peer.give(begun)
    server.pass_time(59)
    assert not over(peer)
    server.pass_time(3)
    assert (True, [sentence]) == (over(peer), errors(peer))
    server.pass_time(10)
    assert peer.transport.disconnecting
    peer.hang_up()
    assert {} == server.factory.conversations


@pytest.mark.parametrize("begun", [begun for begun, _ in BEGUN.values()], ids=BEGUN)
def test_who_goes_on_however_slowly_is_waited_for(server: Server, begun: bytes) -> None:
    """Somebody may be typing: a byte in fifty seconds is enough."""
    peer = server.connect()
    peer.give(begun)
    for _ in range(20):
        server.pass_time(50)
        peer.give(b" ")
    assert not over(peer)


def test_who_does_not_read_is_lost(server: Server) -> None:
    """Nobody can be told."""
    peer = server.connect()
    peer.stop_reading()
    peer.give(PING)
    server.pass_time(62)
    assert (True, []) == (peer.transport.disconnecting, errors(peer))


def test_an_answer_may_take_its_time(server: Server) -> None:
    """What the server itself waits for is not its peer's fault."""
    server.verbs.held = []
    peer = server.connect()
    peer.give(PING)
    server.pass_time(1000)
    assert not over(peer)
    server.verbs.held.pop().callback(None)
    assert [{"status": "ok", "pong": True}] == peer.replies()


def test_nothing_is_looked_at_when_all_are_gone(server: Server) -> None:
    """No timer is left."""
    peers = [server.connect() for _ in range(3)]
    assert 1 == len(server.clock.getDelayedCalls())
    for peer in peers:
        peer.hang_up()
    assert [] == server.clock.getDelayedCalls()


# Long lines


def give_long(peer: Peer, line: bytes) -> None:
    peer.give(*(line[at : at + 64 * KIB] for at in range(0, len(line), 64 * KIB)))


def test_a_long_line_has_room_until_it_is_answered(server: Server) -> None:
    """Twice its length, and nothing afterwards."""
    server.verbs.held = []
    peer = server.connect()
    give_long(peer, LONG)
    assert 2 * (len(LONG) - 1) <= server.factory.budget.used <= 2 * MAX_LINE
    server.verbs.held.pop().callback(None)
    assert (0, [{"status": "ok", "pong": True}]) == (server.factory.budget.used, peer.replies())


def test_long_lines_wait_for_their_turn(server: Server) -> None:
    """They are not read any further meanwhile, and all are answered."""
    server.verbs.held = []
    peers = [server.connect() for _ in range(3)]
    for peer in peers:
        give_long(peer, LONG)
    assert [False, True, True] == [peer.transport.paused for peer in peers]
    assert server.factory.budget.used <= server.factory.budget.most
    server.pass_time(1000)
    for _ in peers:
        server.verbs.held.pop().callback(None)
        for each in peers:
            each.give()
    assert [[{"status": "ok", "pong": True}]] * 3 == [peer.replies() for peer in peers]
    assert 0 == server.factory.budget.used


def test_short_requests_do_not_wait_for_long_ones(server: Server) -> None:
    """They need no room."""
    holder, waits, other = (server.connect() for _ in range(3))
    for peer in (holder, waits):
        give_long(peer, LONG[: 3 * MIB])
    other.give(PING)
    assert [{"status": "ok", "pong": True}] == other.replies()


def test_a_long_line_must_go_on(server: Server) -> None:
    """A byte in a second is not enough: others wait for its room, and have it then."""
    holder, waits = server.connect(), server.connect()
    give_long(holder, LONG[: 3 * MIB])
    give_long(waits, LONG)
    for _ in range(12):
        server.pass_time(1)
        holder.give(b"A")
    assert over(holder)
    assert "256 KiB must come in 10 seconds" in errors(holder)[0]
    assert "--max-buffered" in errors(holder)[0]
    waits.give()
    assert [{"status": "ok", "pong": True}] == waits.replies()
    assert 0 == server.factory.budget.used


def test_a_long_line_that_goes_on_is_waited_for(server: Server) -> None:
    """256 KiB in nine seconds are enough."""
    peer = server.connect()
    for at in range(0, len(LONG), 256 * KIB):
        peer.give(LONG[at : at + 256 * KIB])
        server.pass_time(9)
    assert [{"status": "ok", "pong": True}] == peer.replies()


def test_a_long_line_must_come_to_its_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a time that is given to each line: who always sends just enough would keep its room."""
    monkeypatch.setattr(patience, "_LONGEST_LINE_SECONDS", 66)
    peer = server.connect()
    give_long(peer, LONG[:MIB])
    for at in range(MIB, len(LONG) - 256 * KIB, 256 * KIB):
        server.pass_time(8)
        peer.give(LONG[at : at + 256 * KIB])
    peer.give(LONG[at + 256 * KIB :])
    give_long(peer, LONG[: 2 * MIB])
    server.pass_time(5)
    assert (False, [{"status": "ok", "pong": True}]) == (over(peer), peer.replies())
    for _ in range(8):
        peer.give(b"A" * 256 * KIB)
        server.pass_time(8)
    assert over(peer)
    assert "must come in 10 seconds, and all in 240" in errors(peer)[0]
    assert 0 == server.factory.budget.used


# Long lines of a closed cluster


class Closed(AnyGuard):
    """A guard of a closed cluster, with its secret."""

    def __init__(self, takes_tickets: bool = False) -> None:
        super().__init__(KnownSecret(), Clock().seconds, Failures(Clock()))
        self.takes_tickets = takes_tickets


def sign_in(peer: Peer) -> None:
    peer.give(encode(signed()) + b"\n")
    assert "ok" == peer.replies()[0]["status"]
    peer.transport.clear()


A_LONG_LINE = {"bit by bit": LONG, "at once": b'{"command":"ping","x":"' + b"A" * 65 * KIB + b'"}\n'}


@pytest.mark.parametrize("line", A_LONG_LINE.values(), ids=A_LONG_LINE)
def test_strangers_send_no_long_lines(line: bytes) -> None:
    """A token is short; who has signed in may."""
    with running_server(Closed()) as server:
        stranger, known = server.connect(), server.connect()
        sign_in(known)
        if line is LONG:
            give_long(stranger, line[:-2])
        else:
            stranger.give(line)
        assert (True, 0) == (over(stranger), server.factory.budget.used)
        assert ["line is over the limit of 65536 bytes for who has not signed in; sign in first"] == errors(stranger)
        give_long(known, line)
        assert [{"status": "ok", "pong": True}] == known.replies()


def test_strangers_have_room_of_their_own() -> None:
    """Where they may show tickets in their first line; daemons do not wait for theirs."""
    with running_server(Closed(takes_tickets=True)) as server:
        strangers, known = [server.connect() for _ in range(3)], server.connect()
        sign_in(known)
        for peer in strangers:
            give_long(peer, LONG[:-2])
        assert [False, True, True] == [peer.transport.paused for peer in strangers]
        give_long(known, LONG)
        assert [{"status": "ok", "pong": True}] == known.replies()
        assert (0, True) == (server.factory.budget.used, server.factory.strangers_budget.used > 0)
        for peer in strangers:
            peer.hang_up()
        assert 0 == server.factory.strangers_budget.used


def end_inside(peer: Peer) -> None:
    give_long(peer, LONG[: 2 * MIB])
    peer.end_input()


LOSSES: dict[str, Callable[[Server, Peer], Any]] = {
    "half of a line": lambda server, peer: give_long(peer, LONG[: 2 * MIB]),
    "a line over the limit": lambda server, peer: give_long(peer, b"x" * (MAX_LINE + 1)),
    "a line of spaces": lambda server, peer: give_long(peer, b" " * 2 * MIB + b"\n"),
    "an answered line": lambda server, peer: give_long(peer, LONG),
    "a line that is no request": lambda server, peer: give_long(peer, b"x" * 2 * MIB + b"\n"),
    "the end of input inside": lambda server, peer: end_inside(peer),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_nothing_is_held_once_a_peer_is_gone(server: Server, lose: Callable[[Server, Peer], Any]) -> None:
    """Whatever it was at."""
    peer = server.connect()
    lose(server, peer)
    peer.hang_up()
    budget = server.factory.budget
    assert (0, {}, {}) == (budget.used, budget._held, budget._waiting)
    assert {} == server.factory.conversations


def test_blank_lines_hold_nothing(server: Server) -> None:
    """However long they are."""
    peer = server.connect()
    give_long(peer, b" " * 3 * MIB + b"\n")
    assert 0 == server.factory.budget.used
    peer.give(PING)
    assert [{"status": "ok", "pong": True}] == peer.replies()


def test_who_is_gone_while_it_waits_makes_room(server: Server) -> None:
    """It is not answered, and the next one has its turn."""
    server.verbs.held = []
    first, gone, last = (server.connect() for _ in range(3))
    for peer in (first, gone, last):
        give_long(peer, LONG)
    gone.hang_up()
    server.verbs.held.pop().callback(None)
    last.give()
    server.verbs.held.pop().callback(None)
    assert ([], [{"status": "ok", "pong": True}]) == (gone.replies(), last.replies())
    assert 0 == server.factory.budget.used
