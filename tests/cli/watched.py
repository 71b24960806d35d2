"""What tests of commands that look after a cluster need: one that answers from a list, a Watch that takes notes."""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from filefly.cli.watching import Watch
from tests.cli.test_catalog import Shell

T = TypeVar("T")


class Noted(Watch):
    """Notes what it is shown and told."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int, int | None]] = []
        self.notes: list[str] = []
        self.asides = 0

    def show(self, state: str, done: int = 0, total: int | None = None) -> None:
        self.shown.append((state, done, total))

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.asides += 1
        yield

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


class Answering:
    """An Administration whose every method gives the next of `answers`."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._answers: list[Any] = list(answers)

    def _next(self, *asked: Any) -> Deferred[Any]:
        self.asked.append(asked)
        answer = self._answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def __getattr__(self, name: str) -> Callable[..., Deferred[Any]]:
        return lambda *arguments, **options: self._next(name, *arguments, *sorted(options.items()))


def begun(command: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Start a command."""
    return Deferred.fromCoroutine(command)


def times(clock: Clock, count: int) -> None:
    """Let it ask again so many times."""
    for _ in range(count):
        clock.advance(1)


def states(noted: Noted) -> Sequence[str]:
    """Return what was shown."""
    return [state for state, _done, _total in noted.shown]


@frozen
class _Place:
    address: str
    folder: Path


def shell_at(address: str, folder: Path) -> Shell:
    """Return a Shell for the metadata server at `address`, whatever that is."""
    place: Any = _Place(address, folder)
    return Shell(place)
