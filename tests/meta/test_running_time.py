from hypothesis import given
from hypothesis import strategies as st

from filefly.meta.running_time import RunningTime
from tests.meta.bench import Monotonic


def test_running_time_goes_on_from_what_was_saved() -> None:
    """Whatever the monotonic clock shows: it begins anywhere."""
    monotonic = Monotonic()
    running = RunningTime(monotonic, 1000)
    assert 1000 == running.seconds()
    monotonic.now += 2.9
    assert 1002 == running.seconds()


def test_running_time_stands_still_while_nothing_runs() -> None:
    """A night switched off is no grace period."""
    monotonic = Monotonic()
    running = RunningTime(monotonic, 0)
    monotonic.now += 30
    saved = running.seconds()
    monotonic.now = 17.0  # the machine was switched off and on
    assert 30 == RunningTime(monotonic, saved).seconds()


@given(st.lists(st.lists(st.integers(0, 1000), max_size=4), max_size=6), st.integers(0, 10**6))
def test_running_time_is_never_ahead(starts: list[list[int]], saved: int) -> None:
    """Over any number of starts it is the sum of what passed while a metadata server ran."""
    monotonic = Monotonic(0.0)
    expected = saved
    for seconds in starts:
        running = RunningTime(monotonic, saved)
        for passed in seconds:
            monotonic.now += passed
        expected += sum(seconds)
        saved = running.seconds()
        monotonic.now += 12345
        assert expected == saved
