import json
from pathlib import Path
from typing import Any

from tests.cli.test_catalog import with_files
from tests.on_reactor import on_reactor


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
        assert "filefly-client: uploaded 1 files, 2 B; 1 were there already" == second.stderr.splitlines()[-1]


@on_reactor
async def test_a_failing_file_fails_the_upload(reactor: Any, tmp_path: Path) -> None:
    """With the sentence of the first one."""
    (tmp_path / "a").write_bytes(b"a")
    async with with_files(reactor, tmp_path) as shell:
        assert "cannot read missing: No such file or directory" == await shell.refusal("upload", "a", "missing")
