"""secret: the file that closes a cluster. Asks no server."""

from pathlib import Path

import click

from filefly.cli.run import say

_file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))


@click.group(short_help="Make the secret that closes a cluster, and change it.")
def secret() -> None:
    """Make the secret that closes a cluster, and change it. No server is asked.

    Every daemon gets a copy of the file (--secret-file), clients get tokens (filefly-client token new). Daemons take a
    file that was changed within seconds, without a restart.

    \b
    Examples:
      filefly-client secret new cluster.secret
      filefly-client secret rotate cluster.secret
      filefly-client secret retire cluster.secret
    """


@secret.command(short_help="Make a secret.")
@_file
def new(file: Path) -> None:
    """Make a secret, in a new file that only its owner can read.

    Who can read it can do everything. Take a copy to each daemon's machine, as the user that the daemon runs as.

    \b
    Example:
      filefly-client secret new cluster.secret
    """
    from filefly.security.keys import create_secret

    key = create_secret(file).signing
    say(f"made {file} with the key {key.id}; start every daemon with --secret-file, and give clients tokens")


@secret.command(short_help="Put a new key into a secret; the last one stays valid.")
@_file
def rotate(file: Path) -> None:
    """Put a new key into a secret. It signs from now on; the one that signed until now stays valid, too.

    Take the file to the data servers first, and to the metadata server last: it signs what they check. Then replace
    the tokens that the old key has signed, and retire that.

    \b
    Example:
      filefly-client secret rotate cluster.secret
    """
    from filefly.security.keys import rotate_secret

    signing, older = rotate_secret(file).keys
    say(
        f"{file}: the key {signing.id} signs now, {older.id} is still valid; take the file to the data servers first, "
        f"to the metadata server last, and once there are new tokens: filefly-client secret retire {file}"
    )


@secret.command(short_help="Take all keys but the one that signs out of a secret.")
@_file
def retire(file: Path) -> None:
    """Take all keys but the one that signs out of a secret. Tokens that another one has signed are void then.

    \b
    Example:
      filefly-client secret retire cluster.secret
    """
    from filefly.security.keys import retire_keys

    key = retire_keys(file).signing
    say(f"{file}: only the key {key.id} is left; what others have signed is void once the daemons have the file")
