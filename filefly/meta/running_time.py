"""A clock that nobody can set."""

from collections.abc import Callable


class RunningTime:
    """For how many seconds metadata servers have been running on a catalog.

    It adds up differences of `monotonic` to what was `saved` in the catalog, and loses at most a minute at a crash.
    """

    def __init__(self, monotonic: Callable[[], float], saved: int) -> None:
        self._monotonic = monotonic
        self._origin = monotonic() - saved

    def seconds(self) -> int:
        """Return the running time, rounded down."""
        return int(self._monotonic() - self._origin)
