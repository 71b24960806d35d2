"""Tickets: shown to data servers, and renewed in time, by a clock that the test turns."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from filefly.client.tickets import RENEWAL_SECONDS, Tickets, tickets_of_file
from filefly.errors import FileFlyError, Forbidden, NotFound, Unauthorized, Unavailable
from filefly.security.tickets import TICKET_SECONDS
from filefly.wire.messages import Metadata
from tests.peer import now

DATA_SERVER = "data:9001"


class Closed:
    """A data server that takes only certain tickets, and a metadata server that gives others each time."""

    def __init__(self, told: Mapping[str, str] | None = None) -> None:
        self.clock = Clock()
        self.valid: set[str | None] = {"old"}
        self.shown: list[str | None] = []
        self.asked = 0
        self.answers: list[Mapping[str, str] | Exception | Deferred[Mapping[str, str]]] = []
        self.tickets = Tickets(self.clock, self._ask, {DATA_SERVER: "old"} if told is None else dict(told))

    async def _ask(self) -> Mapping[str, str]:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Deferred):
            return await answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _once(self, ticket: str | None) -> str:
        self.shown.append(ticket)
        if ticket not in self.valid:
            raise Unauthorized("the ticket has expired")
        return "done"

    def ask(self, once: Callable[[str | None], Awaitable[str]] | None = None) -> Deferred[str]:
        return Deferred.fromCoroutine(self.tickets.shown(DATA_SERVER, once or self._once))

    def outcomes(self) -> tuple[Sequence[str | None], int]:
        """Return which tickets were shown, and how often fresh ones were asked for."""
        return self.shown, self.asked


def test_tickets_are_renewed_after_two_thirds_of_their_time() -> None:
    """The security modules, which know how long that is, take too long to load."""
    assert TICKET_SECONDS * 2 / 3 == RENEWAL_SECONDS


def test_a_ticket_is_shown_as_long_as_it_is_valid() -> None:
    """Nobody is asked for another one."""
    closed = Closed()
    for seconds in (0, RENEWAL_SECONDS - 1):
        closed.clock.advance(seconds)
        assert "done" == now(closed.ask())
    assert (["old", "old"], 0) == closed.outcomes()


def test_an_open_cluster_is_asked_for_no_tickets() -> None:
    """However long it takes."""
    closed = Closed({})
    closed.valid = {None}
    for _day in range(3):
        closed.clock.advance(86_400)
        assert "done" == now(closed.ask())
    assert ([None] * 3, 0) == closed.outcomes()


def test_a_ticket_that_is_about_to_expire_is_renewed_first() -> None:
    """Again and again: a mounted reader lasts for days."""
    closed = Closed()
    closed.answers = [{DATA_SERVER: f"new{number}"} for number in range(100)]
    for number in range(100):
        closed.valid = {f"new{number}"}
        closed.clock.advance(RENEWAL_SECONDS)
        assert "done" == now(closed.ask())
        assert "done" == now(closed.ask())
    assert (200, 100) == (len(closed.shown), closed.asked)


def test_where_nobody_renews_a_ticket_it_is_used_to_its_end() -> None:
    """The metadata server is asked again only after a minute: blocks must not wait for it each time."""
    closed = Closed()
    closed.answers = [Unavailable("down"), Unavailable("down"), {DATA_SERVER: "new"}]
    closed.clock.advance(RENEWAL_SECONDS)
    for seconds, asked in ((0, 1), (59, 1), (1, 2), (0, 2)):
        closed.clock.advance(seconds)
        assert "done" == now(closed.ask())
        assert asked == closed.asked
    assert ["old"] * 4 == closed.shown


def test_who_waits_for_a_renewal_keeps_nobody_else_waiting() -> None:
    """Others go on with what there is, which is valid for a while."""
    closed = Closed()
    waiting: Deferred[Mapping[str, str]] = Deferred()
    closed.answers = [waiting]
    closed.clock.advance(RENEWAL_SECONDS)
    first = closed.ask()
    assert "done" == now(closed.ask())
    closed.valid = {"new"}
    waiting.callback({DATA_SERVER: "new"})
    assert "done" == now(first)
    assert (["old", "new"], 1) == closed.outcomes()


def test_a_ticket_that_is_refused_is_replaced() -> None:
    """The key that signed it is retired, say, or the clocks differ."""
    closed = Closed()
    closed.valid, closed.answers = {"new"}, [{DATA_SERVER: "new"}]
    assert "done" == now(closed.ask())
    assert (["old", "new"], 1) == closed.outcomes()


def test_many_blocks_ask_for_a_fresh_ticket_once() -> None:
    """Those that are refused meanwhile wait for the same."""
    closed = Closed()
    waiting: Deferred[Mapping[str, str]] = Deferred()
    closed.valid, closed.answers = {"new"}, [waiting]
    asking = [closed.ask() for _ in range(8)]
    waiting.callback({DATA_SERVER: "new"})
    assert ["done"] * 8 == [now(each) for each in asking]
    assert (["old"] * 8 + ["new"] * 8, 1) == closed.outcomes()


def test_a_block_that_is_given_up_does_not_keep_the_others_waiting() -> None:
    """The next one asks instead."""
    closed = Closed()
    closed.valid, closed.answers = {"new"}, [Deferred(), {DATA_SERVER: "new"}]
    first, second = closed.ask(), closed.ask()
    closed.clock.advance(10)
    first.addErrback(lambda _failure: None)
    first.cancel()
    assert "done" == now(second)


def test_a_fresh_ticket_that_is_refused_too_is_an_error() -> None:
    """What the data server says is told; it has another secret, say. For a while nobody asks for more."""
    closed = Closed()
    closed.answers = [{DATA_SERVER: "new"}, {DATA_SERVER: "newer"}]
    closed.valid = set()
    for seconds, asked in ((0, 1), (9, 1), (1, 2)):
        closed.clock.advance(seconds)
        with pytest.raises(Unauthorized, match=r"^the ticket has expired$"):
            now(closed.ask())
        assert asked == closed.asked


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unauthorized("the token has expired"), "there is no fresh ticket: the token has expired"),
        (Unavailable("cannot reach meta:9000"), "there is no fresh ticket: cannot reach meta:9000"),
        (NotFound("a: file not found"), "there is no fresh ticket: a: file not found"),
    ],
)
def test_why_there_is_no_fresh_ticket_is_told(error: FileFlyError, said: str) -> None:
    """It is never taken for an answer of the data server's: no block is missing there."""
    closed = Closed()
    closed.valid, closed.answers = set(), [error]
    with pytest.raises(Unauthorized, match=f"^{said}$"):
        now(closed.ask())


def test_what_is_forbidden_is_not_asked_for_again() -> None:
    """A fresh ticket would allow no more."""
    closed = Closed()

    async def refuse(_ticket: str | None) -> str:
        raise Forbidden("the ticket is not for block 'b-0'")

    with pytest.raises(Forbidden):
        now(closed.ask(refuse))
    assert 0 == closed.asked


@pytest.mark.parametrize("told", [{}, {"other:9001": "x"}])
def test_a_data_server_without_a_ticket_is_asked_without(told: Mapping[str, str]) -> None:
    """If it wants one, what to look at is said."""
    closed = Closed(told)
    closed.valid, closed.answers = {None}, [told]
    assert "done" == now(closed.ask())
    closed.valid = set()
    with pytest.raises(Unauthorized, match=r"given no ticket for it: it has no secret \(--secret-file\), or has not"):
        now(closed.ask())


def test_a_data_server_whose_ticket_was_missing_may_have_one_by_now() -> None:
    """The metadata server has met its storage meanwhile."""
    closed = Closed({"other:9001": "x"})
    closed.valid, closed.answers = {"new"}, [{DATA_SERVER: "new"}]
    assert "done" == now(closed.ask())


def test_further_data_servers_have_tickets_too() -> None:
    """A block has got another place."""
    closed = Closed({})
    closed.tickets.add({DATA_SERVER: "old"})
    assert "done" == now(closed.ask())
    assert (["old"], 0) == closed.outcomes()


class Renamed:
    """A catalog that has another file by now."""

    def __init__(self, again: Metadata) -> None:
        self.reactor = Clock()
        self._again = again

    async def stat(self, _name: str) -> Metadata:
        return self._again


def file(generation: int, ticket: str) -> Metadata:
    return Metadata(
        name="a",
        total_size=0,
        block_size=7,
        generation=generation,
        state="committed",
        replicas=1,
        attributes={},
        blocks=[],
        tickets={DATA_SERVER: ticket},
    )


async def show(ticket: str | None) -> str:
    if ticket == "old":
        raise Unauthorized("the ticket has expired")
    return str(ticket)


def test_the_tickets_of_a_file_are_renewed_by_asking_for_it() -> None:
    """They are those of the same generation."""
    catalog: Any = Renamed(file(1, "new"))
    assert "new" == now(Deferred.fromCoroutine(tickets_of_file(catalog, file(1, "old")).shown(DATA_SERVER, show)))


def test_the_tickets_of_another_file_are_not_taken() -> None:
    """They would not fit."""
    catalog: Any = Renamed(file(2, "new"))
    showing = Deferred.fromCoroutine(tickets_of_file(catalog, file(1, "old")).shown(DATA_SERVER, show))
    with pytest.raises(Unauthorized, match=r"^there is no fresh ticket: a was replaced$"):
        now(showing)
