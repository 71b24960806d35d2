"""Uploads past data servers that fail, against scripted servers: what is asked, stored, reported and told."""

import io
from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from filefly.client.errors import SourceChanged
from filefly.errors import Conflict, Corrupt, DiskFull, FileFlyError, Unavailable, WrongStorage
from filefly.wire.blocks import Store
from filefly.wire.messages import CompleteFile, ReplaceReplica, StoredBlock
from tests.client.clusters import Heard
from tests.client.scripted import ScriptedCluster, always, for_kind, for_the_first, scripted
from tests.meta.running import sum_of
from tests.on_reactor import next_turn, on_reactor

DATA = b"0123456789abcdefghijklmnop"
BLOCKS = ["a-0", "a-1", "a-2", "a-3"]


def places(cluster: ScriptedCluster) -> list[list[int]]:
    """Return on which data servers the blocks are, as the commit tells it."""
    numbers = {server.address: number for number, server in enumerate(cluster.data)}
    [done] = cluster.catalog.of(CompleteFile)
    return [[numbers[replica.data_server] for replica in block.replicas] for block in done.blocks]


@on_reactor
async def test_stores_name_the_storage_that_is_meant(reactor: Any) -> None:
    """As the plan told it."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        for number in range(2):
            assert [f"storage-{number}"] * 4 == [request.storage_id for request in cluster.data[number].of(Store)]


@on_reactor
async def test_the_commit_tells_what_was_stored(reactor: Any) -> None:
    """Sums and places, all from the plan where nothing failed; nobody is asked for more."""
    async with scripted(reactor, replicas=2) as cluster:
        await cluster.client.upload("a", DATA)
        [done] = cluster.catalog.of(CompleteFile)
        plan = cluster.catalog.open[1].metadata
        expected = [
            StoredBlock(block.id, sum_of(DATA[7 * index : 7 * index + 7]), block.replicas)
            for index, block in enumerate(plan.blocks)
        ]
        assert expected == done.blocks
        assert [] == cluster.catalog.of(ReplaceReplica)


@pytest.mark.parametrize("error", [DiskFull("full"), WrongStorage("not mine"), Corrupt("x"), Unavailable("y")])
@on_reactor
async def test_another_data_server_stands_in_for_one_that_fails(reactor: Any, error: FileFlyError) -> None:
    """In its place of the order, with its own storage id; the user need not know."""
    async with scripted(reactor, replicas=2) as cluster:
        heard = Heard()
        cluster.data[0].fault = for_kind(Store, error)
        await cluster.client.upload("a", DATA, progress=heard)
        assert ([], BLOCKS, BLOCKS) == tuple(cluster.blocks(number) for number in range(3))
        assert [[2, 1]] * 4 == places(cluster)
        assert ["storage-2"] * 4 == [request.storage_id for request in cluster.data[2].of(Store)]
        assert (52, [], ["a"]) == (heard.bytes_moved, heard.short, heard.ended)
        assert DATA == await cluster.client.read("a")


@pytest.mark.parametrize(
    ("error", "tries"), [(DiskFull("full"), 1), (WrongStorage("not mine"), 1), (Unavailable("y"), 3), (Corrupt("x"), 3)]
)
@on_reactor
async def test_only_what_may_pass_is_tried_again_before(reactor: Any, error: FileFlyError, tries: int) -> None:
    """A disk will be as full, and a storage as wrong, in a second."""
    async with scripted(reactor) as cluster:
        cluster.data[0].fault = for_kind(Store, error)
        await cluster.client.upload("a", DATA[:7])
        assert tries == len(cluster.data[0].of(Store))


@on_reactor
async def test_who_was_away_gets_one_chance_a_block(reactor: Any) -> None:
    """Waiting three times for every block would make a large upload last for hours."""
    async with scripted(reactor) as cluster:
        cluster.data[0].fault = for_kind(Store, Unavailable("away"))
        await cluster.client.upload("a", DATA)
        assert 3 + 1 + 1 + 1 == len(cluster.data[0].of(Store))


@on_reactor
async def test_who_is_back_is_trusted_again(reactor: Any) -> None:
    """Its next fault is met with patience."""
    async with scripted(reactor) as cluster:
        answers = iter([Unavailable("away")] * 3 + [None] + [Unavailable("again")] * 2 + [None, None])
        cluster.data[0].fault = lambda _request: next(answers)
        await cluster.client.upload("a", DATA)
        assert (["a-1", "a-2", "a-3"], ["a-0"]) == (cluster.blocks(0), cluster.blocks(1))


@on_reactor
async def test_who_says_nothing_is_not_waited_for_again(reactor: Any) -> None:
    """A minute a block would be too long; its blocks go elsewhere at once."""
    hanging = 0

    async def hang(_request: Any, conversation: Any, _session: Any) -> None:
        nonlocal hanging
        hanging += 1
        await conversation.skip_payload()
        await conversation.receive_line()

    async with scripted(reactor, timeout_seconds=0.05) as cluster:
        cluster.data[0].answer = hang  # type: ignore[method-assign,assignment]
        await cluster.client.upload("a", DATA)
        assert (3, BLOCKS, [[1]] * 4) == (hanging, cluster.blocks(1), places(cluster))


@on_reactor
async def test_replacements_are_replaced(reactor: Any) -> None:
    """As long as there are others."""
    async with scripted(reactor, data_servers=5, replicas=2) as cluster:
        for number in (1, 2, 3):
            cluster.data[number].fault = always(DiskFull("full"))
        await cluster.client.upload("a", DATA)
        assert [[0, 4]] * 4 == places(cluster)


@on_reactor
async def test_the_user_hears_of_blocks_with_fewer_copies(reactor: Any) -> None:
    """Where nobody is left the upload goes on, and only real copies are reported."""
    async with scripted(reactor, data_servers=2, replicas=2) as cluster:
        heard = Heard()
        cluster.data[0].fault = for_the_first(2, for_kind(Store, DiskFull("full")))
        metadata = await cluster.client.upload("a", DATA, progress=heard)
        assert [[1], [1], [0, 1], [0, 1]] == places(cluster)
        assert ([(2, 4)], ["a"]) == (heard.short, heard.ended)
        assert [("a-0.1", 1, 4), ("a-1.1", 2, 4), ("a-2.1", 3, 4), ("a-3.1", 4, 4)] == heard.blocks
        assert cluster.catalog.committed == metadata


@on_reactor
async def test_a_block_that_is_nowhere_fails_the_upload(reactor: Any) -> None:
    """With what each place said; nothing is committed."""
    async with scripted(reactor, data_servers=2) as cluster:
        heard = Heard()
        cluster.data[0].fault = always(DiskFull("full"))
        cluster.data[1].fault = always(WrongStorage("not mine"))
        with pytest.raises(DiskFull) as caught:
            await cluster.client.upload("a", DATA, progress=heard)
        one, other = cluster.data
        sentence = f"block a-0.1 cannot be stored ({one.address}: full; {other.address}: not mine)"
        assert sentence == str(caught.value)
        assert ([], [], []) == (cluster.catalog.of(CompleteFile), heard.short, heard.ended)


@on_reactor
async def test_a_block_may_still_get_its_only_copy(reactor: Any) -> None:
    """The first place fails, nobody is left, and the second is not stored yet: that is no reason to give up."""
    async with scripted(reactor, data_servers=2, replicas=2, concurrency=1) as cluster:
        cluster.data[0].fault = always(DiskFull("full"))
        await cluster.client.upload("a", DATA)
        assert [[1]] * 4 == places(cluster)


@on_reactor
async def test_without_an_answer_of_the_metadata_server_the_other_places_must_do(reactor: Any) -> None:
    """A question that stays open is no reason to fail what has a good copy."""
    async with scripted(reactor, replicas=2) as cluster:
        cluster.data[0].fault = always(DiskFull("full"))
        cluster.catalog.fault = for_kind(ReplaceReplica, Unavailable("shutting down"))
        await cluster.client.upload("a", DATA)
        assert [[1]] * 4 == places(cluster)


@on_reactor
async def test_a_plan_that_ended_meanwhile_is_told(reactor: Any) -> None:
    """The metadata server's word on it, for nothing can be stored then."""
    async with scripted(reactor, replicas=2) as cluster:
        cluster.data[0].fault = always(DiskFull("full"))
        cluster.catalog.fault = for_kind(ReplaceReplica, Conflict("the plan was ended"))
        with pytest.raises(Conflict, match=r"^the plan was ended$"):
            await cluster.client.upload("a", DATA)


@on_reactor
async def test_one_block_asks_once_at_a_time(reactor: Any) -> None:
    """Its second question waits for the answer to the first: each answer knows all of its places."""
    async with scripted(reactor, data_servers=4, replicas=2, concurrency=4) as cluster:
        under_way, most = 0, 0
        real = cluster.catalog.answer

        async def slow(request: Any, conversation: Any, session: Any) -> Any:
            nonlocal under_way, most
            if isinstance(request, ReplaceReplica):
                under_way, most = under_way + 1, max(most, under_way + 1)
                for _ in range(5):
                    await next_turn()
                under_way -= 1
            return await real(request, conversation, session)

        cluster.catalog.answer = slow  # type: ignore[method-assign]
        for number in (0, 1):
            cluster.data[number].fault = always(DiskFull("full"))
        await cluster.client.upload("a", DATA[:7])
        assert (1, [[2, 3]]) == (most, [sorted(numbers) for numbers in places(cluster)])


@on_reactor
async def test_a_server_that_dies_in_the_middle_is_replaced(reactor: Any) -> None:
    """Many blocks at once, many files at once: all are whole in the end."""
    async with scripted(reactor, replicas=2, concurrency=4) as cluster:
        cluster.catalog.fault = for_the_first(
            2, for_kind(ReplaceReplica, ConnectionError())
        )  # no question fails for good
        uploading = [cluster.client.upload("a", DATA * 5) for _ in range(3)]
        while len(cluster.data[0].blocks) < 5:
            await next_turn()
        await cluster.kill(0)
        await gatherResults(uploading)
        for done in cluster.catalog.of(CompleteFile):
            assert all(len(block.replicas) == 2 for block in done.blocks)
        assert DATA * 5 == await cluster.client.read("a")


@on_reactor
async def test_a_source_that_fails_is_no_fault_of_a_data_server(reactor: Any) -> None:
    """Nobody is asked for another one."""
    async with scripted(reactor) as cluster:
        with pytest.raises(SourceChanged):
            await cluster.client.upload("a", io.BytesIO(DATA), size=40)
        assert [] == cluster.catalog.of(ReplaceReplica)
