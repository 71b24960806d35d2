"""Locks between processes, held for as long as a daemon lives, across twistd's fork."""

import errno
import fcntl
import os
import stat


def lock_file(path: str | os.PathLike[str]) -> int:
    """Lock the file `path`, created if need be, and return its descriptor: closing it lets the lock go.

    Raises BlockingIOError if another process holds the lock, any other OSError if the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
