"""Administration: what looks after a cluster, through its metadata server. Methods return Deferreds."""

import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from attrs import define
from twisted.internet.defer import Deferred

from filefly.client.backups import BackupFile
from filefly.client.connection import ConnectionPool
from filefly.client.errors import Unreachable
from filefly.client.retries import with_retries
from filefly.errors import FileFlyError, NotFound, UnknownCommand
from filefly.threads import InThread
from filefly.wire.administration import (
    AcceptCatalog,
    AcceptDataServer,
    BackupCatalog,
    Drain,
    DrainProgress,
    Fsck,
    FsckPage,
    RemoveDataServer,
    Scrub,
    UndeleteFile,
    Undrain,
)
from filefly.wire.blocks import BytesFollow
from filefly.wire.messages import (
    DataServerList,
    ListDataServers,
    Metadata,
    MetadataReply,
    RegisterDataServer,
    Reply,
    Request,
)
from filefly.wire.security import ListQuotas, ListRevokedTokens, QuotaList, RevokedTokens, RevokeToken, SetQuota
from filefly.wire.streaming import receive_into

R = TypeVar("R", bound=Reply)
T = TypeVar("T")

Received = Callable[[int, int], None]
"""Hears how many bytes have come, and of how many."""


@define(eq=False)
class Administration:
    """Looks after the cluster whose metadata server is at `address`.

    A data server is named by an address of it or, where it is seen at none, by its storage id. Every Deferred fails
    with a FileFlyError and can be cancelled.
    """

    _reactor: Any
    _pool: ConnectionPool
    _address: str
    _in_thread: InThread

    # Data servers

    def data_servers(self) -> Deferred[DataServerList]:
        """Return the data servers, how they are, and what whoever looks after the cluster should know."""
        return self._asked(ListDataServers(), DataServerList)

    def register(self, data_server: str, advertised: str | None = None) -> Deferred[Reply]:
        """Add a data server for good, or change what address clients are told."""
        return self._asked(RegisterDataServer(data_server, advertised), Reply)

    def accept(self, data_server: str, take_over: bool = False) -> Deferred[Reply]:
        """Take the storage that is now at an address for what it is; another catalog's only with `take_over`."""
        return self._asked(AcceptDataServer(data_server, take_over), Reply)

    def remove(self, data_server: str, lost: bool = False) -> Deferred[Reply]:
        """Retire a data server for good; raises Conflict if it has what is needed and is not said to be `lost`."""
        return self._asked_once(RemoveDataServer(data_server, lost), Reply)

    def drain(self, data_server: str) -> Deferred[DrainProgress]:
        """Have everything moved off a data server; again to hear how far that is."""
        return self._asked(Drain(data_server), DrainProgress)

    def undrain(self, data_server: str) -> Deferred[Reply]:
        """Let a data server keep what it has and get new blocks."""
        return self._asked(Undrain(data_server), Reply)

    def scrub(self, data_server: str | None = None) -> Deferred[Reply]:
        """Begin to re-read all blocks of a data server, or of every one; `data_servers` tells how far that is."""
        return self._asked(Scrub(data_server), Reply)

    # The catalog

    def fsck(
        self, after: str = "", *, verify: bool = True, repair: bool = False, limit: int | None = None
    ) -> Deferred[FsckPage]:
        """Check some more, from where `after` says; the page's `next` goes into `after` for the following one.

        Without `verify` no block is re-read. With `repair`, what is wrong is noted for repair.
        """
        request = Fsck(after, verify, repair) if limit is None else Fsck(after, verify, repair, limit)
        return self._asked(request, FsckPage)

    def undelete(self, name: str) -> Deferred[Metadata]:
        """Bring back what was last deleted or replaced under a name; raises NotFound once its time is over."""

        async def undelete() -> Metadata:
            try:
                return (await self._asked_once(UndeleteFile(name), MetadataReply)).metadata
            except NotFound as error:
                raise NotFound(f"{name}: {error}") from None

        return Deferred.fromCoroutine(undelete())

    def accept_catalog(self) -> Deferred[Reply]:
        """Go on with a catalog that is older than its data: trash and expiry resume."""
        return self._asked(AcceptCatalog(), Reply)

    def backup_catalog(self, path: str | os.PathLike[str], received: Received | None = None) -> Deferred[int]:
        """Write a consistent copy of the catalog, an SQLite database, to `path`, and fire with its size.

        It appears there once it is whole, verified and on stable storage; only its owner may read it.
        """
        return Deferred.fromCoroutine(self._backup(BackupFile(path), received or _ignore))

    async def _backup(self, target: BackupFile, received: Received) -> int:
        try:
            await self._in_thread(target.open)
            head = await _known(BackupCatalog(), self._receive_into(target, received))
            await self._in_thread(target.finish_verified, head.size, head.crc32c)
        finally:
            await self._in_thread(target.abort)
        return head.size

    async def _receive_into(self, target: BackupFile, received: Received) -> BytesFollow:
        async with self._pool.connection(self._address) as connection:
            await connection.begin(BackupCatalog())
            head = await connection.finish(BytesFollow, payload_follows=True)
            done = 0

            def count(size: int) -> None:
                nonlocal done
                done += size
                received(done, head.size)

            connection.begin_payload(head.size)
            await receive_into(connection, self._in_thread, target.append, target.append, count)
            connection.end_payload()
        return head

    # Who may do what, and how much

    def revoke_token(self, token_id: str) -> Deferred[Reply]:
        """Make a token void from now on."""
        return self._asked(RevokeToken(token_id), Reply)

    def revoked_tokens(self) -> Deferred[RevokedTokens]:
        """Return the ids of tokens that were made void."""
        return self._asked(ListRevokedTokens(), RevokedTokens)

    def set_quota(self, prefix: str, max_bytes: int | None = None, max_files: int | None = None) -> Deferred[Reply]:
        """Limit what files whose names begin with `prefix` may take in all; without a limit there is no quota."""
        return self._asked(SetQuota(prefix, max_bytes, max_files), Reply)

    def quotas(self) -> Deferred[QuotaList]:
        """Return the quotas, and how much of them is used."""
        return self._asked(ListQuotas(), QuotaList)

    # Asking

    def _asked(self, request: Request, kind: type[R]) -> Deferred[R]:
        """Return the reply to what may safely be asked again where the metadata server cannot be reached."""

        async def once() -> R:
            return await self._pool.request(self._address, request, kind)

        return Deferred.fromCoroutine(_known(request, with_retries(self._reactor, _is_unreachable, once)))

    def _asked_once(self, request: Request, kind: type[R]) -> Deferred[R]:
        return Deferred.fromCoroutine(_known(request, self._pool.request(self._address, request, kind)))


def _is_unreachable(error: FileFlyError) -> bool:
    return isinstance(error, Unreachable)


def _ignore(_done: int, _total: int) -> None:
    pass


async def _known(request: Request, asking: Coroutine[Any, Any, T]) -> T:
    """Return the answer; tell of a metadata server that does not know the command."""
    try:
        return await asking
    except UnknownCommand:
        command = request.__struct_config__.tag
        raise UnknownCommand(
            f"the metadata server does not know the command {command}: it is older than this client; update it first"
        ) from None
