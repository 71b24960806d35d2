"""What each answer of a closed cluster should be: written from what was decided, and not from the servers' tables.

Whoever gives a server another command has to say here who may use it.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto

OK, UNAUTHORIZED, FORBIDDEN = "ok", "unauthorized", "forbidden"

READ, APPEND, WRITE, ADMIN = "read", "append", "write", "admin"
ROLES = (READ, APPEND, WRITE, ADMIN)
ANYBODY = "anybody"
DAEMONS = "daemons"


class Vouched(Enum):
    """What a connection has shown of who it is."""

    NOTHING = auto()
    TOKEN = auto()
    LAPSED_TOKEN = auto()  # it was good when it was shown, and is not any more
    LAPSED_PROOF = auto()  # by a key that is retired since
    PROOF = auto()


class Shown(Enum):
    """What a ticket is, for what is asked for."""

    NO_TICKET = auto()
    GOOD = auto()
    OTHER = auto()  # it is a ticket, but for something else
    VOID = auto()  # expired, changed, of a key that is not valid here, for another data server, or no ticket at all


# The data server

TICKETS = "tickets"
A_TOKEN = "a token"

DATA_COMMANDS: Mapping[str, str] = {
    "ping": ANYBODY,
    "status": A_TOKEN,
    "store": TICKETS,
    "store_blocks": TICKETS,
    "retrieve": TICKETS,
    "retrieve_blocks": TICKETS,
    "stat": TICKETS,
    "link": TICKETS,
    "delete": DAEMONS,
    "list_blocks": DAEMONS,
    "copy": DAEMONS,
    "quarantine": DAEMONS,
    "set_aside": DAEMONS,
    "adopt": DAEMONS,
}
"""What each command of a data server takes."""


def of_data_server(command: str, vouched: Vouched, shown: Sequence[Shown] = ()) -> str:
    """Return how a data server answers; `shown` are the tickets that the request has room for."""
    takes = DATA_COMMANDS[command]
    if takes == ANYBODY or vouched is Vouched.PROOF:
        return OK
    if vouched is Vouched.LAPSED_PROOF:
        return UNAUTHORIZED
    if takes == TICKETS:
        return _by_tickets(vouched, shown)
    if vouched in (Vouched.NOTHING, Vouched.LAPSED_TOKEN):
        return UNAUTHORIZED
    return OK if takes == A_TOKEN else FORBIDDEN


def _by_tickets(vouched: Vouched, shown: Sequence[Shown]) -> str:
    """All of them must be good; the first that is not decides."""
    for ticket in shown:
        if ticket is Shown.VOID:
            return UNAUTHORIZED
        if ticket is Shown.OTHER:
            return FORBIDDEN
        if ticket is Shown.NO_TICKET:
            return FORBIDDEN if vouched is Vouched.TOKEN else UNAUTHORIZED
    return OK


# The metadata server

METADATA_COMMANDS: Mapping[str, str] = {
    "ping": ANYBODY,
    "get_metadata": READ,
    "fetch_file": READ,
    "list_files": READ,
    "list_data_servers": READ,
    "report_replica": READ,
    "store_file": APPEND,
    "store_files": APPEND,
    "complete_file": APPEND,
    "complete_files": APPEND,
    "renew_plan": APPEND,
    "replace_replica": APPEND,
    "delete_file": WRITE,
    "rename_file": WRITE,
    "undelete_file": WRITE,
    "register_data_server": ADMIN,
    "accept": ADMIN,
    "drain": ADMIN,
    "undrain": ADMIN,
    "remove_data_server": ADMIN,
    "scrub": ADMIN,
    "fsck": ADMIN,
    "backup_catalog": ADMIN,
    "accept_catalog": ADMIN,
    "revoke_token": ADMIN,
    "list_revoked_tokens": ADMIN,
    "set_quota": ADMIN,
    "list_quotas": ADMIN,
}
"""The least role that each command of the metadata server takes."""


class Plan(Enum):
    """Whose plan a request goes on with."""

    NONE = auto()
    OWN = auto()  # made by this token; by another one where this one may not
    FOREIGN = auto()  # made by a token of the role `write`, which could replace a file


def of_metadata_server(
    command: str,
    vouched: Vouched,
    role: str | None = None,
    prefix: str = "",
    names: Sequence[str] = (),
    plan: Plan = Plan.NONE,
    exists: bool = False,
) -> str:
    """Return how the metadata server answers.

    `names` are those that are used, of the plan that it goes on with, too; `exists` says that one to store is there.
    """
    needed = METADATA_COMMANDS[command]
    if needed == ANYBODY or vouched is Vouched.PROOF:
        return OK
    if vouched is not Vouched.TOKEN or role is None:
        return UNAUTHORIZED
    if ROLES.index(role) < ROLES.index(needed):
        return FORBIDDEN
    if needed == ADMIN and prefix:
        return FORBIDDEN
    if not all(name.startswith(prefix) for name in names):
        return FORBIDDEN
    only_adds = ROLES.index(role) < ROLES.index(WRITE)
    if only_adds and (exists or plan is Plan.FOREIGN):
        return FORBIDDEN
    return OK
