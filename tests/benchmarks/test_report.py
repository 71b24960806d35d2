"""Tables, JSON and what the picture shows."""

import json

from benchmarks.measures import Row, at_least, at_most
from benchmarks.plot import Bar, bars
from benchmarks.report import as_json, line, markdown

UP = Row("up", "1 GiB up", "disk", "MiB/s", [400.0, 500.0, 450.0], "dd", [500.0] * 3, at_least(0.7))
TINY = Row("tiny", "1 KiB up", "disk", "ms", [42.0], "import", [20.0], at_most(2.0), at_most(50))
WORKERS = Row("retrieve", "2 processes", "shm", note="it was not tried")
GROWTH = Row("scaling", "1 MiB up", "disk", "ns/byte", [3.5])


def test_a_table_has_a_line_for_each_row_with_its_figures_ratio_bound_and_verdict() -> None:
    """The table of the floors is Markdown, aligned."""
    expected = [
        ("case", "where", "FileFly", "peer", "its figure", "ratio", "to be", ""),
        ("1 GiB up", "disk", "450 MiB/s (400-500)", "dd", "500 MiB/s", "0.90 x (0.80-1.00)", "≥ 0.7 x", "met"),
        ("1 KiB up", "disk", "42.0 ms", "import", "20.0 ms", "2.10 x", "≤ 2 x, ≤ 50 ms", "missed"),
    ]

    title, empty, head, ruler, *lines, _end, _facts = markdown([UP, TINY], {"cores": "2"}).splitlines()[:8]

    assert ("### Floors", "", "| -", "- |") == (title, empty, ruler[:3], ruler[-3:])
    assert expected == [tuple(cell.strip() for cell in each.split("|")[1:-1]) for each in (head, *lines)]
    assert {len(head)} == {len(each) for each in (ruler, *lines)}


def test_what_has_no_bound_is_told_in_tables_of_its_own_without_empty_columns() -> None:
    """A row that was not measured says why; growth stands apart."""
    expected = [
        "### Growth",
        "",
        "| case     | where | FileFly      |",
        "| -------- | ----- | ------------ |",
        "| 1 MiB up | disk  | 3.50 ns/byte |",
        "",
        "### Beside them",
        "",
        "| case        | where | FileFly          |",
        "| ----------- | ----- | ---------------- |",
        "| 2 processes | shm   | it was not tried |",
        "",
        "cores: 2.",
    ]

    assert expected == markdown([WORKERS, GROWTH], {"cores": "2"}).splitlines()[:13]


def test_a_row_is_told_in_one_line_once_it_is_measured() -> None:
    """The line leaves out what there is nothing to say of."""
    assert line(GROWTH) == "1 MiB up  disk  3.50 ns/byte"


def test_the_json_has_every_figure_of_every_pair() -> None:
    """Who wants other statistics can make them."""
    written = json.loads(as_json([UP, WORKERS], {"cores": "2"}))

    assert {"cores": "2"} == written["machine"]
    assert [[400.0, 500.0, 450.0], []] == [row["figures"] for row in written["rows"]]
    assert [[500.0] * 3, []] == [row["peer_figures"] for row in written["rows"]]
    assert [{"median": 0.9, "lowest": 0.8, "highest": 1.0}, None] == [row["ratio"] for row in written["rows"]]
    assert [True, None] == [row["met"] for row in written["rows"]]


def test_the_picture_has_a_bar_for_each_ratio() -> None:
    """A bar's colour tells whether the bound is met; a row without a ratio has none."""
    met, missed = bars([UP, WORKERS, TINY, GROWTH])

    assert Bar("1 GiB up (disk) / dd", 0.9, 0.8, 1.0, 0.7, met.colour) == met
    assert Bar("1 KiB up (disk) / import", 2.1, 2.1, 2.1, 2.0, missed.colour) == missed
    assert met.colour != missed.colour
