"""The ratios as a picture. Matplotlib is needed only to draw it: it comes with the extra `bench`."""

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from benchmarks.measures import Row

_COLOURS = {True: "#2a9d4a", False: "#d0402f", None: "#888888"}
"""By whether every bound of the row is met."""
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5)
_INCHES_A_BAR = 0.36


@frozen
class Bar:
    """A line of the picture: a ratio, how far it spreads, and what it has to be."""

    label: str
    ratio: float
    lowest: float
    highest: float
    bound: float | None
    colour: str


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Return a bar for each row that has a ratio."""
    return [
        Bar(
            f"{row.title} ({row.where}) / {row.peer}".replace("`", ""),
            row.ratio.median,
            row.ratio.lowest,
            row.ratio.highest,
            row.ratio_bound.value if row.ratio_bound else None,
            _COLOURS[row.met],
        )
        for row in rows
        if row.ratio is not None
    ]


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Draw the ratios into a PNG file; return False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    shown = bars(rows)[::-1]
    figure = Figure(figsize=(11, 1.6 + _INCHES_A_BAR * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    at = range(len(shown))
    ratios = [bar.ratio for bar in shown]
    spread = [[bar.ratio - bar.lowest for bar in shown], [bar.highest - bar.ratio for bar in shown]]
    axes.barh(at, ratios, height=0.6, color=[bar.colour for bar in shown], xerr=spread, ecolor="#444444", capsize=2)
    for place, bar in enumerate(shown):
        if bar.bound is not None:
            axes.plot([bar.bound, bar.bound], [place - 0.42, place + 0.42], color="black", linewidth=2)
    axes.axvline(1, color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_yticks(at, [bar.label for bar in shown], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("FileFly / peer. Black: what the ratio has to reach, or, for times and memory, to stay below")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.set_xticks([], minor=True)
    axes.margins(y=0.01)
    axes.set_title("FileFly beside its peers: medians of pairs, lowest to highest")
    figure.savefig(path, dpi=120)
    return True
