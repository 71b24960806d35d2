"""Figures of two sides that run in turn, and what they say. Knows no process and no disk."""

from collections.abc import Callable, Sequence
from statistics import median

from attrs import frozen


@frozen
class Bound:
    """What a figure must at least be, or may be `at_most`."""

    value: float
    at_most: bool = False

    def met_by(self, figure: float) -> bool:
        """Whether a figure keeps the bound."""
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:,g}"


def at_least(value: float) -> Bound:
    """Return a floor."""
    return Bound(value)


def at_most(value: float) -> Bound:
    """Return a ceiling."""
    return Bound(value, at_most=True)


@frozen
class Summary:
    """The median of some figures and how far they spread."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Summary":
        """Return the summary of at least one figure."""
        return cls(median(figures), min(figures), max(figures))


@frozen
class Row:
    """A line of the table: FileFly's figures, in `unit`, and those of its peer in the same pairs.

    `ratio_bound` is for the ratio, `own_bound` for FileFly's own median. A row without figures says in `note` why.
    """

    case: str
    title: str
    where: str
    unit: str = ""
    figures: Sequence[float] = ()
    peer: str = ""
    peer_figures: Sequence[float] = ()
    ratio_bound: Bound | None = None
    own_bound: Bound | None = None
    note: str = ""

    @property
    def own(self) -> Summary | None:
        """FileFly's figures."""
        return Summary.of(self.figures) if self.figures else None

    @property
    def other(self) -> Summary | None:
        """The peer's figures."""
        return Summary.of(self.peer_figures) if self.peer_figures else None

    @property
    def ratio(self) -> Summary | None:
        """FileFly's figure divided by the peer's, pair by pair."""
        if not self.figures or not self.peer_figures:
            return None
        return Summary.of([ours / theirs for ours, theirs in zip(self.figures, self.peer_figures, strict=True)])

    @property
    def met(self) -> bool | None:
        """Whether every bound is kept; None if there is none, or nothing was measured."""
        judged = ((self.ratio_bound, self.ratio), (self.own_bound, self.own))
        verdicts = [bound.met_by(summary.median) for bound, summary in judged if bound and summary]
        return all(verdicts) if verdicts else None


def nothing() -> None:
    """Leave things as they are."""


@frozen
class Side:
    """One of the two that run in turn: `prepare` readies it, `run` returns its figure, `clear` removes what is left."""

    run: Callable[[], float]
    clear: Callable[[], None] = nothing
    prepare: Callable[[], None] = nothing


def in_turn(sides: Sequence[Side], counted: int, settle: Callable[[], None]) -> list[list[float]]:
    """Run the sides A B A B ... and return each one's figures; the first round is not counted.

    What a run left is cleared, and the machine is left to `settle`, before the next one, so that none pays for another.
    """
    figures: list[list[float]] = [[] for _side in sides]
    for number in range(counted + 1):
        for side, own in zip(sides, figures, strict=True):
            settle()
            side.prepare()
            figure = side.run()
            side.clear()
            if number:
                own.append(figure)
    return figures
