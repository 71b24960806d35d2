"""Every ticket that may be shown for blocks 0 and 1 of a file: good ones, ones for something else, and void ones."""

from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from filefly.security.keys import Key, Keyring
from filefly.security.tickets import Right, Ticket, indexes_of, issue_ticket
from tests.rights.expected import Shown
from tests.rights.signers import changed, token
from tests.rights.talking import BOTH, KEY, NEW_ALONE, NOW, OLD, STRANGER

STORAGE = "id of blocks"
BLOCK_BYTES = 8
PRESENT, TO_STORE = "docs/a-0.7", "docs/a-1.7"
"""The first block is there; the second is planned, and has as many bytes."""


@frozen
class Exhibit:
    """A ticket: what it is where the right and the size are those that are asked for.

    Some were shown before, while they were good: `earlier` has the keys that were valid then.
    """

    name: str
    text: str | None
    shown: Shown
    right: Right | None = None
    other_size: bool = False
    earlier: Keyring | None = None

    def as_shown(self, right: Right | None, wrong_size: bool) -> Shown:
        """Return what it is for a request that needs `right`, None for either."""
        if self.shown is not Shown.GOOD:
            return self.shown
        return Shown.OTHER if wrong_size or right not in (None, self.right) else Shown.GOOD


def _signed(ticket: Ticket, key: Key = KEY) -> str:
    return issue_ticket(Keyring([key]), ticket)


def _of(right: Right) -> list[Exhibit]:
    plan = Ticket(STORAGE, right, "docs/a", 7, indexes_of([0, 1]), 20, BLOCK_BYTES, int(NOW) + 60, "t")
    good = _signed(plan)
    others: Mapping[str, Ticket] = {
        "another block": evolve(plan, indexes=indexes_of([2])),
        "no block": evolve(plan, indexes=0),
        "another file": evolve(plan, stem="docs/b"),
        "a file whose name begins alike": evolve(plan, stem="docs/a-0"),
        "another generation": evolve(plan, generation=8),
        "no generation": evolve(plan, generation=None),
    }
    void: Mapping[str, str] = {
        "expired": _signed(evolve(plan, expires=int(NOW) - 1)),
        "expiring now": _signed(evolve(plan, expires=int(NOW))),
        "for another data server": _signed(evolve(plan, storage_id="id of others")),
        "with one bit changed": changed(good),
        "of a retired key": _signed(plan, OLD),
        "of another secret": _signed(plan, STRANGER),
        "without its signature": good.rpartition(".")[0] + ".",
    }
    return [
        Exhibit(f"a {right} ticket", good, Shown.GOOD, right),
        Exhibit(f"a {right} ticket for other sizes", _signed(evolve(plan, block_size=9)), Shown.GOOD, right, True),
        *(
            Exhibit(f"a {right} ticket for {name}", _signed(other), Shown.OTHER, right)
            for name, other in others.items()
        ),
        *(Exhibit(f"a {right} ticket, {name}", text, Shown.VOID, right) for name, text in void.items()),
        Exhibit(
            f"a {right} ticket, expired since it was shown",
            _signed(evolve(plan, expires=int(NOW) - 50)),
            Shown.VOID,
            right,
            earlier=NEW_ALONE,
        ),
        Exhibit(
            f"a {right} ticket of a key retired since it was shown", _signed(plan, OLD), Shown.VOID, right, earlier=BOTH
        ),
    ]


EXHIBITS: Sequence[Exhibit] = [
    Exhibit("no ticket", None, Shown.NO_TICKET),
    *_of(Right.STORE),
    *_of(Right.RETRIEVE),
    Exhibit("a token as a ticket", token(), Shown.VOID),
    Exhibit("an empty ticket", "", Shown.VOID),
    Exhibit("no ticket at all", "x.y.z", Shown.VOID),
]
