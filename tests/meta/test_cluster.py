from typing import Any

import pytest
from attrs import evolve
from msgspec.structs import replace

from filefly.catalog.inventory import DataServerRow
from filefly.catalog.plans import Plan, PlanBlock
from filefly.errors import Unauthorized, Unavailable
from filefly.meta.cluster import Cluster, Condition
from filefly.wire.messages import Block, Replica
from tests.on_reactor import on_reactor

BLOCK = PlanBlock("a-0", 7, "0a0b0c0d", (2, 1))
ROWS = [
    DataServerRow(1, "one:1", "far:1", True, "first"),
    DataServerRow(2, "two:1", None, True, "second"),
    DataServerRow(3, "three:1", None, False, "third"),
    DataServerRow(4, None, "far:4", True, "fourth"),
    DataServerRow(5, "five:1", None, True),
]


@pytest.fixture
def cluster() -> Cluster:
    nothing: Any = None
    cluster = Cluster(nothing, nothing)
    cluster.take(ROWS)
    cluster.conditions = {4: Condition("down")}
    return cluster


def plan_with(*blocks: PlanBlock, state: str = "committed", explicit: bool = True) -> Plan:
    fields: dict[str, Any] = {"generation": 1, "name": "a", "state": state, "explicit": explicit, "replicas": 2}
    fields |= {"total_size": 7, "block_size": 7, "attributes": {}, "stem": "a", "if_generation": None}
    return Plan(**fields, modified="2026-01-02T03:04:05.678Z", resumes=None, holder=None, blocks=blocks)


def places(cluster: Cluster, plan: Plan, internal: bool = False) -> list[str]:
    [block] = cluster.metadata_of(plan, internal).blocks
    assert block.data_server == (block.replicas[0].data_server if block.replicas else "")
    return [replica.data_server for replica in block.replicas]


# Which data servers are used


@pytest.mark.parametrize(
    ("condition", "placing", "up"),
    [
        (None, True, False),
        (Condition("suspect"), True, False),
        (Condition("up"), True, True),
        (Condition("up", full=True), False, True),
        (Condition("down"), False, False),
        (Condition("down", away=True), False, False),
    ],
)
def test_new_blocks_go_to_who_is_not_down_and_has_room(
    cluster: Cluster, condition: Condition | None, placing: bool, up: bool
) -> None:
    """Who misses a ping may still be there; only who answers is told to delete."""
    cluster.conditions = {4: Condition("down"), **({1: condition} if condition else {})}
    assert ([1, 2, 5] if placing else [2, 5]) == cluster.placing()
    assert ([1] if up else []) == cluster.up()


def test_new_blocks_do_not_go_to_who_is_drained(cluster: Cluster) -> None:
    """Nor to one that is known only for what it has."""
    cluster.take([evolve(ROWS[0], draining=True), *ROWS[1:]])
    assert [2, 5] == cluster.placing()


# Plans as clients are told them


def test_clients_are_told_what_is_advertised(cluster: Cluster) -> None:
    """And `data_server` repeats the first."""
    told = [Replica("two:1"), Replica("far:1")]
    assert [Block("a-0", 7, "two:1", told, "0a0b0c0d")] == cluster.metadata_of(plan_with(BLOCK)).blocks


def test_this_process_goes_by_internal_addresses(cluster: Cluster) -> None:
    """What is advertised may not be reachable from here."""
    assert ["two:1", "one:1"] == places(cluster, plan_with(BLOCK), internal=True)


@pytest.mark.parametrize("internal", [False, True])
def test_readers_ask_who_is_down_last(cluster: Cluster, internal: bool) -> None:
    """It may be back already, but others are quicker; all others stay in their order."""
    cluster.conditions = {2: Condition("down"), 3: Condition("suspect"), 1: Condition("up", full=True)}
    expected = ["three:1", "one:1" if internal else "far:1", "two:1"]
    assert expected == places(cluster, plan_with(replace(BLOCK, servers=(2, 3, 1))), internal)


def test_writers_are_told_all_places_in_their_order(cluster: Cluster) -> None:
    """Who is down may be back; the client asks for another one if not."""
    cluster.conditions = {2: Condition("down")}
    assert ["two:1", "far:1"] == places(cluster, plan_with(BLOCK, state="pending"))


@pytest.mark.parametrize("state", ["pending", "committed"])
@pytest.mark.parametrize("internal", [False, True])
def test_a_storage_that_is_seen_nowhere_is_left_out(cluster: Cluster, state: str, internal: bool) -> None:
    """There is no address to tell, whatever was advertised; nor is there one of a data server that was removed."""
    plan = plan_with(replace(BLOCK, servers=(4, 2, 99)), state=state)
    assert ["two:1"] == places(cluster, plan, internal)
    assert [] == places(cluster, plan_with(replace(BLOCK, servers=(4,)), state=state), internal)


def test_writers_are_told_which_storages_are_meant(cluster: Cluster) -> None:
    """By the addresses that they are told; one that was not heard from yet is not known."""
    blocks = [BLOCK, replace(BLOCK, id="a-1", servers=(3, 5)), replace(BLOCK, id="a-2", servers=(2,))]
    storage_ids = cluster.metadata_of(plan_with(*blocks, state="pending")).storage_ids
    assert {"far:1": "first", "two:1": "second", "three:1": "third"} == storage_ids


@pytest.mark.parametrize(("state", "explicit"), [("pending", False), ("committed", True), ("committed", False)])
def test_nobody_else_is_told_which_storages_are_meant(cluster: Cluster, state: str, explicit: bool) -> None:
    """Readers go by checksums; a person with `nc` does not need it."""
    assert {} == cluster.metadata_of(plan_with(BLOCK, state=state, explicit=explicit)).storage_ids


# Questions


@on_reactor
async def test_who_has_no_address_is_not_asked() -> None:
    """Nor who is not known any more."""
    nothing: Any = None
    cluster = Cluster(nothing, nothing)
    cluster.take(ROWS)
    for server in (4, 99):
        with pytest.raises(Unavailable, match=r"^the storage is seen at no address$"):
            await cluster.ping(server)


@on_reactor
async def test_who_was_not_heard_from_is_told_to_change_nothing() -> None:
    """What changes a storage names it."""
    nothing: Any = None
    cluster = Cluster(nothing, nothing)
    cluster.take(ROWS)
    for changing in (
        cluster.delete(5, "a-0"),
        cluster.set_aside(5, "a-0"),
        cluster.quarantine(5, "a-0", "00000000"),
        cluster.copy("a-0", "00000000", 1, 5),
        cluster.adopt(5, "catalog", 1),
    ):
        with pytest.raises(Unavailable, match=r"^the data server was not heard from yet$"):
            await changing


# Who proves to be which


@pytest.mark.parametrize(
    ("address", "storage_id", "state", "fits"),
    [
        ("one:1", "first", "up", True),
        ("far:1", "first", "up", False),
        ("far:1", "first", "suspect", True),
        ("far:1", "first", "down", True),
        ("one:1", "new", "up", True),
        ("one:1", "second", "up", True),
    ],
)
def test_a_storage_that_is_up_is_at_no_other_address(
    cluster: Cluster, address: str, storage_id: str, state: str, fits: bool
) -> None:
    """One that moves is not up at first; who passes on what it says hears no proof."""
    cluster.conditions = {1: Condition(state)}
    if fits:
        cluster._check_storage(address, storage_id)
    else:
        with pytest.raises(Unauthorized, match=r"^it says that it is the data server at one:1, but that is up there$"):
            cluster._check_storage(address, storage_id)


def test_this_machine_has_one_name(cluster: Cluster) -> None:
    """An address without a host is dialled as localhost."""
    cluster.take([DataServerRow(1, ":9001", None, True, "first")])
    cluster.conditions = {1: Condition("up")}
    cluster._check_storage("localhost:9001", "first")
