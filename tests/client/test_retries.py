import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from filefly.client.decisions import RETRY_DELAYS_SECONDS, worth_a_retry
from filefly.client.retries import with_retries
from filefly.errors import Corrupt, DiskFull, Unavailable
from tests.peer import now


class Tries:
    """Something that fails in given ways before it goes well."""

    def __init__(self, *errors: Exception) -> None:
        self.clock = Clock()
        self._errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(self.clock.seconds())
        if self._errors:
            raise self._errors.pop(0)
        return "done"

    def run(self) -> Deferred[str]:
        return Deferred.fromCoroutine(with_retries(self.clock, worth_a_retry, self))


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filefly.client.retries.RETRY_DELAYS_SECONDS", RETRY_DELAYS_SECONDS)


def test_a_retry_waits_a_little_and_then_longer() -> None:
    """It goes well the third time."""
    tries = Tries(Unavailable("x"), Corrupt("y"))
    trying = tries.run()
    tries.clock.pump([0.1] * 13)
    assert "done" == now(trying)
    assert pytest.approx([0, 0.2, 1.2]) == tries.times


def test_the_last_error_is_raised() -> None:
    """After three tries."""
    tries = Tries(Unavailable("1"), Unavailable("2"), Unavailable("3"))
    trying = tries.run()
    tries.clock.pump([0.1] * 13)
    with pytest.raises(Unavailable, match=r"^3$"):
        now(trying)


def test_what_will_not_pass_is_not_tried_again() -> None:
    """At once it is an error."""
    tries = Tries(DiskFull("full"))
    with pytest.raises(DiskFull):
        now(tries.run())
    assert [0] == tries.times


def test_a_retry_that_waits_can_be_cancelled() -> None:
    """It leaves no timer."""
    tries = Tries(Unavailable("1"))
    trying = tries.run()
    trying.cancel()
    with pytest.raises(CancelledError):
        now(trying)
    assert [] == tries.clock.getDelayedCalls()
