"""New plans, and what changes about them while they are open. Statements only; see filefly.catalog.plans."""

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    BindParameter,
    Connection,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from filefly.catalog.plans import (
    Plan,
    PlanBlock,
    check_generation,
    committed_generation,
    not_open,
    plan_of_generation,
)
from filefly.catalog.quotas import check_room, count, quotas_of
from filefly.catalog.replicas import trashed_on
from filefly.catalog.schema import PENDING, blocks, catalog, plans, replicas, trash
from filefly.catalog.statements import Statement
from filefly.errors import Busy, NotFound, Unavailable
from filefly.wire.codec import encode
from filefly.wire.messages import Attributes
from filefly.wire.names import make_block_id, stem_of

MAX_IMPLICIT_PLANS = 100
"""How many implicit plans of one name may be open."""


class NewPlan(Struct, frozen=True):
    """What is decided about a plan before the catalog gives it a generation and ids."""

    name: str
    total_size: int
    block_size: int
    replicas: int
    explicit: bool
    sizes: Sequence[int]
    places: Sequence[tuple[int, ...]]
    sums: Sequence[str] | None = None
    if_generation: int | None = None
    attributes: Attributes = {}
    resumes: int | None = None
    touched: int = 0
    holder: str | None = None


_generation: BindParameter[int] = bindparam("of")

_stem_is_used = or_(
    exists().where(plans.c.stem == bindparam("wanted_stem")),
    exists().where(trash.c.stem == bindparam("wanted_stem")),
    exists().where(catalog.c.suspended.is_not(None)),  # an older catalog does not know what is in use
)
_STEM_IS_USED = Statement(select(_stem_is_used))
_DECIDED = (
    *("name", "explicit", "total_size", "block_size", "replicas", "attributes"),
    *("if_generation", "touched", "resumes", "holder"),
)
_NEW_PLAN = Statement(
    insert(plans)
    .values(state=literal_column("'pending'"), stem=case((_stem_is_used, None), else_=bindparam("wanted_stem")))
    .returning(plans.c.generation, plans.c.stem),
    *_DECIDED,
)
_NEW_BLOCK = Statement(insert(blocks), "generation", "position", "id", "size", "crc32c")
_NEW_REPLICA = Statement(insert(replicas), "generation", "position", "rank", "server")
_NEW_TRASH = Statement(insert(trash), "block_id", "server", "stem", "due")
_EXPLICIT = Statement(
    select(plans.c.generation)
    .where(PENDING, plans.c.name == bindparam("name"), plans.c.explicit, plans.c.total_size == bindparam("size"))
    .order_by(plans.c.generation.desc())
)
_IMPLICIT = Statement(
    select(func.count()).select_from(plans).where(PENDING, plans.c.name == bindparam("name"), ~plans.c.explicit)
)
_TOUCH = Statement(update(plans).where(PENDING, plans.c.generation == _generation).values(touched=bindparam("now")))
_FORGET_REPLICAS = Statement(
    delete(replicas).where(replicas.c.generation == _generation, replicas.c.position == bindparam("at"))
)


def short_ids_free(connection: Connection, name: str) -> bool:
    """Whether nothing in the catalog, trash included, uses the short ids of `name`."""
    return not _STEM_IS_USED.value(connection, {"wanted_stem": stem_of(name)})


def plan_file(connection: Connection, new: NewPlan, short_ids: bool) -> Plan:
    """Write down a plan; `short_ids` says that the data servers hold no block with a short id of this name.

    Raises Conflict if the name's generation is not the one that was asked for, QuotaExceeded if there is no room, Busy
    if too many implicit plans of the name are open: whoever reads the name waits until each was looked at.
    """
    if not new.explicit and _IMPLICIT.value(connection, {"name": new.name}) >= MAX_IMPLICIT_PLANS:
        raise Busy(f"{MAX_IMPLICIT_PLANS} plans of this file are open; complete one of them, or delete the file first")
    if new.if_generation is not None:
        check_generation(committed_generation(connection, new.name), new.if_generation)
    prefixes = quotas_of(connection, new.name)
    if prefixes:
        ends = {committed_generation(connection, new.name), new.resumes}
        check_room(connection, prefixes, new.total_size, ends)
        count(connection, prefixes, new.total_size, planned=1)
    stem = stem_of(new.name)
    decided = {
        "name": new.name,
        "explicit": new.explicit,
        "total_size": new.total_size,
        "block_size": new.block_size,
        "replicas": new.replicas,
        "attributes": encode(new.attributes).decode(),
        "wanted_stem": stem if short_ids else None,
        "if_generation": new.if_generation,
        "touched": new.touched,
        "resumes": new.resumes,
        "holder": new.holder,
    }
    generation, used_stem = _NEW_PLAN.row(connection, decided)
    sums: Sequence[str | None] = new.sums or [None] * len(new.sizes)
    planned = tuple(
        PlanBlock(make_block_id(stem, index, generation if used_stem is None else None), size, crc32c, servers)
        for index, (size, servers, crc32c) in enumerate(zip(new.sizes, new.places, sums, strict=True))
    )
    rows = [
        {"generation": generation, "position": at, "id": block.id, "size": block.size, "crc32c": block.crc32c}
        for at, block in enumerate(planned)
    ]
    _NEW_BLOCK.run_each(connection, rows)
    place_replicas(connection, generation, enumerate(block.servers for block in planned))
    return Plan(
        generation=generation,
        name=new.name,
        state="pending",
        explicit=new.explicit,
        total_size=new.total_size,
        block_size=new.block_size,
        replicas=new.replicas,
        attributes=new.attributes,
        stem=used_stem,
        if_generation=new.if_generation,
        modified=None,
        resumes=new.resumes,
        holder=new.holder,
        blocks=planned,
    )


def place_replicas(connection: Connection, generation: int, places: Iterable[tuple[int, tuple[int, ...]]]) -> None:
    """Write down on which data servers blocks of a plan are planned or stored, by position."""
    rows = [
        {"generation": generation, "position": position, "rank": rank, "server": server}
        for position, servers in places
        for rank, server in enumerate(servers)
    ]
    _NEW_REPLICA.run_each(connection, rows)


def newest_explicit_plan(
    connection: Connection, name: str, total_size: int, may_go_on: Callable[[Plan], bool]
) -> Plan | None:
    """Return the newest open explicit plan of a name and size that one may go on with: what an upload may resume."""
    for (generation,) in _EXPLICIT.rows(connection, {"name": name, "size": total_size}):
        head = plan_of_generation(connection, generation, with_blocks=False)
        if head is not None and may_go_on(head):
            return plan_of_generation(connection, generation)
    return None


def replace_replica(
    connection: Connection, generation: int, block_id: str, server: int, candidates: Sequence[int], due: int
) -> PlanBlock:
    """Plan a block of an open plan for the first of the `candidates` that can take it, instead of for `server`.

    What `server` may have of it becomes trash. Once it was replaced, again is fine. Raises Conflict if the plan is not
    open, NotFound if it has no such block, Unavailable if there is no other data server.
    """
    plan = plan_of_generation(connection, generation)
    if plan is None or plan.committed:
        raise not_open(generation)
    found = next(((at, block) for at, block in enumerate(plan.blocks) if block.id == block_id), None)
    if found is None:
        raise NotFound("block not found")
    position, block = found
    if server not in block.servers:
        return block
    taken = {*block.servers, *trashed_on(connection, block_id)}
    new = next((candidate for candidate in candidates if candidate not in taken), None)
    if new is None:
        raise Unavailable("no other data server can take the block: each has it, is down, draining or full")
    servers = tuple(new if each == server else each for each in block.servers)
    _FORGET_REPLICAS.run(connection, {"of": generation, "at": position})
    place_replicas(connection, generation, [(position, servers)])
    _NEW_TRASH.run(connection, {"block_id": block_id, "server": server, "stem": plan.stem, "due": due})
    return replace(block, servers=servers)


def touch_plan(connection: Connection, generation: int, now: int) -> None:
    """Note a sign of life of an open plan's client at `now` in running time; raises Conflict if it was ended."""
    if not _TOUCH.run(connection, {"of": generation, "now": now}):
        raise not_open(generation)
