from typing import Any

import pytest

from filefly.errors import BadRequest
from filefly.meta.catalog import Plan, PlanBlock
from filefly.meta.cluster import Cluster
from filefly.meta.inventory import DataServerRow
from filefly.wire.messages import Block, Replica

BLOCK = PlanBlock("a-0", 7, "0a0b0c0d", (2, 1))
ROWS = [
    DataServerRow(1, "one:1", "far:1", placing=True),
    DataServerRow(2, "two:1", None, placing=True),
    DataServerRow(3, "three:1", None, placing=False),
]


@pytest.fixture
def cluster() -> Cluster:
    nothing: Any = None
    cluster = Cluster(nothing, nothing)
    cluster.take(ROWS)
    return cluster


def plan_with(*blocks: PlanBlock) -> Plan:
    fields: dict[str, Any] = {"generation": 1, "name": "a", "state": "committed", "explicit": True, "replicas": 2}
    fields |= {"total_size": 7, "block_size": 7, "attributes": {}, "stem": "a", "if_generation": None}
    return Plan(**fields, modified="2026-01-02T03:04:05.678Z", blocks=blocks)


def test_new_blocks_go_where_they_may(cluster: Cluster) -> None:
    """Not to a data server that is known only for what it has."""
    assert [1, 2] == cluster.placing()


def test_clients_are_told_what_is_advertised(cluster: Cluster) -> None:
    """And `data_server` repeats the first."""
    told = [Replica("two:1"), Replica("far:1")]
    assert [Block("a-0", 7, "two:1", told, "0a0b0c0d")] == cluster.metadata_of(plan_with(BLOCK)).blocks


def test_this_process_goes_by_internal_addresses(cluster: Cluster) -> None:
    """What is advertised may not be reachable from here."""
    [block] = cluster.metadata_of(plan_with(BLOCK), internal=True).blocks
    assert ["two:1", "one:1"] == [replica.data_server for replica in block.replicas]


@pytest.mark.parametrize(("told", "key"), [("far:1", 1), ("two:1", 2)])
def test_a_reported_address_is_a_planned_data_server(cluster: Cluster, told: str, key: int) -> None:
    """By the address that clients are told."""
    assert key == cluster.key_of(told, BLOCK)


@pytest.mark.parametrize("told", ["one:1", "three:1", "", "elsewhere:1"])
def test_another_address_is_refused(cluster: Cluster, told: str) -> None:
    """Internal ones, those of other blocks, and unknown ones."""
    with pytest.raises(BadRequest, match=rf"^block a-0 is not planned for data server {told}$"):
        cluster.key_of(told, BLOCK)
