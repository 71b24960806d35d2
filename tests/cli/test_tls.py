from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from filefly.cli.commands import cli
from filefly.cli.options import cluster_options
from filefly.cli.tls_options import tls_files
from filefly.wire.tls.files import TlsUnusable
from tests.certificates import make


def asked(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, TlsUnusable):
        raise result.exception
    return result


def made_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_cluster_s_certificates_are_made(tmp_path: Path) -> None:
    """A CA, one certificate for each host, and what to do with them."""
    tls = tmp_path / "tls"
    result = asked("tls", "new", tls, "--host", "nas,10.0.0.5", "--host", "attic")
    assert 0 == result.exit_code
    assert ["attic.crt", "attic.key", "ca.crt", "ca.key", "nas.crt", "nas.key"] == made_in(tls)
    lines = result.output.splitlines()
    assert f"made a private CA: {tls}/ca.crt and {tls}/ca.key" == lines[0]
    assert lines[1].startswith(f"made {tls}/nas.crt (for nas, 10.0.0.5, localhost, 127.0.0.1, ::1; until 20")
    assert f"--tls-cert {tls}/nas.crt --tls-key {tls}/nas.key --tls-ca {tls}/ca.crt" in result.output
    assert f"filefly-client --metadata-addr tls://nas:9000 --tls-ca {tls}/ca.crt" in result.output


def test_another_host_is_added_under_the_same_ca(tmp_path: Path) -> None:
    """What is there stays as it is."""
    tls = tmp_path / "tls"
    asked("tls", "new", tls, "--host", "nas")
    before = {path: path.read_bytes() for path in tls.iterdir()}
    result = asked("tls", "new", tls, "--host", "attic")
    assert "private CA" not in result.output
    assert before == {path: path.read_bytes() for path in before}
    assert ["attic.crt", "attic.key", "ca.crt", "ca.key", "nas.crt", "nas.key"] == made_in(tls)
    with pytest.raises(TlsUnusable, match="exists; to prolong certificates"):
        asked("tls", "new", tls, "--host", "attic")


def test_nothing_is_made_for_a_name_that_no_host_has(tmp_path: Path) -> None:
    """Not the CA, either."""
    with pytest.raises(TlsUnusable, match="'a/b' is neither the name of a host nor an IP address"):
        asked("tls", "new", tmp_path / "tls", "--host", "nas", "--host", "a/b")
    assert 2 == asked("tls", "new", tmp_path / "tls", "--host", " , ").exit_code
    assert 2 == asked("tls", "new", tmp_path / "tls").exit_code
    assert not (tmp_path / "tls").exists()


def test_certificates_are_prolonged(tmp_path: Path) -> None:
    """Those of all hosts, with the names that they have."""
    made = make(tmp_path / "tls", "nas", days_ago=500)
    result = asked("tls", "renew", made.folder)
    assert result.output.startswith(f"renewed {made.certificate} (for nas, localhost, 127.0.0.1, ::1; until 20")
    empty = tmp_path / "empty"
    with pytest.raises(TlsUnusable, match="there is no "):
        asked("tls", "renew", empty)


# The options of every command


@click.group()
@cluster_options(from_environment=True)
def group() -> None:
    """Hold a command."""


@group.command()
@cluster_options()
def where() -> None:
    """Tell what was chosen."""
    files = tls_files()
    click.echo(f"{files.ca} {files.certificate} {files.key}")


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (("where",), {}, "None None None"),
        (("where",), {"FILEFLY_TLS_CA": "ca"}, "ca None None"),
        (("where",), {"FILEFLY_TLS_CA": ""}, "None None None"),
        (("--tls-ca", "before", "where"), {"FILEFLY_TLS_CA": "ca"}, "before None None"),
        (("--tls-ca", "before", "where", "--tls-ca", "after"), {}, "after None None"),
        (("where", "--tls-cert", "c", "--tls-key", "k"), {}, "None c k"),
        (("where", "--tls-cert", "c"), {"FILEFLY_TLS_KEY": "k"}, "None c k"),
    ],
)
def test_the_later_option_counts(arguments: tuple[str, ...], environment: dict[str, str], expected: str) -> None:
    """As it does for the other options; the environment comes last."""
    names = ("FILEFLY_TLS_CA", "FILEFLY_TLS_CERT", "FILEFLY_TLS_KEY")
    result = CliRunner().invoke(group, list(arguments), env=dict.fromkeys(names) | environment)
    assert f"{expected}\n" == result.output


def test_a_certificate_goes_with_its_key() -> None:
    """One without the other is wrong usage."""
    result = CliRunner().invoke(group, ["where", "--tls-cert", "c"], env={"FILEFLY_TLS_KEY": None})
    assert (2, True) == (result.exit_code, "--tls-cert and --tls-key go together" in result.output)
