"""Bits flip in block files: no reader gets a wrong byte, and scrub finds them all and has them repaired."""

import random
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults

from filefly.client.api import Client
from filefly.errors import FileFlyError
from filefly.units import KIB
from tests.faults.inspection import SETTLED_SECONDS, block_files, check_block_files, findings, wait_until_clean
from tests.on_reactor import next_turn, on_reactor
from tests.system.processes import Processes, processes, talk, wait_until

BLOCK = KIB
BLOCKS_PER_FILE = 8
QUICK_FILES, QUICK_FLIPS = 5, 30
SLOW_FILES, SLOW_FLIPS_A_ROUND, SLOW_ROUNDS = 40, 250, 4


@define(eq=False)
class RottingCluster:
    """A cluster of files with two replicas each, whose bits flip."""

    cluster: Processes
    chance: random.Random = field(factory=lambda: random.Random(2026))
    contents: dict[str, bytes] = field(factory=dict)
    damaged: Counter[bytes] = field(factory=Counter)
    """What block files were made to hold, all in all."""

    def fill(self, *names: str) -> None:
        """Store files."""
        folder = self.cluster.folder / "local"
        folder.mkdir(exist_ok=True)
        for name in names:
            size = BLOCKS_PER_FILE * BLOCK - self.chance.randrange(BLOCK)
            self.contents[name] = self.chance.randbytes(size)
            (folder / name).write_bytes(self.contents[name])
        self.cluster.client("upload", "-q", "--replicas", "2", *(folder / name for name in names))

    def flips(self, count: int) -> Iterator[None]:
        """Flip a bit in one replica of each of so many blocks, one at each step."""
        blocks = block_files(self.cluster, self.contents)
        for replicas in self.chance.sample(blocks, count):
            self.flip_a_bit(self.chance.choice(replicas).path)
            yield

    def flip_a_bit(self, path: Path) -> None:
        """Flip one bit of a file, where it is."""
        data = bytearray(path.read_bytes())
        at = self.chance.randrange(len(data))
        data[at] ^= 1 << self.chance.randrange(8)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data[at : at + 1])
        self.damaged[bytes(data)] += 1

    def moved_away(self) -> Counter[bytes]:
        """Return the bytes of the files that were moved out of the way."""
        folders = [self.cluster.storage(number) / ".corrupt" for number in range(1, len(self.cluster.data) + 1)]
        return Counter(file.read_bytes() for folder in folders if folder.exists() for file in folder.iterdir())

    def scrub(self) -> list[dict[str, Any]]:
        """Have everything re-read; return how that went on each data server, once it is over."""
        assert {"status": "ok"} == self.cluster.ask_one("scrub")

        def passes() -> list[dict[str, Any]]:
            return [server["scrub"] for server in self.cluster.ask_one("list_data_servers")["servers"]]

        wait_until(lambda: all("finished" in each for each in passes()), "the scrub to end", SETTLED_SECONDS)
        return passes()

    def wait_until_repaired(self) -> None:
        """Wait until each block has two right replicas again; then fsck agrees."""

        def all_right() -> bool:
            blocks = block_files(self.cluster, self.contents)
            return all(file.right() for replicas in blocks for file in replicas)

        wait_until(all_right, "all blocks to be repaired", SETTLED_SECONDS)
        wait_until_clean(self.cluster)
        check_block_files(self.cluster, self.contents)

    def rot_and_scrub(self, flips: int) -> None:
        """Flip bits that nobody reads: the scrub finds each of them, nothing else, and all are repaired."""
        for _ in self.flips(flips):
            pass
        passes = self.scrub()
        assert 2 * BLOCKS_PER_FILE * len(self.contents) == sum(each["checked"] for each in passes)
        assert self.damaged == self.moved_away()
        self.wait_until_repaired()
        assert self.damaged == self.moved_away()


@contextmanager
def rotting_cluster(folder: Path) -> Iterator[RottingCluster]:
    """Run a cluster whose blocks are small."""
    with processes(folder, "--block-size", f"{BLOCK}", "--health-interval", "1", data_servers=3) as cluster:
        yield RottingCluster(cluster)


@pytest.fixture(scope="module")
def rotting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RottingCluster]:
    """Run a cluster with some files; each test leaves it repaired."""
    with rotting_cluster(tmp_path_factory.mktemp("rotting")) as cluster:
        cluster.fill(*(f"file {number}" for number in range(QUICK_FILES)))
        yield cluster


@pytest.fixture
def full(tmp_path: Path) -> Iterator[RottingCluster]:
    """Run a cluster with many files."""
    with rotting_cluster(tmp_path) as cluster:
        cluster.fill(*(f"file {number}" for number in range(SLOW_FILES)))
        yield cluster


@asynccontextmanager
async def reading(reactor: Any, rotting: RottingCluster) -> AsyncIterator[Client]:
    """Make a client in this process; in the end its connections are closed."""
    client = Client(reactor, rotting.cluster.meta.address)
    try:
        yield client
    finally:
        client.close()
        for _ in range(3):
            await next_turn()


# Readers


async def read_whole(client: Client, name: str, _chance: random.Random) -> tuple[int, bytes]:
    return 0, await client.read(name)


async def read_range(client: Client, name: str, chance: random.Random) -> tuple[int, bytes]:
    begin = chance.randrange(BLOCKS_PER_FILE * BLOCK // 2)
    return begin, await client.read(name, begin, chance.randrange(BLOCKS_PER_FILE * BLOCK))


async def read_stream(client: Client, name: str, _chance: random.Random) -> tuple[int, bytes]:
    async with aclosing(client.stream(name)) as chunks:
        return 0, b"".join([chunk async for chunk in chunks])


async def read_download(client: Client, name: str, _chance: random.Random) -> tuple[int, bytes]:
    with NamedTemporaryFile() as target:
        await client.download(name, target.name)
        return 0, Path(target.name).read_bytes()


READERS: Sequence[Callable[..., Any]] = [read_whole, read_range, read_stream, read_download]


async def read_and_flip(
    client: Client, contents: dict[str, bytes], chance: random.Random, flips: Iterator[None]
) -> int:
    """Read every file in every way, in any order, and compare; after each read a bit flips. Return how many reads."""
    reads = [(name, read) for name in contents for read in READERS]
    chance.shuffle(reads)
    for name, read in reads:
        begin, data = await read(client, name, chance)
        assert data, name
        assert contents[name][begin : begin + len(data)] == data, name
        next(flips, None)
    return len(reads)


async def flip_while_reading(rotting: RottingCluster, client: Client, count: int) -> int:
    """Read everything, several times at once, while bits flip; return how often something was read."""
    flips = rotting.flips(count)
    readers = [read_and_flip(client, rotting.contents, random.Random(f"{count} {at}"), flips) for at in range(4)]
    reads = sum(await gatherResults([Deferred.fromCoroutine(reader) for reader in readers], consumeErrors=True))
    assert next(flips, "all") == "all"
    return reads


def read_through_the_metadata_server(rotting: RottingCluster) -> None:
    """Fetch every file both ways, as `nc` would."""
    cluster = rotting.cluster
    for name, wanted in rotting.contents.items():
        assert wanted == cluster.fetch(name), name
        request = b'{"command":"fetch_file","raw":true,"file_name":"%s"}\n' % name.encode()
        _head, _newline, data = talk(cluster.meta.ports[0], request).partition(b"\n")
        assert wanted == data, name


async def rot_and_read(rotting: RottingCluster, client: Client, flips: int) -> int:
    """Flip bits while readers read in every way: nobody gets a wrong byte, and all is repaired."""
    reads = await flip_while_reading(rotting, client, flips)
    read_through_the_metadata_server(rotting)
    rotting.scrub()
    assert rotting.damaged == rotting.moved_away()
    rotting.wait_until_repaired()
    return reads + 2 * len(rotting.contents)


def test_scrub_finds_all_that_rots(rotting: RottingCluster) -> None:
    """Of thirty bits that flip, each is found, its block moved away as it is and repaired from the other replica."""
    rotting.rot_and_scrub(QUICK_FLIPS)


@on_reactor
async def test_readers_get_no_wrong_byte(reactor: Any, rotting: RottingCluster) -> None:
    """While thirty bits flip, all that is read is right, in whatever way."""
    async with reading(reactor, rotting) as client:
        await rot_and_read(rotting, client, QUICK_FLIPS)


@on_reactor
async def test_what_rots_everywhere_is_an_error_and_never_wrong(reactor: Any, rotting: RottingCluster) -> None:
    """A block whose replicas are all damaged cannot be read, the others can, and fsck tells that it is lost."""
    rotting.fill("lost")
    cluster, wanted = rotting.cluster, rotting.contents.pop("lost")
    blocks = block_files(cluster, ["lost"])
    for file in blocks[3]:
        rotting.flip_a_bit(file.path)
    async with reading(reactor, rotting) as client:
        for begin, length in ((0, None), (3 * BLOCK + 7, 1)):
            with pytest.raises(FileFlyError):
                await client.read("lost", begin, length)
        assert wanted[: 3 * BLOCK] == await client.read("lost", 0, 3 * BLOCK)
    assert "error" == cluster.ask_one("fetch_file", file_name="lost")["status"]
    part = cluster.ask_one("fetch_file", file_name="lost", offset=4 * BLOCK)
    assert wanted[4 * BLOCK :] == b64decode(part["data"])
    rotting.scrub()
    lost = [finding for finding in findings(cluster) if finding["kind"] == "lost"]
    assert [blocks[3][0].block_id] == [finding["block_id"] for finding in lost]
    assert rotting.damaged == rotting.moved_away()
    assert {"status": "ok"} == cluster.ask_one("delete_file", file_name="lost")


@pytest.mark.slow
def test_a_thousand_bits_flip(reactor: Any, full: RottingCluster) -> Deferred[None]:
    """A thousand flips are found and repaired, and a thousand more harm no reader; prints how often was read."""
    return Deferred.fromCoroutine(flip_a_thousand_bits(reactor, full))


async def flip_a_thousand_bits(reactor: Any, full: RottingCluster) -> None:
    reads = 0
    async with reading(reactor, full) as client:
        for _ in range(SLOW_ROUNDS):
            full.rot_and_scrub(SLOW_FLIPS_A_ROUND)
            reads += await rot_and_read(full, client, SLOW_FLIPS_A_ROUND)
    flips = SLOW_ROUNDS * SLOW_FLIPS_A_ROUND
    assert 2 * flips == full.moved_away().total()
    print(f"bit rot: {flips:,} of {flips:,} found by scrub and repaired; {flips:,} more, {reads:,} reads, all right")
