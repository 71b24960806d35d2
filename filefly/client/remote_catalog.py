"""The catalog as a client sees it: questions to the metadata server, asked again where that is safe."""

from functools import partial
from typing import Any, TypeVar

from attrs import define

from filefly.client.connection import ConnectionPool
from filefly.client.decisions import check_readable, worth_asking_again
from filefly.client.retries import with_retries
from filefly.errors import NotFound
from filefly.wire.messages import GetMetadata, Metadata, MetadataReply, Reply, Request

R = TypeVar("R", bound=Reply)


@define(eq=False)
class RemoteCatalog:
    """Asks the metadata server at `address`."""

    reactor: Any
    address: str
    _pool: ConnectionPool

    async def ask(self, request: Request, kind: type[R]) -> R:
        """Return the reply to a request; where an answer may have been lost, only a harmless one is sent again."""

        async def once() -> R:
            return await self._pool.request(self.address, request, kind)

        return await with_retries(self.reactor, partial(worth_asking_again, request), once)

    async def ask_about(self, name: str, request: Request, kind: type[R]) -> R:
        """Do the same, and name the file if it is not found."""
        try:
            return await self.ask(request, kind)
        except NotFound as error:
            raise NotFound(f"{name}: {error}") from None

    async def stat(self, name: str) -> Metadata:
        """Return a file's metadata; `state` is `pending` for a plan whose blocks are not all stored yet."""
        return (await self.ask_about(name, GetMetadata(file_name=name), MetadataReply)).metadata

    async def readable(self, name: str) -> Metadata:
        """Return the metadata of a file that can be read; raises NotFound, Incomplete or Corrupt."""
        metadata = await self.stat(name)
        check_readable(metadata)
        return metadata
