"""README.md's session by hand, with the programs that a person has: nc, ncat, socat."""

import base64
import json
from typing import Any

import pytest

from tests.system.processes import Processes
from tests.system.talkers import TALKERS, shell

DATA = b"blockoneblocktwoblock-3!."

pytestmark = pytest.mark.parametrize("talker", TALKERS)


def ask(cluster: Processes, talker: str, port: int, text: str) -> list[Any]:
    """Say `text` to a port, as a here document in which `$(...)` is expanded, and return the replies."""
    printed = shell(cluster.folder, f"cat <<REQ | talk {port}\n{text}\nREQ", talker)
    return [json.loads(line) for line in printed.splitlines()]


def plan_of(cluster: Processes, talker: str, name: str, wanted: str = '"file_size":25') -> Any:
    request = f'{{"command":"store_file","file_name":"{name}",{wanted}}}'
    [reply] = ask(cluster, talker, cluster.meta.ports[0], request)
    assert reply["status"] == "ok", reply
    return reply["metadata"]


def store(cluster: Processes, talker: str, plan: Any) -> list[Any]:
    """Store each block of a plan as README.md does."""
    replies = []
    for number, block in enumerate(plan["blocks"]):
        text = DATA[8 * number : 8 * number + 8].decode()
        request = f'{{"command":"store","block_id":"{block["id"]}","data":"$(printf "{text}" | base64)"}}'
        port = int(block["data_server"].rpartition(":")[2])
        replies += ask(cluster, talker, port, request)
    return replies


def about(cluster: Processes, talker: str, command: str, name: str) -> Any:
    [reply] = ask(cluster, talker, cluster.meta.ports[0], f'{{"command":"{command}","file_name":"{name}"}}')
    return reply


def test_a_plan_by_size_cuts_the_file_into_blocks(cluster: Processes, talker: str) -> None:
    """25 bytes at a block size of 8 are planned as 8, 8, 8 and 1, under the file's name."""
    plan = plan_of(cluster, talker, f"size-{talker}")
    expected = [(f"size-{talker}-{number}", size) for number, size in enumerate((8, 8, 8, 1))]
    assert expected == [(block["id"], block["size"]) for block in plan["blocks"]]


def test_a_plan_by_data_is_the_same(cluster: Processes, talker: str) -> None:
    """A file's data in base64 is planned by its size."""
    plan = plan_of(cluster, talker, f"data-{talker}", f'"data":"$(printf "{DATA.decode()}" | base64)"')
    assert [8, 8, 8, 1] == [block["size"] for block in plan["blocks"]]


def test_blocks_go_to_the_data_servers_in_turn(cluster: Processes, talker: str) -> None:
    """Neighbouring blocks are planned on different data servers."""
    servers = [block["data_server"] for block in plan_of(cluster, talker, f"turn-{talker}")["blocks"]]
    assert servers[:2] * 2 == servers
    assert {daemon.address for daemon in cluster.data} == set(servers)


def test_a_file_planned_by_size_and_stored_by_hand_is_fetched(cluster: Processes, talker: str) -> None:
    """store_file with a size, a store for each block, and fetch_file returns the bytes."""
    store(cluster, talker, plan_of(cluster, talker, f"hello-{talker}.txt"))
    reply = about(cluster, talker, "fetch_file", f"hello-{talker}.txt")
    assert ("ok", DATA) == (reply["status"], base64.b64decode(reply["data"]))


def test_a_file_planned_by_data_and_stored_by_hand_is_fetched(cluster: Processes, talker: str) -> None:
    """store_file with the data, a store for each block, and fetch_file returns the bytes."""
    encoded = base64.b64encode(DATA).decode()
    store(cluster, talker, plan_of(cluster, talker, f"known-{talker}.txt", f'"data":"{encoded}"'))
    assert encoded == about(cluster, talker, "fetch_file", f"known-{talker}.txt")["data"]


def test_planning_by_data_stores_no_byte(cluster: Processes, talker: str) -> None:
    """The data in store_file is used for the plan alone: the blocks are still to be pushed."""
    plan_of(cluster, talker, f"unpushed-{talker}", '"data":"Zm9vYmFyYmF6Cg=="')
    assert "incomplete" == about(cluster, talker, "fetch_file", f"unpushed-{talker}")["code"]


def test_get_metadata_tells_when_the_blocks_are_there(cluster: Processes, talker: str) -> None:
    """get_metadata shows the file as pending before its blocks are stored, and as committed after."""
    plan = plan_of(cluster, talker, f"state-{talker}")
    before = about(cluster, talker, "get_metadata", f"state-{talker}")["metadata"]
    store(cluster, talker, plan)
    after = about(cluster, talker, "get_metadata", f"state-{talker}")["metadata"]
    assert ("pending", "committed") == (before["state"], after["state"])
    assert [block["id"] for block in plan["blocks"]] == [block["id"] for block in after["blocks"]]


def test_a_block_is_a_plain_file(cluster: Processes, talker: str) -> None:
    """`cat` on the storage directories shows the blocks' bytes under the file's name."""
    store(cluster, talker, plan_of(cluster, talker, f"plain-{talker}"))
    printed = shell(cluster.folder, "for n in 0 1 2 3; do cat blocks?/plain-$TALKER-$n; done", talker, TALKER=talker)
    assert DATA.decode() == printed


def test_a_block_is_removed_by_deleting_its_file(cluster: Processes, talker: str) -> None:
    """After `rm` the data server says that the block is not there."""
    block = plan_of(cluster, talker, f"removed-{talker}")["blocks"][0]
    port = int(block["data_server"].rpartition(":")[2])
    ask(cluster, talker, port, f'{{"command":"store","block_id":"{block["id"]}","data":"$(printf blockone | base64)"}}')
    retrieve = f'{{"command":"retrieve","block_id":"{block["id"]}"}}'
    before = ask(cluster, talker, port, retrieve)
    shell(cluster.folder, f"rm blocks?/removed-{talker}-0", talker)
    assert ["YmxvY2tvbmU="] == [reply["data"] for reply in before]
    assert [{"status": "error", "error": "block not found", "code": "not_found"}] == ask(
        cluster, talker, port, retrieve
    )


def test_a_file_without_a_block_is_an_error_and_not_wrong_bytes(cluster: Processes, talker: str) -> None:
    """fetch_file of a file whose third block was deleted ends in an error, behind right bytes only."""
    store(cluster, talker, plan_of(cluster, talker, f"torn-{talker}"))
    about(cluster, talker, "get_metadata", f"torn-{talker}")
    shell(cluster.folder, f"rm blocks?/torn-{talker}-2", talker)
    reply = about(cluster, talker, "fetch_file", f"torn-{talker}")
    assert ("error", "not_found") == (reply["status"], reply["code"])
    assert DATA.startswith(base64.b64decode(reply.get("data", "")))


def test_many_requests_in_one_session_are_answered_in_order(cluster: Processes, talker: str) -> None:
    """Plans, lookups and mistakes on one connection get their replies in the order in which they were sent."""
    requests = [
        f'{{"command":"store_file","file_name":"order-{talker}","file_size":0}}',
        f'{{"command":"get_metadata","file_name":"order-{talker}"}}',
        '{"command":"get_metadata","file_name":"nobody"}',
        "mistake",
        '{"command":"ping"}',
    ]
    replies = ask(cluster, talker, cluster.meta.ports[0], "\n".join(requests))
    assert ["ok", "ok", "not_found", "bad_request", "ok"] == [reply.get("code", "ok") for reply in replies]


def test_900_pipelined_plans_are_answered_in_order(cluster: Processes, talker: str) -> None:
    """The metadata server answers 900 requests on one connection, in order."""
    names = [f"many-{talker}-{number}" for number in range(900)]
    lines = "".join(f'{{"command":"store_file","file_name":"{name}","file_size":0}}\n' for name in names)
    printed = shell(cluster.folder, f"talk {cluster.meta.ports[0]}", talker, lines.encode())
    assert names == [json.loads(line)["metadata"]["name"] for line in printed.splitlines()]


def test_900_pipelined_stores_are_answered_in_order(cluster: Processes, talker: str) -> None:
    """A data server answers 900 requests on one connection, in order."""
    data = [base64.b64encode(b"x" * number).decode() for number in range(900)]
    lines = "".join(
        f'{{"command":"store","block_id":"many-{talker}.{number}","data":"{text}"}}\n'
        for number, text in enumerate(data)
    )
    printed = shell(cluster.folder, f"talk {cluster.data[0].ports[0]}", talker, lines.encode())
    assert list(range(900)) == [json.loads(line)["size"] for line in printed.splitlines()]


@pytest.mark.parametrize("line_end", ["\\r\\n", "\\n\\n", ""], ids=["CRLF", "a blank line", "no newline"])
def test_a_line_may_end_in_other_ways(cluster: Processes, talker: str, line_end: str) -> None:
    """CRLF, a blank line behind and a missing last newline are as good as a newline."""
    request = '{"command":"get_metadata","file_name":"nobody"}'
    printed = shell(cluster.folder, f"printf '%s{line_end}' '{request}' | talk {cluster.meta.ports[0]}", talker)
    assert [{"status": "error", "error": "file not found", "code": "not_found"}] == [
        json.loads(line) for line in printed.splitlines()
    ]


@pytest.mark.parametrize("line_end", ["\\r\\n", ""], ids=["CRLF", "no newline"])
def test_a_store_may_end_in_other_ways(cluster: Processes, talker: str, line_end: str) -> None:
    """A data server stores the same block whether the line ends in a newline, in CRLF or not at all."""
    block = f"ending-{talker}-{len(line_end)}"
    request = f'{{"command":"store","block_id":"{block}","data":"YmxvY2tvbmU="}}'
    shell(cluster.folder, f"printf '%s{line_end}' '{request}' | talk {cluster.data[0].ports[0]}", talker)
    assert b"blockone" == cluster.block_files(1)[block]


def test_raw_bytes_are_stored_by_hand(cluster: Processes, talker: str) -> None:
    """A store with `size` takes the bytes that follow the line, and the next line after them."""
    block = f"raw-{talker}"
    script = f"""{{ echo '{{"command":"store","block_id":"{block}","size":9}}'; printf 'block\\none'
        echo '{{"command":"ping"}}'; }} | talk {cluster.data[0].ports[0]}"""
    replies = [json.loads(line) for line in shell(cluster.folder, script, talker).splitlines()]
    assert [("ok", 9), ("ok", None)] == [(reply["status"], reply.get("size")) for reply in replies]
    assert b"block\none" == cluster.block_files(1)[block]
