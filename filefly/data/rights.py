"""Who may do what on a data server of a closed cluster. Tickets alone decide about blocks; there is no other list.

| command | needs |
| --- | --- |
| `ping` | nothing; a token, whatever its role, to hear which storage it is |
| `store`, `store_blocks` | a store ticket for each block, and the planned size; of `data` the decoded size counts |
| `retrieve`, `retrieve_blocks` | a retrieve ticket for each block |
| `stat` | a ticket of either kind for the block |
| `link` | a store ticket for the new id and one of either kind for the source, of blocks of one size |
| `status` | a token, whatever its role |
| all others | a daemon of the cluster, which may do the above, too |

In a batch each block is refused for itself. What goes under a ticket never replaces a block: the plan may be committed
by now, and its file must not change.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import define, field

from filefly.daemon.failures import Failures
from filefly.daemon.guard import Secret, SecretGuard, Session
from filefly.data.batches import NONE, refusal
from filefly.data.identity import IdentityFile
from filefly.errors import Forbidden, Unauthorized
from filefly.security.keys import Keyring
from filefly.security.tickets import Right, Ticket, check_ticket_time, read_ticket
from filefly.wire.batches import BlockResult, BlockToRetrieve, BlockToStore, RetrieveBlocks, StoreBlocks
from filefly.wire.blocks import Link, Retrieve, Stat, Status, Store
from filefly.wire.messages import Ping, Request

_NO_TICKET = "this takes a ticket: ask the metadata server for the plan, which has it"
_FOR_DAEMONS = "this is for the cluster's daemons: give the metadata server the data servers' secret (--secret-file)"

_MOST_KEPT = 4096
_MOST_KEPT_CHARACTERS = 4 * 1024 * 1024


class Rights(Protocol):
    """Says what is allowed beyond what the guard says of a whole request."""

    def may_ask_who(self, session: Session) -> bool:
        """Whether the session may hear which storage this is, and how much room it has."""

    def may_replace(self, session: Session) -> bool:
        """Whether what the session stores may take the place of a block that is there."""

    def refusals(self, blocks: Sequence[BlockToStore | BlockToRetrieve], session: Session) -> Mapping[int, BlockResult]:
        """Return the answers for those that the session may not store or retrieve, by their places."""


class OpenRights:
    """Those of an open cluster: everybody may do everything."""

    def may_ask_who(self, session: Session) -> bool:
        """See Rights."""
        return True

    def may_replace(self, session: Session) -> bool:
        """See Rights."""
        return True

    def refusals(self, blocks: Sequence[BlockToStore | BlockToRetrieve], session: Session) -> Mapping[int, BlockResult]:
        """See Rights."""
        return NONE


@define(eq=False)
class Tickets:
    """The tickets of one storage that were verified already, those shown last; a signature costs 15 us to verify."""

    _storage_id: str
    _keyring: Keyring
    _kept: OrderedDict[str, Ticket] = field(factory=OrderedDict, init=False)
    _characters: int = field(default=0, init=False)

    def read(self, keyring: Keyring, text: str, now: float) -> Ticket:
        """Return what a ticket says; raises Unauthorized unless a key of `keyring` has signed it, and it is valid."""
        if keyring is not self._keyring:
            self._forget_all(keyring)
        ticket = self._kept.get(text)
        if ticket is None:
            ticket = read_ticket(keyring, text, self._storage_id, now)
            self._keep(text, ticket)
            return ticket
        check_ticket_time(ticket.expires, now)
        self._kept.move_to_end(text)
        return ticket

    def _keep(self, text: str, ticket: Ticket) -> None:
        self._kept[text] = ticket
        self._characters += len(text)
        while len(self._kept) > _MOST_KEPT or self._characters > _MOST_KEPT_CHARACTERS:
            oldest, _ticket = self._kept.popitem(last=False)
            self._characters -= len(oldest)

    def _forget_all(self, keyring: Keyring) -> None:
        """Begin anew with the keys that are valid now: what a retired one signed is void."""
        self._kept.clear()
        self._characters = 0
        self._keyring = keyring


class DataGuard(SecretGuard):
    """The guard of a data server; see the module's table. Touches no disk."""

    takes_tickets = True

    def __init__(self, secret: Secret, identity: IdentityFile, now: Callable[[], float], failures: Failures) -> None:
        super().__init__(secret, now, failures)
        self._identity = identity
        self.storage_id = identity.storage_id
        self._tickets = Tickets(identity.storage_id, secret.keyring)

    def check(self, request: Request, session: Session) -> None:
        """See Guard."""
        if isinstance(request, Ping):
            return
        self._identity.check(getattr(request, "storage_id", None))  # first: its tickets are another storage's, too
        if self.is_daemon(session):
            return
        match request:
            case Store():
                self._ticket(request.ticket, session).check(Right.STORE, request.block_id, _size_of(request))
            case Retrieve():
                self._ticket(request.ticket, session).check(Right.RETRIEVE, request.block_id)
            case StoreBlocks() | RetrieveBlocks():
                pass  # see refusals
            case Stat():
                ticket = self._ticket(request.ticket, session)
                ticket.check(ticket.right, request.block_id)
            case Link():
                source = self._ticket(request.source_ticket, session)
                size = source.check(source.right, request.source_block_id)  # a resumed plan's are renewed to store
                self._ticket(request.ticket, session).check(Right.STORE, request.block_id, size)
            case Status():
                if self.token_of(session) is None:
                    raise Unauthorized('sign in first: {"command":"auth","token":"..."} (--token-file)')
            case _:
                raise self._refusal(session, _FOR_DAEMONS)

    def may_ask_who(self, session: Session) -> bool:
        """See Rights. A daemon whose key is retired signs in again for all else: no ping is to fail by that."""
        if session.is_daemon:
            return True
        try:
            return self.token_of(session) is not None
        except Unauthorized:
            return False

    def may_replace(self, session: Session) -> bool:
        """See Rights. A ticket may outlive the commit of its plan, and is not to change a file then."""
        return self.is_daemon(session)

    def refusals(self, blocks: Sequence[BlockToStore | BlockToRetrieve], session: Session) -> Mapping[int, BlockResult]:
        """See Rights."""
        refused: dict[int, BlockResult] = {}
        for place, block in enumerate(() if self.is_daemon(session) else blocks):
            try:
                ticket = self._ticket(block.ticket, session)
                if isinstance(block, BlockToStore):
                    ticket.check(Right.STORE, block.block_id, block.size)
                else:
                    ticket.check(Right.RETRIEVE, block.block_id)
            except (Unauthorized, Forbidden) as error:
                refused[place] = refusal(error)
        return refused

    def _ticket(self, text: str | None, session: Session) -> Ticket:
        if text is None:
            raise self._refusal(session, _NO_TICKET)
        ticket = self._tickets.read(self.keyring, text, self._now())
        session.ticket_expires = ticket.expires
        return ticket

    def _refusal(self, session: Session, sentence: str) -> Unauthorized | Forbidden:
        """Return the error for who shows nothing that helps: Forbidden if we know who it is."""
        return Unauthorized(sentence) if self.token_of(session) is None else Forbidden(sentence)


def _size_of(request: Store) -> int | None:
    """Return the size of the block to store; what `data` has in base64 is strictly checked when it is decoded."""
    if request.data is None:
        return request.size
    return len(request.data) // 4 * 3 - request.data[-2:].count("=")
