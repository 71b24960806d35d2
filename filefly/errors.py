"""Every way in which FileFly says no: one root, one class per cause, each with its code on the wire.

A class's docstring is the sentence that is shown when the one who raises it has nothing more precise to say.
"""

from typing import ClassVar


class FileFlyError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal"

    def __init__(self, sentence: str | None = None) -> None:
        own = (type(self).__doc__ or "").removesuffix(".")
        super().__init__(sentence or own[:1].lower() + own[1:])


class BadRequest(FileFlyError):
    """The request cannot be understood."""

    code = "bad_request"


class PayloadEnded(BadRequest):
    """The input ended inside a payload."""


class UnknownCommand(FileFlyError):
    """Unknown command."""

    code = "unknown_command"


class NotFound(FileFlyError):
    """File not found."""

    code = "not_found"


class Conflict(FileFlyError):
    """Somebody else changed this first."""

    code = "conflict"


class Incomplete(FileFlyError):
    """The file's blocks are not all stored yet."""

    code = "incomplete"


class Corrupt(FileFlyError):
    """The bytes do not match their checksum."""

    code = "corrupt"


class Unavailable(FileFlyError):
    """A server cannot be reached."""

    code = "unavailable"


class TooLarge(FileFlyError):
    """The request is over a limit."""

    code = "too_large"


class BadRange(FileFlyError):
    """The range begins beyond the end."""

    code = "bad_range"


class DiskFull(FileFlyError):
    """The disk is full."""

    code = "disk_full"


class WrongStorage(FileFlyError):
    """The storage is not the one that was meant."""

    code = "wrong_storage"


class Busy(FileFlyError):
    """The server is busy; try again later."""

    code = "busy"


class TimedOut(FileFlyError):
    """No answer came in time."""

    code = "timeout"


class Unauthorized(FileFlyError):
    """Not authenticated."""

    code = "unauthorized"


class Forbidden(FileFlyError):
    """Not allowed."""

    code = "forbidden"


class QuotaExceeded(FileFlyError):
    """The quota is used up."""

    code = "quota_exceeded"

    def __init__(self, sentence: str | None = None, prefix: str | None = None) -> None:
        super().__init__(sentence)
        self.prefix = prefix  # what the names begin with that the quota is for, if it is known


class Internal(FileFlyError):
    """The server failed; its log says why."""

    code = "internal"


_CLASS_OF_CODE = {kind.code: kind for kind in FileFlyError.__subclasses__()}


def error_from_wire(code: str, sentence: str) -> FileFlyError:
    """Build the exception that stands for an error reply; a code from a newer server becomes a plain FileFlyError."""
    return _CLASS_OF_CODE.get(code, FileFlyError)(sentence)
