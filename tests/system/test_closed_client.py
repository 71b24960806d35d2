"""filefly-client and a closed cluster, as real processes: what each role may do, and what is said to who may not."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attrs import define

from filefly.units import MIB
from tests.system.processes import BIN, Processes, processes, wait_until

SMALL = b"hello from FileFly\n"
BIG = bytes(range(256)) * 10_000  # three blocks
PROGRAM = BIN / "filefly-client"
ROLES = ("read", "append", "write", "admin")
SIGN_IN = "sign in first, by"


@define(eq=False)
class Closed:
    """A closed cluster, whose secret is `cluster.secret`, and a token for each role."""

    cluster: Processes

    @property
    def folder(self) -> Path:
        """Where everything is."""
        return self.cluster.folder

    def token(self, name: str, *options: str) -> str:
        """Make a token, and return its id."""
        made = self.run(None, "token", "new", "--secret-file", "cluster.secret", "-o", f"{name}.token", *options)
        return made.stderr.decode().split()[2].rstrip(":")

    def run(
        self, token: str | None, *arguments: str | Path, stdin: bytes | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run filefly-client with a token."""
        options = [] if token is None else ["--token-file", f"{token}.token"]
        return self.cluster.client(*options, *arguments, stdin=stdin, check=check)

    def out(self, token: str, *arguments: str | Path, stdin: bytes | None = None) -> bytes:
        """Return what a command prints that goes well."""
        return self.run(token, *arguments, stdin=stdin).stdout

    def refusal(self, token: str | None, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """Return the last sentence of a command that is to fail, and to print nothing."""
        done = self.run(token, *arguments, stdin=stdin, check=False)
        assert (1, b"") == (done.returncode, done.stdout)
        return done.stderr.decode().splitlines()[-1].removeprefix("filefly-client: ")

    def wait_until_up(self) -> None:
        """Return once all data servers are up."""
        up = len(self.cluster.data)
        wait_until(lambda: self.run("read", "servers", check=False).stdout.count(b" up ") == up, "all to be up")

    def put(self, name: str, data: bytes = SMALL, token: str = "write") -> None:
        """Store a file."""
        self.run(token, "upload", "-q", "-", "--name", name, stdin=data)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    """Run a closed cluster with blocks of 1 MiB and two copies of each."""
    folder = tmp_path_factory.mktemp("closed")
    subprocess.run([PROGRAM, "secret", "new", "cluster.secret"], cwd=folder, check=True)
    secret = ("--secret-file", "cluster.secret")
    options = ("--block-size", "1MiB", "--replicas", "2")
    with processes(folder, *options, *secret, data_servers=3, data_options=secret) as cluster:
        here = Closed(cluster)
        for role in ROLES:
            here.token(role, "--role", role)
        here.wait_until_up()
        yield here


# Roles

FILES = ("there", "replaced", "moved", "removed")
READING: Sequence[Sequence[str]] = (["ls"], ["stat", "ROLE/there"], ["cat", "ROLE/there"], ["servers"], ["ping"])
ADDING: Sequence[Sequence[str]] = (["upload", "-q", "local", "--name", "ROLE/new"],)
CHANGING: Sequence[Sequence[str]] = (
    ["upload", "-q", "local", "--name", "ROLE/replaced"],
    ["mv", "ROLE/moved", "ROLE/away"],
    ["rm", "ROLE/removed"],
)
CARING: Sequence[Sequence[str]] = (
    ["fsck", "--quick", "-q"],
    ["scrub"],
    ["catalog", "backup", "-q", "catalog.sqlite"],
    ["token", "list-revoked"],
    ["quota", "list"],
)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_allows_so_much_and_no_more(closed: Closed, tmp_path: Path, role: str) -> None:
    """Who may not do something hears which role it takes, and which token he has shown."""
    for name in FILES:
        (tmp_path / name).write_bytes(SMALL)
    closed.run("write", "upload", "-q", "-r", tmp_path, "--name", role)
    (closed.folder / "local").write_bytes(SMALL)
    allowed = 1 + ROLES.index(role)
    for number, commands in enumerate((READING, ADDING, CHANGING, CARING)):
        for command in commands:
            done = closed.run(role, *(word.replace("ROLE", role) for word in command), check=False)
            said = done.stderr.decode()
            assert (number < allowed) == (done.returncode == 0), (command, said)
            if done.returncode:
                assert "filefly-client: " in said
                assert f"(signed in with the token of {role}.token)" in said


def test_who_may_append_can_neither_replace_nor_delete(closed: Closed) -> None:
    """What there was is as it was."""
    closed.put("kept")
    closed.put("added", token="append")
    for command in (["upload", "-q", "-", "--name", "kept"], ["upload", "-q", "-", "--name", "added"]):
        said = closed.refusal("append", *command, stdin=b"something else")
        assert "this token may add files, but not replace one (signed in with the token of append.token)" == said
    assert "delete_file takes a token of the role write" in closed.refusal("append", "rm", "added")
    assert SMALL * 2 == closed.out("append", "cat", "kept", "added")


def test_a_folder_of_who_may_append_adds_what_is_new(closed: Closed, tmp_path: Path) -> None:
    """What is there with other contents is an error."""
    closed.put("appended/a")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(SMALL[:-1] + name.encode())
    said = closed.refusal("append", "upload", "-q", "-r", tmp_path, "--name", "appended")
    assert "this token may add files, but not replace one" in said
    assert SMALL == closed.out("read", "cat", "appended/a")


# Without a token, and with others


def test_without_a_token_nothing_but_a_ping_is_answered(closed: Closed) -> None:
    """What is missing is said."""
    assert b" is up" in closed.run(None, "ping").stdout
    for command in (["ls"], ["cat", "x"], ["servers"], ["upload", "-q", "-", "--name", "x"], ["quota", "list"]):
        said = closed.refusal(None, *command, stdin=b"x")
        assert said.startswith(SIGN_IN)
        assert "--token-file" in said


def test_the_environment_may_have_the_token(closed: Closed) -> None:
    """Itself, or its file."""
    text = (closed.folder / "read.token").read_text().strip()
    for variable, value in (("FILEFLY_TOKEN", text), ("FILEFLY_TOKEN_FILE", "read.token")):
        done = subprocess.run(
            [PROGRAM, "--metadata-addr", closed.cluster.meta.address, "ls"],
            cwd=closed.folder,
            env={**os.environ, variable: value},
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert b"" == done.stderr


def test_a_token_for_a_prefix_is_good_for_nothing_else(closed: Closed, tmp_path: Path) -> None:
    """Neither to see nor to touch; not in a folder, either."""
    closed.token("ana", "--role", "write", "--prefix", "ana/")
    closed.put("ben/a")
    closed.put("ana/a", token="ana")
    (tmp_path / "file").write_bytes(SMALL)
    assert b"ana/a" in closed.out("ana", "ls", "-r", "ana")
    assert SMALL == closed.out("ana", "cat", "ana/a")
    closed.run("ana", "upload", "-q", "-r", tmp_path, "--name", "ana/folder")
    for command in (
        ["ls"],
        ["cat", "ben/a"],
        ["stat", "ben/a"],
        ["rm", "ben/a"],
        ["mv", "ben/a", "ana/b"],
        ["mv", "ana/a", "ben/b"],
        ["upload", "-q", str(tmp_path / "file"), "--name", "ben/c"],
        ["upload", "-q", "-r", str(tmp_path), "--name", "ben/d"],
        ["download", "-q", "-r", "ben", "-o", str(tmp_path / "ben")],
    ):
        said = closed.refusal("ana", *command)
        assert "this token is for names that begin with 'ana/' (signed in with the token of ana.token)" == said


def test_an_empty_folder_is_empty_for_who_may_see_nothing_else(closed: Closed) -> None:
    """He hears nothing of what is beside it."""
    closed.token("eve", "--role", "read", "--prefix", "eve/")
    closed.put("eve")
    assert "no file's name begins with eve/" == closed.refusal("eve", "ls", "eve")


def test_a_token_that_has_expired_is_void(closed: Closed) -> None:
    """Another one has to be made."""
    closed.token("short", "--role", "read", "--expires", "1s")

    def expired() -> bool:
        return closed.run("short", "ls", check=False).returncode == 1

    wait_until(expired, "the token to expire")
    said = closed.refusal("short", "ls")
    assert "the token has expired; ask for another one (signed in with the token of short.token)" == said


def test_a_token_that_was_revoked_is_void(closed: Closed) -> None:
    """At once, and for good; who revoked it may look that up."""
    token_id = closed.token("lost", "--role", "write")
    closed.put("found", token="lost")
    assert f"the token {token_id} is void" in closed.run("admin", "token", "revoke", token_id).stderr.decode()
    said = closed.refusal("lost", "cat", "found")
    assert "the token was revoked; ask for another one (signed in with the token of lost.token)" == said
    assert token_id in closed.out("admin", "token", "list-revoked").decode()


def test_a_token_of_another_cluster_is_no_token(closed: Closed) -> None:
    """Whatever it says; it is not repeated."""
    closed.run(None, "secret", "new", "other.secret")
    closed.run(None, "token", "new", "--role", "admin", "--secret-file", "other.secret", "-o", "other.token")
    said = closed.refusal("other", "ls")
    assert said.startswith("the token is not valid: no key of this cluster has signed it")
    assert (closed.folder / "other.token").read_text().strip() not in said


def test_a_token_is_in_no_log(closed: Closed) -> None:
    """Nor is a ticket, or the secret."""
    closed.put("logged")
    assert SMALL == closed.out("read", "cat", "logged")
    log = "".join(daemon.log.read_text() for daemon in closed.cluster.all)
    key = (closed.folder / "cluster.secret").read_text().split()[-1]
    for secret in (key, "eyJ", *((closed.folder / f"{role}.token").read_text().strip() for role in ROLES)):
        assert secret not in log


def test_tickets_are_not_printed(closed: Closed) -> None:
    """Whoever reads the output, or a log that has it, could use them."""
    (closed.folder / "local").write_bytes(SMALL)
    shown = closed.out("write", "upload", "-q", "--json", "local", "--name", "printed")
    shown += closed.out("read", "stat", "--json", "printed")
    shown += closed.out("read", "download", "-q", "--json", "printed", "-o", "back")
    assert b'"printed"' in shown
    assert b"ticket" not in shown


# Bytes in and out


def test_large_files_go_in_and_come_back(closed: Closed, tmp_path: Path) -> None:
    """In blocks, which are read where they lie, and a range of them."""
    closed.put("big", BIG)
    closed.run("read", "download", "-q", "big", "-o", tmp_path / "big")
    assert BIG == (tmp_path / "big").read_bytes()
    assert BIG[MIB - 5 : MIB + 5] == closed.out("read", "cat", "big", "--offset", str(MIB - 5), "--length", "10")


def test_a_folder_goes_in_and_comes_back(closed: Closed, tmp_path: Path) -> None:
    """Small files together, large ones alone; what is there is not sent again."""
    source, back = tmp_path / "folder", tmp_path / "back"
    (source / "deep").mkdir(parents=True)
    for number in range(300):
        (source / "deep" / f"{number}").write_bytes(SMALL * (number % 7))
    (source / "big").write_bytes(BIG)
    said = closed.run("write", "upload", "-r", source, "--name", "folder").stderr.decode()
    assert "uploaded 301 files" in said
    said = closed.run("write", "upload", "-r", source, "--name", "folder").stderr.decode()
    assert "uploaded 0 files, 0 B; 301 were there already" in said
    closed.run("read", "download", "-q", "-r", "folder", "-o", back)
    there = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert there == {path.relative_to(back): path.read_bytes() for path in back.rglob("*") if path.is_file()}


def test_transfers_are_resumed(closed: Closed, tmp_path: Path) -> None:
    """An upload links what is stored, a download keeps what is there."""
    cluster = closed.cluster
    (tmp_path / "big").write_bytes(BIG)
    source = tmp_path / "big"
    options = ("--metadata-addr", cluster.meta.address, "--token-file", "write.token")
    first = subprocess.Popen(
        [PROGRAM, *options, "upload", "--concurrency", "1", source, "--name", "resumed"],
        cwd=closed.folder,
        stderr=subprocess.PIPE,
    )
    assert first.stderr is not None
    assert b"stored resumed-0" in first.stderr.readline()
    first.kill()
    first.communicate()
    done = closed.run("write", "upload", "--resume", source, "--name", "resumed").stderr.decode()
    assert "were there already" in done
    (tmp_path / "copy").write_bytes(BIG)
    done = closed.run("read", "download", "--resume", "resumed", "-o", tmp_path / "copy").stderr.decode()
    assert "resumed: 2.4 MiB were there already" in done


def test_a_data_server_that_is_gone_is_replaced(closed: Closed) -> None:
    """An upload goes on with the tickets for the other one; a read does, too."""
    one = closed.cluster.data[0]
    closed.put("before", BIG)
    one.kill()
    try:
        assert BIG == closed.out("read", "cat", "before")
        closed.put("during", BIG)
        assert BIG == closed.out("read", "cat", "during")
    finally:
        one.start()
    closed.wait_until_up()


# Quotas


def test_a_quota_ends_an_upload_before_it_begins(closed: Closed) -> None:
    """Until it is raised."""
    closed.run("admin", "quota", "set", "small/", "--max-bytes", "1MiB", "--max-files", "2")
    closed.put("small/a")
    said = closed.refusal("write", "upload", "-q", "-", "--name", "small/b", stdin=BIG)
    assert "the quota" in said
    assert said.endswith("; delete something there, or have the quota raised (filefly-client quota set)")
    closed.put("small/b")
    assert "the quota" in closed.refusal("write", "upload", "-q", "-", "--name", "small/c", stdin=SMALL)
    assert b"small/" in closed.out("admin", "quota", "list")
    closed.run("admin", "quota", "remove", "small/")
    closed.put("small/c", BIG)


# The secret changes


def test_the_secret_is_changed_without_a_restart(closed: Closed) -> None:
    """New tokens are good at once, old ones until their key is retired."""
    closed.put("rotated")
    closed.run(None, "secret", "rotate", "cluster.secret")
    closed.token("newer", "--role", "admin")

    def serve(token: str) -> bool:
        return closed.run(token, "cat", "rotated", check=False).stdout == SMALL

    wait_until(lambda: serve("newer"), "all daemons to know the new key")
    assert serve("read")
    closed.run(None, "secret", "retire", "cluster.secret")
    wait_until(lambda: closed.run("read", "ls", check=False).returncode == 1, "the old key to be forgotten")
    assert "or that key is retired" in closed.refusal("read", "ls")
    for role in ROLES:
        (closed.folder / f"{role}.token").unlink()
        closed.token(role, "--role", role)
    wait_until(lambda: serve("read"), "all daemons to know one key only")
    closed.put("after")


# An open cluster


def test_an_open_cluster_takes_a_token_for_nothing(closed: Closed, tmp_path: Path) -> None:
    """A client that has one works there, too."""
    with processes(tmp_path, data_servers=1) as cluster:
        token = ("--token-file", closed.folder / "read.token")
        cluster.client(*token, "upload", "-q", "-", "--name", "a", stdin=SMALL)
        assert SMALL == cluster.client(*token, "cat", "a").stdout
