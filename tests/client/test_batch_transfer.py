"""Batches of blocks to and from a real data server, with faults between it and the client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from filefly.client.batch_transfer import BatchTransfer
from filefly.errors import Corrupt, FileFlyError, Unavailable, WrongStorage
from filefly.wire.batches import BlockResult, BlockToStore
from filefly.wire.framing import PIECE_BYTES
from filefly.wire.messages import Block
from tests.client.clusters import pooling
from tests.client.faults import Mangle, Proxy, cut_after, proxy_of, replace, say_instead, the_first
from tests.meta.running import DataNode, data_node, sum_of
from tests.on_reactor import on_reactor

DATA = {"a-0": b"aaa", "b-0": b"", "c-0": b"ccccc"}


@asynccontextmanager
async def transferring(reactor: Any, folder: Path) -> AsyncIterator[tuple[BatchTransfer, Proxy, DataNode]]:
    """Run a data server behind a proxy, and what moves batches to it and from it."""
    async with (
        data_node(reactor, folder) as node,
        proxy_of(reactor, node.port) as proxy,
        pooling(reactor) as pool,
    ):
        yield BatchTransfer(reactor, pool), proxy, node


def to_store(*ids: str) -> list[BlockToStore]:
    return [BlockToStore(block_id, len(DATA[block_id]), sum_of(DATA[block_id])) for block_id in ids]


def wanted(*ids: str) -> list[tuple[Block, None]]:
    return [(Block(block_id, len(DATA.get(block_id, b"x")), "", ()), None) for block_id in ids]


def results(*ids: str) -> list[BlockResult]:
    return [BlockResult(len(DATA[block_id]), sum_of(DATA[block_id])) for block_id in ids]


@on_reactor
async def test_blocks_are_stored_and_come_back(reactor: Any, tmp_path: Path) -> None:
    """Empty ones, too; by one connection."""
    async with transferring(reactor, tmp_path) as (transfer, proxy, node):
        assert results(*DATA) == await transfer.store(proxy.address, to_store(*DATA), list(DATA.values()))
        assert DATA == {name: node.block(name).read_bytes() for name in node.block_ids()}
        found, chunks = await transfer.retrieve(proxy.address, wanted("c-0", "b-0", "a-0"))
        assert (results("c-0", "b-0", "a-0"), b"cccccaaa") == (found, b"".join(chunks))
        assert 1 == proxy.connections


@on_reactor
async def test_more_bytes_than_move_at_a_time_are_stored(reactor: Any, tmp_path: Path) -> None:
    """In several pieces."""
    data = [bytes([number]) * (PIECE_BYTES // 2 + 1) for number in range(5)]
    blocks = [BlockToStore(f"a-{number}", len(piece), sum_of(piece)) for number, piece in enumerate(data)]
    async with transferring(reactor, tmp_path) as (transfer, proxy, node):
        await transfer.store(proxy.address, blocks, data)
        assert data == [node.block(f"a-{number}").read_bytes() for number in range(5)]


@on_reactor
async def test_what_is_wrong_with_one_block_is_in_its_result(reactor: Any, tmp_path: Path) -> None:
    """The others are stored, or come."""
    async with transferring(reactor, tmp_path) as (transfer, proxy, node):
        wrong = BlockToStore("b-0", 0, "0a0b0c0d")
        stored = await transfer.store(proxy.address, [*to_store("a-0"), wrong], [DATA["a-0"], b""])
        assert [None, "corrupt"] == [result.code for result in stored]
        found, chunks = await transfer.retrieve(proxy.address, wanted("b-0", "a-0", "x-0"))
        assert ["not_found", None, "not_found"] == [result.code for result in found]
        assert (b"aaa", ["a-0"]) == (b"".join(chunks), node.block_ids())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (replace(b'"size":8', b'"size":9'), Corrupt),
        (replace(b'"size":8', b'"size":7'), Corrupt),
        (replace(b'"size":8', b'"size":9007199254740991'), Corrupt),
        (replace(b'{"size":3,', b'{"size":5,'), Corrupt),
        (replace(b'{"size":3,', b'{"size":4},{'), Unavailable),
        (say_instead(b"garbage\n"), Unavailable),
        (say_instead(b'{"status":"ok","results":[]}\n'), Unavailable),
        (cut_after(10), Unavailable),
    ],
    ids=["one more", "one less", "huge", "too large a block", "one too many", "garbage", "none", "cut"],
)
@on_reactor
async def test_what_does_not_add_up_is_an_error(
    reactor: Any, tmp_path: Path, fault: Mangle, error: type[FileFlyError]
) -> None:
    """Before a byte is taken for what it is not; the next exchange has another connection."""
    async with transferring(reactor, tmp_path) as (transfer, proxy, _node):
        await transfer.store(f"127.0.0.1:{proxy.behind}", to_store(*DATA), list(DATA.values()))
        proxy.faults = [the_first(1, fault)]
        with pytest.raises(error):
            await transfer.retrieve(proxy.address, wanted(*DATA))
        assert results(*DATA) == (await transfer.retrieve(proxy.address, wanted(*DATA)))[0]
        assert 2 == proxy.connections


@pytest.mark.parametrize(("patient", "connections"), [(True, 3), (False, 1)])
@on_reactor
async def test_what_may_pass_is_tried_again(reactor: Any, tmp_path: Path, patient: bool, connections: int) -> None:
    """By who has patience."""
    async with transferring(reactor, tmp_path) as (transfer, proxy, _node):
        proxy.always = cut_after(0)
        with pytest.raises(Unavailable):
            await transfer.store(proxy.address, to_store("a-0"), [b"aaa"], patient=patient)
        assert connections == proxy.connections


@on_reactor
async def test_another_storage_takes_nothing(reactor: Any, tmp_path: Path) -> None:
    """Whoever is at its address."""
    async with transferring(reactor, tmp_path) as (transfer, proxy, node):
        with pytest.raises(WrongStorage):
            await transfer.store(proxy.address, to_store("a-0"), [b"aaa"], storage_id="another")
        assert [] == node.block_ids()
