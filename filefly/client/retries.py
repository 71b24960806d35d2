"""Trying again a little later."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet.task import deferLater

from filefly.client.decisions import RETRY_DELAYS_SECONDS
from filefly.errors import FileFlyError

T = TypeVar("T")


async def with_retries(clock: Any, worth: Callable[[FileFlyError], bool], once: Callable[[], Awaitable[T]]) -> T:
    """Return what `once` returns; after an error that is `worth` it wait a little and try again, twice at most."""
    for delay in RETRY_DELAYS_SECONDS:
        try:
            return await once()
        except FileFlyError as error:
            if not worth(error):
                raise
        await deferLater(clock, delay)
    return await once()
