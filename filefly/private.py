"""Files that are to be their users' alone, or are read again when they change: secrets, tokens, keys, certificates.

Knows not what is in them.
"""

import os
import stat

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


def signature_of(path: str | os.PathLike[str]) -> FileSignature:
    """Return what changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
