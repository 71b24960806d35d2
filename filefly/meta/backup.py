"""The catalog's backups: a copy for whoever asks, and now and then one that lies on the data servers like any file.

| name of the file | bytes |
| --- | --- |
| `.filefly/catalog-YYYYMMDDTHHMMSSZ.sqlite.gz` | an SQLite database of that time (UTC), in the form of gzip |

Its blocks are plain files, so that `cat` and `gunzip` restore it when the catalog that knew of them is gone.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO

from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from filefly.catalog.endings import delete_file
from filefly.catalog.inventory import save_backed_up
from filefly.catalog.listing import list_files
from filefly.catalog.snapshots import Snapshots
from filefly.client.files import FileObjectSource, sum_of
from filefly.daemon.payloads import send_raw
from filefly.errors import FileFlyError, Unavailable
from filefly.meta.cluster import Cluster
from filefly.meta.health import Health
from filefly.meta.rights import OWN_NAMES
from filefly.meta.running_time import RunningTime
from filefly.meta.transactions import Transactions
from filefly.meta.uploading import Uploader
from filefly.threads import WorkerPool
from filefly.wire.blocks import BytesFollow
from filefly.wire.framing import Conversation
from filefly.wire.messages import MAX_PAGE, ListedFile
from filefly.wire.streaming import pieces_of
from filefly.wire.times import rfc3339

PREFIX = f"{OWN_NAMES}catalog-"
"""What the names of backups begin with."""

_NAME = re.compile(re.escape(PREFIX) + r"\d{8}T\d{6}Z\.sqlite\.gz")
_KEPT = 3
_REPLICAS = 2
_DIGEST = "catalog_digest"
_ROUND_SECONDS = 1.0
_RETRY_SECONDS = 600


def backups(connection: Connection) -> list[ListedFile]:
    """Return the backups that there are, the newest first."""
    files = list_files(connection, PREFIX, "", "", MAX_PAGE).files
    return sorted((file for file in files if _NAME.fullmatch(file.name)), key=lambda file: -file.generation)


def delete_old_backups(connection: Connection, due: int) -> None:
    """Delete all backups but the newest few."""
    for file in backups(connection)[_KEPT:]:
        delete_file(connection, file.name, due)


@define(eq=False)
class Backups:
    """Makes backups of the catalog: one each `interval_seconds` of running time if anything has changed; 0: none.

    `backed_up` is the running time of the last one. `threads` are for what would keep other work waiting for long.
    """

    log = Logger()

    _clock: Any
    _transactions: Transactions
    _cluster: Cluster
    _health: Health
    _uploader: Uploader
    _snapshots: Snapshots
    _threads: WorkerPool
    _time: RunningTime
    _trash_due: Callable[[], int]
    _interval_seconds: int
    _backed_up: int
    _not_before: int = 0
    _loop: LoopingCall | None = None
    _ended: Deferred[Any] = field(factory=Deferred)
    _under_way: Deferred[Any] | None = None

    # A part of the daemon

    def start(self) -> None:
        """Begin."""
        self._threads.start()
        self._snapshots.clear()
        if self._interval_seconds and self._snapshots.path is not None:
            self._loop = LoopingCall(self._round_and_go_on)
            self._loop.clock = self._clock
            self._ended = self._loop.start(_ROUND_SECONDS)

    def stop(self) -> Any:
        """End; a backup under way is given up."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._snapshots.stop()
        if self._loop is not None:
            self._loop.stop()
            if self._under_way is not None:
                self._under_way.cancel()
            await self._ended
        self._threads.stop()

    # Now and then

    def _round_and_go_on(self) -> Deferred[Any]:
        self._under_way = Deferred.fromCoroutine(self.round())
        self._under_way.addErrback(self._failed)
        return self._under_way

    def _failed(self, failure: Any) -> None:
        self._not_before = self._time.seconds() + min(_RETRY_SECONDS, self._interval_seconds)
        if failure.check(CancelledError):
            return
        if failure.check(FileFlyError):
            self.log.warn("the catalog could not be backed up: {error}; trying again later", error=failure.value)
        else:  # a background loop logs and goes on
            self.log.failure("backing up the catalog failed; trying again later", failure)

    async def round(self) -> None:
        """Make a backup if it is time for one."""
        now = self._time.seconds()
        # Only a data server that was heard from can take one, or tell that the catalog is older than its data.
        if now < max(self._backed_up + self._interval_seconds, self._not_before) or not self._cluster.up():
            return
        if await self.back_up():
            await self._transactions.write(save_backed_up, now)
        self._backed_up = now

    async def back_up(self) -> bool:
        """Store a backup and delete old ones; return whether there was anything new to be kept.

        While the catalog is older than its data, no backup is deleted: one of those may be what should be restored.
        """
        existing = await self._transactions.read(backups)
        digest = await self._threads(self._snapshots.digest)
        if existing and existing[0].attributes.get(_DIGEST) == digest:
            return False
        with await self._threads(self._snapshots.take, rfc3339(self._clock.seconds())) as copy:
            packed = await self._threads(self._snapshots.compress, copy)
        with packed:
            await self._store(packed, digest)
        if self._health.suspended is None:
            await self._transactions.write(delete_old_backups, self._trash_due())
        return True

    async def _store(self, packed: BinaryIO, digest: str) -> None:
        time = datetime.fromtimestamp(self._clock.seconds(), UTC)
        name = f"{PREFIX}{time:%Y%m%dT%H%M%SZ}.sqlite.gz"
        replicas = min(_REPLICAS, len(self._cluster.placing()))
        if not replicas:
            raise Unavailable("no data server can take a backup: each is down, draining or full")
        attributes = {_DIGEST: digest, "content_type": "application/gzip"}
        plan = await self._uploader.store(name, FileObjectSource(packed), replicas, attributes)
        self.log.info("the catalog was backed up as {name}", name=plan.name)

    # For whoever asks

    async def send(self, conversation: Conversation) -> None:
        """Send a copy of the catalog as it is now, behind a line with its size and checksum."""
        with await self._threads(self._snapshots.take, rfc3339(self._clock.seconds())) as copy:
            source = FileObjectSource(copy)
            checksum = await self._threads(sum_of, source.read, 0, source.size)
            pieces = pieces_of(self._threads, source.read, 0, source.size)
            await send_raw(conversation, BytesFollow(source.size, checksum), pieces)
