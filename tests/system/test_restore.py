"""A catalog that is lost, and comes back from a backup: on the same machine, and on a new one."""

import gzip
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c

from filefly.wire.names import name_on_disk
from tests.system.processes import Processes, processes, talk, wait_until
from tests.system.talkers import shell

CATALOG = "filefly-catalog.sqlite"
OPTIONS = ("--block-size", "1024", "--replicas", "2", "--health-interval", "1", "--trash-grace", "0")
INTERVAL = "--catalog-backup-interval"
FILES = {"a": b"", "b.txt": b"Hello, FileFly\n", "c/d": bytes(range(256)) * 20}

CAT_AND_GUNZIP = """
    file=$(ls blocks*/ | grep '^%2Efilefly%2Fcatalog-.*Z.sqlite.gz-0$' | sort | tail -n 1)
    name=${file%-0}
    last=$(ls blocks*/ | grep "^$name-" | sed 's/.*-//' | sort -n | tail -n 1)
    for number in $(seq 0 $last); do
        cat "$(ls blocks*/$name-$number | head -n 1)"
    done | gunzip > filefly-catalog.sqlite"""


def store(cluster: Processes, name: str, data: bytes) -> Any:
    """Store a file and return its metadata."""
    cluster.store_by_hand(name, data)
    assert data == cluster.fetch(name)
    return cluster.ask_one("get_metadata", file_name=name)["metadata"]


def ids_of(metadata: Any) -> list[str]:
    """Return the ids of a file's blocks, as their files are named."""
    return [name_on_disk(block["id"]).decode() for block in metadata["blocks"]]


def backup_by_command(cluster: Processes, target: Path) -> None:
    """Ask for a copy of the catalog, as by `nc`."""
    line, _newline, data = talk(cluster.meta.ports[0], b'{"command":"backup_catalog"}\n').partition(b"\n")
    assert {"status": "ok", "size": len(data), "crc32c": f"{crc32c(data):08x}"} == json.loads(line)
    target.write_bytes(data)


def wait_for_stored_backup(cluster: Processes) -> None:
    """Wait for a backup on the data servers that has all files, and let there be no further ones."""

    def is_there() -> bool:
        names = [name for name in cluster.names() if name.startswith(".filefly/catalog-")]
        if not names:
            return False
        copy = cluster.folder / "newest.sqlite"
        copy.write_bytes(gzip.decompress(cluster.fetch(max(names))))
        with closing(sqlite3.connect(copy)) as database:
            found = {name for (name,) in database.execute("SELECT name FROM plans WHERE state = 'committed'")}
        return FILES.keys() <= found

    wait_until(is_there, "a backup of all files")
    cluster.meta.stop()
    arguments = list(cluster.meta.arguments)
    arguments[arguments.index(INTERVAL) + 1] = "0"
    cluster.meta.arguments = arguments
    cluster.meta.start()


def told_generation(cluster: Processes) -> int:
    """Return the highest generation that both data servers were told."""
    files = [cluster.storage(number) / ".filefly.json" for number in (1, 2)]
    return min(int(json.loads(file.read_bytes()).get("generation") or 0) for file in files)


def findings(cluster: Processes, **fields: Any) -> list[Any]:
    """Check everything, page by page."""
    found: list[Any] = []
    after = ""
    while after is not None:
        page = cluster.ask_one("fsck", after=after, **fields)
        found += page["findings"]
        after = page.get("next")
    return found


def lose_the_catalog(cluster: Processes) -> None:
    """End everything at once, and delete the catalog and what SQLite keeps beside it."""
    cluster.kill()
    for file in cluster.folder.glob(f"{CATALOG}*"):
        file.unlink()


@contextmanager
def moved_to_a_new_machine(cluster: Processes, folder: Path) -> Iterator[Processes]:
    """Run a cluster on what the storage directories and the catalog of another one have become: new paths and ports."""
    folder.mkdir()
    (cluster.folder / CATALOG).rename(folder / CATALOG)
    for number in range(1, len(cluster.data) + 1):
        cluster.storage(number).rename(folder / f"blocks{number}")
    with processes(folder, *OPTIONS, INTERVAL, "0") as moved:
        yield moved


def check_restored(cluster: Processes, later: Any, later_data: bytes) -> None:
    """Check that nothing of the time of the backup is lost, and nothing of later is harmed."""
    for name, data in FILES.items():
        assert data == cluster.fetch(name)

    def warns() -> bool:
        warnings = cluster.ask_one("list_data_servers").get("warnings", [])
        return any("until filefly-client catalog accept" in warning for warning in warnings)

    wait_until(warns, "a warning that the catalog is old")
    wait_until(lambda: all(server["healthy"] for server in servers_of(cluster)), "all data servers")
    assert "not_found" == cluster.ask_one("get_metadata", file_name="later")["code"]
    before = {name: cluster.block_files()[name] for name in ids_of(later)}
    assert later_data == b"".join(before.values())
    found = findings(cluster)
    assert {("unknown", "save what you need of it, then filefly-client catalog accept")} == {
        (each["kind"], each["mend"]) for each in found
    }
    assert {block["id"] for block in later["blocks"]} <= {each["block_id"] for each in found}

    # New files get generations and ids that nobody had.
    again = store(cluster, "later", b"something else")
    assert again["generation"] > later["generation"]
    assert before.items() <= cluster.block_files().items()

    # What is deleted goes only once the catalog is accepted; what it does not know stays.
    doomed = ids_of(cluster.ask_one("get_metadata", file_name="c/d")["metadata"])
    assert {"status": "ok"} == cluster.ask_one("delete_file", file_name="c/d")
    assert {*doomed} <= names_on_disk(cluster)
    assert {"status": "ok"} == cluster.ask_one("accept_catalog")
    wait_until(lambda: not names_on_disk(cluster) & {*doomed}, "the deleted file's blocks to go")
    assert (
        "warnings" not in cluster.ask_one("list_data_servers") or not cluster.ask_one("list_data_servers")["warnings"]
    )
    assert before.items() <= cluster.block_files().items()
    assert {("unknown", "filefly-client fsck --repair")} == {(each["kind"], each["mend"]) for each in findings(cluster)}

    findings(cluster, repair=True)
    wait_until(lambda: not names_on_disk(cluster) & before.keys(), "the unknown blocks to be set aside")
    aside = {file.name for number in (1, 2) for file in (cluster.storage(number) / ".unknown").iterdir()}
    assert before.keys() <= aside
    wait_until(lambda: [] == findings(cluster), "everything to be in order")
    assert b"something else" == cluster.fetch("later")


def names_on_disk(cluster: Processes) -> set[str]:
    """Return the names of the block files in the storage directories, also while some go."""
    return {file.name for number in (1, 2) for file in cluster.storage(number).iterdir() if file.name[0] != "."}


def addresses_of(cluster: Processes) -> set[str]:
    """Return where the data servers are, as the metadata server knows it."""
    return {each["address"] for each in servers_of(cluster)}


def servers_of(cluster: Processes) -> list[Any]:
    """Return the lines of `list_data_servers`."""
    servers: list[Any] = cluster.ask_one("list_data_servers")["servers"]
    return servers


@pytest.mark.parametrize(
    ("stored", "new_machine"),
    [
        pytest.param(False, False, id="a copy by command, here"),
        pytest.param(True, False, id="from the data servers, here"),
        pytest.param(True, True, id="from the data servers, elsewhere"),
    ],
)
def test_a_lost_catalog_comes_back(tmp_path: Path, stored: bool, new_machine: bool) -> None:
    """From a copy that somebody asked for, or from the blocks on the data servers, with nothing but cat and gunzip."""
    old = tmp_path / "old"
    old.mkdir()
    with processes(old, *OPTIONS, INTERVAL, "1s" if stored else "0") as cluster:
        for name, data in FILES.items():
            store(cluster, name, data)
        if stored:
            wait_for_stored_backup(cluster)
        else:
            backup_by_command(cluster, old / "backup.sqlite")
        later_data = b"stored after the backup " * 100
        later = store(cluster, "later", later_data)
        wait_until(lambda: told_generation(cluster) >= later["generation"], "the data servers to be told")
        lose_the_catalog(cluster)
        if stored:
            shell(old, CAT_AND_GUNZIP)
        else:
            (old / "backup.sqlite").rename(old / CATALOG)
        if new_machine:
            with moved_to_a_new_machine(cluster, tmp_path / "new") as moved:
                now = {daemon.address for daemon in moved.data}
                wait_until(
                    lambda: now == {each["address"] for each in servers_of(moved)}, "the storages to be recognised"
                )
                check_restored(moved, later, later_data)
        else:
            cluster.start()
            check_restored(cluster, later, later_data)
