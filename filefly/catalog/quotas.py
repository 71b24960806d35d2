"""Quotas: what files whose names begin with a prefix may take in all. Statements only; see filefly.catalog.plans.

A committed file counts with its size, once, however many replicas it has; open plans count apart. Every quota whose
prefix a name begins with counts it. The counts change in the transactions that change what is counted. Where there is
no quota this costs a look into memory: see QuotaPrefixes.
"""

from collections.abc import Collection, Iterable, Sequence

from attrs import define
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from filefly.catalog.listing import above
from filefly.catalog.schema import COMMITTED, PENDING, plans, quotas
from filefly.catalog.statements import Statement
from filefly.errors import BadRequest, QuotaExceeded
from filefly.wire.names import MAX_NAME_BYTES
from filefly.wire.security import Quota

MAX_QUOTAS = 1000
OPTION = "filefly_quota_prefixes"
"""The execution option by which a connection's engine has its QuotaPrefixes."""

_c = quotas.c
_prefix: BindParameter[str] = bindparam("of")
_counts = ("used_bytes", "used_files", "open_bytes", "open_files")
_PREFIXES = Statement(select(_c.prefix))
_QUOTA = Statement(select(_c.max_bytes, _c.max_files, *(_c[name] for name in _counts)).where(_c.prefix == _prefix))
_COUNT = Statement(
    update(quotas)
    .where(_c.prefix == _prefix)
    .values({_c[name]: _c[name] + bindparam(f"more_{name}") for name in _counts})
)
_PLAN = Statement(
    select(plans.c.name, plans.c.total_size, plans.c.state == literal_column("'committed'")).where(
        or_(COMMITTED, PENDING), plans.c.generation == bindparam("generation")
    )
)


@define(eq=False)
class QuotaPrefixes:
    """The prefixes that may have a quota: all that have one, and those that had one since this was made.

    So it need not know whether a transaction that changed the quotas was taken back. For the thread that writes.
    """

    _known: set[str] | None = None

    def all(self, connection: Connection) -> set[str]:
        """Return the prefixes."""
        if self._known is None:
            self._known = {prefix for (prefix,) in _PREFIXES.rows(connection)}
        return self._known


def quotas_of(connection: Connection, name: str) -> Collection[str]:
    """Return the prefixes, perhaps with a quota, that a name begins with."""
    known = _prefixes(connection)
    return [prefix for prefix in known if name.startswith(prefix)] if known else ()


def _prefixes(connection: Connection) -> set[str]:
    prefixes: QuotaPrefixes = connection.get_execution_options()[OPTION]
    return prefixes.all(connection)


# What files and plans do to the counts


def check_room(
    connection: Connection, prefixes: Iterable[str], size: int, ends: Iterable[int | None], reserved: bool = False
) -> None:
    """Raise QuotaExceeded unless a file of `size` bytes fits in when the plans of the generations `ends` end.

    It must fit in beside what is planned, unless its own room was `reserved` by a plan. What takes no more than what it
    ends is always allowed, but then all that is planned must fit into that: until plans are committed both are on the
    disks. So what is used and planned is at most the quota and what one file ends: the file that it replaces, and the
    upload that it resumes.
    """
    for prefix in prefixes:
        row = _QUOTA.row(connection, {"of": prefix})
        if row is None:
            continue
        freed = [plan[1] for generation in ends if (plan := _plan(connection, generation)) is not None]
        max_bytes, max_files, used_bytes, used_files, open_bytes, open_files = row
        _check(prefix, "bytes", max_bytes, used_bytes, 0 if reserved else open_bytes, size - sum(freed))
        _check(prefix, "files", max_files, used_files, 0 if reserved else open_files, 1 - len(freed))


def _check(prefix: str, unit: str, limit: int | None, used: int, planned: int, more: int) -> None:
    if limit is None or planned + more <= max(0, limit - used):
        return
    of = f"files below {prefix!r}" if prefix else "all files"
    also = f" and {planned} planned" if planned else ""
    this = f"takes {more} more" if more > 0 else "fits in only once what is planned is over"
    most = f"{limit} {unit.removesuffix('s') if limit == 1 else unit}"
    is_used = f"{used} {'is' if used == 1 else 'are'} used"
    raise QuotaExceeded(f"the quota of {of} is {most}: {is_used}{also}, and this {this}", prefix)


def _plan(connection: Connection, generation: int | None) -> tuple[str, int, bool] | None:
    """Return the name and size of an open or committed plan, and whether it is committed."""
    plan: tuple[str, int, bool] | None = None
    if generation is not None:
        plan = _PLAN.row(connection, {"generation": generation})
    return plan


def count(connection: Connection, prefixes: Iterable[str], size: int, used: int = 0, planned: int = 0) -> None:
    """Count so many `used` files and `planned` ones more, or fewer, each of `size` bytes."""
    more = (size * used, used, size * planned, planned)
    values = {f"more_{name}": value for name, value in zip(_counts, more, strict=True)}
    _COUNT.run_each(connection, [{**values, "of": prefix} for prefix in prefixes])


def count_end(connection: Connection, generation: int, only_open: bool = False) -> None:
    """Take from the counts a plan that is about to end, if it is one; a committed one not if `only_open` ones end."""
    plan = _plan(connection, generation) if _prefixes(connection) else None
    if plan is None:
        return
    name, size, committed = plan
    if not committed:
        count(connection, quotas_of(connection, name), size, planned=-1)
    elif not only_open:
        count(connection, quotas_of(connection, name), size, used=-1)


def count_rename(connection: Connection, generation: int, new_name: str, replaced: int | None) -> None:
    """Count a file that is about to get another name, replacing one; raises QuotaExceeded where it comes to."""
    plan = _plan(connection, generation) if _prefixes(connection) else None
    if plan is None:
        return
    name, size, _committed = plan
    before, after = set(quotas_of(connection, name)), set(quotas_of(connection, new_name))
    check_room(connection, after - before, size, [replaced])
    count(connection, before - after, size, used=-1)
    count(connection, after - before, size, used=1)


# The quotas themselves


def set_quota(connection: Connection, prefix: str, max_bytes: int | None, max_files: int | None) -> None:
    """Limit what begins with `prefix`, and count what is there; without any limit there is no quota any more."""
    if len(prefix.encode()) > MAX_NAME_BYTES:
        raise BadRequest(f"prefix is longer than {MAX_NAME_BYTES} bytes")
    connection.execute(delete(quotas).where(_c.prefix == prefix))
    if max_bytes is None and max_files is None:
        return
    if connection.execute(select(func.count()).select_from(quotas)).scalar_one() >= MAX_QUOTAS:
        raise BadRequest(f"there are {MAX_QUOTAS} quotas already; take one back first")
    _prefixes(connection).add(prefix)
    used_bytes, used_files = _sum(connection, prefix, COMMITTED)
    open_bytes, open_files = _sum(connection, prefix, PENDING)
    values = dict(zip(_counts, (used_bytes, used_files, open_bytes, open_files), strict=True))
    limits = {"prefix": prefix, "max_bytes": max_bytes, "max_files": max_files}
    connection.execute(insert(quotas).values({**limits, **values}))


def _sum(connection: Connection, prefix: str, kind: ColumnElement[bool]) -> tuple[int, int]:
    """Return how many bytes and plans there are of a kind."""
    within: list[ColumnElement[bool]] = [kind, plans.c.name >= prefix]
    if (end := above(prefix)) is not None:
        within.append(plans.c.name < end)
    query = select(func.coalesce(func.sum(plans.c.total_size), 0), func.count()).where(*within)
    size, number = connection.execute(query).one()
    return int(size), int(number)


def list_quotas(connection: Connection) -> Sequence[Quota]:
    """Return the quotas, and what is used of each, in the order of their prefixes."""
    query = select(_c.prefix, _c.used_bytes, _c.used_files, _c.max_bytes, _c.max_files).order_by(_c.prefix)
    return [Quota(*row) for row in connection.execute(query)]
