"""Files that are to be their users' alone, or are read again when they change: secrets, tokens, keys, certificates.

Knows not what is in them.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

FileSignature = tuple[int, ...] | None
"""What changes with a file; None where there is none."""


def why_not_private(path: str | os.PathLike[str], found: os.stat_result, anyones: bool = False) -> str | None:
    """Return a sentence if others than this process's user and root can reach a file, None if they cannot.

    With `anyones` it may be another user's, as long as it is that one's alone.
    """
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path} is open to others than its owner (mode {mode:04o}); run: chmod 600 {path}"
    user = os.geteuid()
    if not anyones and found.st_uid not in (0, user):
        return f"{path} is another user's ({found.st_uid}); run this as that user, or: chown {user} {path}"
    return None


def write_new(path: Path, data: bytes, mode: int = 0o600, like: os.stat_result | None = None) -> None:
    """Write a file that must not exist, and put its bytes on stable storage; what cannot be finished is removed.

    It gets the owner, the group and the mode of what it is to be `like`. Raises OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if like is not None:
                os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            os.fsync(descriptor)
    except OSError:
        path.unlink()
        raise


def replace(path: Path, data: bytes, mode: int = 0o600, like: os.stat_result | None = None) -> None:
    """Put other bytes into a file at once: it is the old one or the new one. See write_new; raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write_new(temporary, data, mode, like)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def signature_of(path: str | os.PathLike[str]) -> FileSignature:
    """Return what changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
