"""Signs of life while an upload is under way, by a clock that the test turns."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from filefly.client.tickets import tickets_of_plan
from filefly.client.uploads import _renewed
from filefly.errors import Conflict
from filefly.wire.messages import Metadata, RenewPlan, Reply
from filefly.wire.security import PlanRenewed
from tests.peer import now

PLAN = Metadata(
    name="a", total_size=0, block_size=7, generation=17, state="pending", replicas=1, attributes={}, blocks=[]
)


class Renewals:
    """A catalog that is asked to renew plans, and an upload that ends when the test says so."""

    def __init__(self, *answers: Any) -> None:
        self.reactor = Clock()
        self.asked: list[RenewPlan] = []
        self.end: Deferred[None] = Deferred()
        self._answers = list(answers)
        self.uploading = Deferred.fromCoroutine(self._upload())

    async def ask(self, request: RenewPlan, _kind: type[Reply]) -> Reply:
        self.asked.append(request)
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Deferred):
            await answer
        if isinstance(answer, Exception):
            raise answer
        return PlanRenewed()

    async def _upload(self) -> None:
        catalog: Any = self
        async with _renewed(self.reactor, tickets_of_plan(catalog, PLAN)):
            await self.end

    def turn(self, *seconds: float) -> None:
        self.reactor.pump(seconds)


def test_a_plan_is_renewed_every_ten_minutes() -> None:
    """Not before, and not after the upload."""
    renewals = Renewals()
    renewals.turn(599)
    assert [] == renewals.asked
    renewals.turn(1, 600, 600)
    assert [RenewPlan(generation=17)] * 3 == renewals.asked
    renewals.end.callback(None)
    now(renewals.uploading)
    assert [] == renewals.reactor.getDelayedCalls()


def test_a_renewal_that_fails_is_followed_by_others() -> None:
    """The upload does not notice; the commit will tell if its plan has ended."""
    renewals = Renewals(Conflict("the plan was ended"))
    renewals.turn(600, 600)
    assert 2 == len(renewals.asked)
    renewals.end.callback(None)
    now(renewals.uploading)


@pytest.mark.parametrize("how", ["ends", "fails", "is cancelled"])
def test_a_renewal_is_given_up_with_the_upload(how: str) -> None:
    """Nobody waits for its answer, nor hears of its end."""
    cancelled: list[Deferred[None]] = []
    waiting: Deferred[None] = Deferred(cancelled.append)
    renewals = Renewals(waiting)
    renewals.turn(600)
    if how == "ends":
        renewals.end.callback(None)
        now(renewals.uploading)
    elif how == "fails":
        renewals.end.errback(Conflict("no"))
        with pytest.raises(Conflict):
            now(renewals.uploading)
    else:
        renewals.uploading.cancel()
        with pytest.raises(CancelledError):
            now(renewals.uploading)
    assert ([waiting], []) == (cancelled, renewals.reactor.getDelayedCalls())
