from collections.abc import Sequence

import click
import pytest
from click.testing import CliRunner, Result

from filefly.cli.options import cluster_options, metadata_addr


@click.group()
@cluster_options(from_environment=True)
def group() -> None:
    """Hold a command."""


@group.command()
@cluster_options()
def where() -> None:
    """Tell what was chosen."""
    click.echo(metadata_addr())


def told(arguments: Sequence[str], environment: str | None = None) -> Result:
    return CliRunner().invoke(group, list(arguments), env={"FILEFLY_METADATA_ADDR": environment})


BEFORE = ("--metadata-addr", "before:1", "where")
AFTER = ("where", "--metadata-addr", "after:1")
BOTH = ("--metadata-addr", "before:1", *AFTER)


@pytest.mark.parametrize(
    ("arguments", "environment", "address"),
    [
        (("where",), None, "localhost:9000"),
        (("where",), "environment:1", "environment:1"),
        (BEFORE, None, "before:1"),
        (AFTER, None, "after:1"),
        (BEFORE, "environment:1", "before:1"),
        (AFTER, "environment:1", "after:1"),
        (BOTH, "environment:1", "after:1"),
        (("where",), ":9000", ":9000"),
    ],
)
def test_the_closest_address_wins(arguments: Sequence[str], environment: str | None, address: str) -> None:
    """Behind the command, before it, in the environment, the default: in this order."""
    assert f"{address}\n" == told(arguments, environment).output


@pytest.mark.parametrize("arguments", [("--metadata-addr", "nowhere", "where"), ("where", "--metadata-addr", "a:0")])
def test_what_is_no_address_is_wrong_usage(arguments: Sequence[str]) -> None:
    """With a sentence that says how it is written."""
    result = told(arguments)
    assert 2 == result.exit_code
    assert "is not an address; write HOST:PORT" in result.stderr


def test_a_wrong_environment_is_wrong_usage() -> None:
    """Just like a wrong option."""
    result = told(["where"], "nowhere")
    assert 2 == result.exit_code
    assert "is not an address; write HOST:PORT" in result.stderr
