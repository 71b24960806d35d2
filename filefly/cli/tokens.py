"""token: what says who a client is, and what it may do."""

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from filefly.cli.options import cluster_options, json_option, metadata_addr, token_file
from filefly.cli.output import minute, print_json, print_table
from filefly.cli.run import run, say
from filefly.cli.token_files import given_token, token_of_stdin
from filefly.errors import FileFlyError
from filefly.private import write_new
from filefly.units import parse_duration
from filefly.wire.names import MAX_NAME_BYTES
from filefly.wire.times import rfc3339

if TYPE_CHECKING:
    from filefly.client.api import Client
    from filefly.security.tokens import Token

_CONCURRENCY = 1
_ROLES = ("read", "append", "write", "admin")
_MOST_SECONDS = 100 * 365 * 86_400
_ID = re.compile(r"[0-9a-f]{16}")


class ShownToken(Struct, frozen=True, omit_defaults=True):
    """A token in `token show --json`; `expires` is absent if it never does."""

    token_id: str
    role: str
    verified: bool
    prefix: str = ""
    expires: str | None = None


@click.group(short_help="Make tokens for clients, look at them, make them void.")
@cluster_options()
def token() -> None:
    """Make tokens for the clients of a closed cluster, look at them, and make them void.

    \b
    A token's role is
      read    to list files and read them
      append  also to add files, but neither to replace nor to delete one
      write   also to replace, delete and rename
      admin   also to look after the cluster

    \b
    Examples:
      filefly-client token new --role write --expires 30d --secret-file cluster.secret -o ana.token
      filefly-client --token-file ana.token ls
      filefly-client token show ana.token
      filefly-client token revoke 5e2a90c1d4b7f638
    """


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    try:
        seconds = None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if str(value).isdigit():  # seconds, as everywhere; here hardly anybody means them
        raise click.BadParameter(f"{value} has no unit; write {value}d for days, or 30s, 10m, 24h")
    if seconds is not None and not 0 < seconds <= _MOST_SECONDS:
        raise click.BadParameter(f"{value} is no time for a token; without --expires it never expires")
    return seconds


def _prefix(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.isprintable() or len(value.encode(errors="replace")) > MAX_NAME_BYTES:
        raise click.BadParameter(f"no file's name can begin with {value!r}")
    return value


@token.command(short_help="Make a token.")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What it allows.")
@click.option(
    "--prefix", default="", metavar="PREFIX", callback=_prefix, help="Only files that begin so; not for admin."
)
@click.option("--expires", metavar="TIME", callback=_seconds, help="For how long: 12h, 30d.  [default: for ever]")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The cluster's secret (filefly-client secret new).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write it to a new file that is only yours.",
)
def new(role: str, prefix: str, expires: int | None, secret_file: Path, output: Path | None) -> None:
    """Make a token, and print it: one line that its holder keeps to himself. No server is asked, and none keeps it.

    With a PREFIX it is good only for files whose names begin so; end it with a slash to mean a folder. Its id, by which
    it can be made void, is said on standard error.

    \b
    Examples:
      filefly-client token new --role read --expires 30d --secret-file cluster.secret -o reader.token
      filefly-client token new --role append --prefix backup/nas1/ --secret-file cluster.secret |
        ssh nas1 'umask 077; cat > .filefly-token'
    """
    if role == "admin" and prefix:
        raise click.UsageError("A token of the role admin has no --prefix: it looks after the whole cluster.")

    from filefly.security.keys import read_secret
    from filefly.security.tokens import Role, Token, issue_token

    keyring = read_secret(secret_file)
    until = None if expires is None else int(time.time()) + expires
    made = Token(os.urandom(8).hex(), Role(role), prefix, until)
    text = issue_token(keyring, made)
    if output is None:
        click.echo(text)
    else:
        _write(output, text)
    say(f"token {made.id}: {_description(made)}; to make it void: filefly-client token revoke {made.id}")


def _write(path: Path, text: str) -> None:
    try:
        write_new(path, f"{text}\n".encode("ascii"))
    except OSError as error:
        raise FileFlyError(f"cannot write {path}: {error.strerror}") from None


def _description(token: "Token") -> str:
    files = f"files that begin with {token.prefix!r}" if token.prefix else "all files"
    until = "never expires" if token.expires is None else f"expires {minute(rfc3339(token.expires))} UTC"
    return f"role {token.role}, {files}, {until}"


@token.command(short_help="Show what a token says.")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--secret-file", type=click.Path(path_type=Path), metavar="FILE", help="Check it with this secret.")
@json_option
@cluster_options()
def show(file: str | None, secret_file: Path | None, as_json: bool) -> None:
    """Show what a token says: the one in FILE, `-` for standard input, else the one that other commands would use.

    Only with --secret-file it is checked who has signed it, and whether it has expired; whether it was revoked only the
    metadata server knows.

    \b
    Examples:
      filefly-client token show ana.token
      filefly-client token show ana.token --secret-file cluster.secret
    """
    given = token_of_stdin() if file == "-" else given_token(file or token_file())
    if given is None:
        raise click.UsageError("Name the token's FILE, - for standard input, or set FILEFLY_TOKEN_FILE.")
    said = _unverified(given.text) if secret_file is None else _verified(given.text, secret_file)
    if said is None:
        raise FileFlyError(f"{given.source} has no token of this version of FileFly")
    if as_json:
        expires = None if said.expires is None else rfc3339(said.expires)
        print_json(ShownToken(said.id, said.role.value, secret_file is not None, said.prefix, expires))
        return
    for key, value in (
        ("id", said.id),
        ("role", said.role),
        ("prefix", said.prefix or "- (all files)"),
        ("expires", _expiry(said.expires)),
    ):
        click.echo(f"{key:9}{value}")
    if secret_file is None:
        say("that is what the token says; whether it is genuine only --secret-file FILE can tell")
    else:
        say("the token is genuine, and has not expired")


def _expiry(expires: int | None) -> str:
    if expires is None:
        return "never"
    return f"{minute(rfc3339(expires))} UTC{' (it has expired)' if expires <= time.time() else ''}"


def _verified(text: str, secret_file: Path) -> "Token":
    from filefly.security.keys import read_secret
    from filefly.security.tokens import read_token

    return read_token(read_secret(secret_file), text, time.time())


def _unverified(text: str) -> "Token | None":
    """Return what a token says, whoever has signed it, None if it is none."""
    import jwt

    from filefly.security.tokens import Role, Token

    try:
        claims = jwt.decode(text, options={"verify_signature": False, "verify_exp": False})
        return Token(claims["jti"], Role(claims["role"]), claims.get("prefix", ""), claims.get("exp"))
    except (jwt.PyJWTError, KeyError, ValueError):
        return None


@token.command(short_help="Make a token void, by its id.")
@click.argument("token_id", metavar="ID")
@cluster_options()
def revoke(token_id: str) -> None:
    """Make a token void from now on, by its ID, which token new and token show tell. It takes a token of role admin.

    Tickets that its holder has got already are good for a quarter of an hour at most.

    \b
    Example:
      filefly-client token revoke 5e2a90c1d4b7f638
    """
    if _ID.fullmatch(token_id) is None:
        raise click.UsageError("ID is 16 digits from 0 to f: those that filefly-client token show tells of a token.")

    async def command(client: "Client") -> None:
        await client.administration.revoke_token(token_id)
        say(f"the token {token_id} is void")

    run(metadata_addr(), _CONCURRENCY, command)


@token.command("list-revoked", short_help="Show which tokens were made void.")
@json_option
@cluster_options()
def list_revoked(as_json: bool) -> None:
    """Show which tokens were made void, and when. It takes a token of role admin.

    \b
    Example:
      filefly-client token list-revoked
    """

    async def command(client: "Client") -> None:
        tokens = (await client.administration.revoked_tokens()).tokens
        if as_json:
            for each in tokens:
                print_json(each)
        elif tokens:
            print_table(("token", "revoked"), [(each.token_id, minute(each.revoked)) for each in tokens])
        else:
            say("no token was revoked")

    run(metadata_addr(), _CONCURRENCY, command)
