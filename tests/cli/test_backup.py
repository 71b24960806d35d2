import os
import pty
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from filefly.errors import Conflict
from filefly.wire.administration import AcceptCatalog, BackupCatalog
from filefly.wire.blocks import BytesFollow
from tests.cli.test_catalog import PROGRAM, with_files
from tests.cli.watched import shell_at
from tests.client.administered import administered
from tests.on_reactor import on_reactor


def names_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as copy:
        return [name for (name,) in copy.execute("SELECT name FROM plans WHERE state = 'committed' ORDER BY name")]


@on_reactor
async def test_the_catalog_is_backed_up_to_a_file(reactor: Any, tmp_path: Path) -> None:
    """That is said, or not; FILE is replaced."""
    async with with_files(reactor, tmp_path, "a", "b") as shell:
        done = await shell.run("catalog", "backup", "copy.sqlite")
        size = (tmp_path / "copy.sqlite").stat().st_size / 1024
        said = f"filefly-client: backed up the catalog to copy.sqlite: {size:.1f} KiB, verified\n"
        assert (0, "", said) == (done.returncode, done.stdout, done.stderr)
        assert ["a", "b"] == names_in(tmp_path / "copy.sqlite")
        await shell.cluster.client().upload("c", b"")
        assert "" == await shell.out("catalog", "backup", "-q", "copy.sqlite")
        assert ["a", "b", "c"] == names_in(tmp_path / "copy.sqlite")


@on_reactor
async def test_the_catalog_is_backed_up_to_a_pipe(reactor: Any, tmp_path: Path) -> None:
    """Byte by byte, and nothing else."""
    async with with_files(reactor, tmp_path, "a") as shell:
        command = [PROGRAM, "--metadata-addr", shell.cluster.address, "catalog", "backup", "-"]
        done = await deferToThread(subprocess.run, command, capture_output=True, cwd=tmp_path, timeout=60)
        assert 0 == done.returncode
        assert b"backed up the catalog to standard output" in done.stderr
        (tmp_path / "copy").write_bytes(done.stdout)
        assert ["a"] == names_in(tmp_path / "copy")


@on_reactor
async def test_a_pipe_gets_no_byte_of_a_backup_that_is_not_sound(reactor: Any, tmp_path: Path) -> None:
    """What reads it need not look."""
    data = b"no database" * 1000
    async with administered(reactor, {BackupCatalog: [(BytesFollow(size=len(data)), data)]}) as (server, _client):
        sentence = await shell_at(server.address, tmp_path).refusal("catalog", "backup", "-q", "-")
        assert "the backup is not usable: file is not a database; try again" == sentence


def test_a_terminal_is_no_place_for_a_database(tmp_path: Path) -> None:
    """Nor does it need a metadata server to say so."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [PROGRAM, "catalog", "backup", "-"], stdout=theirs, stderr=subprocess.PIPE, cwd=tmp_path, check=False
    )
    os.close(theirs)
    os.close(ours)
    assert (2, True) == (done.returncode, b"Standard output is a terminal" in done.stderr)


@on_reactor
async def test_a_backup_that_cannot_be_is_an_error(reactor: Any, tmp_path: Path) -> None:
    """That says why."""
    async with administered(reactor, {BackupCatalog: [Conflict("use pg_dump")]}) as (server, _client):
        shell = shell_at(server.address, tmp_path)
        assert "use pg_dump" == await shell.refusal("catalog", "backup", "x")
        assert f"{tmp_path} is a folder; name a file in it" == await shell.refusal("catalog", "backup", str(tmp_path))
        assert "the folder none does not exist; create it first" == await shell.refusal("catalog", "backup", "none/x")
        assert [BackupCatalog()] == server.asked
        assert [] == list(tmp_path.iterdir())


@on_reactor
async def test_an_older_catalog_is_accepted(reactor: Any, tmp_path: Path) -> None:
    """By the metadata server."""
    async with administered(reactor, {}) as (server, _client):
        done = await shell_at(server.address, tmp_path).run("catalog", "accept")
        said = "filefly-client: accepted: what was deleted goes from the data servers again, and plans expire\n"
        assert (0, said) == (done.returncode, done.stderr)
        assert [AcceptCatalog()] == server.asked
