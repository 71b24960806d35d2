"""Fenced blocks of a Markdown document, with where they stand."""

from pathlib import Path

from attrs import frozen


@frozen
class Line:
    """One line of a document; `number` counts from 1."""

    number: int
    text: str


@frozen
class Block:
    """A fenced block: the words behind its ticks, the heading above it, and its lines."""

    language: str
    words: tuple[str, ...]
    heading: str
    number: int
    lines: tuple[Line, ...]


def fenced_blocks(document: Path, language: str) -> list[Block]:
    """Return the blocks of one language, in the order in which they stand."""
    found: list[Block] = []
    heading, opening, lines = "", None, list[Line]()
    for number, text in enumerate(document.read_text().splitlines(), 1):
        if opening is not None:
            if text.strip() == "```":
                first, *words = opening.text.removeprefix("```").split() or [""]
                found.append(Block(first, tuple(words), heading, opening.number, tuple(lines)))
                opening = None
            else:
                lines.append(Line(number, text))
        elif text.startswith("```"):
            opening, lines = Line(number, text), []
        elif text.startswith("#"):
            heading = text.lstrip("#").strip()
    assert opening is None, f"{document.name}:{opening.number}: this block does not end"
    return [block for block in found if block.language == language]
