"""Download: a file of the cluster on its way to a local path."""

import os
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from attrs import define

from filefly.client.decisions import offsets_of
from filefly.client.errors import SourceFailed
from filefly.client.files import PathSource, ReadAt, give_attributes, sum_of
from filefly.client.progress import Progress
from filefly.client.targets import ResumableFile, TargetFile, writing
from filefly.client.tickets import Tickets
from filefly.client.transfer import BlockTransfer, run_all
from filefly.errors import FileFlyError
from filefly.threads import InThread
from filefly.units import Chunks
from filefly.wire.messages import Block, Metadata


@define(eq=False)
class Download:
    """Writes a file to `path`; with `resume` it goes by what is there already, and leaves it to the next try."""

    _transfer: BlockTransfer
    _in_thread: InThread
    _path: str | os.PathLike[str]
    _resume: bool
    _progress: Progress

    async def run(self, metadata: Metadata, tickets: Tickets) -> Metadata:
        """Write the file with this metadata and return that."""
        self._progress.started(metadata.name, metadata.total_size)
        if not (self._resume and await self._is_there(metadata)):
            await self._write(metadata, tickets)
        self._progress.finished(metadata.name)
        return metadata

    async def _is_there(self, metadata: Metadata) -> bool:
        """Return whether `path` is the whole file, and then see to its attributes."""
        path = Path(self._path)
        try:
            source = await self._in_thread(PathSource, path)
        except FileFlyError:
            return False
        try:
            if source.size != metadata.total_size:
                return False
            for block, offset in offsets_of(metadata.blocks):
                if not await self._is_kept(source.read, block, offset):
                    return False
        finally:
            await self._in_thread(source.close)
        await self._in_thread(_give_attributes_thd, path, metadata)
        self._keep(metadata, metadata.blocks)
        return True

    async def _write(self, metadata: Metadata, tickets: Tickets) -> None:
        resumable = ResumableFile(self._path, metadata.attributes) if self._resume else None
        target = resumable or TargetFile(self._path, metadata.attributes)
        try:
            await self._in_thread(target.open)
            kept: list[Block] = []
            if resumable is not None:
                for block, offset in offsets_of(metadata.blocks):
                    if await self._is_kept(resumable.read, block, offset):
                        kept.append(block)
                self._keep(metadata, kept)
            await self._fetch_blocks(metadata, tickets, target, {block.id for block in kept})
            await self._in_thread(target.finish, metadata.total_size)
        finally:
            await self._in_thread(target.abort)

    async def _is_kept(self, read_at: ReadAt, block: Block, offset: int) -> bool:
        try:
            return await self._in_thread(sum_of, read_at, offset, block.size) == block.crc32c
        except SourceFailed:
            return False

    def _keep(self, metadata: Metadata, kept: Sequence[Block]) -> None:
        if size := sum(block.size for block in kept):
            self._progress.moved(metadata.name, size)
            self._progress.kept(metadata.name, size)

    async def _fetch_blocks(
        self, metadata: Metadata, tickets: Tickets, target: TargetFile, kept: Collection[str]
    ) -> None:
        done = len(kept)

        async def fetch(block: Block, offset: int) -> None:
            nonlocal done

            def write_at(at: int, chunks: Chunks) -> None:
                target.write(offset + at, chunks)

            moved = partial(self._progress.moved, metadata.name)
            server = await self._transfer.fetch(block, write_at, moved, tickets)
            done += 1
            self._progress.block_done(metadata.name, block.id, block.size, server, done, len(metadata.blocks))

        def jobs() -> Iterator[Callable[[], Awaitable[None]]]:
            for block, offset in offsets_of(metadata.blocks):
                if block.id not in kept:
                    yield partial(fetch, block, offset)

        await run_all(jobs(), self._transfer.concurrency)


def _give_attributes_thd(path: Path, metadata: Metadata) -> None:
    with writing(path):
        give_attributes(path, metadata.attributes)
