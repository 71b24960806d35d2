"""BatchDownload: many files of the cluster on their way to local paths, small ones together."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from attrs import define, field
from crc32c import crc32c
from twisted.internet.defer import CancelledError, DeferredLock, DeferredSemaphore

from filefly.client.batch_transfer import BatchTransfer
from filefly.client.batches import BATCHES_AT_ONCE, FILES_AT_ONCE, Batch, batches_of, cut, metadata_of
from filefly.client.progress import Progress
from filefly.client.small_files import Local, SmallTargets, is_begun
from filefly.client.transfer import run_all
from filefly.errors import FileFlyError, TimedOut, Unavailable, UnknownCommand
from filefly.threads import InThread
from filefly.wire.batches import BlockResult
from filefly.wire.codec import crc32c_hex
from filefly.wire.messages import ListedFile, Metadata

Target = tuple[ListedFile, Local]
"""A file, and where it is written."""
Alone = Callable[[str, Local], Awaitable[Metadata]]
"""Downloads one file as if there were no others, past whatever is wrong with a replica."""


@define(eq=False)
class BatchDownload:
    """Fetches small files in batches, and `alone` those that are large and those with which anything went wrong."""

    _transfer: BatchTransfer
    _in_thread: InThread
    _alone: Alone
    _at_once: int
    _resume: bool
    _progress: Progress
    _downloaded: Callable[[Metadata], None]
    _avoided: set[str] = field(factory=set, init=False)
    """Data servers that did not answer, or know nothing of batches."""
    _folders: set[str] = field(factory=set, init=False)
    _disk: DeferredLock = field(factory=DeferredLock, init=False)
    """Several threads of short system calls would only wait for each other, and let the reactor wait."""
    _turns: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(FILES_AT_ONCE), init=False)

    async def run(self, files: Iterable[Target]) -> None:
        """Write every file to its path; the first error ends it all, and is raised."""
        batches = batches_of(files, self._avoided)
        await run_all((partial(self._download, batch) for batch in batches), min(self._at_once, BATCHES_AT_ONCE))

    async def _download(self, batch: Batch[Local]) -> None:
        left = batch.files if batch.place is None else await self._download_together(batch.place, batch.files)
        await run_all((partial(self._download_alone, file, path) for file, path in left), FILES_AT_ONCE)

    async def _download_alone(self, file: ListedFile, path: Local) -> None:
        await self._turns.acquire()
        try:
            self._downloaded(await self._alone(file.name, path))
        finally:
            self._turns.release()

    async def _download_together(self, place: str, files: Sequence[Target]) -> Sequence[Target]:
        """Fetch and write files from one place; return those that are left to do."""
        begun: Sequence[Target] = []
        if self._resume:
            begun, files = await self._in_thread(_begun_first_thd, files)
        wanted = [(block, file.tickets.get(place)) for file, _path in files for block in file.blocks or ()]
        try:
            results, chunks = await self._transfer.retrieve(place, wanted) if wanted else ([], [])
        except FileFlyError as error:
            if isinstance(error, Unavailable | TimedOut | UnknownCommand):
                self._avoided.add(place)
            return [*begun, *files]
        targets = SmallTargets(self._folders)
        try:
            written = await self._disk.run(self._in_thread, _write_thd, targets, files, results, chunks)
        except CancelledError:
            targets.abort()  # waits for one small file, if for anything
            raise
        for (file, _path), done in zip(files, written, strict=True):
            if done:
                self._tell(file, place)
        return [*begun, *(item for item, done in zip(files, written, strict=True) if not done)]

    def _tell(self, file: ListedFile, place: str) -> None:
        self._progress.started(file.name, file.total_size)
        for block in file.blocks or ():
            self._progress.moved(file.name, block.size)
            self._progress.block_done(file.name, block.id, block.size, place, 1, 1)
        self._progress.finished(file.name)
        self._downloaded(metadata_of(file))


def _begun_first_thd(files: Sequence[Target]) -> tuple[Sequence[Target], Sequence[Target]]:
    begun = [is_begun(path) for _file, path in files]
    both = [[item for item, there in zip(files, begun, strict=True) if there is wanted] for wanted in (True, False)]
    return both[0], both[1]


def _write_thd(
    targets: SmallTargets, files: Sequence[Target], results: Sequence[BlockResult], chunks: Sequence[bytes]
) -> Sequence[bool]:
    """Write those of `files` whose bytes are in `chunks`, and are right, and return which were written."""
    pieces = cut(chunks, [result.size or 0 for result in results])
    written = []
    for file, path in files:
        data, good = _bytes_of(file, pieces)
        try:
            if good:
                targets.write(path, file.attributes, data)
        except (OSError, FileFlyError):  # who writes it alone will tell
            good = False
        written.append(good)
    return written


def _bytes_of(file: ListedFile, pieces: Iterator[bytes | memoryview]) -> tuple[bytes | memoryview, bool]:
    """Return what came of a file, and whether it is right."""
    for block in file.blocks or ():
        data = next(pieces)
        return data, len(data) == block.size and block.crc32c in (None, crc32c_hex(crc32c(data)))
    return b"", True
