"""What fsck says of what it found: a sentence, and the command that mends it. Pure."""

import shlex
from collections.abc import Mapping

from filefly.catalog.inventory import DataServerRow
from filefly.catalog.replicas import Bad, StoredBlock
from filefly.meta.identity import OF_ANOTHER_CATALOG, TO_ACCEPT, right_catalog
from filefly.units import counted
from filefly.wire.administration import Finding
from filefly.wire.blocks import BlockSum

_REPAIR = "filefly-client fsck --repair"
_ACCEPT_CATALOG = "filefly-client catalog accept"


def damage_of(block: StoredBlock, found: BlockSum | None, verified: bool) -> Bad | None:
    """Return what is wrong with a replica that was found like this; None if nothing is."""
    if found is None:
        return "missing"
    if found.size != block.size or (verified and found.crc32c != block.crc32c):
        return "corrupt"
    return None


def name_of(row: DataServerRow) -> str:
    """Return what a data server is called: by who looks after it, not as clients are told."""
    return row.address or row.storage_id or f"number {row.key}"


def findings_of(
    block: StoredBlock, bad: Mapping[DataServerRow, Bad], kept: int, suspended: bool = False
) -> list[Finding]:
    """Return what is to be said of a block whose replicas are `bad` on some data servers.

    `kept` is how many data servers that count should have it. Too few of them is a finding of its own, beside their
    bad replicas; that all is lost is the only one, and says the rest. A `suspended` catalog moves no block aside that
    differs: it may be what came later.
    """
    if len(bad) == len(block.servers):
        return [_lost(block, bad)]
    found = [_bad(block, row, why, suspended) for row, why in bad.items()]
    if kept < block.wanted:
        places = counted(kept, "data server")
        sentence = f"block {block.id} of {block.name} is on {places}, and should be on {block.wanted}"
        found.append(Finding("under_replicated", sentence, _REPAIR, block.name, block.id))
    return found


def _bad(block: StoredBlock, row: DataServerRow, bad: Bad, suspended: bool) -> Finding:
    sentence = f"block {block.id} of {block.name} is {bad} on {name_of(row)}"
    mend = _ACCEPT_CATALOG if suspended and bad == "corrupt" else _REPAIR
    return Finding(bad, sentence, mend, block.name, block.id, name_of(row))


def _lost(block: StoredBlock, bad: Mapping[DataServerRow, Bad]) -> Finding:
    why = ", ".join(f"{bad} on {name_of(row)}" for row, bad in bad.items()) or "no data server has it any more"
    sentence = f"block {block.id} of {block.name} is lost: {why}"
    name = shlex.quote(block.name)
    mend = f"filefly-client upload --name {name} FILE, or filefly-client rm {'-- ' * name.startswith('-')}{name}"
    return Finding("lost", sentence, mend, block.name, block.id)


def unreachable(row: DataServerRow, error: str, refused: bool) -> Finding:
    """Return what is to be said of a data server that cannot be asked, or that is `refused` as it is."""
    name = name_of(row)
    remove = f"if its disk is gone for good, filefly-client servers remove {name} --lost"
    if row.address is None:
        mend = f"bring its disk back; {remove}"
    elif refused and error.startswith(OF_ANOTHER_CATALOG):
        error, mend = OF_ANOTHER_CATALOG, right_catalog(name)
    elif refused:
        error, _, accept = error.partition(TO_ACCEPT)
        mend = accept or "see to that, and restart the data server"
    else:
        mend = f"start the data server; if it has moved, filefly-client servers add HOST:PORT; {remove}"
    return Finding("unreachable", f"data server {name} cannot be asked: {error}", mend, data_server=name)


def unknown(row: DataServerRow, block_id: str, suspended: bool) -> Finding:
    """Return what is to be said of a block file that the catalog does not know; a `suspended` one may have known it."""
    sentence = f"data server {name_of(row)} has a block {block_id} that the catalog does not know"
    if suspended:
        sentence += ", or not any more: it is older than its data"
    mend = f"save what you need of it, then {_ACCEPT_CATALOG}" if suspended else _REPAIR
    return Finding("unknown", sentence, mend, block_id=block_id, data_server=name_of(row))
