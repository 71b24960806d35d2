"""Pairs, medians, ratios, bounds."""

import pytest

from benchmarks.measures import Row, Side, Summary, at_least, at_most, in_turn


def row(own: list[float], peer: list[float], **bounds: object) -> Row:
    return Row("up", "1 GiB up", "disk", "MiB/s", own, "cp", peer, **bounds)  # type: ignore[arg-type]


def test_sides_run_in_turn_and_what_one_left_is_gone_before_the_next() -> None:
    """Sides run A B A B, each cleared at once and after the machine has settled."""
    happened: list[str] = []

    def side(name: str) -> Side:
        def run() -> float:
            happened.append(f"run {name}")
            return 1.0

        return Side(run, lambda: happened.append(f"clear {name}"))

    in_turn([side("A"), side("B")], 1, lambda: happened.append("settle"))

    one_round = ["settle", "run A", "clear A", "settle", "run B", "clear B"]
    assert one_round * 2 == happened


def test_the_first_pair_does_not_count() -> None:
    """Of four runs of a side three are counted: the first one warmed up."""
    figures = iter([100.0, 1.0, 2.0, 3.0])

    assert [[1.0, 2.0, 3.0]] == in_turn([Side(lambda: next(figures))], 3, lambda: None)


def test_a_summary_is_the_median_between_the_extremes() -> None:
    """The median of an even number of figures lies between the two in the middle."""
    assert Summary(2.5, 1.0, 10.0) == Summary.of([10.0, 1.0, 2.0, 3.0])


def test_a_ratio_is_the_median_of_the_pairs_not_of_the_medians() -> None:
    """What slowed both sides of a pair does not change the ratio."""
    assert Summary(2.0, 2.0, 2.0) == row([200.0, 20.0, 100.0], [100.0, 10.0, 50.0]).ratio
    assert Summary(1.0, 0.5, 4.0) == row([1.0, 4.0, 3.0], [2.0, 1.0, 3.0]).ratio


def test_a_row_without_figures_has_no_ratio_and_no_verdict() -> None:
    """What was not measured neither meets nor misses its bound."""
    skipped = row([], [], ratio_bound=at_least(0.7))

    assert (None, None, None, None) == (skipped.own, skipped.other, skipped.ratio, skipped.met)


def test_a_row_without_a_bound_has_no_verdict() -> None:
    """Nothing can be met where nothing was asked for."""
    assert row([1.0], [2.0]).met is None


@pytest.mark.parametrize(
    ("met", "bound", "ratio"),
    [
        (True, at_least(0.5), 0.5),
        (False, at_least(0.5), 0.49),
        (True, at_most(2.0), 2.0),
        (False, at_most(2.0), 2.01),
    ],
)
def test_a_bound_is_met_up_to_its_value(met: bool, bound: object, ratio: float) -> None:
    """A floor is met from its value up, a ceiling down from it."""
    assert met is row([ratio], [1.0], ratio_bound=bound).met


def test_every_bound_of_a_row_has_to_be_met() -> None:
    """Twice the peer is not enough where a number of its own is asked for, too."""
    assert row([2.0], [1.0], ratio_bound=at_least(2), own_bound=at_least(2)).met is True
    assert row([2.0], [1.0], ratio_bound=at_least(2), own_bound=at_least(3)).met is False
    assert row([3.0], [2.0], ratio_bound=at_least(2), own_bound=at_least(3)).met is False
