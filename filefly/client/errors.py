"""Causes that only a client tells apart; on the wire they are no different from their parents."""

from filefly.errors import FileFlyError, Unavailable


class Unreachable(Unavailable):
    """A server cannot be reached, or went away before it had answered."""


class Silent(Unavailable):
    """A server's machine does not answer at all: to find that out has taken long already."""


class SourceFailed(FileFlyError):
    """The file that is uploaded cannot be read."""


class SourceChanged(SourceFailed):
    """The file changed while it was uploaded; upload it again."""
