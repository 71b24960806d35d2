import base64
import hmac
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filefly.security.keys import (
    Key,
    Keyring,
    SecretUnusable,
    create_secret,
    new_key,
    read_secret,
    retire_keys,
    rotate_secret,
)

KEY = "A" * 43 + "="
ONE = f"00000001 {KEY}\n"
OTHER = f"00000002 {KEY}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secret"


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be open to everybody unless their maker says otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)


def put(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)


def full_disk(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("open_umask")
def test_a_new_secret_is_its_owners_alone(path: Path) -> None:
    """Whatever the umask, nobody else can read it."""
    create_secret(path)
    assert 0o600 == path.stat().st_mode & 0o7777


def test_a_new_secret_is_read_as_it_was_made(path: Path) -> None:
    """The file has the one key that was returned."""
    keyring = create_secret(path)
    assert keyring == read_secret(path)
    assert 1 == len(keyring.keys)


def test_new_keys_differ() -> None:
    """Neither the id nor the secret of a key is that of another."""
    one, other = new_key(), new_key()
    assert 2 == len({one.id, other.id})
    assert 2 == len({one.secret, other.secret})


def test_a_key_is_not_shown() -> None:
    """What is logged about a key tells nothing of its secret."""
    assert "Key(id='00000001')" == repr(Key("00000001", b"x" * 32))


def test_a_secret_is_not_overwritten(path: Path) -> None:
    """Making a secret where there is one changes nothing, and names the command that does."""
    put(path, ONE)
    with pytest.raises(SecretUnusable, match=r"exists; .*: filefly-client secret rotate /.*/secret$"):
        create_secret(path)
    assert ONE == path.read_text()


def test_a_secret_is_not_written_through_a_link(path: Path) -> None:
    """A link that leads nowhere is something that exists."""
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(SecretUnusable, match=r"exists"):
        create_secret(path)
    assert ["secret"] == os.listdir(path.parent)


def test_a_secret_needs_a_folder(path: Path) -> None:
    """What the system says is passed on."""
    with pytest.raises(SecretUnusable, match=r"^cannot write /.*: No such file or directory$"):
        create_secret(path / "below")


@pytest.mark.parametrize("change", [create_secret, rotate_secret])
def test_a_full_disk_leaves_no_half_secret(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Keyring]
) -> None:
    """What could not be written is not there, and what was there stays."""
    before = [] if change is create_secret else ["secret"]
    if before:
        put(path, ONE)
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SecretUnusable, match=r"^cannot write /.*: No space left on device$"):
        change(path)
    assert before == os.listdir(path.parent)
    assert [ONE] * len(before) == [path.read_text() for _ in before]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o610, 0o601, 0o666])
def test_a_secret_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    """The sentence has the command that closes it."""
    put(path, ONE, mode)
    expected = f"{path} is open to others than its owner (mode {mode:04o}); run: chmod 600 {path}"
    with pytest.raises(SecretUnusable, match=f"^{re.escape(expected)}$"):
        read_secret(path)


def test_a_secret_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can change it could close the cluster with a key of theirs; root's is anybody's."""
    put(path, ONE)
    os.chown(path, 12345, -1) if os.getuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    owner, user = path.stat().st_uid, os.geteuid()
    expected = f"{path} is another user's ({owner}); run this as that user, or: chown {user} {path}"
    with pytest.raises(SecretUnusable, match=f"^{re.escape(expected)}$"):
        read_secret(path)
    retire_keys(path)
    assert owner == path.stat().st_uid


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_secret_of_its_owner_alone_is_read(path: Path, mode: int) -> None:
    """The owner need not be able to write it."""
    put(path, ONE, mode)
    assert ["00000001"] == [key.id for key in read_secret(path).keys]


@pytest.mark.parametrize("use", [read_secret, rotate_secret, retire_keys])
def test_a_missing_secret_names_the_command_that_makes_it(path: Path, use: Callable[[Path], Keyring]) -> None:
    """Whoever needs a secret is told how to get one."""
    expected = (
        f"there is no {path}; name the cluster's secret, or make a new one with: filefly-client secret new {path}"
    )
    with pytest.raises(SecretUnusable, match=f"^{re.escape(expected)}$"):
        use(path)


@pytest.mark.parametrize(
    "content",
    [
        "garbage\n",
        b"\xff\xfe\x00\x01" * 20,
        "00000001\n",
        KEY,
        f"0000001 {KEY}\n",
        f"0000000G {KEY}\n",
        f"ABCDEF01 {KEY}\n",
        f"00000001  {KEY}\n",
        f"00000001 {KEY} more\n",
        f"00000001 {'A' * 42}\n",
        f"00000001 {'A' * 44}\n",
        f"00000001 {'A' * 42}!=\n",
        f"00000001 {'A' * 42}+=\n",
        f"00000001 {'A' * 42}é\n",
        ONE + "garbage\n",
    ],
)
def test_what_is_no_secret_is_refused(path: Path, content: str | bytes) -> None:
    """A line that is neither a remark nor a key, or whose key is not URL-safe base64, is not passed over."""
    put(path, content)
    with pytest.raises(SecretUnusable, match=r" is no secret file; make one with: filefly-client secret new FILE$"):
        read_secret(path)


@pytest.mark.parametrize(
    ("content", "count"),
    [("", 0), ("# nothing\n", 0), (ONE + ONE, 2), (ONE + OTHER + f"00000003 {KEY}\n", 3)],
)
def test_a_secret_has_one_key_or_two(path: Path, content: str, count: int) -> None:
    """No key, three keys and twice the same id are refused."""
    put(path, content)
    with pytest.raises(SecretUnusable, match=rf" must have one key, or two of different ids; it has {count}$"):
        read_secret(path)


def test_a_long_file_is_not_read_in_part(path: Path) -> None:
    """A key behind what is read of a file would be passed over."""
    put(path, ONE + "#" * 5000 + "\n" + OTHER)
    with pytest.raises(SecretUnusable, match=r" is no secret file: it is longer than 4096 bytes$"):
        read_secret(path)


def test_a_folder_is_no_secret(path: Path) -> None:
    """A folder in its place is refused with a sentence, and left open nowhere."""
    path.mkdir(0o700)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SecretUnusable, match=r"^cannot read /.*/secret: Is a directory$"):
        read_secret(path)
    assert len(before) == len(os.listdir("/proc/self/fd"))


def test_a_pipe_is_no_secret(path: Path) -> None:
    """A pipe in its place is not waited for."""
    os.mkfifo(path, 0o600)
    with pytest.raises(SecretUnusable, match=r" is no file$"):
        read_secret(path)


def test_remarks_and_empty_lines_are_passed_over(path: Path) -> None:
    """Whoever keeps the file may say why; the padding of a key may be left out."""
    put(path, f"# one\n\n{ONE}\n# other\n00000002 {'A' * 43}\n")
    assert Keyring([Key("00000001", bytes(32)), Key("00000002", bytes(32))]) == read_secret(path)


def test_a_key_is_found_by_its_id(path: Path) -> None:
    """Only a valid key is found, whatever stands for its id."""
    put(path, ONE + OTHER)
    keyring = read_secret(path)
    assert keyring.keys[1] == keyring.find("00000002")
    missing: list[object] = ["00000003", "", None, []]
    assert [None] * 4 == [keyring.find(other) for other in missing]


def test_a_new_key_signs_and_the_old_one_stays_valid(path: Path) -> None:
    """Rotating puts a new key before the one that signed, and is what is read."""
    old = create_secret(path).signing
    rotated = rotate_secret(path)
    assert rotated == read_secret(path)
    assert [rotated.signing, old] == list(rotated.keys)
    assert old.id != rotated.signing.id


def test_rotating_twice_is_refused(path: Path) -> None:
    """A daemon that has not read the file yet may have the oldest key alone; the sentence says what comes first."""
    create_secret(path)
    rotated = rotate_secret(path)
    with pytest.raises(
        SecretUnusable, match=r" has two keys already; .*, run: filefly-client secret retire /.*/secret$"
    ):
        rotate_secret(path)
    assert rotated == read_secret(path)
    retire_keys(path)
    assert rotated.signing == rotate_secret(path).keys[1]


def test_a_new_key_has_an_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though chance may give the same four bytes twice."""
    chosen = iter([bytes(4), b"\0\0\0\1", bytes(32)])
    monkeypatch.setattr(os, "urandom", lambda _count: next(chosen))
    assert "00000001" == new_key(besides=[Key("00000000", b"x" * 32)]).id


@pytest.mark.parametrize("change", [rotate_secret, retire_keys])
def test_a_link_to_a_secret_stays_one(path: Path, change: Callable[[Path], Keyring]) -> None:
    """Whatever keeps it elsewhere finds it there, changed."""
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    create_secret(elsewhere / "kept")
    path.symlink_to(elsewhere / "kept")
    assert change(path) == read_secret(elsewhere / "kept")
    assert path.is_symlink()
    assert ["kept"] == os.listdir(elsewhere)


@pytest.mark.parametrize("change", [rotate_secret, retire_keys])
def test_a_changed_secret_stays_whose_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Keyring]
) -> None:
    """A daemon that runs as another user than who changes the keys can still read them."""
    put(path, ONE, 0o400)
    before, given = path.stat(), []
    monkeypatch.setattr(os, "fchown", lambda _descriptor, user, group: given.append((user, group)))
    change(path)
    assert [(before.st_uid, before.st_gid)] == given
    assert 0o400 == path.stat().st_mode & 0o7777


@pytest.mark.parametrize("change", [create_secret, rotate_secret, retire_keys])
def test_a_changed_secret_is_durable(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Keyring]
) -> None:
    """The file's bytes are synced before it has its name, and its folder after."""
    synced: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        synced.append("named")
        real_replace(source, target)

    if change is not create_secret:
        put(path, ONE)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    change(path)
    assert ["file", "folder"] == [step for step in synced if step != "named"]
    assert change is create_secret or ["file", "named", "folder"] == synced


def test_retiring_leaves_the_key_that_signs(path: Path) -> None:
    """The older key is gone from the file."""
    create_secret(path)
    signing = rotate_secret(path).signing
    assert Keyring([signing]) == retire_keys(path)
    assert Keyring([signing]) == read_secret(path)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("change", [rotate_secret, retire_keys])
def test_a_changed_secret_is_its_owners_alone(path: Path, change: Callable[[Path], Keyring]) -> None:
    """A secret is as closed after a change as before, and nothing else is left beside it."""
    create_secret(path)
    change(path)
    assert 0o600 == path.stat().st_mode & 0o7777
    assert ["secret"] == os.listdir(path.parent)


@pytest.mark.parametrize("change", [rotate_secret, retire_keys])
def test_a_change_that_fails_leaves_the_secret(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Keyring]
) -> None:
    """If the new file cannot take the old one's place the old one stays, alone."""

    def refuse(_source: Path, _target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    put(path, ONE)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(SecretUnusable, match=r"^cannot write /.*/secret: Operation not permitted$"):
        change(path)
    assert ONE == path.read_text()
    assert ["secret"] == os.listdir(path.parent)


def test_each_purpose_has_a_key_of_its_own() -> None:
    """None is the secret itself, nor that of another purpose or of another key."""
    one, other = Key("00000001", b"x" * 32), Key("00000001", b"y" * 32)
    derived = [key for of in (one, other) for key in (of.secret, of.for_tokens, of.for_tickets, of.for_proofs)]
    assert 8 == len(set(derived))
    assert {32} == {len(key) for key in derived}


def test_derived_keys_stay_what_they_are() -> None:
    """Another derivation would void all tokens there are; these are RFC 5869's two steps, of one block each."""
    extracted = hmac.digest(bytes(32), b"x" * 32, "sha256")
    assert hmac.digest(extracted, b"filefly token\x01", "sha256") == Key("00000001", b"x" * 32).for_tokens


def test_the_file_is_readable(path: Path) -> None:
    """A remark says what it is; a key's line has its id and URL-safe base64."""
    key = create_secret(path).signing
    heading, line = path.read_text().splitlines()
    assert heading.startswith("# The secret of a FileFly cluster")
    assert f"{key.id} {base64.urlsafe_b64encode(key.secret).decode()}" == line
