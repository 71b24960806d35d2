"""Rows as tables and as JSON. The tables are Markdown that is aligned for a terminal, too."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import asdict

from benchmarks.measures import Bound, Row, Summary

_HEAD = ("case", "where", "FileFly", "peer", "its figure", "ratio", "to be", "")
_MARKS = {True: "met", False: "missed", None: ""}


def markdown(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Return the tables: what has a bound, how cost grows with the work, and what is told beside that."""
    tables: dict[str, list[Row]] = {name: [] for name in ("Floors", "Growth", "Beside them")}
    for row in rows:
        bounded = row.ratio_bound or row.own_bound
        tables["Floors" if bounded else "Growth" if row.case == "scaling" else "Beside them"].append(row)
    parts = [
        *(_table(*each) for each in tables.items()),
        ", ".join(f"{name}: {fact}" for name, fact in facts.items()) + ".",
        "Each figure is the median of the counted runs, with the lowest and the highest in brackets; a ratio is the\n"
        "median of the ratios of the pairs.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    columns = zip(_HEAD, *map(_cells, rows), strict=True)
    used = [column for column in columns if any(column[1:])]
    widths = [max(map(len, column)) for column in used]
    lines = [_line(each, widths) for each in zip(*used, strict=True)]
    return "\n".join([f"### {title}", "", lines[0], _line(["-" * width for width in widths], widths), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _cells(row: Row) -> tuple[str, ...]:
    own = _spread(row.own, row.unit) if row.own else row.note
    return (
        row.title,
        row.where,
        own,
        row.peer,
        _spread(row.other, row.unit),
        _spread(row.ratio, "x"),
        _bounds(row.ratio_bound, row.own_bound, row.unit),
        _MARKS[row.met],
    )


def _spread(summary: Summary | None, unit: str) -> str:
    if summary is None:
        return ""
    if summary.lowest == summary.highest:
        return f"{_number(summary.median)} {unit}"
    return f"{_number(summary.median)} {unit} ({_number(summary.lowest)}-{_number(summary.highest)})"


def _number(figure: float) -> str:
    """Return about three digits of a figure."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def _bounds(ratio: Bound | None, own: Bound | None, unit: str) -> str:
    return ", ".join([*([f"{ratio} x"] if ratio else []), *([f"{own} {unit}"] if own else [])])


def line(row: Row) -> str:
    """Return what is said of a row as soon as it is measured."""
    return "  ".join(cell for cell in _cells(row) if cell)


def as_json(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Return everything that was measured."""
    return json.dumps({"machine": dict(facts), "rows": [_entry(row) for row in rows]}, indent=2) + "\n"


def _entry(row: Row) -> dict[str, Any]:
    return {**asdict(row), "ratio": asdict(row.ratio) if row.ratio else None, "met": row.met}
