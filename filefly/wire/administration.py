"""Requests and replies by which a cluster is looked after; all are for the metadata server.

A data server is named by an address of it or, where it is seen at none, by its storage id.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from filefly.wire.messages import MAX_PAGE, Number, Reply, Request

# Requests


class AcceptDataServer(Request, frozen=True, tag="accept"):
    """Take the storage that is now at an address for what it is, though another one was expected there.

    One of another catalog only with `take_over`: that one cannot use it any more.
    """

    data_server_addr: str
    take_over: bool = False


class Drain(Request, frozen=True, tag="drain"):
    """Have everything moved off a data server; again to hear how far that is."""

    data_server_addr: str


class Undrain(Request, frozen=True, tag="undrain"):
    """Let a data server keep what it has and get new blocks."""

    data_server_addr: str


class RemoveDataServer(Request, frozen=True, tag="remove_data_server"):
    """Retire a data server for good: a drained one, or one whose blocks are `lost`."""

    data_server_addr: str
    lost: bool = False


class Scrub(Request, frozen=True, tag="scrub"):
    """Begin now to re-read all blocks of a data server, or of every one; `list_data_servers` shows how far it is."""

    data_server_addr: str | None = None


class Fsck(Request, frozen=True, tag="fsck"):
    """Check some more of the catalog against the data servers, from where `after` says.

    With `verify` every block is re-read. With `repair` what is wrong is noted for repair at once, and blocks that the
    catalog does not know are set aside.
    """

    after: str = ""
    verify: bool = True
    repair: bool = False
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100


class UndeleteFile(Request, frozen=True, tag="undelete_file"):
    """Bring back what was last deleted or replaced under a name, within the grace period."""

    file_name: str


class BackupCatalog(Request, frozen=True, tag="backup_catalog"):
    """Send a consistent copy of the catalog: a line with its size, then the bytes of an SQLite database."""


class AcceptCatalog(Request, frozen=True, tag="accept_catalog"):
    """Go on with a catalog that is older than its data: trash and expiry resume."""


# Replies


class DrainProgress(Reply, frozen=True, tag="ok"):
    """What still names a data server that is being drained, and why it may not get on."""

    remaining_blocks: Number
    open_plans: Number
    safe_to_remove: bool
    waiting: str | None = None


class Finding(Struct, frozen=True, omit_defaults=True):
    """Something that is not as it should be, and the command that mends it.

    `kind` is missing, corrupt, under_replicated, lost, unknown or unreachable.
    """

    kind: str
    sentence: str
    mend: str
    file_name: str | None = None
    block_id: str | None = None
    data_server: str | None = None


class FsckPage(Reply, frozen=True, tag="ok"):
    """What a stretch of checking found; `next` goes into `after` for the following one."""

    findings: Sequence[Finding]
    files: Number
    blocks: Number
    next: str | None = None
