"""Tokens as their users keep them: in a file that is theirs alone, or in the environment. Knows not what they say."""

import os
import re
import stat
import sys

from attrs import field, frozen

from filefly.errors import FileFlyError
from filefly.private import why_not_private

VARIABLE = "FILEFLY_TOKEN"
_MOST_BYTES = 8192
_LIKE_A_TOKEN = re.compile(r"[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}", re.ASCII)


@frozen
class GivenToken:
    """A token, and where it comes from, as its user knows it."""

    text: str = field(repr=False)
    source: str


def given_token(path: str | None) -> GivenToken | None:
    """Return the token in the file at `path` or, where none is named, in FILEFLY_TOKEN; raises FileFlyError."""
    if path is not None:
        return GivenToken(_read(path), path)
    text = os.environ.get(VARIABLE, "")
    return GivenToken(_one_word(text, VARIABLE), VARIABLE) if text.strip() else None


def token_of_stdin() -> GivenToken:
    """Return the token that standard input brings; raises FileFlyError."""
    return GivenToken(_one_word(sys.stdin.read(_MOST_BYTES + 1), "standard input"), "standard input")


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and (sentence := why_not_private(path, found)):  # a pipe is nobody else's
                raise FileFlyError(sentence)
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        if _LIKE_A_TOKEN.fullmatch(path):  # it is not to be told
            raise FileFlyError(
                f"that is a token, and not the name of a file that has one; a token itself goes into {VARIABLE}"
            ) from None
        raise FileFlyError(f"cannot read the token in {path}: {error.strerror}") from None
    return _one_word(data.decode("ascii", "replace"), path)


def _one_word(text: str, source: str) -> str:
    words = text.split()
    if len(words) != 1 or len(text) > _MOST_BYTES:
        raise FileFlyError(f"{source} has no token: it should be one line, as filefly-client token new prints it")
    return words[0]
