import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from filefly.cli.options import cluster_options, token
from filefly.cli.token_files import given_token
from filefly.errors import FileFlyError
from filefly.security.keys import Keyring
from filefly.security.tokens import Role, Token, issue_token
from tests.security.texts import KEY


@click.group()
@cluster_options(from_environment=True)
def group() -> None:
    """Hold a command."""


@group.command()
@cluster_options()
def which() -> None:
    """Tell what was chosen."""
    given = token()
    click.echo("none" if given is None else given.text)


def kept(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Make files of tokens that are what the files are called."""
    return {name: kept(tmp_path / name, f"{name}\n") for name in ("before", "after", "environment")}


@pytest.mark.parametrize(
    ("arguments", "environment", "chosen"),
    [
        ("which", {}, "none"),
        ("which", {"FILEFLY_TOKEN": ""}, "none"),
        ("which", {"FILEFLY_TOKEN": "itself"}, "itself"),
        ("which", {"FILEFLY_TOKEN": "itself", "FILEFLY_TOKEN_FILE": "environment"}, "environment"),
        ("which", {"FILEFLY_TOKEN": "itself", "FILEFLY_TOKEN_FILE": ""}, "itself"),
        ("--token-file before which", {"FILEFLY_TOKEN_FILE": "environment"}, "before"),
        ("which --token-file after", {"FILEFLY_TOKEN_FILE": "environment"}, "after"),
        ("--token-file before which --token-file after", {"FILEFLY_TOKEN": "itself"}, "after"),
    ],
)
def test_the_closest_token_wins(
    arguments: str, environment: dict[str, str], chosen: str, files: dict[str, str]
) -> None:
    """Behind the command, before it, a file that the environment names, the token in the environment."""
    words = [files.get(word, word) for word in arguments.split()]
    unset = dict.fromkeys(("FILEFLY_TOKEN", "FILEFLY_TOKEN_FILE"))
    env = {**unset, **{name: files.get(value, value) for name, value in environment.items()}}
    assert f"{chosen}\n" == CliRunner().invoke(group, words, env=env).output


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_token_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """As ssh does it; with what to run."""
    path = kept(tmp_path / "token", "secret-thing", mode)
    with pytest.raises(FileFlyError) as caught:
        given_token(path)
    assert f"(mode {mode:04o})" in str(caught.value)
    assert str(caught.value).endswith(f"run: chmod 600 {path}")


def test_a_token_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can change it could have files stored where they can be read."""
    path = kept(tmp_path / "token", "secret-thing")
    owner = os.stat(path).st_uid
    os.chown(path, 12345, -1) if owner == 0 else monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(
        FileFlyError, match=rf"^{path} is another user's \(\d+\); run this as that user, or: chown \d+ "
    ):
        given_token(path)


@pytest.mark.parametrize("text", ["", "\n", "secret-thing secret-thing", "secret-thing" * 1000])
def test_what_cannot_be_a_token_is_told_and_not_repeated(tmp_path: Path, text: str) -> None:
    """It may be another secret."""
    path = kept(tmp_path / "token", text)
    with pytest.raises(FileFlyError, match=rf"^{path} has no token: it should be one line") as caught:
        given_token(path)
    assert "secret-thing" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(FileFlyError, match=rf"^cannot read the token in {tmp_path}/x: No such file or directory$"):
        given_token(f"{tmp_path}/x")


def test_a_token_in_the_place_of_its_file_is_not_repeated() -> None:
    """A slip of one who has it in a variable."""
    text = issue_token(Keyring([KEY]), Token("t-1", Role.READ))
    with pytest.raises(FileFlyError, match=r"^that is a token, and not .* goes into FILEFLY_TOKEN$") as caught:
        given_token(text)
    assert text not in str(caught.value)


def test_a_token_may_come_through_a_pipe() -> None:
    """As from `--token-file <(pass show filefly)`; only who made it can read it."""
    reading, writing = os.pipe()
    os.write(writing, b"secret-thing\n")
    os.close(writing)
    try:
        given = given_token(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    assert given is not None
    assert "secret-thing" == given.text


def test_a_token_is_not_shown_by_accident(tmp_path: Path) -> None:
    """In a traceback, say."""
    assert "secret-thing" not in repr(given_token(kept(tmp_path / "token", "secret-thing")))
