import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from filefly.daemon import failures as module
from filefly.daemon.failures import FORGOTTEN_SECONDS, LONGEST_DELAY_SECONDS, Failures, TooManyWait
from filefly.errors import Busy
from tests.peer import now

HOST = "192.0.2.1"


def seconds_of(clock: Clock, failures: Failures, host: str = HOST) -> float:
    """Return how long a failure's answer waits; raises Busy."""
    noted = Deferred.fromCoroutine(failures.note(host))
    due = [call.getTime() - clock.seconds() for call in clock.getDelayedCalls()]
    clock.advance(sum(due))
    now(noted)
    return sum(due)


def test_the_first_failures_cost_nothing() -> None:
    """Whoever mistypes a token hears of it at once."""
    clock = Clock()
    failures = Failures(clock, free=3)
    assert [0, 0, 0] == [seconds_of(clock, failures) for _ in range(3)]


def test_each_further_failure_waits_twice_as_long() -> None:
    """Up to a few seconds."""
    clock = Clock()
    failures = Failures(clock, free=1)
    assert [0, 0.25, 0.5, 1, 2, 4, 4] == [seconds_of(clock, failures) for _ in range(7)]


def test_who_does_not_stop_is_told_to() -> None:
    """The sentence names the address and the option; the answer waits as long as ever."""
    clock = Clock()
    failures = Failures(clock, free=1, most=2)
    for _ in range(2):
        seconds_of(clock, failures)
    refused = Deferred.fromCoroutine(failures.note(HOST))
    assert not refused.called
    clock.advance(LONGEST_DELAY_SECONDS)
    with pytest.raises(
        Busy, match=r"^more than 2 wrong tokens or proofs came from 192.0.2.1 \(--max-auth-failures\); "
    ):
        now(refused)


def test_failures_of_others_do_not_count() -> None:
    """Each address is by itself."""
    clock = Clock()
    failures = Failures(clock, free=1)
    assert [0, 0.25] == [seconds_of(clock, failures) for _ in range(2)]
    assert 0 == seconds_of(clock, failures, "192.0.2.2")


def test_failures_are_forgotten() -> None:
    """Some time after the last one."""
    clock = Clock()
    failures = Failures(clock, free=1)
    for _ in range(5):
        seconds_of(clock, failures)
    clock.advance(FORGOTTEN_SECONDS)
    assert [0, 0.25] == [seconds_of(clock, failures) for _ in range(2)]


@pytest.mark.parametrize(
    ("one", "other", "the_same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("this machine", "this machine", True),
    ],
)
def test_who_has_many_addresses_is_counted_once(one: str, other: str, the_same: bool) -> None:
    """Of IPv6 one customer has at least 64 bits; IPv4 in IPv6's clothes is IPv4."""
    clock = Clock()
    failures = Failures(clock, free=1)
    seconds_of(clock, failures, one)
    assert the_same == (seconds_of(clock, failures, other) > 0)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many addresses those are forgotten that failed longest ago."""
    monkeypatch.setattr(module, "_MOST_ADDRESSES", 3)
    clock = Clock()
    failures = Failures(clock, free=1)
    for number in (1, 2, 3, 1, 4):
        seconds_of(clock, failures, f"192.0.2.{number}")
    assert 3 == len(failures._records)
    assert 0.5 == seconds_of(clock, failures, "192.0.2.1")
    assert 0 == seconds_of(clock, failures, "192.0.2.2")


@pytest.mark.parametrize(("limit", "other"), [("_MOST_WAITING", "192.0.2.2"), ("_MOST_WAITING_OF_ONE", HOST)])
def test_few_answers_wait_at_once(monkeypatch: pytest.MonkeyPatch, limit: str, other: str) -> None:
    """In all, and of one address: whoever does not wait, but comes again and again, takes no more memory."""
    monkeypatch.setattr(module, limit, 2)
    clock = Clock()
    failures = Failures(clock, free=0)
    waiting = [Deferred.fromCoroutine(failures.note(HOST)) for _ in range(2)]
    for _ in range(3):
        with pytest.raises(TooManyWait, match=r"^too many wrong tokens or proofs wait for their answers; try again"):
            now(Deferred.fromCoroutine(failures.note(other)))
    clock.advance(LONGEST_DELAY_SECONDS)
    assert [True, True] == [each.called for each in waiting]
    assert 0 < seconds_of(clock, failures, other)


def test_who_is_gone_is_not_waited_for() -> None:
    """An answer that is not waited for any more leaves its place to another."""
    clock = Clock()
    failures = Failures(clock, free=0)
    waiting = Deferred.fromCoroutine(failures.note(HOST))
    waiting.addErrback(lambda failure: failure.trap(CancelledError))
    waiting.cancel()
    assert not failures._waiting
