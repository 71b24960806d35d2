"""A daemon that cannot start says why in one sentence and ends with status 1, in the foreground and daemonised."""

import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import PIPE

import pytest
from attrs import field, frozen

from tests.system.processes import BIN, free_ports, wait_until

FORMS = {"foreground": ["-n", "--pidfile="], "daemonised": ["--pidfile=twistd.pid", "--logfile=twistd.log"]}
META = ["filefly-meta", "--addr", "127.0.0.1:0", "--data-servers", "127.0.0.1:1"]
DATA = ["filefly-data", "--addr", "127.0.0.1:0"]

Prepare = Callable[[Path], object]


def nothing(_folder: Path) -> None:
    """Leave the folder empty."""


@frozen
class Ended:
    """How a daemon ended that was started in one of the forms."""

    form: str
    folder: Path
    status: int
    stdout: str
    stderr: str


def start(
    folder: Path,
    *arguments: str,
    prepare: Prepare = nothing,
    forms: Sequence[str] = tuple(FORMS),
    under: Callable[[Path], Sequence[str]] = lambda _folder: (),
) -> list[Ended]:
    """Start a daemon that must not start in each of `forms`, side by side, each in a prepared folder of its own.

    `under` returns what it is run under there.
    """
    started = []
    for form in forms:
        where = folder / form
        where.mkdir()
        prepare(where)
        command: list[str | Path] = [*under(where), BIN / "twistd", *FORMS[form], *arguments]
        started.append((form, where, subprocess.Popen(command, cwd=where, stdout=PIPE, stderr=PIPE, text=True)))
    ended = []
    for form, where, process in started:
        stdout, stderr = process.communicate(timeout=60)
        ended.append(Ended(form, where, process.returncode, stdout, stderr))
    return ended


def check_refused(ended: Sequence[Ended], sentence: str) -> None:
    """Check that `sentence` is part of the one line on stderr, and that nothing else was said."""
    for each in ended:
        assert (each.form, 1, "") == (each.form, each.status, each.stdout), each
        [line] = each.stderr.splitlines()
        assert sentence in line


def a_file(folder: Path) -> None:
    (folder / "there").write_text("not a folder")


def a_dangling_link(folder: Path) -> None:
    (folder / "there").symlink_to("nowhere")


def a_damaged_identity(folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "there" / ".filefly.json").write_text('{"storage')


def a_text(folder: Path) -> None:
    (folder / "catalog").write_text("dear catalog, this is no database\n" * 100)


def a_folder(folder: Path) -> None:
    (folder / "catalog").mkdir()


def a_newer_catalog(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "catalog")) as database:
        database.executescript(
            """CREATE TABLE catalog (schema_version INTEGER, catalog_id TEXT, running_seconds INTEGER);
            INSERT INTO catalog VALUES (999, 'x', 0);"""
        )


@frozen
class Case:
    """Why a daemon cannot start: its arguments, what must be in its sentence, and how its folder is prepared."""

    arguments: Sequence[str]
    sentence: str
    prepare: Prepare = field(default=nothing)


CASES = {
    "the storage's parent is missing": Case([*DATA, "--storage-dir", "no/there"], "no does not exist; create it"),
    "the storage is a file": Case([*DATA, "--storage-dir", "there"], "there is not a folder", a_file),
    "the storage is below a file": Case([*DATA, "--storage-dir", "there/x"], "Not a directory", a_file),
    "the storage is a dangling link": Case([*DATA, "--storage-dir", "there"], "there is not a folder", a_dangling_link),
    "the storage's identity is damaged": Case(
        [*DATA, "--storage-dir", "there"], ".filefly.json is damaged", a_damaged_identity
    ),
    "the storage is no place for files": Case([*DATA, "--storage-dir", "/proc"], "cannot write to /proc"),
    "the address is none": Case(["filefly-data", "--addr", "here"], "'here' is neither HOST:PORT nor"),
    "the address is another machine's": Case(["filefly-data", "--addr", "192.0.2.1:0"], "cannot listen on 192.0.2.1:0"),
    "the catalog is no database": Case([*META, "--catalog", "sqlite:///catalog"], "file is not a database", a_text),
    "the catalog is a folder": Case([*META, "--catalog", "sqlite:///catalog"], "unable to open", a_folder),
    "the catalog's folder is missing": Case([*META, "--catalog", "sqlite:///no/catalog"], "No such file or directory"),
    "the catalog's URL is none": Case([*META, "--catalog", "catalog.sqlite"], "is not a database URL"),
    "the catalog's database is unknown": Case([*META, "--catalog", "oracel://x/y"], "is not a database URL"),
    "the catalog is in memory": Case([*META, "--catalog", "sqlite://"], "needs a file"),
    "the catalog is newer": Case([*META, "--catalog", "sqlite:///catalog"], "schema version 999", a_newer_catalog),
    "the root's parent is missing": Case(["filefly", "--root", "no/there", "--addr", "127.0.0.1:1"], "cannot create"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_daemon_that_cannot_start_says_why(tmp_path: Path, case: Case) -> None:
    """One sentence on stderr that begins with the daemon's name, nothing else, and exit status 1."""
    check_refused(start(tmp_path, *case.arguments, prepare=case.prepare), case.sentence)


USAGE = {
    "no data servers": (["filefly-meta"], "--data-servers is needed"),
    "a data server that is no address": (["filefly-meta", "--data-servers", "here"], "'here' is not an address"),
    "an advertised address too few": (
        ["filefly-meta", "--data-servers", ":1,:2", "--advertised-data-servers", ":3"],
        "--advertised-data-servers has 1 addresses, --data-servers 2",
    ),
    "a block size in words": ([*META, "--block-size", "large"], "'large' is not a size"),
    "a block size over the limit": ([*META, "--block-size", "65MiB"], "at most 64MiB"),
    "two storage directories": (["filefly-data", "--storage-dir", "a", "--storage_dir", "b"], "give it once"),
    "an unknown option": (["filefly-data", "--nonsense"], "nonsense"),
    "no port": (["filefly", "--addr", "127.0.0.1"], "--addr takes HOST:PORT"),
}


@pytest.mark.parametrize(("arguments", "sentence"), USAGE.values(), ids=USAGE)
def test_wrong_usage_ends_with_a_sentence_behind_the_options(
    tmp_path: Path, arguments: Sequence[str], sentence: str
) -> None:
    """All options are printed, then the sentence, and twistd ends with status 1; nothing was created."""
    [ended] = start(tmp_path, *arguments, forms=["foreground"])
    check_usage(ended, sentence)


def test_wrong_usage_ends_the_daemonised_form_as_well(tmp_path: Path) -> None:
    """Options are looked at before the fork."""
    [ended] = start(tmp_path, "filefly-meta", forms=["daemonised"])
    check_usage(ended, "--data-servers is needed")


def check_usage(ended: Ended, sentence: str) -> None:
    printed = ended.stdout + ended.stderr
    assert 1 == ended.status
    assert sentence in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert [] == list(ended.folder.iterdir())


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Listen on a port, the one before it being free."""
    port = free_ports(2) + 1
    with socket.create_server(("127.0.0.1", port)):
        yield port


@pytest.mark.parametrize("daemon", ["filefly-data", "filefly-meta"])
def test_a_taken_port_is_refused(tmp_path: Path, daemon: str, taken_port: int) -> None:
    """A port in use is one sentence that names it."""
    servers = ["--data-servers", ":1"] if daemon == "filefly-meta" else []
    ended = start(tmp_path, daemon, "--addr", f"127.0.0.1:{taken_port}", *servers)
    check_refused(ended, f"{daemon}: cannot listen on 127.0.0.1:{taken_port}: Address already in use")


@pytest.mark.parametrize("daemon", ["filefly-data", "filefly-meta"])
def test_a_port_taken_on_one_interface_is_refused_on_all(tmp_path: Path, daemon: str, taken_port: int) -> None:
    """`:PORT` means all interfaces: if one of them is taken, the daemon does not start on the others."""
    servers = ["--data-servers", ":1"] if daemon == "filefly-meta" else []
    check_refused(start(tmp_path, daemon, "--addr", f":{taken_port}", *servers), f"cannot listen on :{taken_port}")


def test_a_taken_port_of_an_endpoint_string_is_refused(tmp_path: Path, taken_port: int) -> None:
    """A Twisted endpoint string that cannot be bound ends the daemon, too."""
    ended = start(tmp_path, "filefly-data", "--addr", f"tcp:{taken_port}:interface=127.0.0.1")
    check_refused(ended, "in use")


def test_a_taken_port_behind_the_metadata_servers_is_refused(tmp_path: Path, taken_port: int) -> None:
    """`twistd filefly` needs the ports behind its own for its data servers."""
    ended = [
        subprocess.run(
            [BIN / "twistd", *options, "filefly", "--root", form, "--addr", f"127.0.0.1:{taken_port - 1}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        for form, options in FORMS.items()  # one after the other: they want the same free port
    ]
    wanted = f"filefly: cannot listen on 127.0.0.1:{taken_port}: Address already in use"
    assert [1, 1] == [each.returncode for each in ended]
    assert [True, True] == [each.stderr.startswith(wanted) for each in ended]


def lock(path: Path, stack: ExitStack) -> None:
    path.parent.mkdir(exist_ok=True)
    fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)


def test_a_storage_that_another_daemon_has_is_refused(tmp_path: Path) -> None:
    """Two data servers on one storage directory would take each other's blocks."""
    with ExitStack() as held:
        ended = start(tmp_path, *DATA, prepare=lambda folder: lock(folder / "blocks" / ".lock", held))
    check_refused(ended, "is in use by another data server")


def test_a_catalog_that_another_daemon_has_is_refused(tmp_path: Path) -> None:
    """Two metadata servers on one catalog would give one generation twice."""
    with ExitStack() as held:
        ended = start(
            tmp_path,
            *META,
            "--catalog",
            "sqlite:///catalog",
            prepare=lambda folder: lock(folder / "catalog.lock", held),
        )
    check_refused(ended, "is in use by another metadata server")


def without_write_permission(folder: Path) -> Sequence[str]:
    """Make `folder` read-only, and return what to run a daemon under so that it is so for it as well."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        return ()
    if shutil.which("unshare") is None:
        pytest.skip("root is stopped by no permission, and there is no unshare to mount the folder read-only")
    mounting = f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}"'
    under = ["unshare", "--mount", "sh", "-c", f'{mounting} && exec "$@"', "sh"]
    if subprocess.run([*under, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("root is stopped by no permission, and nothing can be mounted here")
    return under


def an_empty_storage(folder: Path) -> None:
    (folder / "blocks").mkdir()


def a_used_storage(folder: Path) -> None:
    an_empty_storage(folder)
    (folder / "blocks" / ".filefly.json").write_text('{"storage_id":"x"}')
    (folder / "blocks" / ".lock").touch()
    (folder / "blocks" / ".incoming").mkdir()


@pytest.mark.parametrize("prepare", [an_empty_storage, a_used_storage])
def test_a_read_only_storage_is_refused(tmp_path: Path, prepare: Prepare) -> None:
    """A storage directory that cannot be written, empty or with the traces of a daemon, is one sentence."""
    ended = start(tmp_path, *DATA, prepare=prepare, under=lambda folder: without_write_permission(folder / "blocks"))
    check_refused(ended, "blocks: Read-only file system" if os.geteuid() == 0 else "blocks: Permission denied")


def test_a_read_only_folder_for_the_catalog_is_refused(tmp_path: Path) -> None:
    """A catalog beside which nothing can be written is one sentence."""
    ended = start(
        tmp_path,
        *META,
        "--catalog",
        "sqlite:///blocks/catalog",
        prepare=an_empty_storage,
        under=lambda folder: without_write_permission(folder / "blocks"),
    )
    check_refused(ended, "cannot write beside the catalog")


def test_a_refused_daemon_lets_the_next_one_start(tmp_path: Path, taken_port: int) -> None:
    """What a daemon had taken before it was refused is free again: the lock of its storage goes with it."""
    [foreground, _daemonised] = start(tmp_path, "filefly-data", "--addr", f"127.0.0.1:{taken_port}")
    log = tmp_path / "log"
    with log.open("wb") as output:
        started = subprocess.Popen([BIN / "twistd", *FORMS["foreground"], *DATA], cwd=foreground.folder, stdout=output)
    try:
        wait_until(lambda: "filefly-data is listening" in log.read_text(), "the second daemon to listen")
    finally:
        started.terminate()
        started.wait()
