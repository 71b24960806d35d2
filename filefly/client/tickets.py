"""Tickets: what data servers of a closed cluster want to see, and how they stay fresh however long a transfer takes."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import DeferredLock

from filefly.client.remote_catalog import RemoteCatalog
from filefly.errors import FileFlyError, Unauthorized
from filefly.wire.messages import Metadata, RenewPlan
from filefly.wire.security import PlanRenewed

T = TypeVar("T")
Ask = Callable[[], Awaitable[Mapping[str, str]]]
"""Asks the metadata server for tickets, by the address of the data server."""

RENEWAL_SECONDS = 600.0
"""When a ticket is renewed: two thirds of the time for which it is valid (filefly.security.tickets)."""
_AGAIN_SECONDS = 60.0
_PAUSE_SECONDS = 10.0
_NO_TICKET = (
    "; the metadata server has given no ticket for it: it has no secret (--secret-file), or has not yet found out "
    "which storage is there (filefly-client servers shows whether it is up)"
)


@define(eq=False)
class Tickets:
    """The tickets for the blocks of one plan or file, by the address of the data server that wants to see them.

    An open cluster gives none, and is asked for none.
    """

    _clock: Any
    _ask: Ask
    _told: dict[str, str]
    _due: float = field(init=False)
    _may_ask: float = field(init=False)
    """When a data server's no may be taken for a reason to ask again: fresh tickets would not be better so soon."""
    _asking: DeferredLock = field(factory=DeferredLock, init=False)

    def __attrs_post_init__(self) -> None:
        """Take the tickets as new."""
        self._may_ask = self._clock.seconds()
        self._due = self._may_ask + RENEWAL_SECONDS

    async def shown(self, address: str, once: Callable[[str | None], Awaitable[T]]) -> T:
        """Return what `once` makes of the ticket for a data server, if there is one; if it is refused, of a fresh one.

        Raises Unauthorized if there is none that is not refused.
        """
        if self._told and self._clock.seconds() >= self._due:
            self._due = self._clock.seconds() + _AGAIN_SECONDS
            with suppress(FileFlyError):  # what there is is valid for a while
                await self.renew()
        ticket = self._told.get(address)
        try:
            return await once(ticket)
        except Unauthorized as error:
            if self._told:
                await self._renew_instead_of(address, ticket)
            fresh = self._told.get(address)
            if fresh is None:
                raise Unauthorized(f"{error}{_NO_TICKET}") from None
            if fresh == ticket:
                raise
        return await once(fresh)

    def add(self, told: Mapping[str, str]) -> None:
        """Take tickets for further data servers."""
        self._told.update(told)

    async def renew(self) -> None:
        """Ask for fresh tickets, also where there are none yet; raises what the metadata server says."""
        self._may_ask = self._clock.seconds() + _PAUSE_SECONDS
        told = await self._ask()
        self._told.update(told)
        self._due = self._clock.seconds() + RENEWAL_SECONDS

    async def _renew_instead_of(self, address: str, ticket: str | None) -> None:
        """Have another ticket than this one, if there is one; who comes meanwhile waits for the same."""
        await self._asking.acquire()
        try:
            if self._told.get(address) == ticket and self._clock.seconds() >= self._may_ask:
                await self.renew()
        except FileFlyError as error:
            raise Unauthorized(f"there is no fresh ticket: {error}") from None
        finally:
            self._asking.release()


def tickets_of_plan(catalog: RemoteCatalog, plan: Metadata) -> Tickets:
    """Return the tickets of an open plan."""

    async def ask() -> Mapping[str, str]:
        return (await catalog.ask(RenewPlan(generation=plan.generation), PlanRenewed)).tickets

    return Tickets(catalog.reactor, ask, dict(plan.tickets))


def tickets_of_file(catalog: RemoteCatalog, metadata: Metadata) -> Tickets:
    """Return the tickets of a committed file; there are no fresh ones once another one has its name."""

    async def ask() -> Mapping[str, str]:
        again = await catalog.stat(metadata.name)
        if again.generation != metadata.generation:
            raise Unauthorized(f"{metadata.name} was replaced")
        return again.tickets

    return Tickets(catalog.reactor, ask, dict(metadata.tickets))
