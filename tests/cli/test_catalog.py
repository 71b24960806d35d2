import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet.threads import deferToThread

from tests.meta.running import RunningCluster, plan_of, running
from tests.on_reactor import on_reactor

PROGRAM = str(Path(sys.executable).parent / "filefly-client")
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@define
class Shell:
    """Runs filefly-client as a process of its own."""

    cluster: RunningCluster

    async def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        done: subprocess.CompletedProcess[str] = await deferToThread(
            subprocess.run,
            [PROGRAM, "--metadata-addr", self.cluster.address, *arguments],
            cwd=self.cluster.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done

    async def out(self, *arguments: str) -> str:
        """Run a command that goes well, and return what it prints."""
        done = await self.run(*arguments)
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout

    async def refusal(self, *arguments: str) -> str:
        """Run a command that fails, and return its one sentence."""
        done = await self.run(*arguments)
        assert (1, "") == (done.returncode, done.stdout)
        assert 1 == done.stderr.count("\n")
        return done.stderr.removeprefix("filefly-client: ").removesuffix("\n")


@asynccontextmanager
async def with_files(reactor: Any, folder: Path, *names: str, **options: Any) -> AsyncIterator[Shell]:
    async with running(reactor, folder, **options) as cluster:
        client = cluster.client()
        for name in names:
            await client.upload(name, b"0123456789")
        yield Shell(cluster)


@on_reactor
async def test_ls_shows_files_and_folders(reactor: Any, tmp_path: Path) -> None:
    """Size, time of the upload, name; folders are rolled up, and all is in one order."""
    async with with_files(reactor, tmp_path, "b", "a/x", "a/y", "c/d/e") as shell:
        lines = (await shell.out("ls")).splitlines()
        assert ["a/", "b", "c/"] == [line.split()[-1] for line in lines]
        assert re.fullmatch(rf"      10 B  {TIME}  b", lines[1])
        assert ["c/d/"] == (await shell.out("ls", "c/")).split()


@on_reactor
async def test_ls_r_shows_everything(reactor: Any, tmp_path: Path) -> None:
    """What is in folders, too; --json one object a line."""
    async with with_files(reactor, tmp_path, "b", "a/x") as shell:
        assert ["a/x", "b"] == [line.split()[-1] for line in (await shell.out("ls", "-r")).splitlines()]
        files = [json.loads(line) for line in (await shell.out("ls", "-r", "--json")).splitlines()]
        assert [("a/x", 10), ("b", 10)] == [(file["name"], file["total_size"]) for file in files]


@on_reactor
async def test_ls_of_a_file_or_of_nothing(reactor: Any, tmp_path: Path) -> None:
    """The one is pointed out, the other an error; an empty catalog is just empty."""
    async with with_files(reactor, tmp_path) as shell:
        assert "" == await shell.out("ls")
        await shell.cluster.client().upload("a", b"x")
        assert "a is a file; see filefly-client stat a\n" == await shell.out("ls", "a")
        assert "missing: file not found" == await shell.refusal("ls", "missing")


@on_reactor
async def test_stat_shows_where_the_blocks_are(reactor: Any, tmp_path: Path) -> None:
    """As a table; what is not known yet is a dash."""
    async with with_files(reactor, tmp_path, "a") as shell:
        shown = await shell.out("stat", "a")
        assert re.search(r"^name +a\nsize +10 B \(10 bytes\)\nstate +committed\n", shown)
        [first, second] = re.findall(r"^a-\d +(\d) B +([0-9a-f]{8}) +(127\.0\.0\.1:\d+)$", shown, re.MULTILINE)
        addresses = {node.address for node in shell.cluster.data}
        assert ("7", "3", addresses) == (first[0], second[0], {first[2], second[2]})
        async with shell.cluster.calling() as caller:
            await plan_of(caller, "b")
        assert re.search(r"^b-0 +7 B +- +127", await shell.out("stat", "b"), re.MULTILINE)


@on_reactor
async def test_undelete_brings_a_file_back(reactor: Any, tmp_path: Path) -> None:
    """With what is known of it; it can be read at once."""
    async with with_files(reactor, tmp_path, "a") as shell:
        before = await shell.out("stat", "a")
        await shell.out("rm", "a")
        done = await shell.run("undelete", "a")
        assert (0, "") == (done.returncode, done.stdout)
        assert re.fullmatch(rf"filefly-client: brought back a: 10 B, stored {TIME}\n", done.stderr)
        assert (before, "0123456789") == (await shell.out("stat", "a"), await shell.out("cat", "a"))


@on_reactor
async def test_undelete_says_no(reactor: Any, tmp_path: Path) -> None:
    """Where a file would be in the way, and where there is nothing to bring back."""
    async with with_files(reactor, tmp_path, "a") as shell:
        assert "a exists; rename or delete it first" == await shell.refusal("undelete", "a")
        assert (await shell.refusal("undelete", "b")).startswith("b: nothing of this name can be brought back")


@on_reactor
async def test_rm_of_a_folder_that_is_none(reactor: Any, tmp_path: Path) -> None:
    """Nothing is deleted, and that is said."""
    async with with_files(reactor, tmp_path, "ab") as shell:
        assert "no file's name begins with a/" == await shell.refusal("rm", "-r", "a")
        assert ["ab"] == [file.name async for file in shell.cluster.client().list()]


@pytest.mark.parametrize("name", ["docs", "docs/"])
@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("rm", "delete it with -r"),
        ("stat", "see filefly-client ls NAME"),
        ("cat", "see filefly-client ls NAME"),
        ("download", "download it with -r, to a folder -o"),
    ],
)
@on_reactor
async def test_a_folder_is_told_where_a_file_is_expected(
    reactor: Any, tmp_path: Path, command: str, instead: str, name: str
) -> None:
    """Whoever uploaded it with -r has seen that name; what is neither file nor folder is just not there."""
    async with with_files(reactor, tmp_path, "docs/a", "docs2") as shell:
        assert f"{name} is a folder; {instead.replace('NAME', name)}" == await shell.refusal(command, name)
        assert "doc: file not found" == await shell.refusal(command, "doc")
        assert ["docs/a", "docs2"] == [file.name async for file in shell.cluster.client().list()]


@pytest.mark.parametrize("name", ["", "/", "//"])
@on_reactor
async def test_rm_r_of_nothing_deletes_nothing(reactor: Any, tmp_path: Path, name: str) -> None:
    """A shell variable that is not set must not cost every file, nor those that are named before it."""
    async with with_files(reactor, tmp_path, "a", "b/c") as shell:
        done = await shell.run("rm", "-r", "b", name)
        assert (2, "") == (done.returncode, done.stdout)
        assert f"'{name}' names nothing; is a shell variable empty?" in done.stderr
        assert ["a", "b/c"] == [file.name async for file in shell.cluster.client().list()]


@on_reactor
async def test_one_is_not_told_like_several(reactor: Any, tmp_path: Path) -> None:
    """A file, a byte, a server."""
    async with with_files(reactor, tmp_path, "f/a", "g/a") as shell:
        assert "filefly-client: deleted 1 file\n" == (await shell.run("rm", "-r", "f")).stderr
        done = await shell.run("download", "-r", "g", "-o", "copy")
        assert "filefly-client: downloaded 1 file, 10 B, to copy" == done.stderr.splitlines()[-1]
        await shell.cluster.client().upload("x", b"x")
        assert "1 B (1 byte)" in await shell.out("stat", "x")
        assert "1 of 1 server did not answer" in (await shell.run("ping", "localhost:1")).stderr


@on_reactor
async def test_rm_goes_on_behind_a_name_that_is_missing(reactor: Any, tmp_path: Path) -> None:
    """It says each failure, and the exit status is 1; with -r too."""
    async with with_files(reactor, tmp_path, "a", "b", "c", "f/a", "g/b") as shell:
        done = await shell.run("rm", "a", "nope", "b", "a/../b", "c")
        said = ["nope: file not found", "file_name 'a/../b' has an empty, '.' or '..' part"]
        assert (1, "", said) == (
            done.returncode,
            done.stdout,
            [line.removeprefix("filefly-client: ") for line in done.stderr.splitlines()],
        )
        assert ["f/a", "g/b"] == [file.name async for file in shell.cluster.client().list()]
        done = await shell.run("rm", "-q", "-r", "f", "nope", "g")
        assert (1, "filefly-client: no file's name begins with nope/\n") == (done.returncode, done.stderr)
        assert [] == [file.name async for file in shell.cluster.client().list()]


@on_reactor
async def test_rm_asks_a_server_that_is_away_only_once(reactor: Any, tmp_path: Path) -> None:
    """It would say the same of every name."""
    async with with_files(reactor, tmp_path) as shell:
        done = await shell.run("rm", "--metadata-addr", "localhost:1", "a", "b")
        assert (1, 1) == (done.returncode, done.stderr.count("\n"))
        assert done.stderr.startswith("filefly-client: cannot reach localhost:1: ")


@on_reactor
async def test_ping_names_who_is_silent(reactor: Any, tmp_path: Path) -> None:
    """And asks the others all the same."""
    async with with_files(reactor, tmp_path) as shell:
        one, two = shell.cluster.data
        assert f"{shell.cluster.address} is up\n" == await shell.out("ping")
        await one.stop()
        done = await shell.run("ping", one.address, two.address)
        assert (1, f"{two.address} is up\n") == (done.returncode, done.stdout)
        first, last = done.stderr.splitlines()
        assert first.startswith(f"filefly-client: cannot reach {one.address}: ")
        assert "filefly-client: 1 of 2 servers did not answer" == last


@on_reactor
async def test_ls_in_json_tells_of_folders_too(reactor: Any, tmp_path: Path) -> None:
    """One object a line: folders by their prefix, files by their name."""
    async with with_files(reactor, tmp_path, "a", "b/c") as shell:
        folder, file = (json.loads(line) for line in (await shell.out("ls", "--json")).splitlines())
        assert {"prefix": "b/"} == folder
        assert ("a", 10) == (file["name"], file["total_size"])


@on_reactor
async def test_ping_in_json_tells_who_answers(reactor: Any, tmp_path: Path) -> None:
    """The silent ones with their error, and exit status 1."""
    async with with_files(reactor, tmp_path) as shell:
        done = await shell.run("ping", "--json", shell.cluster.address, "localhost:1")
        one, other = (json.loads(line) for line in done.stdout.splitlines())
        assert 1 == done.returncode
        assert {"address": shell.cluster.address, "healthy": True} == one
        assert (False, "cannot reach localhost:1: Connection refused") == (other["healthy"], other["error"])
