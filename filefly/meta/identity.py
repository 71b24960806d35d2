"""Which storage is behind which address: what a round of pings means for the catalog. Pure.

Replicas belong to a storage, known by the id in its `.filefly.json`; an address is only where it was last seen. So a
storage that shows up elsewhere takes its replicas along, two that were swapped keep their own, and one that is not
known, or is another catalog's, is refused until somebody accepts it: a disk that was not mounted must neither pass for
one that lost everything nor be filled with copies.
"""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from filefly.catalog.inventory import DataServerRow

OF_ANOTHER_CATALOG = "holds a storage of another catalog (is --catalog the right file?)"
TO_ACCEPT = "; to take it as it is: "


@frozen
class Identity:
    """What a data server says it is; `generation` is the highest that its catalog has told it."""

    storage_id: str
    catalog_id: str | None
    generation: int


@frozen
class Reconciled:
    """What follows from a round of pings; data servers are named by their keys.

    `moved` maps a known storage to the row at whose address it is now, `new` a row to the storage that it is from now
    on. `ours` are where they are expected, `unadopted` those of them that do not know their catalog yet. `refused`
    says why a row's address must not be used.
    """

    ours: list[int] = field(factory=list)
    unadopted: list[int] = field(factory=list)
    moved: dict[int, int] = field(factory=dict)
    new: dict[int, str] = field(factory=dict)
    refused: dict[int, str] = field(factory=dict)


def reconcile(rows: Sequence[DataServerRow], seen: Mapping[int, Identity], catalog_id: str) -> Reconciled:
    """Return what follows from what is `seen` at the addresses of `rows`, by key."""
    result = Reconciled()
    owners = {row.storage_id: row for row in rows if row.storage_id is not None}
    ours = {key: found for key, found in seen.items() if found.catalog_id in (None, catalog_id)}
    for row in rows:
        if (found := ours.get(row.key)) is None:
            if row.key in seen:
                result.refused[row.key] = f"{OF_ANOTHER_CATALOG}; {right_catalog(row.address)}"
            continue
        owner = owners.get(found.storage_id)
        if owner is row:
            result.ours.append(row.key)
            if found.catalog_id is None:
                result.unadopted.append(row.key)
        elif owner is not None:
            elsewhere = ours.get(owner.key)
            at_home = elsewhere is not None and elsewhere.storage_id == found.storage_id
            if at_home or owner.key in result.moved:
                result.refused[row.key] = f"holds the storage of {owner.address}, or a copy of it; use one of them"
            else:
                result.moved[owner.key] = row.key
        elif row.storage_id is not None:
            result.refused[row.key] = _refusal(row, "holds another storage than before (is its disk mounted?)")
        elif found.catalog_id is not None:
            result.refused[row.key] = _refusal(row, "holds a storage that this catalog does not know any more")
        elif found.storage_id in result.new.values():
            result.refused[row.key] = "holds a storage that is listed under another address too; use one of them"
        else:
            result.new[row.key] = found.storage_id
    for key in result.moved:
        result.refused.pop(key, None)  # whatever is where it was before: it goes by another address now
    return result


def right_catalog(address: str | None) -> str:
    """Return what to do where there is a storage of another catalog: mostly this one is the wrong one."""
    return (
        "stop this metadata server and start it with the right --catalog; only if that catalog is gone for good: "
        f"filefly-client servers accept {address} --take-over"
    )


def _refusal(row: DataServerRow, why: str) -> str:
    return f"{why}{TO_ACCEPT}filefly-client servers accept {row.address}"
