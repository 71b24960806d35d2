"""How far each data server's blocks were re-read: one pass after the other, resumed where it was after a restart.

Statements only; see filefly.catalog.plans.
"""

from attrs import frozen
from sqlalchemy import Connection, select, update

from filefly.catalog.repairs import FIRST, Place
from filefly.catalog.replicas import count_on
from filefly.catalog.schema import data_servers

_c = data_servers.c


@frozen
class ScrubPass:
    """One pass over a data server's blocks: `begun` in running time, `place` the last one that was checked.

    In a `hurry` it does not spread itself over the period. `finished` is its end's time, in RFC 3339, once it has one.
    """

    begun: int
    hurry: bool = False
    place: Place = FIRST
    checked: int = 0
    total: int = 0
    bad: int = 0
    finished: str | None = None


def scrub_passes(connection: Connection) -> dict[int, ScrubPass]:
    """Return the present or last pass of every data server that had one."""
    query = select(
        _c.key,
        _c.scrub_begun,
        _c.scrub_hurry,
        _c.scrub_generation,
        _c.scrub_position,
        _c.scrub_checked,
        _c.scrub_total,
        _c.scrub_bad,
        _c.scrub_finished,
    ).where(_c.scrub_begun.is_not(None))
    return {
        key: ScrubPass(begun, hurry, Place(generation, position), checked, total, bad, finished)
        for key, begun, hurry, generation, position, checked, total, bad, finished in connection.execute(query)
    }


def save_scrub_pass(connection: Connection, server: int, scrub: ScrubPass) -> None:
    """Write down how far a pass is; one that was begun anew meanwhile is left alone."""
    values = {
        "scrub_begun": scrub.begun,
        "scrub_hurry": scrub.hurry,
        "scrub_generation": scrub.place.generation,
        "scrub_position": scrub.place.position,
        "scrub_checked": scrub.checked,
        "scrub_total": scrub.total,
        "scrub_bad": scrub.bad,
        "scrub_finished": scrub.finished,
    }
    same = (_c.scrub_begun == scrub.begun) & (_c.scrub_hurry == scrub.hurry)
    connection.execute(update(data_servers).where(_c.key == server, same).values(values))


def next_scrub_pass(connection: Connection, server: int, last: ScrubPass | None, now: int) -> ScrubPass:
    """Begin the pass behind `last` at `now`, in running time; one that somebody else began meanwhile is it already."""
    present = scrub_passes(connection).get(server)
    if present is not None and present != last:
        return present
    return begin_scrub_pass(connection, server, now, False)


def begin_scrub_pass(connection: Connection, server: int, now: int, hurry: bool) -> ScrubPass:
    """Begin a pass at `now` in running time."""
    scrub = ScrubPass(begun=now, hurry=hurry, total=count_on(connection, server))
    started = {"scrub_begun": scrub.begun, "scrub_hurry": hurry}
    connection.execute(update(data_servers).where(_c.key == server).values(started))
    save_scrub_pass(connection, server, scrub)
    return scrub
