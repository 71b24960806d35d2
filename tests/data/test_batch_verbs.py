import json
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock

from filefly.daemon.protocol import ServerFactory
from filefly.data.server import DataServer
from filefly.wire.batches import MAX_BATCH, MAX_BATCH_BYTES
from tests.caller import calling
from tests.data.disks import WatchedDisk, open_store
from tests.data.running import DIGITS, MIB, asking, error, running, sum_of
from tests.on_reactor import on_reactor
from tests.peer import Peer, inline

NOT_FOUND = {"error": "block not found", "code": "not_found"}
PONG = {"status": "ok", "pong": True}


def stored(data: bytes) -> dict[str, object]:
    return {"size": len(data), "crc32c": sum_of(data)}


def to_store(*blocks: tuple[str, bytes]) -> dict[str, Any]:
    """Return the fields of a request that stores `blocks`."""
    sizes = [{"block_id": block_id, "size": len(data)} for block_id, data in blocks]
    return {"command": "store_blocks", "size": sum(len(data) for _id, data in blocks), "blocks": sizes}


def to_retrieve(*block_ids: str) -> dict[str, Any]:
    return {"command": "retrieve_blocks", "blocks": [{"block_id": block_id} for block_id in block_ids]}


@on_reactor
async def test_many_blocks_are_stored(reactor: Any, tmp_path: Path) -> None:
    """Their bytes follow the line, one block's after another's."""
    async with asking(reactor, tmp_path) as (server, caller):
        reply = await caller.ask(b"onethree", **to_store(("a-0", b"one"), ("b-0", b""), ("c-0", b"three")))
        assert {"status": "ok", "results": [stored(b"one"), stored(b""), stored(b"three")]} == reply
        assert ["a-0", "b-0", "c-0"] == server.blocks()
        assert b"three" == (server.folder / "c-0").read_bytes()


@on_reactor
async def test_each_block_is_stored_or_refused_by_itself(reactor: Any, tmp_path: Path) -> None:
    """And the next line is found."""
    async with asking(reactor, tmp_path) as (server, caller):
        request = to_store(("a-0", b"one"), ("../b-0", b"two"), ("c-0", b"three"))
        request["blocks"][2]["crc32c"] = "00000000"
        reply = await caller.ask(b"onetwothree", **request)
        assert {
            "status": "ok",
            "results": [
                stored(b"one"),
                {"error": "block_id '../b-0' has an empty, '.' or '..' part", "code": "bad_request"},
                {"error": f"crc32c is {sum_of(b'three')}, expected 00000000", "code": "corrupt"},
            ],
        } == reply
        assert ["a-0"] == server.blocks()
        assert PONG == await caller.ask(command="ping")


@on_reactor
async def test_sizes_that_do_not_add_up_store_nothing(reactor: Any, tmp_path: Path) -> None:
    """The payload is skipped; the conversation goes on."""
    async with asking(reactor, tmp_path) as (server, caller):
        reply = await caller.ask(b"onetwo", **to_store(("a-0", b"one")) | {"size": 6})
        assert error("the sizes of the blocks do not add up to 6", "bad_request") == reply
        assert ([], PONG) == (server.blocks(), await caller.ask(command="ping"))


@on_reactor
async def test_another_storage_stores_nothing(reactor: Any, tmp_path: Path) -> None:
    """Who names a storage means that one."""
    async with asking(reactor, tmp_path) as (server, caller):
        reply = await caller.ask(b"one", storage_id="b0a1", **to_store(("a-0", b"one")))
        assert "wrong_storage" == reply["code"]
        assert ([], PONG) == (server.blocks(), await caller.ask(command="ping"))


@on_reactor
async def test_too_many_blocks_are_refused(reactor: Any, tmp_path: Path) -> None:
    """A thousand are not too many."""
    many = [(f"{n}-0", b"x") for n in range(MAX_BATCH + 1)]
    async with asking(reactor, tmp_path) as (server, caller):
        sentence = "blocks: expected an array of length <= 1000"
        assert error(sentence, "bad_request") == await caller.ask(b"x" * 1001, **to_store(*many))
        assert error(sentence, "bad_request") == await caller.ask(**to_retrieve(*(name for name, _data in many)))
        assert [] == server.blocks()
        results = (await caller.ask(b"x" * 1000, **to_store(*many[:1000])))["results"]
        assert [stored(b"x")] * 1000 == results
        reply = await caller.ask(**to_retrieve(*(name for name, _data in many[:1000])))
        assert {"status": "ok", "results": [stored(b"x")] * 1000, "size": 1000} == reply
        assert b"x" * 1000 == await caller.hear_bytes(1000)


@on_reactor
async def test_a_batch_of_the_largest_size_goes_both_ways(reactor: Any, tmp_path: Path) -> None:
    """One that is larger is refused after its bytes were skipped."""
    blocks = [(f"{n}-0", os.urandom(MIB)) for n in range(8)]
    async with asking(reactor, tmp_path) as (_server, caller):
        sent = b"".join(data for _name, data in blocks)
        reply = await caller.ask(sent, **to_store(*blocks))
        assert [stored(data) for _name, data in blocks] == reply["results"]
        reply = await caller.ask(**to_retrieve(*(name for name, _data in blocks)))
        assert MAX_BATCH_BYTES == reply["size"]
        assert sent == await caller.hear_bytes(reply["size"])
        reply = await caller.ask(sent + b"x", **to_store(*blocks, ("x-0", b"x")))
        assert error("the blocks are over the limit of 8388608 bytes in all", "too_large") == reply
        assert PONG == await caller.ask(command="ping")


def test_small_blocks_may_be_many(tmp_path: Path) -> None:
    """What they have in all may be more than one block may have."""
    store = open_store(tmp_path / "blocks", max_block_size=3)
    peer = Peer(ServerFactory(Clock(), DataServer(store, inline, Clock())).buildProtocol(None))
    request = to_store(("a-0", b"one"), ("b-0", b"two"), ("c-0", b"four"))
    peer.give(json.dumps(request).encode() + b"\nonetwofour")
    refused = {"error": "block is over the limit of 3 bytes (--max-block-size)", "code": "too_large"}
    assert [{"status": "ok", "results": [stored(b"one"), stored(b"two"), refused]}] == peer.replies()
    peer.hang_up()
    store.storage.release()


@on_reactor
async def test_a_payload_that_ends_early_stores_nothing(reactor: Any, tmp_path: Path) -> None:
    """Not even the blocks that were whole: who does not hear an answer cannot count on any."""
    async with asking(reactor, tmp_path) as (server, caller):
        caller.tell(b"onetw", **to_store(("a-0", b"one"), ("b-0", b"two")))
        caller.transport.loseWriteConnection()
        assert error("payload ended after 5 of 6 bytes", "bad_request") == await caller.hear()
        assert [] == server.blocks()


@on_reactor
async def test_a_client_that_dies_leaves_nothing(reactor: Any, tmp_path: Path) -> None:
    """Neither blocks nor temporary files."""
    async with running(reactor, tmp_path) as server:
        async with calling(reactor, server.port) as caller:
            caller.tell(bytes(2 * MIB), **to_store(*[(f"{n}-0", bytes(MIB)) for n in range(3)]))
            assert PONG == await asked_by_another(reactor, server.port)
        await gatherResults(list(server.factory.conversations.values()))
        assert [] == server.blocks()


async def asked_by_another(reactor: Any, port: int) -> Any:
    async with calling(reactor, port) as other:
        return await other.ask(command="ping")


@on_reactor
async def test_a_disk_that_fails_is_the_answer_of_each_block(reactor: Any, tmp_path: Path) -> None:
    """The conversation goes on."""
    disk = WatchedDisk()
    async with asking(reactor, tmp_path, disk) as (server, caller):
        disk.fail("fsync", 28)
        reply = await caller.ask(b"onetwo", **to_store(("a-0", b"one"), ("b-0", b"two")))
        assert ["disk_full"] * 2 == [result["code"] for result in reply["results"]]
        disk.mend()
        assert "ok" == (await caller.ask(b"onetwo", **to_store(("a-0", b"one"), ("b-0", b"two"))))["status"]
        assert ["a-0", "b-0"] == server.blocks()


@on_reactor
async def test_blocks_are_retrieved_in_order(reactor: Any, tmp_path: Path) -> None:
    """A line that says what became of each, then the bytes of those that were found, then the next reply."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        server.put("b-0", b"")
        server.put("c-0", b"see")
        request = to_retrieve("c-0", "x-0", "b-0", "a-0")
        request["blocks"][3]["crc32c"] = sum_of(DIGITS)
        reply = await caller.ask(**request)
        results = [stored(b"see"), NOT_FOUND, stored(b""), stored(DIGITS)]
        assert {"status": "ok", "results": results, "size": 13} == reply
        assert b"see" + DIGITS == await caller.hear_bytes(13)
        assert PONG == await caller.ask(command="ping")


@on_reactor
async def test_a_changed_block_is_not_retrieved(reactor: Any, tmp_path: Path) -> None:
    """Not a byte of it, where the request says what its checksum must be."""
    async with asking(reactor, tmp_path) as (server, caller):
        server.put("a-0", DIGITS)
        request = to_retrieve("a-0")
        request["blocks"][0]["crc32c"] = "00000000"
        changed = {"error": f"crc32c is {sum_of(DIGITS)}, expected 00000000", "code": "corrupt"}
        assert {"status": "ok", "results": [changed], "size": 0} == await caller.ask(**request)
        assert PONG == await caller.ask(command="ping")


@on_reactor
async def test_no_blocks_are_an_answer_too(reactor: Any, tmp_path: Path) -> None:
    """Whoever has nothing to store or to read gets nothing."""
    async with asking(reactor, tmp_path) as (_server, caller):
        assert {"status": "ok", "results": []} == await caller.ask(command="store_blocks", size=0, blocks=[])
        assert {"status": "ok", "results": [], "size": 0} == await caller.ask(command="retrieve_blocks", blocks=[])
