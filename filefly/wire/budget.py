"""Memory that the connections of one server share: for long requests, and for replies that wait to be read.

Who sends a long line takes room for it before more of it is read, and waits while there is none: first come, first
served. Lines are gathered side by side, so several of them could have all the room and none its end; therefore room
is given only while what is left still suffices for the longest line to become as long as a line may be. Then it ends,
and gives its room back. (This is the banker's algorithm, with one kind of coin and the same credit for everybody.)

When the replies that wait to be read take as much as they may, and those that are being made could, who asks for a
large one waits, and those who have read nothing of theirs for a while are lost.
"""

from collections.abc import Hashable
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from filefly.units import KIB, MIB

LINE_FACTOR = 2
"""A line and what is made of it: it is there twice while it is decoded (measured; its memory is given back then)."""
STEP_BYTES = 256 * KIB
"""Room is taken for so much of a line at a time."""
DEFAULT_MAX_BUFFERED = 64 * MIB
_MOST_LOOKS = 2
DEFAULT_MAX_UNSENT = 24 * MIB
_LARGE_REPLY_BYTES = 8 * MIB  # what a large reply is taken for until it is made: a whole batch


@define(eq=False)
class LineBudget:
    """Room for `most` bytes, of which nobody ever needs more than `largest`, at most `most`."""

    most: int
    largest: int
    _used: int = field(default=0, init=False)
    _held: dict[Hashable, int] = field(factory=dict, init=False)
    _waiting: dict[Hashable, tuple[int, Deferred[None]]] = field(factory=dict, init=False)

    @property
    def used(self) -> int:
        """How many bytes are taken."""
        return self._used

    def held(self, holder: Hashable) -> int:
        """Return how many bytes `holder` has."""
        return self._held.get(holder, 0)

    def hold(self, holder: Hashable, size: int) -> Deferred[None]:
        """Fire once `holder`, who waits for nothing else, has `size` bytes in all.

        Fails with CancelledError if it stops waiting.
        """
        size = min(size, self.largest)
        if size <= self.held(holder) or self._give(holder, size):
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting[holder] = size, waiting
        return waiting

    def stop_waiting(self, holder: Hashable) -> None:
        """Let `holder` wait no more."""
        if holder in self._waiting:
            self._waiting.pop(holder)[1].cancel()

    def give_back(self, holder: Hashable) -> None:
        """Take back all that `holder` has, and let it wait for no more."""
        self.stop_waiting(holder)
        self._used -= self._held.pop(holder, 0)
        for other, (size, its_turn) in list(self._waiting.items()):
            if other in self._waiting and self._give(other, size):
                del self._waiting[other]
                its_turn.callback(None)

    def _give(self, holder: Hashable, size: int) -> bool:
        """Let `holder` have `size` bytes if the longest line could still come to its end."""
        left = self.most - self._used - size + self.held(holder)
        longest = max(size, max(self._held.values(), default=0))
        if left < self.largest - longest:
            return False
        self._used = self.most - left
        self._held[holder] = size
        return True


class Reader(Protocol):
    """Somebody for whom a reply waits."""

    def abort(self) -> None:
        """Give it up."""


@define(eq=False)
class _Unsent:
    size: int
    looks: int = 0  # without its reader taking anything


@define(eq=False)
class UnsentReplies:
    """What waits to be read, by reader.

    While it is `most` bytes or more, with what is being made, who asks for a large reply has to wait; and at every
    `look` those are given up who have taken nothing since the last but one, if what waits is so much by itself.
    """

    most: int
    _unsent: dict[Reader, _Unsent] = field(factory=dict, init=False)
    _total: int = field(default=0, init=False)
    _making: set[Reader] = field(factory=set, init=False)
    _waiting: dict[Reader, Deferred[None]] = field(factory=dict, init=False)

    def note(self, reader: Reader, size: int) -> None:
        """Hear that `reader` has moved and that `size` bytes still wait for it."""
        earlier = self._unsent.pop(reader, None)
        if size:
            self._unsent[reader] = _Unsent(size)
        self._total += size - (0 if earlier is None else earlier.size)
        self.made(reader)

    def forget(self, reader: Reader) -> None:
        """Hear that `reader` is gone."""
        waiting = self._waiting.pop(reader, None)
        if waiting is not None:
            waiting.cancel()
        self.note(reader, 0)

    def room(self, reader: Reader) -> Deferred[None]:
        """Fire once a large reply may be made, until it is `made`; fails with CancelledError if its reader is gone."""
        if self._has_room and not self._waiting:
            self._making.add(reader)
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting[reader] = waiting
        return waiting

    def made(self, reader: Reader) -> None:
        """Hear that a large reply is made, and that what could not be sent of it is noted."""
        self._making.discard(reader)
        if self._waiting:
            self._let_in()

    @property
    def _has_room(self) -> bool:
        return self._total + len(self._making) * _LARGE_REPLY_BYTES < self.most

    def look(self) -> None:
        """Give those up, longest first, who keep others waiting and do not move."""
        for reader, unsent in list(self._unsent.items()):
            unsent.looks += 1
            if unsent.looks >= _MOST_LOOKS and self._total >= self.most:
                self.note(reader, 0)
                reader.abort()
        if self._waiting:
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._has_room:
            reader = next(iter(self._waiting))
            self._making.add(reader)
            self._waiting.pop(reader).callback(None)
