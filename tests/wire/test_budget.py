import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from filefly.wire.batches import MAX_BATCH_BYTES
from filefly.wire.budget import LineBudget, UnsentReplies
from tests.peer import now


def has_room(given: Deferred[None]) -> bool:
    return given.called


def test_room_is_given_while_there_is_some() -> None:
    """What is given back can be given again."""
    budget = LineBudget(100, 50)
    assert has_room(budget.hold("a", 50))
    assert has_room(budget.hold("b", 50))
    third = budget.hold("c", 10)
    assert not has_room(third)
    budget.give_back("a")
    assert (True, 60) == (has_room(third), budget.used)


def test_who_came_first_has_the_first_turn() -> None:
    """Also if the later one needs less."""
    budget = LineBudget(50, 50)
    budget.hold("a", 50)
    first, second = budget.hold("b", 50), budget.hold("c", 1)
    budget.give_back("a")
    assert (True, False) == (has_room(first), has_room(second))


def test_the_longest_line_can_always_come_to_its_end() -> None:
    """Of two that grow side by side one is made to wait before there is not enough left for either."""
    budget = LineBudget(60, 50)
    granted = {"a": 0, "b": 0}
    for size in range(1, 51):
        for holder in ("a", "b"):
            if granted[holder] == size - 1 and has_room(budget.hold(holder, size)):
                granted[holder] = size
    assert [10, 50] == sorted(granted.values())


def test_nobody_waits_for_ever_for_more_than_a_line_may_have() -> None:
    """More than the longest line may have is not needed."""
    budget = LineBudget(100, 50)
    assert has_room(budget.hold("a", 1000))
    assert 50 == budget.used


def test_who_waits_no_more_is_told() -> None:
    """And holds what it had until that is given back."""
    budget = LineBudget(50, 50)
    budget.hold("a", 1)
    budget.hold("b", 1)
    waiting = budget.hold("b", 50)
    budget.stop_waiting("b")
    with pytest.raises(CancelledError):
        now(waiting)
    budget.give_back("a")
    budget.give_back("b")
    assert (0, {}, {}) == (budget.used, budget._held, budget._waiting)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), max_size=60), st.integers(0, 30))
def test_lines_of_any_growth_all_come_to_their_end(growths: list[tuple[int, int]], spare: int) -> None:
    """However five lines grow, no more than all is given, and whoever still has room can go on until none is left."""
    budget = LineBudget(50 + spare, 50)
    sizes: dict[int, int] = {}
    waiting: dict[int, Deferred[None]] = {}

    def grow(holder: int, size: int) -> None:
        sizes[holder] = min(50, size)
        waiting[holder] = budget.hold(holder, sizes[holder])

    for holder, more in growths:
        if holder not in waiting or waiting[holder].called:
            grow(holder, sizes.get(holder, 0) + more)
        assert budget.used <= budget.most
    while sizes:
        holder = next(each for each in sizes if waiting[each].called)
        if sizes[holder] < 50:
            grow(holder, sizes[holder] + 1)
        else:
            del sizes[holder]
            budget.give_back(holder)
    assert (0, {}) == (budget.used, budget._waiting)


@define(eq=False)
class Reader:
    """Somebody who may be given up."""

    replies: UnsentReplies
    given_up: bool = field(default=False)

    def abort(self) -> None:
        self.given_up = True


def looked_twice(replies: UnsentReplies) -> None:
    replies.look()
    replies.look()


def test_who_does_not_read_is_given_up_when_replies_take_too_much() -> None:
    """Those that move are not, and no more of the others than need be."""
    replies = UnsentReplies(100)
    stuck, also_stuck, moving = (Reader(replies) for _ in range(3))
    replies.note(stuck, 50)
    replies.note(also_stuck, 40)
    replies.note(moving, 60)
    replies.look()
    replies.note(moving, 55)
    replies.look()
    assert (True, False, False) == (stuck.given_up, also_stuck.given_up, moving.given_up)


def test_nobody_is_given_up_while_there_is_room() -> None:
    """However long it does not read: that is for the time-outs."""
    replies = UnsentReplies(100)
    reader = Reader(replies)
    replies.note(reader, 99)
    for _ in range(10):
        replies.look()
    assert not reader.given_up


def test_large_replies_wait_for_room_one_after_another() -> None:
    """Each is let in when what waits is below the limit, in the order they came."""
    replies = UnsentReplies(100)
    stuck, second, third = (Reader(replies) for _ in range(3))
    assert has_room(replies.room(stuck))
    replies.note(stuck, 100)
    waiting = [replies.room(second), replies.room(third)]
    replies.note(stuck, 99)
    assert [True, False] == [has_room(each) for each in waiting]
    replies.note(second, 50)
    looked_twice(replies)
    assert [True, True] == [has_room(each) for each in waiting]


def test_replies_that_are_being_made_count() -> None:
    """Or all who ask at once would be let in, before the first reply is there to be counted; each as a whole batch."""
    replies = UnsentReplies(2 * MAX_BATCH_BYTES)
    first, second, third, fourth = (Reader(replies) for _ in range(4))
    waiting = [replies.room(each) for each in (first, second, third, fourth)]
    assert [True, True, False, False] == [has_room(each) for each in waiting]
    replies.made(first)  # and sent
    assert [True, True, True, False] == [has_room(each) for each in waiting]
    replies.note(second, 1)
    assert has_room(waiting[3])


def test_who_is_gone_waits_no_more() -> None:
    """And leaves nothing behind."""
    replies = UnsentReplies(100)
    stuck, waits = Reader(replies), Reader(replies)
    replies.note(stuck, 100)
    waiting = replies.room(waits)
    for reader in (waits, stuck):
        replies.forget(reader)
    with pytest.raises(CancelledError):
        now(waiting)
    assert (0, {}, {}) == (replies._total, replies._unsent, replies._waiting)
