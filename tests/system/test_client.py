"""filefly-client as its user meets it: what is printed where, exit statuses, Ctrl-C, pipes, folders, dead servers."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from filefly.units import MIB
from tests.system.processes import BIN, Processes, processes, wait_until

SMALL = b"hello from FileFly\n"
MEDIUM = bytes(range(256)) * 40960  # 10 MiB
BIG_SIZE = 400 * MIB
PROGRAM = str(BIN / "filefly-client")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run a metadata server with blocks of 1 MiB and two data servers."""
    with processes(tmp_path_factory.mktemp("cluster"), "--block-size", "1MiB") as running:
        running.client("upload", "-q", "-", "--name", "small", stdin=SMALL)
        running.client("upload", "-q", "-", "--name", "medium", stdin=MEDIUM)
        yield running


def run(
    folder: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `filefly-client` in `folder` with exactly these arguments."""
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )


def failure(cluster: Processes, *arguments: str | Path) -> tuple[int, str]:
    """Return exit status and stderr of a command that is to fail, and to print nothing else."""
    done = cluster.client(*arguments, check=False)
    assert b"" == done.stdout
    return done.returncode, done.stderr.decode()


def shell(cluster: Processes, script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script that finds `filefly-client` and the cluster; one that hangs fails."""
    return subprocess.run(
        ["bash", "-c", script],
        cwd=cluster.folder,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "FILEFLY_METADATA_ADDR": cluster.meta.address},
        capture_output=True,
        check=False,
        timeout=60,
    )


def go_on(cluster: Processes, status: int, said: str, words: str) -> bytes:
    """Run the command that one was told when another was interrupted, to its good end; return what it says."""
    command = f"filefly-client --metadata-addr {cluster.meta.address} {words}"
    assert (130, f"filefly-client: interrupted; to go on where it was: {command}") == (status, said.splitlines()[-1])
    done = shell(cluster, command)
    assert 0 == done.returncode
    return done.stderr


def sparse(path: Path, size: int = BIG_SIZE) -> Path:
    """Make a file of zeros that takes no room."""
    path.touch()
    os.truncate(path, size)
    return path


def touch(cluster: Processes, name: str) -> None:
    """Store an empty file; it is there from the first look at it."""
    cluster.store_by_hand(name, b"")
    cluster.ask_one("get_metadata", file_name=name)


@contextmanager
def paused(cluster: Processes, number: int) -> Iterator[None]:
    """Stop data server `number` in its tracks, so that a transfer cannot come to its end."""
    process = cluster.data[number - 1].running
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def interrupted(cluster: Processes, *arguments: str | Path) -> tuple[int, str]:
    """Run a transfer, press Ctrl-C once its first block has moved, and return exit status and the rest of stderr."""
    command = [PROGRAM, "--metadata-addr", cluster.meta.address, *arguments]
    with subprocess.Popen(command, cwd=cluster.folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(("stored ", "fetched "))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    return process.returncode, said


def on_terminal(cluster: Processes, *arguments: str | Path) -> str:
    """Run a command whose output is a terminal, and return what is written to it, without colours and the like."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "--metadata-addr", cluster.meta.address, *arguments],
        cwd=cluster.folder,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = bytearray()
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while chunk := terminal.read(65536):
                written += chunk
        except OSError:  # how a terminal says that nobody has it open any more
            pass
    assert 0 == process.wait(60), written
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written.decode())


def documents(output: bytes) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


# Ctrl-C


def test_ctrl_c_ends_an_upload_with_130(cluster: Processes, tmp_path: Path) -> None:
    """An interrupted upload exits with 130, without a traceback, and its file is not listed."""
    status, said = interrupted(cluster, "upload", sparse(tmp_path / "interrupted"))
    assert 130 == status
    assert "Traceback" not in said
    assert "interrupted" not in cluster.names()


def test_ctrl_c_leaves_no_half_of_a_block(cluster: Processes, tmp_path: Path) -> None:
    """What an interrupted upload was just storing is cleared away by the data servers."""
    assert 130 == interrupted(cluster, "upload", sparse(tmp_path / "half"))[0]
    wait_until(lambda: [] == cluster.unfinished(), "the data servers to clear up")


def test_ctrl_c_keeps_the_old_file(cluster: Processes, tmp_path: Path) -> None:
    """An interrupted upload of a file that exists leaves the old bytes in place."""
    cluster.store_by_hand("kept", SMALL)
    cluster.fetch("kept")
    assert 130 == interrupted(cluster, "upload", sparse(tmp_path / "new"), "--name", "kept")[0]
    assert SMALL == cluster.fetch("kept")


def test_ctrl_c_works_while_a_server_hangs(cluster: Processes, tmp_path: Path) -> None:
    """Ctrl-C needs no answer from the data servers."""
    with paused(cluster, 2):
        assert 130 == interrupted(cluster, "upload", sparse(tmp_path / "hung", 16 * MIB))[0]
    assert "hung" not in cluster.names()


def test_ctrl_c_ends_a_download_with_130(cluster: Processes, tmp_path: Path) -> None:
    """An interrupted download exits with 130 and leaves neither the file nor a part of it."""
    with paused(cluster, 2):
        status, said = interrupted(cluster, "download", "medium", "-o", tmp_path / "copy")
    assert 130 == status
    assert said.endswith("filefly-client: interrupted; nothing was kept (with --resume it would have been)\n")
    assert "Traceback" not in said
    assert [] == list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_go_on_with_an_upload(cluster: Processes, tmp_path: Path) -> None:
    """By a command that does it: what was stored is not sent again."""
    path = sparse(tmp_path / "going on", 32 * MIB)
    with paused(cluster, 2):
        status, said = interrupted(cluster, "upload", path, "--name", "went on")
    said_then = go_on(cluster, status, said, f"upload --resume '{path}' --name 'went on'")
    assert re.match(rb"went on: \d+\.0 MiB were there already\n", said_then)
    assert "went on" in cluster.names()


def test_ctrl_c_says_how_to_go_on_with_a_download(cluster: Processes, tmp_path: Path) -> None:
    """By the same command, if it was to be resumed; of a folder also if not, for it keeps what is complete."""
    copy = tmp_path / "copy"
    with paused(cluster, 2):
        status, said = interrupted(cluster, "download", "medium", "--resume", "-o", copy)
    said_then = go_on(cluster, status, said, f"download medium --resume -o {copy}")
    assert re.match(rb"medium: \d\.0 MiB were there already\n", said_then)
    for name, size in (("several/1", 1), ("several/2", 10 * MIB)):
        cluster.client("upload", "-q", "-", "--name", name, stdin=bytes(size))
    with paused(cluster, 2):
        status, said = interrupted(cluster, "download", "-r", "several", "-o", tmp_path)
    go_on(cluster, status, said, f"download --resume -r several -o {tmp_path}")
    assert bytes(10 * MIB) == (tmp_path / "2").read_bytes()
    cluster.client("rm", "-q", "-r", "several")


def test_ctrl_c_keeps_what_a_download_was_to_replace(cluster: Processes, tmp_path: Path) -> None:
    """An interrupted download leaves the local file that has its name as it was."""
    (tmp_path / "copy").write_bytes(SMALL)
    with paused(cluster, 2):
        assert 130 == interrupted(cluster, "download", "medium", "-o", tmp_path / "copy")[0]
    assert {"copy": SMALL} == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


# What is shown


def test_a_terminal_gets_a_progress_bar_for_an_upload(cluster: Processes, tmp_path: Path) -> None:
    """On a terminal an upload shows name, percentage, size and speed, and no line for each block."""
    shown = on_terminal(cluster, "upload", sparse(tmp_path / "bar", 32 * MIB))
    assert re.search(r"bar .*100%.*32\.0/32\.0 MiB.* [\d.]+ ([KMG]i)?B/s", shown), shown
    assert "stored bar-" not in shown


def test_what_was_done_is_a_line_of_its_own_beside_a_progress_bar(cluster: Processes, tmp_path: Path) -> None:
    """On a terminal the sentence about an uploaded file does not end up in the middle of the bar."""
    shown = on_terminal(cluster, "upload", sparse(tmp_path / "said", 4 * MIB))
    assert re.search(r"[\r\n]filefly-client: uploaded said: 4.0 MiB in 4 blocks\r\n", shown), shown


def test_a_terminal_gets_a_progress_bar_for_a_download(cluster: Processes, tmp_path: Path) -> None:
    """On a terminal a download shows name, percentage and size, and then what it did."""
    shown = on_terminal(cluster, "download", "medium", "-o", tmp_path / "copy")
    assert re.search(r"medium .*100%.*10\.0/10\.0 MiB", shown), shown
    assert "fetched medium-" not in shown
    assert f"filefly-client: downloaded medium to {tmp_path}/copy: 10.0 MiB, verified" in shown.replace("\r\n", "\n")


def test_without_a_terminal_each_stored_block_is_a_line(cluster: Processes, tmp_path: Path) -> None:
    """An upload's lines name block, size, server and how many of how many are done; stdout stays empty."""
    done = cluster.client("upload", sparse(tmp_path / "lines", 5 * MIB + 1))
    *lines, last = done.stderr.decode().splitlines()
    found = [re.fullmatch(r"stored lines-(\d) \((1\.0 MiB|1 B)\) on (\S+) \[(\d)/6\]", line) for line in lines]
    assert all(found), lines
    blocks = sorted((match[1], match[2]) for match in found if match)
    assert [(str(number), "1.0 MiB" if number < 5 else "1 B") for number in range(6)] == blocks
    assert ["1", "2", "3", "4", "5", "6"] == [match[4] for match in found if match]
    assert {daemon.address for daemon in cluster.data} == {match[3] for match in found if match}
    assert "filefly-client: uploaded lines: 5.0 MiB in 6 blocks" == last
    assert b"" == done.stdout


def test_without_a_terminal_each_fetched_block_is_a_line(cluster: Processes, tmp_path: Path) -> None:
    """A download's lines name block, size, server and how many of how many are done."""
    done = cluster.client("download", "medium", "-o", tmp_path / "copy")
    *lines, last = done.stderr.decode().splitlines()
    servers = "|".join(re.escape(daemon.address) for daemon in cluster.data)
    assert 10 == len(lines)
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"fetched medium-\d \(1\.0 MiB\) from ({servers}) \[{number}/10\]", line), line
    assert f"filefly-client: downloaded medium to {tmp_path}/copy: 10.0 MiB, verified" == last


def test_quiet_is_silent(cluster: Processes, tmp_path: Path) -> None:
    """With -q an upload and a download say nothing at all."""
    (tmp_path / "quiet").write_bytes(MEDIUM)
    upload, download = ["upload", "-q", f"{tmp_path}/quiet"], ["download", "-q", "quiet", "-o", f"{tmp_path}/copy"]
    for arguments in (upload, download):
        done = cluster.client(*arguments)
        assert (b"", b"") == (done.stdout, done.stderr)
    assert MEDIUM == (tmp_path / "copy").read_bytes()


@pytest.mark.parametrize("command", [["upload", "-", "--name", "as-json"], ["download", "small"], ["stat", "small"]])
def test_json_is_the_files_metadata(cluster: Processes, command: list[str]) -> None:
    """With --json stdout is one object, the file's metadata, whatever stderr says."""
    done = cluster.client(*command, "--json", stdin=SMALL)
    [metadata] = documents(done.stdout)
    assert (len(SMALL), "committed") == (metadata["total_size"], metadata["state"])


def test_json_lists_one_file_a_line(cluster: Processes) -> None:
    """`ls --json` prints an object for each file."""
    listed = documents(cluster.client("ls", "--json").stdout)
    assert cluster.names() == [file["name"] for file in listed]


def test_json_shows_the_data_servers(cluster: Processes) -> None:
    """`servers --json` prints an object for each data server."""
    shown = documents(cluster.client("servers", "--json").stdout)
    assert {daemon.address for daemon in cluster.data} == {server["address"] for server in shown}


# Exit statuses


def test_what_is_not_there_is_exit_status_1(cluster: Processes) -> None:
    """A file that does not exist is a sentence and exit status 1."""
    assert (1, "filefly-client: absent: file not found\n") == failure(cluster, "cat", "absent")


def test_a_local_file_that_is_not_there_is_exit_status_1(cluster: Processes) -> None:
    """A local file that does not exist is a sentence and exit status 1."""
    expected = "filefly-client: cannot read absent.txt: No such file or directory\n"
    assert (1, expected) == failure(cluster, "upload", "absent.txt")


def test_an_absent_server_is_exit_status_1(tmp_path: Path) -> None:
    """A metadata server that is not there is a sentence with a hint, and exit status 1."""
    done = run(tmp_path, "--metadata-addr", "127.0.0.1:1", "ls")
    said = done.stderr.decode()
    assert (1, 1) == (done.returncode, said.count("\n"))
    assert said.startswith("filefly-client: cannot reach 127.0.0.1:1")
    assert said.endswith("; is the metadata server running there? (--metadata-addr)\n")


@pytest.mark.parametrize(
    "arguments", [["upload"], ["upload", "-"], ["format"], ["ls", "--colour"], ["--metadata-addr", "nowhere", "ls"]]
)
def test_wrong_usage_is_exit_status_2(tmp_path: Path, arguments: list[str]) -> None:
    """Wrong usage says what is wrong, and exits with 2 without asking a server."""
    done = run(tmp_path, *arguments)
    assert 2 == done.returncode
    assert b"Error: " in done.stderr
    assert b"Traceback" not in done.stderr


# Where the metadata server is


def test_the_address_may_stand_before_or_after_the_command(cluster: Processes) -> None:
    """--metadata-addr is taken on either side of the command."""
    option = ["--metadata-addr", cluster.meta.address]
    for arguments in ([*option, "cat", "small"], ["cat", *option, "small"], ["cat", "small", *option]):
        assert SMALL == run(cluster.folder, *arguments).stdout


def test_the_address_is_taken_from_the_environment(cluster: Processes) -> None:
    """FILEFLY_METADATA_ADDR stands for the option."""
    assert SMALL == run(cluster.folder, "cat", "small", env={"FILEFLY_METADATA_ADDR": cluster.meta.address}).stdout


def test_the_command_line_wins_over_the_environment(cluster: Processes) -> None:
    """--metadata-addr is taken even where FILEFLY_METADATA_ADDR names another server, on either side."""
    option = ["--metadata-addr", cluster.meta.address]
    for arguments in ([*option, "cat", "small"], ["cat", "small", *option]):
        assert SMALL == run(cluster.folder, *arguments, env={"FILEFLY_METADATA_ADDR": "127.0.0.1:1"}).stdout


# Names


def test_three_ways_to_name_an_upload(cluster: Processes, tmp_path: Path) -> None:
    """PATH and --file are the same, and so are --name and --file-name."""
    path = str(tmp_path / "local")
    Path(path).write_bytes(SMALL)
    for number, arguments in enumerate(
        (["--file", path, "--file-name"], [path, "--name"], ["--file", path, "--name"]), 1
    ):
        cluster.client("upload", "-q", *arguments, f"ways/{number}")
    expected = ["ways/1", "ways/2", "ways/3"]
    assert expected == [name for name in cluster.names() if name.startswith("ways/")]


def test_a_file_is_stored_under_its_last_part(cluster: Processes, tmp_path: Path) -> None:
    """Without a name the local folders are left out."""
    (tmp_path / "its-own-name").write_bytes(SMALL)
    cluster.client("upload", "-q", tmp_path / "its-own-name")
    assert "its-own-name" in cluster.names()


def test_a_download_goes_into_a_folder(cluster: Processes, tmp_path: Path) -> None:
    """A folder as -o gets the file under the last part of its name."""
    cluster.client("upload", "-q", "-", "--name", "deep/down/letter", stdin=SMALL)
    cluster.client("download", "-q", "deep/down/letter", "-o", tmp_path)
    assert {"letter": SMALL} == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_a_download_without_output_goes_here(cluster: Processes, tmp_path: Path) -> None:
    """Without -o the file is written to the working folder."""
    run(tmp_path, "download", "small", "--metadata-addr", cluster.meta.address)
    assert {"small": SMALL} == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_mv_renames(cluster: Processes) -> None:
    """After mv the file has the new name only, and its bytes."""
    cluster.store_by_hand("mv/old", SMALL)
    cluster.fetch("mv/old")
    cluster.client("mv", "mv/old", "mv/new")
    assert ["mv/new"] == [name for name in cluster.names() if name.startswith("mv/")]
    assert SMALL == cluster.fetch("mv/new")


def test_rm_deletes_one_file(cluster: Processes) -> None:
    """After rm the file is not found."""
    touch(cluster, "rm-one")
    cluster.client("rm", "rm-one")
    assert (1, "filefly-client: rm-one: file not found\n") == failure(cluster, "rm", "rm-one")


def test_rm_r_deletes_a_folder(cluster: Processes) -> None:
    """`rm -r` deletes what is below a folder, and not what only begins with its name."""
    for name in ("rmr/a", "rmr/b/c", "rmr-not"):
        touch(cluster, name)
    assert b"filefly-client: deleted 2 files\n" == cluster.client("rm", "-r", "rmr").stderr
    assert ["rmr-not"] == [name for name in cluster.names() if name.startswith("rmr")]


# Pipes


def test_standard_input_goes_up_and_standard_output_comes_down(cluster: Processes, tmp_path: Path) -> None:
    """`upload -` and `download -o -` carry any bytes through pipes."""
    (tmp_path / "medium").write_bytes(MEDIUM)
    script = f"cat {tmp_path}/medium | filefly-client upload -q - --name piped && filefly-client download piped -o -"
    done = shell(cluster, script)
    assert (0, b"") == (done.returncode, done.stderr)
    assert MEDIUM == done.stdout


def test_cat_prints_a_range(cluster: Processes) -> None:
    """`cat --offset --length` prints a part that reaches over a block's end."""
    done = cluster.client("cat", "medium", "--offset", str(MIB - 5), "--length", "10")
    assert MEDIUM[MIB - 5 : MIB + 5] == done.stdout


def test_a_reader_that_has_enough_ends_cat(cluster: Processes) -> None:
    """`cat | head` ends, silently, with the status that other programs have then."""
    done = shell(cluster, "filefly-client cat medium | head -c 10; status=${PIPESTATUS[0]}; echo; echo $status")
    assert (MEDIUM[:10] + b"\n141\n", b"") == (done.stdout, done.stderr)


# Folders


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Make a folder with files of several modes and times, with the test's name in its own."""
    album = tmp_path / f"album-{tmp_path.name}"
    for number, (name, mode) in enumerate({"one": 0o600, "2026/two": 0o755, "2026/deep/ünï": 0o644}.items(), 1):
        file = album / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(SMALL * number)
        file.chmod(mode)
        os.utime(file, ns=(0, 1_700_000_000_123_456_789 + number))
    return album


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return bytes, mode and modification time of the files below a folder, by their place in it."""
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mode & 0o777, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_folder_comes_back_as_it_was(cluster: Processes, album: Path, tmp_path: Path) -> None:
    """`upload -r` and `download -r` keep relative names, bytes, modes and modification times."""
    cluster.client("upload", "-r", "-q", album)
    cluster.client("download", "-r", "-q", album.name, "-o", tmp_path / "restored")
    assert contents(album) == contents(tmp_path / "restored")


def test_a_folder_is_listed_by_relative_names(cluster: Processes, album: Path) -> None:
    """The names in the catalog begin with the folder's name."""
    cluster.client("upload", "-r", "-q", album)
    expected = [f"{album.name}/{place}" for place in ("2026/deep/ünï", "2026/two", "one")]
    assert expected == [name for name in cluster.names() if name.startswith(album.name)]


def test_a_second_upload_of_a_folder_sends_nothing(cluster: Processes, album: Path) -> None:
    """Files of the same size and time are not sent again."""
    cluster.client("upload", "-r", "-q", album)
    before = cluster.ask_one("list_files", prefix=album.name)
    expected = b"filefly-client: uploaded 0 files, 0 B; 3 were there already\n"
    assert expected == cluster.client("upload", "-r", album).stderr
    assert before == cluster.ask_one("list_files", prefix=album.name)


def test_a_changed_file_of_a_folder_is_sent_again(cluster: Processes, album: Path) -> None:
    """A file that has another time is sent, and it alone."""
    cluster.client("upload", "-r", "-q", album)
    os.utime(album / "one")
    said = cluster.client("upload", "-r", album).stderr.decode().splitlines()
    assert "filefly-client: uploaded 1 file, 19 B; 2 were there already" == said[-1]


def test_a_folder_without_r_is_refused(cluster: Processes, album: Path) -> None:
    """A folder is uploaded only if one says so."""
    assert (1, f"filefly-client: {album} is a folder; upload it with -r\n") == failure(cluster, "upload", album)


def test_a_name_that_is_file_and_folder_is_told(cluster: Processes, tmp_path: Path) -> None:
    """`both/a` and `both/a/b` may exist in the catalog, but not in a local folder: nothing is written there."""
    for name in ("both/a", "both/a/b"):
        touch(cluster, name)
    expected = (
        "filefly-client: both/a and both/a/b both exist, but a folder cannot hold a file and a folder of one name; "
        "download both/a alone with -o\n"
    )
    assert (1, expected) == failure(cluster, "download", "-r", "both", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Replicas


def test_two_replicas_are_on_both_servers(cluster: Processes) -> None:
    """`upload --replicas 2` puts each block on both data servers."""
    cluster.client("upload", "-q", "-", "--name", "twice", "--replicas", "2", stdin=MEDIUM)
    for number in (1, 2):
        blocks = {name: data for name, data in cluster.block_files(number).items() if name.startswith("twice-")}
        assert MEDIUM == b"".join(blocks[f"twice-{position}"] for position in range(10))


@pytest.mark.parametrize("number", [1, 2])
def test_one_replica_is_enough_to_read(cluster: Processes, tmp_path: Path, number: int) -> None:
    """With either of the data servers killed a file of two replicas is read, without a word of complaint."""
    cluster.client("upload", "-q", "-", "--name", "spare", "--replicas", "2", stdin=MEDIUM)
    killed = cluster.data[number - 1]
    killed.kill()
    try:
        done = cluster.client("download", "-q", "spare", "-o", tmp_path / "copy")
    finally:
        killed.start()
    assert b"" == done.stderr
    assert MEDIUM == (tmp_path / "copy").read_bytes()


def test_without_a_replica_the_error_names_the_server(cluster: Processes, tmp_path: Path) -> None:
    """A file of one replica whose data server is gone is a sentence, and no file."""
    killed = cluster.data[1]
    killed.kill()
    try:
        status, said = failure(cluster, "download", "-q", "medium", "-o", tmp_path / "copy")
    finally:
        killed.start()
    assert (1, 1) == (status, said.count("\n"))
    assert re.match(rf"filefly-client: block medium-\d cannot be read .*{re.escape(killed.address)}", said), said
    assert [] == list(tmp_path.iterdir())
