"""BatchUpload: many files on their way into the cluster, small ones together."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import DeferredLock, DeferredSemaphore

from filefly.client.batch_transfer import BatchTransfer
from filefly.client.batches import BATCHES_AT_ONCE, FILES_AT_ONCE, in_groups, is_one_block
from filefly.client.decisions import short_blocks, took_long
from filefly.client.progress import Progress
from filefly.client.remote_catalog import RemoteCatalog
from filefly.client.small_files import Local, NamedPath, SmallFile, read_small_files
from filefly.client.transfer import run_all
from filefly.errors import FileFlyError, TimedOut, Unavailable, UnknownCommand, error_from_wire
from filefly.threads import InThread
from filefly.wire.batches import (
    BlockToStore,
    CompleteFiles,
    FileResult,
    FileResults,
    FileToComplete,
    FileToStore,
    StoreFiles,
)
from filefly.wire.codec import NotUnderstood
from filefly.wire.messages import Metadata, Replica, StoredBlock


class Alone(Protocol):
    """Uploads one file as if there were no others, past data servers that fail."""

    def __call__(self, name: str, path: Local, plan: Metadata | None) -> Awaitable[Metadata]:
        """Return its metadata; `plan`, if there is one, is to be carried out."""


@define(eq=False)
class _Sending:
    """A small file with its plan, and in how many of its places it is."""

    small: SmallFile
    plan: Metadata
    stored: int = 0

    @property
    def places(self) -> Sequence[Replica]:
        """Where its block goes; nowhere if it is empty."""
        return self.plan.blocks[0].replicas if self.plan.blocks else ()

    @property
    def done(self) -> bool:
        """Whether nothing is left to store."""
        return self.stored == len(self.places)

    def report(self) -> FileToComplete:
        """Return what to tell of the file, which is everywhere where it belongs."""
        blocks = [StoredBlock(block.id, self.small.crc32c, block.replicas) for block in self.plan.blocks]
        return FileToComplete(generation=self.plan.generation, file_name=self.plan.name, blocks=blocks)


@define(eq=False)
class BatchUpload:
    """Stores small files in batches, and `alone` those that are large and those with which anything went wrong.

    A file that was planned keeps its plan, so that none is left open. `failed` tells what was last wrong with data
    servers that failed for good.
    """

    _catalog: RemoteCatalog
    _transfer: BatchTransfer
    _in_thread: InThread
    _alone: Alone
    _at_once: int
    _replicas: int | None
    _progress: Progress
    _uploaded: Callable[[Metadata], None]
    _failed: dict[str, FileFlyError]
    _together: bool
    """Whether batches are of use: not for who resumes, and not where the metadata server knows nothing of them."""
    _unversed: set[str] = field(factory=set, init=False)
    """Data servers that know nothing of batches."""
    _disk: DeferredLock = field(factory=DeferredLock, init=False)
    """Several threads of short system calls would only wait for each other, and let the reactor wait."""
    _turns: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(FILES_AT_ONCE), init=False)

    async def run(self, files: Iterable[NamedPath]) -> None:
        """Store every file under its name; the first error ends it all, and is raised."""
        groups = in_groups(files)
        await run_all((partial(self._upload, group) for group in groups), min(self._at_once, BATCHES_AT_ONCE))

    async def _upload(self, files: Sequence[NamedPath]) -> None:
        while files and self._together:
            found = await self._disk.run(self._in_thread, read_small_files, files)
            left = await self._upload_together(found.read) if found.read else []
            await self._upload_each([*((name, path, None) for name, path in found.others), *left])
            files = found.rest
        await self._upload_each([(name, path, None) for name, path in files])

    async def _upload_each(self, files: Sequence[tuple[str, Local, Metadata | None]]) -> None:
        await run_all((partial(self._upload_alone, *file) for file in files), FILES_AT_ONCE)

    async def _upload_alone(self, name: str, path: Local, plan: Metadata | None) -> None:
        await self._turns.acquire()
        try:
            self._uploaded(await self._alone(name, path, plan))
        finally:
            self._turns.release()

    async def _upload_together(self, files: Sequence[SmallFile]) -> Sequence[tuple[str, Local, Metadata | None]]:
        """Plan, store and commit files; return those that are left to do, with their plans."""
        plans = await self._plan(files)
        sendings = [
            _Sending(file, plan)
            for file, plan in zip(files, plans, strict=True)
            if plan is not None and is_one_block(plan.blocks, len(file.data))
        ]
        await self._store(sendings)
        done = [sending for sending in sendings if sending.done]
        await self._complete(done)
        committed = {sending.plan.generation for sending in done}
        return [
            (file.name, file.path, plan)
            for file, plan in zip(files, plans, strict=True)
            if plan is None or plan.generation not in committed
        ]

    async def _plan(self, files: Sequence[SmallFile]) -> Sequence[Metadata | None]:
        """Return a plan for each file, None where there is none: who uploads it alone will hear why."""
        request = StoreFiles(
            [
                FileToStore(file.name, len(file.data), self._replicas, explicit=True, attributes=file.attributes)
                for file in files
            ]
        )
        try:
            return [result.metadata for result in await self._ask(request, len(files))]
        except (Unavailable, TimedOut):
            raise
        except UnknownCommand:
            self._together = False
        except FileFlyError:
            pass
        return [None] * len(files)

    async def _complete(self, sendings: Sequence[_Sending]) -> None:
        """Commit files; where that fails, nobody may store again what may be committed: the first error is raised."""
        if not sendings:
            return
        request = CompleteFiles([sending.report() for sending in sendings])
        errors: list[FileFlyError] = []
        for sending, result in zip(sendings, await self._ask(request, len(sendings)), strict=True):
            if result.metadata is None:
                errors.append(error_from_wire(str(result.code), str(result.error)))
            else:
                self._tell(sending, result.metadata)
        if errors:
            raise errors[0]

    async def _ask(self, request: StoreFiles | CompleteFiles, count: int) -> Sequence[FileResult]:
        results = (await self._catalog.ask(request, FileResults)).results
        if len(results) != count:
            raise NotUnderstood(f"the server's reply is not understood: {len(results)} results for {count} files")
        return results

    def _tell(self, sending: _Sending, metadata: Metadata) -> None:
        name, size, places = metadata.name, len(sending.small.data), sending.places
        self._progress.started(name, size * len(places))
        for block in sending.plan.blocks:
            self._progress.moved(name, size * len(places))
            self._progress.block_done(name, block.id, size, ", ".join(place.data_server for place in places), 1, 1)
        if short := short_blocks(metadata):
            self._progress.short_of_copies(name, short, len(metadata.blocks))
        self._progress.finished(name)
        self._uploaded(metadata)

    # Storing

    async def _store(self, sendings: Sequence[_Sending]) -> None:
        """Store every file's block in its places, as far as that goes at once."""
        going: dict[tuple[str, str | None], list[_Sending]] = {}
        for sending in sendings:
            for place in sending.places:
                address = place.data_server
                going.setdefault((address, sending.plan.storage_ids.get(address)), []).append(sending)
        await run_all((partial(self._store_on, *where, what) for where, what in going.items()), len(going))

    async def _store_on(self, place: str, storage_id: str | None, sendings: Sequence[_Sending]) -> None:
        earlier = self._failed.get(place)
        if place in self._unversed or (earlier is not None and took_long(earlier)):
            return
        blocks = [
            BlockToStore(
                sending.plan.blocks[0].id,
                len(sending.small.data),
                sending.small.crc32c,
                sending.plan.tickets.get(place),
            )
            for sending in sendings
        ]
        data = [sending.small.data for sending in sendings]
        patient = not isinstance(earlier, Unavailable)
        try:
            results = await self._transfer.store(place, blocks, data, storage_id, patient)
        except UnknownCommand:
            self._unversed.add(place)
        except FileFlyError as error:
            self._failed[place] = error
        else:
            self._failed.pop(place, None)
            for sending, result in zip(sendings, results, strict=True):
                sending.stored += result.crc32c == sending.small.crc32c
