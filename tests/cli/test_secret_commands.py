import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from filefly.cli.commands import cli
from filefly.errors import FileFlyError
from filefly.security.keys import read_secret


def asked(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, FileFlyError):
        raise result.exception
    assert 0 == result.exit_code
    return result


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Make a secret."""
    path = tmp_path / "cluster.secret"
    asked("secret", "new", path)
    return path


def test_a_secret_is_its_owners_alone(secret: Path) -> None:
    """It has one key."""
    assert (0o600, 1) == (stat.S_IMODE(secret.stat().st_mode), len(read_secret(secret).keys))


def test_a_secret_is_not_made_twice(secret: Path) -> None:
    """What to do instead is said, and what is there stays."""
    before = secret.read_bytes()
    with pytest.raises(FileFlyError, match=rf"exists; to change its key use: filefly-client secret rotate {secret}$"):
        asked("secret", "new", secret)
    assert before == secret.read_bytes()


def test_a_secret_gets_a_new_key_and_loses_the_old_one(secret: Path) -> None:
    """Each step says what has to be done before the next."""
    [first] = read_secret(secret).keys
    said = asked("secret", "rotate", secret).stderr
    second, kept = read_secret(secret).keys
    assert first == kept
    assert f"the key {second.id} signs now, {first.id} is still valid; take the file to the data servers first" in said
    assert f"filefly-client secret retire {secret}" in said
    assert f"only the key {second.id} is left" in asked("secret", "retire", secret).stderr
    assert [second] == read_secret(secret).keys


def test_a_key_is_never_told(secret: Path) -> None:
    """Ids are; neither goes to standard output."""
    asked("secret", "rotate", secret)
    done = asked("secret", "retire", secret)
    key = secret.read_text().split()[-1]
    assert "" == done.stdout
    assert key not in done.stderr


@pytest.mark.parametrize("command", ["rotate", "retire"])
def test_a_secret_that_is_not_there_is_told(command: str, tmp_path: Path) -> None:
    """With how to make it."""
    with pytest.raises(
        FileFlyError,
        match=r"there is no \S+; name the cluster's secret, or make a new one with: filefly-client secret new",
    ):
        asked("secret", command, tmp_path / "x")
