"""Looking a cluster of real processes over: by its own fsck, and past all servers."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from crc32c import crc32c

from filefly.wire.codec import crc32c_hex
from filefly.wire.names import name_on_disk
from tests.system.processes import Daemon, Processes, wait_until

SETTLED_SECONDS = 120.0


def states(cluster: Processes) -> dict[str, str]:
    """Return the state of each data server by its address."""
    return {server["address"]: server["state"] for server in cluster.ask_one("list_data_servers")["servers"]}


def wait_for_state(cluster: Processes, server: Daemon, *wanted: str) -> None:
    """Wait until a data server is in one of these states."""
    wait_until(lambda: states(cluster)[server.address] in wanted, f"{server.name} to be {' or '.join(wanted)}")


def wait_until_up(cluster: Processes) -> None:
    """Wait until all data servers are up."""
    wait_until(lambda: set(states(cluster).values()) == {"up"}, "all data servers to be up", SETTLED_SECONDS)


def findings(cluster: Processes, **fields: Any) -> list[dict[str, Any]]:
    """Check the whole cluster and return what is not as it should be."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = cluster.ask_one("fsck", after=after, **fields)
        assert "ok" == page["status"], page
        found += page["findings"]
        if "next" not in page:
            return found
        after = page["next"]


def wait_until_clean(cluster: Processes) -> None:
    """Wait until fsck finds nothing; then the command says so, too."""
    last: list[dict[str, Any]] = []

    def clean() -> bool:
        last[:] = findings(cluster)
        return not last

    try:
        wait_until(clean, "fsck to find nothing", SETTLED_SECONDS)
    except AssertionError:
        raise AssertionError(f"fsck still finds {last}") from None
    assert 0 == cluster.client("fsck").returncode


@frozen
class BlockFile:
    """One replica: where its file should be, and what the catalog knows of its bytes."""

    path: Path
    block_id: str
    size: int
    crc32c: str

    def right(self) -> bool:
        """Whether it is there, with the right bytes."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return False
        return (self.size, self.crc32c) == (len(data), crc32c_hex(crc32c(data)))


def block_files(cluster: Processes, names: Iterable[str]) -> list[list[BlockFile]]:
    """Return for each block of these files its replicas; there must be as many as there should be."""
    found = []
    for name in names:
        metadata = cluster.ask_one("get_metadata", file_name=name)["metadata"]
        for block in metadata["blocks"]:
            places = _places(block)
            assert metadata["replicas"] == len(places), (name, block)
            found.append([_block_file(cluster, block, place) for place in sorted(places)])
    return found


def _places(block: Any) -> set[str]:
    return {replica["data_server"] for replica in block["replicas"]}


def _block_file(cluster: Processes, block: Any, place: str) -> BlockFile:
    number = [server.address for server in cluster.data].index(place) + 1
    path = cluster.storage(number) / os.fsdecode(name_on_disk(block["id"]))
    return BlockFile(path, block["id"], block["size"], block["crc32c"])


def wait_for_replicas(cluster: Processes, names: Sequence[str]) -> None:
    """Wait until each block of these files has as many replicas as wanted: what is too much is no finding of fsck."""

    def as_many_as_wanted() -> bool:
        found = [cluster.ask_one("get_metadata", file_name=name)["metadata"] for name in names]
        return all(file["replicas"] == len(_places(block)) for file in found for block in file["blocks"])

    wait_until(as_many_as_wanted, "surplus replicas to be given up", SETTLED_SECONDS)


def check_block_files(cluster: Processes, names: Iterable[str]) -> int:
    """Look at every block file of these files, past all servers; return how many there are."""
    files = [file for replicas in block_files(cluster, names) for file in replicas]
    assert [] == [file for file in files if not file.right()]
    return len(files)
