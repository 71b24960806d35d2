import io
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from rich import progress as rich_progress
from rich.console import Console

from filefly.cli.output import Bar, LogLines
from filefly.cli.transfers import _resumed
from filefly.client.targets import part_of
from filefly.errors import DiskFull, Unavailable
from filefly.wire.blocks import Store
from tests.cli.test_catalog import Shell, with_files
from tests.client.scripted import ScriptedCluster, for_kind, scripted
from tests.client.test_resume import broken_off
from tests.on_reactor import on_reactor

DATA = "0123456789abcdefghijklmnop"


@define
class Place:
    """Where a shell is, and whom it asks."""

    address: str
    folder: Path


@asynccontextmanager
async def with_script(reactor: Any, folder: Path, **options: Any) -> AsyncIterator[tuple[ScriptedCluster, Shell]]:
    """Run a shell at a scripted cluster, with the file `a` in its folder."""
    (folder / "a").write_text(DATA)
    async with scripted(reactor, **options) as cluster:
        place: Any = Place(cluster.catalog.address, folder)
        yield cluster, Shell(place)


async def usage(shell: Shell, *arguments: str) -> str:
    """Run a command that is not to be used like this, and return why."""
    done = await shell.run(*arguments)
    assert (2, "") == (done.returncode, done.stdout)
    return done.stderr.splitlines()[-1]


@on_reactor
async def test_what_is_no_regular_file_is_not_taken_for_an_empty_one(reactor: Any, tmp_path: Path) -> None:
    """A pipe has no size; the sentence says how it is uploaded."""
    async with with_files(reactor, tmp_path) as shell:
        sentence = await shell.refusal("upload", "/dev/null", "--name", "a")
        assert "/dev/null is not a regular file, so its size is not known; pipe it into upload -" == sentence
        assert "" == await shell.out("ls")


@on_reactor
async def test_uploads_tell_what_was_stored(reactor: Any, tmp_path: Path) -> None:
    """One JSON object a file on stdout; nothing else with -q."""
    (tmp_path / "one").write_bytes(b"0123456789")
    (tmp_path / "two").write_bytes(b"")
    async with with_files(reactor, tmp_path) as shell:
        printed = [json.loads(line) for line in (await shell.out("upload", "-q", "--json", "one", "two")).splitlines()]
        assert [("one", 10), ("two", 0)] == sorted((metadata["name"], metadata["total_size"]) for metadata in printed)


@on_reactor
async def test_a_folder_is_uploaded_once(reactor: Any, tmp_path: Path) -> None:
    """What is there with the same size and time is left alone."""
    (tmp_path / "f" / "g").mkdir(parents=True)
    (tmp_path / "f" / "a").write_bytes(b"a")
    (tmp_path / "f" / "g" / "b").write_bytes(b"bb")
    async with with_files(reactor, tmp_path) as shell:
        first = await shell.run("upload", "-r", "f")
        assert "filefly-client: uploaded 2 files, 3 B; 0 were there already" == first.stderr.splitlines()[-1]
        (tmp_path / "f" / "a").write_bytes(b"aa")
        second = await shell.run("upload", "-r", "f")
        assert "filefly-client: uploaded 1 file, 2 B; 1 was there already" == second.stderr.splitlines()[-1]


@on_reactor
async def test_folders_are_told_file_by_file(reactor: Any, tmp_path: Path) -> None:
    """Small files move together, but each is a line on stderr, and with --json an object on stdout."""
    (tmp_path / "f" / "g").mkdir(parents=True)
    for name in ("a", "b", "g/c"):
        (tmp_path / "f" / name).write_text(name)
    async with with_files(reactor, tmp_path) as shell:
        for verb, preposition, command in (
            ("stored", "on", ["upload", "-r", "--json", "f"]),
            ("fetched", "from", ["download", "-r", "--json", "f", "-o", "copy"]),
        ):
            done = await shell.run(*command)
            metadata = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda each: each["name"])
            assert ["f/a", "f/b", "f/g/c"] == [each["name"] for each in metadata]
            assert metadata == [json.loads(await shell.out("stat", "--json", each["name"])) for each in metadata]
            where = [each["blocks"][0]["data_server"] for each in metadata]
            lines = [
                f"{verb} {each['name']}-0 ({each['total_size']} B) {preposition} {place} [1/1]"
                for each, place in zip(metadata, where, strict=True)
            ]
            assert lines == sorted(done.stderr.splitlines()[:-1])
        assert "g/c" == (tmp_path / "copy" / "g" / "c").read_text()


@on_reactor
async def test_a_failing_file_fails_the_upload(reactor: Any, tmp_path: Path) -> None:
    """With the sentence of the first one."""
    (tmp_path / "a").write_bytes(b"a")
    async with with_files(reactor, tmp_path) as shell:
        assert "cannot read missing: No such file or directory" == await shell.refusal("upload", "a", "missing")


@pytest.mark.parametrize("paths", [("f/x", "g/x"), ("x", "f/x"), ("-r", "f", "h/f")])
@on_reactor
async def test_two_paths_of_one_name_are_refused(reactor: Any, tmp_path: Path, paths: tuple[str, ...]) -> None:
    """One would replace the other without a word; nothing is stored."""
    for folder in ("f", "g", "h/f", "."):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "x").write_text(folder)
    async with with_files(reactor, tmp_path) as shell:
        sentence = await shell.refusal("upload", *paths)
        assert sentence.endswith("; upload them one by one, with --file-name")
        one, _and, other = sentence.partition(" would ")[0].partition(" and ")
        assert one != other
        assert "" == await shell.out("ls", "-r")


@on_reactor
async def test_a_file_is_replaced_only_as_it_is_known(reactor: Any, tmp_path: Path) -> None:
    """With --if-generation; 0 means that there must be none."""
    (tmp_path / "a").write_text(DATA)
    async with with_files(reactor, tmp_path) as shell:
        await shell.out("upload", "-q", "a", "--if-generation", "0")
        assert "the file has generation 1, not 0" == await shell.refusal("upload", "-q", "a", "--if-generation", "0")
        await shell.out("upload", "-q", "a", "--if-generation", "1")
        several = await usage(shell, "upload", "a", "a", "--if-generation", "1")
        assert "Error: --if-generation goes with a single file." == several


@on_reactor
async def test_a_file_with_fewer_copies_is_told(reactor: Any, tmp_path: Path) -> None:
    """Behind everything else; to those who want to hear nothing, too."""
    async with with_script(reactor, tmp_path, data_servers=2, replicas=2) as (cluster, shell):
        cluster.data[0].fault = for_kind(Store, DiskFull("full"))
        sentence = (
            "filefly-client: a is stored with only 1 of 2 copies of some blocks; "
            "the others are made when a data server is available"
        )
        done = await shell.run("upload", "a")
        assert (0, [sentence]) == (done.returncode, done.stderr.splitlines()[5:])
        for arguments in (["-q", "a"], ["-q", "--json", "a"]):
            assert sentence + "\n" == (await shell.run("upload", *arguments)).stderr


@on_reactor
async def test_an_upload_is_resumed(reactor: Any, tmp_path: Path) -> None:
    """It tells how much was there; the count of blocks goes on from there."""
    async with with_script(reactor, tmp_path) as (cluster, shell):
        await broken_off(cluster, 2)
        done = await shell.run("upload", "--resume", "--concurrency", "1", "a")
        where = cluster.data[0].address
        assert [
            "a: 14 B were there already",
            f"stored a-2.2 (7 B) on {where} [3/4]",
            f"stored a-3.2 (5 B) on {where} [4/4]",
            "filefly-client: uploaded a: 26 B in 4 blocks",
        ] == done.stderr.splitlines()
        assert DATA == await shell.out("cat", "a")


@on_reactor
async def test_an_upload_that_cannot_go_on_says_how_to_later(reactor: Any, tmp_path: Path) -> None:
    """Where nothing but a data server is missing, and what was stored is still there."""
    async with with_script(reactor, tmp_path, data_servers=1) as (cluster, shell):
        [data_server] = cluster.data
        data_server.fault = for_kind(Store, Unavailable("gone"))
        hint = f"; to go on where it was: filefly-client --metadata-addr {cluster.catalog.address} upload --resume -q a"
        assert (await shell.refusal("upload", "-q", "a")).endswith(f"{data_server.address}: gone){hint}")
        (tmp_path / "b").write_text(DATA)
        assert (await shell.refusal("upload", "-q", "a", "b")).endswith(" upload --resume -r -q a b")
        data_server.fault = for_kind(Store, DiskFull("full"))
        assert "--resume" not in await shell.refusal("upload", "-q", "a")


def test_a_command_that_is_too_long_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would read it."""
    monkeypatch.setattr(sys, "argv", ["filefly-client", "upload", *("some file",) * 100])
    assert "to go on where it was: the same command, with --resume -r" == _resumed("upload", False, "-r")


@pytest.mark.parametrize(
    ("resume", "more", "options"), [(False, (), "--resume "), (True, (), ""), (False, ("-r",), "--resume -r ")]
)
def test_how_to_go_on_is_what_was_said_and_what_is_missing(
    resume: bool, more: Sequence[str], options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In front of the paths: behind `--` there are no options."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/filefly-client", "--token-file", "my token", "upload", "--", "-a"])
    command = f"filefly-client --token-file 'my token' upload {options}-- -a"
    assert f"to go on where it was: {command}" == _resumed("upload", resume, *more)


@on_reactor
async def test_a_download_is_resumed(reactor: Any, tmp_path: Path) -> None:
    """From the part that an earlier one left, of a file or of a folder; never from standard output."""
    async with with_files(reactor, tmp_path, "a", "f/b", "f/c") as shell:
        part_of(tmp_path / "copy").write_bytes(b"0123456xxxxx")
        done = await shell.run("download", "--resume", "a", "-o", "copy")
        assert ["a: 7 B were there already", "[2/2]"] == [
            done.stderr.splitlines()[0],
            done.stderr.splitlines()[1].split()[-1],
        ]
        assert "0123456789" == (tmp_path / "copy").read_text()
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "b").write_text("0123456789")
        done = await shell.run("download", "--resume", "-r", "f", "-o", "folder")
        assert "f/b: 10 B were there already" in done.stderr.splitlines()
        assert ["b", "c"] == sorted(path.name for path in (tmp_path / "folder").iterdir())
        nowhere = await usage(shell, "download", "--resume", "a", "-o", "-")
        assert "Error: --resume needs a file to write to; -o - is standard output." == nowhere


def test_what_was_there_already_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal."""
    LogLines("stored").kept("a", 1536)
    assert ("", "a: 1.5 KiB were there already\n") == capsys.readouterr()


def test_what_was_there_already_is_said_above_the_bar() -> None:
    """Whatever the file's name looks like; it is one line however long it is."""
    shown = io.StringIO()
    name = "[bold]" + "x" * 200
    with rich_progress.Progress(console=Console(file=shown, width=80)) as progress:
        Bar(progress).kept(name, 1536)
    assert f"{name}: 1.5 KiB were there already" in shown.getvalue().splitlines()
