"""Clients on simulated machines: the library, and what a person does with `nc`."""

from itertools import accumulate

from attrs import define

from filefly.client.api import Client
from filefly.client.connection import ConnectionPool
from filefly.errors import Incomplete
from filefly.wire.blocks import BlockSum, Store
from filefly.wire.messages import (
    FetchFile,
    FileFollows,
    GetMetadata,
    Metadata,
    MetadataReply,
    Reply,
    Request,
    StoreFile,
)
from tests.faults.simulation import Process
from tests.faults.wiring import META_ADDRESS, META_HOST, simulated_threads

_TIMEOUT_SECONDS = 20


class _FetchedFile(MetadataReply, frozen=True, tag="ok", kw_only=True):
    """The answer to `fetch_file` in base64."""

    data: str


@define(eq=False)
class ByHand:
    """A client: the library, and what a person can do with `nc`."""

    client: Client
    _pool: ConnectionPool

    async def ask(self, request: Request) -> None:
        """Ask the metadata server for something that has no answer but yes or no."""
        await self._pool.request(META_ADDRESS, request, Reply)

    async def store(self, name: str, value: bytes, replicas: int, look: bool) -> None:
        """Plan, store and look: then the file is committed; raises what fails, Incomplete if nobody looks."""
        wanted = StoreFile(file_name=name, file_size=len(value), replicas=replicas)
        plan = (await self._pool.request(META_ADDRESS, wanted, MetadataReply)).metadata
        ends = list(accumulate(block.size for block in plan.blocks))
        for block, end in zip(plan.blocks, ends, strict=True):
            for replica in block.replicas:
                await self._store_block(replica.data_server, block.id, value[end - block.size : end])
        if not look:
            raise Incomplete
        seen: Metadata = (await self._pool.request(META_ADDRESS, GetMetadata(file_name=name), MetadataReply)).metadata
        if (seen.state, seen.generation) != ("committed", plan.generation):
            raise Incomplete

    async def _store_block(self, address: str, block_id: str, data: bytes) -> None:
        async with self._pool.connection(address) as connection:
            await connection.begin(Store(block_id=block_id, size=len(data)))
            await connection.send(data)
            await connection.finish(BlockSum)

    async def fetch(self, name: str) -> bytes:
        """Read through the metadata server, raw."""
        async with self._pool.connection(META_ADDRESS) as connection:
            await connection.begin(FetchFile(file_name=name, raw=True))
            head = await connection.finish(FileFollows, payload_follows=True)
            connection.begin_payload(head.size)
            received = []
            while chunks := await connection.receive_chunks():
                received += chunks
            connection.end_payload()
            return b"".join(received)

    async def fetch_base64(self, name: str) -> str:
        """Read through the metadata server, in base64."""
        return (await self._pool.request(META_ADDRESS, FetchFile(file_name=name), _FetchedFile)).data


def boot_client(process: Process) -> ByHand:
    """Make a client."""
    with simulated_threads(process):
        client = Client(process, META_ADDRESS, timeout_seconds=_TIMEOUT_SECONDS)
    return ByHand(client, ConnectionPool(process, META_HOST, _TIMEOUT_SECONDS))
