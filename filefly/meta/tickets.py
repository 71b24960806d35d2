"""Tickets for plans and files: one for each data server that has blocks of them."""

from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from filefly.catalog.plans import Plan, PlanBlock
from filefly.daemon.guard import Secret
from filefly.meta.cluster import Cluster
from filefly.meta.rights import Grant
from filefly.security.keys import Keyring
from filefly.security.tickets import TICKET_SECONDS, Right, Ticket, indexes_of, issue_ticket
from filefly.threads import InThread
from filefly.wire.names import split_block_id

_MOST_AT_ONCE = 300
"""So many tickets are issued in the reactor, in about 5 ms; more in a thread."""

_BLOCKS_A_TICKET = 50
"""As many blocks, on whatever data servers, take as long as one ticket."""

Tickets = Mapping[str, str]
"""Data server, by the address that clients are told, to ticket."""

NONE: Tickets = {}


@frozen
class Claim:
    """What tickets are wanted for: blocks of one plan, all of them, and what is to be done with them."""

    right: Right
    blocks: Sequence[PlanBlock]
    total_size: int
    block_size: int


@frozen
class _Issue:
    """What is the same for all tickets that are issued at once; the places of data servers are `(told, storage id)`."""

    keyring: Keyring
    places: Mapping[int, tuple[str, str]]
    expires: int
    holder: str

    def tickets_thd(self, claims: Sequence[Claim | None]) -> list[Tickets]:
        """Return the tickets for each of the claims."""
        return [NONE if claim is None else self._tickets(claim) for claim in claims]

    def _tickets(self, claim: Claim) -> Tickets:
        positions: dict[int, list[int]] = {}
        for position, block in enumerate(claim.blocks):
            for server in block.servers:
                positions.setdefault(server, []).append(position)
        return {
            self.places[server][0]: self._ticket(claim, self.places[server][1], here)
            for server, here in positions.items()
            if server in self.places
        }

    def _ticket(self, claim: Claim, storage_id: str, positions: Sequence[int]) -> str:
        stem, _index, generation = split_block_id(claim.blocks[0].id) or ("", 0, None)
        ticket = Ticket(
            storage_id=storage_id,
            right=claim.right,
            stem=stem,
            generation=generation,
            indexes=indexes_of(positions),
            total_size=claim.total_size,
            block_size=claim.block_size,
            expires=self.expires,
            holder=self.holder,
        )
        return issue_ticket(self.keyring, ticket)


class TicketOffice:
    """Issues tickets, in a thread if they are many; none in an open cluster, which has no `secret`.

    `now` is Unix time. A data server that was not heard from yet gets none: nobody knows which storage it is.
    """

    def __init__(self, cluster: Cluster, secret: Secret | None, now: Callable[[], float], in_thread: InThread) -> None:
        self._cluster = cluster
        self._secret = secret
        self._now = now
        self._in_thread = in_thread

    @property
    def is_open(self) -> bool:
        """Whether there are no tickets."""
        return self._secret is None

    async def for_plan(self, plan: Plan, grant: Grant) -> Tickets:
        """Return the tickets for a plan; see `for_plans`."""
        if self._secret is None:
            return NONE
        [tickets] = await self.for_plans([plan], grant)
        return tickets

    async def for_plans(self, plans: Sequence[Plan], grant: Grant) -> Sequence[Tickets]:
        """Return for each plan the tickets to read it or, while it is open and one may go on with it, to store it."""
        if self._secret is None:
            return [NONE] * len(plans)
        return await self.issue([_claim_for(plan, grant) for plan in plans], grant)

    async def to_read(self, plan: Plan, grant: Grant) -> Tickets:
        """Return the tickets to read what there is of a plan, open or not."""
        [tickets] = await self.issue([Claim(Right.RETRIEVE, plan.blocks, plan.total_size, plan.block_size)], grant)
        return tickets

    async def issue(self, claims: Sequence[Claim | None], grant: Grant) -> Sequence[Tickets]:
        """Return the tickets for each of the claims, none where there is no claim."""
        if self._secret is None:
            return [NONE] * len(claims)
        places = {
            row.key: (row.told, row.storage_id)
            for row in self._cluster.servers.values()
            if row.told and row.storage_id is not None
        }
        expires = int(self._now()) + TICKET_SECONDS
        if grant.token is not None and grant.token.expires is not None:
            expires = min(expires, grant.token.expires)
        issue = _Issue(self._secret.keyring, places, expires, grant.holder or "")
        if sum(_cost(claim) for claim in claims) <= _MOST_AT_ONCE:
            return issue.tickets_thd(claims)
        return await self._in_thread(issue.tickets_thd, claims)


def _claim_for(plan: Plan, grant: Grant) -> Claim | None:
    if plan.committed:
        return Claim(Right.RETRIEVE, plan.blocks, plan.total_size, plan.block_size)
    if grant.may_go_on(plan):
        return Claim(Right.STORE, plan.blocks, plan.total_size, plan.block_size)
    return None


def _cost(claim: Claim | None) -> float:
    """Return how long a claim takes, in tickets; what a plan has more than a few data servers does not matter."""
    if claim is None or not claim.blocks:
        return 0
    return len(claim.blocks[0].servers) + len(claim.blocks) / _BLOCKS_A_TICKET
