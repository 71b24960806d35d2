import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from filefly import __version__
from filefly.cli.commands import cli
from filefly.cli.main import main
from filefly.errors import FileFlyError

FILES = ["upload", "download", "cat", "ls", "stat", "mv", "rm", "undelete"]
CLUSTER = ["servers", "ping", "drain", "undrain", "scrub", "fsck", "catalog"]
SECURITY = ["secret", "token", "quota", "tls"]
COMMANDS = FILES + CLUSTER + SECURITY
SUBCOMMANDS = [
    *("servers add", "servers accept", "servers remove", "catalog backup", "catalog accept"),
    *("secret new", "secret rotate", "secret retire", "token new", "token show", "token revoke", "token list-revoked"),
    *("quota set", "quota remove", "quota list", "tls new"),
]
OFFLINE = ["secret", "secret new", "secret rotate", "secret retire", "token new", "tls", "tls new"]
"""They ask no server."""


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_the_commands_are_these() -> None:
    """No more and no less than is documented."""
    assert sorted(COMMANDS) == sorted(cli.commands)


@pytest.mark.parametrize("command", COMMANDS + SUBCOMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help_with_an_example(command: str, option: str) -> None:
    """And exits as if all went well, which it did."""
    result = asked(*command.split(), option)
    assert 0 == result.exit_code
    assert f"Usage: cli {command}" in result.output
    assert f"filefly-client {command}" in result.output
    assert (command not in OFFLINE) == ("--metadata-addr [tls://]HOST:PORT" in result.output)
    assert (command not in OFFLINE) == ("--token-file FILE" in result.output)


def test_the_program_has_help_with_an_example() -> None:
    """And tells of every command."""
    result = asked("--help")
    assert 0 == result.exit_code
    assert "filefly-client upload report.pdf" in result.output
    assert all(f"\n  {command} " in result.output for command in COMMANDS)


def test_the_program_tells_of_files_and_of_the_cluster_apart() -> None:
    """Most people need only the first part; no sentence is cut."""
    sections = re.split(r"\n(?:Files|Cluster|Security):\n", asked("--help").output)[1:]
    for section, commands in zip(sections, (FILES, CLUSTER, SECURITY), strict=True):
        assert commands == [line.split()[0] for line in section.splitlines() if line and not line.startswith("   ")]
        assert "..." not in section


def test_servers_explains_its_columns() -> None:
    """Those that are not what one might think."""
    said = asked("servers", "--help").output
    for explained in ("disk used and free tell of its whole disk", "scrub of the", "re-reading of all blocks"):
        assert explained in said


def test_the_version_is_told() -> None:
    """That of the package."""
    assert __version__ in asked("--version").output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["ls", "--nonsense"], "No such option"),
        (["upload"], "Name at least one PATH to upload, or - for standard input."),
        (["upload", "a", "b", "--name", "c"], "--file-name goes with a single PATH."),
        (["upload", "-"], "Standard input needs a name and no other PATH: upload - --name NAME"),
        (["upload", "-", "a"], "Standard input needs a name and no other PATH: upload - --name NAME"),
        (["upload", "a", "--replicas", "0"], "Invalid value for '--replicas'"),
        (["upload", "a", "--concurrency", "0"], "Invalid value for '--concurrency'"),
        (["download"], "Missing argument 'NAME'"),
        (["download", "-r", "a"], "-r needs a folder to write to: download -r PREFIX -o FOLDER"),
        (["download", "-r", "a", "-o", "-"], "-r needs a folder to write to: download -r PREFIX -o FOLDER"),
        (["cat"], "Missing argument 'NAME...'"),
        (["cat", "a", "--offset", "-1"], "Invalid value for '--offset'"),
        (["stat"], "Missing argument 'NAME'"),
        (["mv", "a"], "Missing argument 'NEW_NAME'"),
        (["rm"], "Missing argument 'NAME...'"),
        (["rm", ""], "'' names nothing; is a shell variable empty?"),
        (["rm", "-r", "a", ""], "'' names nothing; is a shell variable empty?"),
        (["rm", "-r", "/"], "'/' names nothing; is a shell variable empty?"),
        (["mv", "", "a"], "'' names nothing; is a shell variable empty?"),
        (["mv", "a", ""], "'' names nothing; is a shell variable empty?"),
        (["cat", "a", ""], "'' names nothing; is a shell variable empty?"),
        (["stat", ""], "'' names nothing; is a shell variable empty?"),
        (["undelete"], "Missing argument 'NAME'"),
        (["drain"], "Missing argument 'ADDR'"),
        (["undrain"], "Missing argument 'ADDR'"),
        (["servers", "nonsense"], "No such command 'nonsense'"),
        (["servers", "add", "nowhere"], "'nowhere' is not an address; write HOST:PORT"),
        (["servers", "add", "x:1", "--advertised", "nowhere"], "'nowhere' is not an address; write HOST:PORT"),
        (["servers", "remove"], "Missing argument 'ADDR'"),
        (["servers", "remove", "x:1", "--lost"], "Say that you mean it: servers remove x:1 --lost --yes"),
        (["catalog", "backup"], "Missing argument 'FILE'"),
        (["secret", "new"], "Missing argument 'FILE'"),
        (["token", "new", "--role", "king", "--secret-file", "x"], "Invalid value for '--role'"),
        (["token", "new", "--role", "read"], "Missing option '--secret-file'"),
        (["token", "new", "--role", "read", "--secret-file", "x", "--expires", "soon"], "'soon' is not a duration"),
        (
            ["token", "new", "--role", "read", "--secret-file", "x", "--expires", "30"],
            "30 has no unit; write 30d for days",
        ),
        (["token", "new", "--role", "read", "--secret-file", "x", "--expires", "0d"], "0d is no time for a token"),
        (["token", "new", "--role", "read", "--secret-file", "x", "--expires", "101000d"], "is no time for a token"),
        (["token", "new", "--role", "read", "--secret-file", "x", "--prefix", "a\nb"], "no file's name can begin with"),
        (["token", "new", "--role", "admin", "--secret-file", "x", "--prefix", "a"], "role admin has no --prefix"),
        (["token", "show"], "Name the token's FILE, - for standard input, or set FILEFLY_TOKEN_FILE."),
        (["token", "revoke", "abc.def.ghi"], "those that filefly-client token show tells of a token"),
        (["token", "revoke", "5e2a90c1d4b7f63"], "ID is 16 digits from 0 to f"),
        (["quota", "set", "a/"], "Name a limit: --max-bytes, --max-files or both"),
        (["quota", "set", "a/", "--max-bytes", "much"], "'much' is not a size"),
        (["quota", "set", "a/", "--max-bytes", "9999999TiB"], "is too much"),
        (["quota", "set", "a/", "--max-files", "-1"], "Invalid value for '--max-files'"),
        (["ping", "nowhere"], "'nowhere' is not an address; write HOST:PORT"),
        (["--metadata-addr", "nowhere", "ls"], "'nowhere' is not an address; write HOST:PORT"),
    ],
)
def test_wrong_usage_is_told(arguments: Sequence[str], sentence: str) -> None:
    """On stderr, with exit status 2, before anybody is asked anything."""
    result = asked(*arguments)
    assert 2 == result.exit_code
    assert sentence in result.stderr
    assert "" == result.stdout


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (FileFlyError("a sentence"), 1, "filefly-client: a sentence\n"),
        (click.BadParameter("wrong"), 2, "Error: Invalid value: wrong\n"),
        (click.ClickException("no"), 1, "Error: no\n"),
        (click.Abort(), 130, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_end_is_an_exit_status(
    raised: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And at most one sentence on stderr."""

    @click.command()
    def failing() -> None:
        raise raised

    monkeypatch.setitem(cli.commands, "ls", failing)
    monkeypatch.setattr(sys, "argv", ["filefly-client", "ls"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert status == caught.value.code
    out, err = capsys.readouterr()
    assert "" == out
    assert said.strip() == err.strip().rpartition("\n")[2]


def test_help_loads_little(tmp_path: Path) -> None:
    """What a shell asks at every completion must be there at once: no reactor, no bars, no database."""
    program = """
import sys
from click.testing import CliRunner
from filefly.cli.commands import cli
for command in cli.commands:
    assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0
large = {"twisted.internet.reactor", "rich", "sqlalchemy", "jwt", "filefly.security.keys"}
print(sorted(large.intersection(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
