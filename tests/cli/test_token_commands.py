import json
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from filefly.cli.commands import cli
from filefly.errors import FileFlyError, Forbidden
from filefly.security.keys import create_secret, read_secret
from filefly.security.tokens import Role, Token, issue_token, read_token
from filefly.wire.messages import Reply
from filefly.wire.security import ListRevokedTokens, RevokedToken, RevokedTokens, RevokeToken
from tests.cli.watched import shell_at
from tests.client.administered import administered
from tests.on_reactor import on_reactor

DAY = 86_400


def asked(*arguments: str | Path, stdin: str | None = None, **env: str) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin, env=env)
    if isinstance(result.exception, FileFlyError):
        raise result.exception
    assert 0 == result.exit_code, result.output
    return result


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Make a secret."""
    path = tmp_path / "cluster.secret"
    create_secret(path)
    return path


@pytest.fixture
def token(tmp_path: Path, secret: Path) -> Path:
    """Make a token's file."""
    path = tmp_path / "ana.token"
    asked("token", "new", "--role", "append", "--prefix", "ana/", "--secret-file", secret, "-o", path)
    return path


def said_by(secret: Path, text: str) -> Token:
    return read_token(read_secret(secret), text.strip(), time.time())


# token new


@pytest.mark.parametrize("role", list(Role))
def test_a_token_is_printed_alone(role: Role, secret: Path) -> None:
    """What it says, and its id, are no data."""
    made = asked("token", "new", "--role", role, "--secret-file", secret)
    said = said_by(secret, made.stdout)
    assert Token(said.id, role) == said
    assert re.fullmatch(r"[0-9a-f]{16}", said.id)
    assert 1 == made.stdout.count("\n")
    assert (
        f"filefly-client: token {said.id}: role {role}, all files, never expires; "
        f"to make it void: filefly-client token revoke {said.id}\n"
    ) == made.stderr


def test_a_token_may_be_for_some_files_and_for_some_time(secret: Path) -> None:
    """Both are said."""
    before = int(time.time())
    arguments = ("--role", "write", "--prefix", "ana/", "--expires", "30d", "--secret-file", secret)
    made = asked("token", "new", *arguments)
    said = said_by(secret, made.stdout)
    assert "ana/" == said.prefix
    assert before + 30 * DAY <= (said.expires or 0) <= time.time() + 30 * DAY
    assert re.search(
        r"role write, files that begin with 'ana/', expires \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC;", made.stderr
    )


def test_no_two_tokens_have_one_id(secret: Path) -> None:
    """Or one would be void with the other."""
    made = [asked("token", "new", "--role", "read", "--secret-file", secret).stdout for _ in range(2)]
    assert 2 == len({said_by(secret, text).id for text in made})


def test_a_token_is_written_to_a_file_of_its_owner_alone(token: Path, secret: Path) -> None:
    """A file that is there is not touched."""
    assert (0o600, Role.APPEND) == (stat.S_IMODE(token.stat().st_mode), said_by(secret, token.read_text()).role)
    before = token.read_bytes()
    with pytest.raises(FileFlyError, match=rf"^cannot write {token}: File exists$"):
        asked("token", "new", "--role", "read", "--secret-file", secret, "-o", token)
    assert before == token.read_bytes()


def test_a_secret_that_cannot_be_used_is_told(tmp_path: Path, secret: Path) -> None:
    """With what to do."""
    secret.chmod(0o640)
    with pytest.raises(FileFlyError, match=rf"run: chmod 600 {secret}$"):
        asked("token", "new", "--role", "read", "--secret-file", secret)


# token show

SHOWN = "id       {id}\nrole     append\nprefix   ana/\nexpires  never\n"


def test_what_a_token_says_is_shown(token: Path, secret: Path) -> None:
    """Nobody knows whether it is true, until somebody who has the secret looks."""
    shown = SHOWN.format(id=said_by(secret, token.read_text()).id)
    unchecked, checked = asked("token", "show", token), asked("token", "show", token, "--secret-file", secret)
    assert [shown] * 2 == [unchecked.stdout, checked.stdout]
    assert "whether it is genuine only --secret-file FILE can tell" in unchecked.stderr
    assert "the token is genuine, and has not expired" in checked.stderr


def test_a_token_is_shown_from_wherever_it_comes(token: Path) -> None:
    """A file, standard input, an option, the environment; in this order."""
    expected = asked("token", "show", token).stdout
    text = token.read_text()
    assert expected == asked("token", "show", "-", stdin=text, FILEFLY_TOKEN="x").stdout
    assert expected == asked("--token-file", token, "token", "show", FILEFLY_TOKEN="x").stdout
    assert expected == asked("token", "show", "--token-file", token, FILEFLY_TOKEN="x").stdout
    assert expected == asked("token", "show", FILEFLY_TOKEN_FILE=str(token), FILEFLY_TOKEN="x").stdout
    assert expected == asked("token", "show", FILEFLY_TOKEN=text).stdout


def test_what_a_token_says_is_shown_in_json(secret: Path, token: Path) -> None:
    """Times as on the wire."""
    text = issue_token(read_secret(secret), Token("1", Role.READ, expires=4_000_000_000))
    shown = json.loads(asked("token", "show", "--json", "-", stdin=text).stdout)
    assert {"token_id": "1", "role": "read", "verified": False, "expires": "2096-10-02T07:06:40.000Z"} == shown
    shown = json.loads(asked("token", "show", "--json", token, "--secret-file", secret).stdout)
    assert ("append", "ana/", True) == (shown["role"], shown["prefix"], shown["verified"])


def test_a_token_that_has_expired_is_shown_as_that(secret: Path) -> None:
    """With the secret it is an error."""
    text = issue_token(read_secret(secret), Token("1", Role.READ, expires=1))
    assert "expires  1970-01-01 00:00:01 UTC (it has expired)\n" in asked("token", "show", "-", stdin=text).stdout
    with pytest.raises(FileFlyError, match=r"^the token has expired; ask for another one$"):
        asked("token", "show", "-", "--secret-file", secret, stdin=text)


def test_a_token_of_another_cluster_is_told(token: Path, tmp_path: Path) -> None:
    """By who has that cluster's secret."""
    other = tmp_path / "other.secret"
    create_secret(other)
    with pytest.raises(FileFlyError, match=r"^the token is not valid: no key of this cluster has signed it"):
        asked("token", "show", token, "--secret-file", other)


@pytest.mark.parametrize("text", ["nonsense", "a.b.c", "e30.e30.e30", "eyJhbGciOiJIUzI1NiJ9.e30.AAAA"])
def test_what_is_no_token_is_told(text: str) -> None:
    """It is not repeated: it may be another secret."""
    with pytest.raises(FileFlyError, match=r"^standard input has no token of this version of FileFly$"):
        asked("token", "show", "-", stdin=text)


# token revoke, token list-revoked


@on_reactor
async def test_a_token_is_made_void(reactor: Any, tmp_path: Path) -> None:
    """By its id."""
    async with administered(reactor, {RevokeToken: [Reply()]}) as (server, _client):
        done = await shell_at(server.address, tmp_path).run("token", "revoke", "5e2a90c1d4b7f638")
        assert (0, "filefly-client: the token 5e2a90c1d4b7f638 is void\n") == (done.returncode, done.stderr)
        assert [RevokeToken("5e2a90c1d4b7f638")] == server.asked


@pytest.mark.parametrize(
    ("tokens", "out", "err"),
    [
        ([], "", "filefly-client: no token was revoked\n"),
        (
            [RevokedToken("5e2a", "2026-01-02T03:04:05.678Z")],
            "token  revoked\n5e2a   2026-01-02 03:04:05\n",
            "",
        ),
    ],
)
@on_reactor
async def test_void_tokens_are_shown(
    reactor: Any, tmp_path: Path, tokens: Sequence[RevokedToken], out: str, err: str
) -> None:
    """When they were made so, too."""
    async with administered(reactor, {ListRevokedTokens: [RevokedTokens(tokens)]}) as (server, _client):
        done = await shell_at(server.address, tmp_path).run("token", "list-revoked")
        assert (0, out, err) == (done.returncode, done.stdout, done.stderr)
        done = await shell_at(server.address, tmp_path).run("token", "list-revoked", "--json")
        assert [each.token_id for each in tokens] == [json.loads(line)["token_id"] for line in done.stdout.splitlines()]


@on_reactor
async def test_who_may_not_make_a_token_void_hears_with_which_token(reactor: Any, tmp_path: Path, token: Path) -> None:
    """He may have others; the token itself is not told."""
    async with administered(reactor, {RevokeToken: [Forbidden("that takes a token of role admin")]}) as (
        server,
        _client,
    ):
        shell = shell_at(server.address, tmp_path)
        assert (f"that takes a token of role admin (signed in with the token of {token})") == await shell.refusal(
            "--token-file", str(token), "token", "revoke", "5e2a90c1d4b7f638"
        )
