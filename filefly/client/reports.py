"""Hints to the metadata server: a data server's copy of a block is missing or corrupt."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as TooLate

from filefly.client.remote_catalog import RemoteCatalog
from filefly.errors import FileFlyError
from filefly.wire.messages import Reply, ReportReplica

_DEADLINE_SECONDS = 2.0
_MOST_UNDER_WAY = 16


class Reports:
    """Gives hints in the background. Nothing depends on them: one that fails, or is one too many, is dropped."""

    def __init__(self, catalog: RemoteCatalog) -> None:
        self._catalog = catalog
        self._under_way: list[Deferred[Any]] = []

    def report(self, block_id: str, data_server: str) -> None:
        """Begin to tell of a bad replica."""
        if len(self._under_way) >= _MOST_UNDER_WAY:
            return
        telling: Deferred[Any] = Deferred.fromCoroutine(
            self._catalog.ask(ReportReplica(block_id=block_id, data_server=data_server), Reply)
        )
        telling.addTimeout(_DEADLINE_SECONDS, self._catalog.reactor)
        telling.addErrback(lambda failure: failure.trap(FileFlyError, CancelledError, TooLate))
        self._under_way.append(telling)
        telling.addBoth(lambda _result: self._under_way.remove(telling))

    @asynccontextmanager
    async def given_in_the_end(self) -> AsyncIterator[None]:
        """Wait, at the end of the block, for what is under way; never long, and not at all when that is cancelled."""
        try:
            yield
        except FileFlyError:
            await DeferredList(list(self._under_way))
            raise
        await DeferredList(list(self._under_way))

    def close(self) -> None:
        """Give up what is under way."""
        for telling in list(self._under_way):
            telling.cancel()
