"""How long a server waits for what only a peer can do.

| the peer is to | and nothing of it moves for | then |
| --- | --- | --- |
| send its next request | `--idle-timeout` | it is told, and the connection is closed |
| send the rest of a line or of a payload | `--peer-timeout` | it is told, and lost |
| send the next 256 KiB of a line over 64 KiB | 10 seconds | it is told, and lost: others wait for the room it has |
| send all of such a line | it takes 4 minutes in all | the same |
| read what was sent to it | `--peer-timeout` | it is lost |

While a server waits for a disk, for room or for another server, that is not its peer's fault, and no time counts.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define

from filefly.units import KIB
from filefly.wire.awaited import Awaited
from filefly.wire.budget import STEP_BYTES

LOOK_SECONDS = 1
"""How often all conversations are looked at: timers for every request would cost more."""
_PACE_SECONDS = 10
_LONGEST_LINE_SECONDS = 240
_TOO_SLOW = (
    f"of a long line, {STEP_BYTES // KIB} KiB must come in {_PACE_SECONDS} seconds, and all in {_LONGEST_LINE_SECONDS}:"
    " others wait for its room (--max-buffered); raw payloads may be slower"
)


class Patient(Protocol):
    """One conversation."""

    @property
    def standing(self) -> tuple[Awaited, int]:
        """What its peer is to do, and a number that changes as it does."""

    @property
    def long_lines(self) -> int:
        """How many long lines have come to their end."""

    def give_up(self, awaited: Awaited, sentence: str) -> None:
        """Lose the peer."""


@define(eq=False)
class _Watched:
    standing: tuple[Awaited, int] = (Awaited.NOTHING, 0)
    seconds: int = 0  # it has been so
    long_line: int = 0  # the number of the one that was awaited last
    long_line_seconds: int = 0  # it has been awaited

    def is_late(self, long_line: int) -> bool:
        """Whether a long line, awaited now, has been for too long in all."""
        if long_line != self.long_line:
            self.long_line, self.long_line_seconds = long_line, 0
        self.long_line_seconds += LOOK_SECONDS
        return self.long_line_seconds > _LONGEST_LINE_SECONDS


class Patience:
    """Gives up the conversations whose peers do nothing for too long; 0 seconds are for ever."""

    def __init__(
        self, clock: Any, idle_seconds: int, peer_seconds: int, at_look: Callable[[], None] = lambda: None
    ) -> None:
        """`clock` is an IReactorTime; `at_look` is called whenever all conversations are looked at."""
        self._clock = clock
        self._at_look = at_look
        self._limits: Mapping[Awaited, int] = {
            Awaited.NOTHING: 0,
            Awaited.REQUEST: idle_seconds,
            Awaited.LINE: peer_seconds,
            Awaited.LONG_LINE: _PACE_SECONDS if peer_seconds else 0,
            Awaited.PAYLOAD: peer_seconds,
            Awaited.READING: peer_seconds,
        }
        self._sentences = {
            Awaited.REQUEST: f"no request came for {idle_seconds} seconds (--idle-timeout)",
            Awaited.LINE: f"nothing more of the line came for {peer_seconds} seconds (--peer-timeout)",
            Awaited.LONG_LINE: _TOO_SLOW,
            Awaited.PAYLOAD: f"nothing more of the payload came for {peer_seconds} seconds (--peer-timeout)",
        }
        self._watched: dict[Patient, _Watched] = {}
        self._next_look: Any = None

    def watch(self, conversation: Patient) -> None:
        """Look at a conversation from now on."""
        self._watched[conversation] = _Watched()
        if self._next_look is None and any(self._limits.values()):
            self._next_look = self._clock.callLater(LOOK_SECONDS, self._look)

    def forget(self, conversation: Patient) -> None:
        """Look at it no more."""
        del self._watched[conversation]
        if not self._watched and self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self) -> None:
        self._next_look = self._clock.callLater(LOOK_SECONDS, self._look)
        self._at_look()
        for conversation, watched in list(self._watched.items()):
            awaited, _ = standing = conversation.standing
            if awaited is Awaited.LONG_LINE and self._limits[awaited] and watched.is_late(conversation.long_lines):
                conversation.give_up(awaited, _TOO_SLOW)
            elif standing != watched.standing:
                watched.standing, watched.seconds = standing, 0
            else:
                watched.seconds += LOOK_SECONDS
                if 0 < self._limits[awaited] <= watched.seconds:
                    watched.seconds = 0
                    conversation.give_up(awaited, self._sentences.get(awaited, ""))
