"""Tickets: what the holder of a plan may do on one data server, signed, so that the data server need not ask anybody.

A ticket names the plan's blocks as their ids are made (filefly.wire.names): a stem, perhaps a generation, and the set
of indexes as a bitmap, lowest bit of the first byte first. So it stays short: 300 bytes for a small file, 4.6 KiB for
one of 20,000 blocks.
"""

import base64
from collections.abc import Iterable
from enum import StrEnum

import msgspec
from attrs import frozen

from filefly.errors import Forbidden, Unauthorized
from filefly.security.keys import Key, Keyring
from filefly.security.seals import read_sealed, seal
from filefly.wire.names import make_block_id, split_block_id

TICKET_SECONDS = 900
"""How long a ticket lives at most."""


class Right(StrEnum):
    """What may be done with a block."""

    STORE = "store"
    RETRIEVE = "retrieve"


@frozen
class Ticket:
    """What a ticket says; sizes in bytes, `expires` in seconds since the epoch.

    `indexes` has bit N set for block N; `holder` is the id of the token that it was given for, empty for a daemon.
    """

    storage_id: str
    right: Right
    stem: str
    generation: int | None
    indexes: int
    total_size: int
    block_size: int
    expires: int
    holder: str = ""

    def check(self, right: Right, block_id: str, size: int | None = None) -> int:
        """Return the planned size of that block; raises Forbidden unless `right` is allowed on it, and with `size`."""
        if right is not self.right:
            raise Forbidden(f"the ticket is not for {_DOING[right]} blocks, but for {_DOING[self.right]} them")
        index = self._index_of(block_id)
        if index is None:
            raise Forbidden(f"the ticket is not for block {block_id!r}")
        planned = max(0, min(self.block_size, self.total_size - index * self.block_size))
        if size is not None and size != planned:
            raise Forbidden(f"block {block_id!r} was planned with {planned} bytes")
        return planned

    def _index_of(self, block_id: str) -> int | None:
        """Return the index of a block that the ticket is for, None for any other."""
        parts = split_block_id(block_id)
        if parts is None or block_id != make_block_id(*parts):  # zeros before a number make another id
            return None
        stem, index, generation = parts
        covered = (stem, generation) == (self.stem, self.generation) and self.indexes >> index & 1
        return index if covered else None


_DOING = {Right.STORE: "storing", Right.RETRIEVE: "reading"}


class _Claims(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    aud: str
    right: Right
    stem: str
    indexes: str
    size: int
    block_size: int
    exp: int
    generation: int | None = None
    sub: str = ""


def indexes_of(numbers: Iterable[int]) -> int:
    """Return the bitmap of block indexes."""
    bitmap = bytearray()
    for number in numbers:
        place = number // 8
        if place >= len(bitmap):
            bitmap.extend(bytes(place + 1 - len(bitmap)))
        bitmap[place] |= 1 << number % 8
    return int.from_bytes(bitmap, "little")


def issue_ticket(keyring: Keyring, ticket: Ticket) -> str:
    """Return `ticket`, signed."""
    bitmap = ticket.indexes.to_bytes((ticket.indexes.bit_length() + 7) // 8, "little")
    claims = _Claims(
        aud=ticket.storage_id,
        right=ticket.right,
        stem=ticket.stem,
        indexes=base64.urlsafe_b64encode(bitmap).decode(),
        size=ticket.total_size,
        block_size=ticket.block_size,
        exp=ticket.expires,
        generation=ticket.generation,
        sub=ticket.holder,
    )
    return seal(keyring, _key_of, claims)


def read_ticket(keyring: Keyring, text: str, storage_id: str, now: float) -> Ticket:
    """Return what a ticket for the storage says; raises Unauthorized unless it is valid at `now` (Unix time), there."""
    said = read_sealed(keyring, _key_of, text, _Claims, "ticket")
    try:
        indexes = int.from_bytes(base64.b64decode(said.indexes, altchars=b"-_", validate=True), "little")
    except ValueError:
        raise Unauthorized("the ticket is not valid: it is not one of this version of FileFly") from None
    if said.aud != storage_id:
        raise Unauthorized("the ticket is for another data server")
    check_ticket_time(said.exp, now)
    return Ticket(
        said.aud, said.right, said.stem, said.generation, indexes, said.size, said.block_size, said.exp, said.sub
    )


def check_ticket_time(expires: float, now: float) -> None:
    """Raise Unauthorized once a ticket has expired."""
    if expires <= now:
        raise Unauthorized("the ticket has expired; ask the metadata server for the plan again")


def _key_of(key: Key) -> bytes:
    return key.for_tickets
