"""Names of every kind go in and come out unchanged, and stay readable on the disks."""

import json
import subprocess
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from tests.system.processes import Processes, processes

NAMES = {
    "spaces": " two  spaces and a tab's worth    .txt ",
    "percent": "100%",
    "an escape": "%2F%2e%",
    "a folder": "reports/2026/June.pdf",
    "NFC": unicodedata.normalize("NFC", "Ré sumé.txt"),
    "NFD": unicodedata.normalize("NFD", "Ré sumé.txt"),
    "other scripts": "数据/данные/🪰.txt",
    "a leading dot": ".profile",
    "dots": "...",
    "leading dots in folders": ".config/.hidden",
    "a leading dash": "-rf",
    "two leading dashes": "--help",
    "an index": "part-0",
    "an index and a generation": "part-0.1",
    "quotes": """"it's" \\ `$HOME` *?;&|<>#""",
    "255 bytes": "n" * 251 + ".txt",
    "255 bytes but for the last": "n" * 251 + ".txu",
    "300 bytes": "m" * 300,
    "1024 bytes": "l" * 1024,
    "300 bytes of umlauts": "ü" * 150,
    "1024 bytes of emoji": "🪰" * 256,
    "what a long name becomes": "x~" + "0" * 32,
}
every_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)

ON_DISK = {
    "hello world.txt": "hello world.txt",
    "50%": "50%25",
    "a/b c/d": "a%2Fb c%2Fd",
    ".bashrc": "%2Ebashrc",
    "-dash": "-dash",
    "größe/数据": "größe%2F数据",
    "q" * 198: "q" * 198,
    "q" * 199: "q" * 165 + "~" + sha256(b"q" * 199).hexdigest()[:32],
    "ö" * 500: "ö" * 82 + "~" + sha256("ö".encode() * 500).hexdigest()[:32],
}
"""What the files of a name's blocks begin with."""


def content(name: str) -> bytes:
    """Return four blocks that no other name has, and that differ from each other."""
    return sha256(name.encode()).hexdigest()[:25].encode()


@pytest.fixture(scope="module")
def by_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run a cluster into which only `filefly-client` puts files: one of each name."""
    with processes(tmp_path_factory.mktemp("by_client"), "--block-size", "8") as running:

        def upload(name: str) -> None:
            running.client("upload", "-q", "--file-name", name, "-", stdin=content(name))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(upload, NAMES.values()))
        yield running


@pytest.fixture(scope="module")
def on_disk(cluster: Processes) -> Processes:
    """Store by hand what `ON_DISK` tells of."""
    for name in ON_DISK:
        cluster.store_by_hand(name, content(name))
    return cluster


@pytest.mark.parametrize("kind", ["spaces", "a folder", "NFC", "NFD", "a leading dash", "1024 bytes of emoji"])
def test_a_name_is_downloaded_as_it_was_uploaded(by_client: Processes, kind: str, tmp_path: Path) -> None:
    """What a client uploads under a name, it downloads under that name."""
    by_client.client("download", "-o", tmp_path / "copy", "--", NAMES[kind])
    assert content(NAMES[kind]) == (tmp_path / "copy").read_bytes()


def test_cat_takes_every_name(by_client: Processes) -> None:
    """`cat` prints the files in the order of their names on the command line."""
    expected = b"".join(content(name) for name in NAMES.values())
    assert expected == by_client.client("cat", "--", *NAMES.values()).stdout


def test_ls_shows_every_name(by_client: Processes) -> None:
    """`ls -r --json` has each name as it was given, in the order of their UTF-8."""
    shown = [json.loads(line)["name"] for line in by_client.client("ls", "-r", "--json").stdout.splitlines()]
    assert sorted(NAMES.values(), key=str.encode) == shown


def test_ls_prints_names_for_people(by_client: Processes) -> None:
    """`ls -r` ends each line in the name, which nothing has quoted."""
    lines = by_client.client("ls", "-r").stdout.decode().splitlines()
    for line, name in zip(lines, sorted(NAMES.values(), key=str.encode), strict=True):
        assert line.endswith("  " + name)


def test_ls_of_a_folder_shows_what_is_in_it(by_client: Processes) -> None:
    """A name's folders are listed like those of a disk, hidden ones and those with long names too."""
    assert b".config/.hidden" in by_client.client("ls", "--", ".config").stdout
    assert b"reports/2026/" in by_client.client("ls", "reports").stdout


def test_a_local_file_with_a_leading_dash_is_uploaded_behind_two_dashes(by_client: Processes) -> None:
    """`upload -- -v.txt` stores the file under its own name, and `download -- -v.txt` brings it back there."""
    local = by_client.folder / "-v.txt"
    local.write_bytes(b"verbose")
    by_client.client("upload", "-q", "--", "-v.txt")
    local.unlink()
    by_client.client("download", "-q", "--", "-v.txt")
    by_client.client("rm", "--", "-v.txt")
    assert b"verbose" == local.read_bytes()
    assert "-v.txt" not in by_client.names()


@every_name
def test_a_name_is_fetched_as_it_was_stored(cluster: Processes, name: str) -> None:
    """What is planned and stored by JSON under a name is fetched under it, and listed as it was given."""
    cluster.store_by_hand(name, content(name))
    assert content(name) == cluster.fetch(name)
    assert name in cluster.names()


@every_name
def test_a_name_is_renamed_and_back(cluster: Processes, name: str) -> None:
    """Every name can be given to a file that had another one, whose blocks stay where they are."""
    data = b"renamed " + content(name)
    cluster.store_by_hand("plain name", data)
    assert data == cluster.fetch("plain name")
    assert "ok" == cluster.ask_one("rename_file", file_name="plain name", new_name=name)["status"]
    assert data == cluster.fetch(name)


@pytest.mark.parametrize("name", ["k" * 1025, "ü" * 513], ids=["ASCII", "umlauts"])
def test_a_name_of_more_than_1024_bytes_is_refused(cluster: Processes, name: str) -> None:
    """The limit counts bytes, and the error names it."""
    reply = cluster.ask_one("store_file", file_name=name, file_size=1)
    assert ("bad_request", "file_name is longer than 1024 bytes") == (reply["code"], reply["error"])


@pytest.mark.parametrize("name", ON_DISK, ids=lambda name: f"{name[:20]} {len(name)}")
def test_the_disks_show_readable_names(on_disk: Processes, name: str) -> None:
    """`ls` on the storage directories shows the blocks under the file's name, `/`, `%` and a leading dot escaped."""
    listed = subprocess.run(["ls", "blocks1", "blocks2"], cwd=on_disk.folder, stdout=subprocess.PIPE, check=True)
    assert {f"{ON_DISK[name]}-{index}" for index in range(4)} <= set(listed.stdout.decode().splitlines())


@pytest.mark.parametrize("name", ON_DISK, ids=lambda name: f"{name[:20]} {len(name)}")
def test_cat_of_the_block_files_gives_the_file(on_disk: Processes, name: str) -> None:
    """The block files one after another, in the order of their indexes, are the file's bytes."""
    script = 'for index in 0 1 2 3; do cat blocks?/"$1"-$index; done'
    printed = subprocess.run(
        ["sh", "-c", script, "sh", ON_DISK[name]], cwd=on_disk.folder, stdout=subprocess.PIPE, check=True
    )
    assert content(name) == printed.stdout
