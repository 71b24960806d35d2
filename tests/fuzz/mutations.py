"""Inputs by chance: the examples, changed a little and joined, as a seed decides."""

import re
from collections.abc import Callable, Sequence
from random import Random

from tests.fuzz.examples import VALUES

_VALUE = re.compile(rb'(?<=":)("[^"\n]*"|[0-9.eE+-]+|true|false|null|\[[^\[\]\n]*\]|\{[^{}\n]*\})')
_LONGEST = 8192


class Mutations:
    """An endless stream of inputs; the same seed gives the same ones."""

    def __init__(self, seed: int, examples: Sequence[bytes], words: Sequence[bytes]) -> None:
        self._random = Random(seed)
        self._examples = examples
        self._words = words or [b"\0"]
        self._changes: list[Callable[[bytes], bytes]] = [
            *([self._replace_value] * 4),
            *([self._insert_word] * 2),
            self._flip_bit,
            self._set_byte,
            self._delete,
            self._repeat,
            self._cut,
            self._join,
            self._exchange_word,
        ]

    def next(self) -> bytes:
        """Return the next input: an example with as many as six changes, or none."""
        data = self._random.choice(self._examples)
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 2, 3, 6))):
            data = self._random.choice(self._changes)(data)
        return data[:_LONGEST]

    def _place(self, data: bytes) -> int:
        return self._random.randint(0, len(data))

    def _stretch(self, data: bytes) -> tuple[int, int]:
        begin = self._place(data)
        return begin, min(len(data), begin + self._random.choice((1, 2, 5, 20, 100)))

    def _replace_value(self, data: bytes) -> bytes:
        found = list(_VALUE.finditer(data))
        if not found:
            return self._insert_word(data)
        match = self._random.choice(found)
        other = self._random.choice(VALUES) if self._random.random() < 0.7 else self._random.choice(found)[0]
        return data[: match.start()] + other + data[match.end() :]

    def _insert_word(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._random.choice(self._words) + data[at:]

    def _exchange_word(self, data: bytes) -> bytes:
        return data.replace(self._random.choice(self._words), self._random.choice(self._words), 1)

    def _flip_bit(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + bytes(byte ^ 1 << self._random.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]

    def _set_byte(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._random.randbytes(1) + data[at + 1 :]

    def _delete(self, data: bytes) -> bytes:
        begin, end = self._stretch(data)
        return data[:begin] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        begin, end = self._stretch(data)
        return data[:end] + data[begin:end] * self._random.choice((1, 1, 2, 30)) + data[end:]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _join(self, data: bytes) -> bytes:
        other = self._random.choice(self._examples)
        return data[: self._place(data)] + other[self._place(other) :]
