"""`filefly-client tls`: the certificates of a cluster. Talks to no server."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from filefly.wire.tls.files import TlsUnusable

if TYPE_CHECKING:
    from filefly.security.authority import HostCertificate


@click.group()
def tls() -> None:
    """Make the certificates with which a cluster speaks TLS.

    \b
    Examples:
      filefly-client tls new tls --host nas --host attic
      filefly-client tls renew tls
    """


@tls.command(short_help="Make a certificate for each host, and the private CA that signs them.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--host",
    "hosts",
    metavar="NAME[,NAME]",
    multiple=True,
    required=True,
    help="A host, and further names or IP addresses that it has; give it once for each host.",
)
def new(folder: Path, hosts: Sequence[str]) -> None:
    """Make a key and a certificate for each host in FOLDER, and the private CA that signs them if there is none yet.

    A host's certificate is for the names given, and for localhost, as which its own processes reach each other; it
    serves as a client's, too. Run it again for another host. Nothing is overwritten.

    \b
    Example:
      filefly-client tls new tls --host nas,nas.example,192.168.1.5 --host attic
    """
    from filefly.security.authority import Authority, check_name

    wanted = [[name.strip() for name in host.split(",") if name.strip()] for host in hosts]
    if not all(wanted):
        raise click.UsageError("--host needs a name")
    for name in (name for names in wanted for name in names):
        check_name(name)
    now = datetime.now(UTC)
    if Authority.exists(folder):
        authority = Authority(folder, now)
    else:
        authority = Authority.create(folder, now)
        click.echo(f"made a private CA: {authority.certificate_file} and {authority.key_file}")
    made = [authority.issue(names) for names in wanted]
    for host in made:
        click.echo(_line("made", host))
    click.echo(_next_steps(folder, made[0]))


def _line(what: str, host: "HostCertificate") -> str:
    return f"{what} {host.certificate} (for {', '.join(host.names)}; until {host.until:%Y-%m-%d})"


def _next_steps(folder: Path, host: "HostCertificate") -> str:
    name = f"[{host.names[0]}]" if ":" in host.names[0] else host.names[0]
    shown = f"--tls-cert {host.certificate} --tls-key {host.key} --tls-ca {folder / 'ca.crt'}"
    return f"""
What is next:
  give each host its own two files and ca.crt; ca.key, which signs them, stays here
  data server:      twistd filefly-data {shown}
  metadata server:  twistd filefly-meta {shown} --data-servers tls://{name}:9001
  clients:          filefly-client --metadata-addr tls://{name}:9000 --tls-ca {folder / "ca.crt"}
  to let nobody in who has no certificate of this CA: --tls-client-ca {folder / "ca.crt"} on the servers"""


@tls.command(short_help="Prolong the certificates of all hosts.")
@click.argument("folder", type=click.Path(path_type=Path))
def renew(folder: Path) -> None:
    """Put in the place of each host's certificate in FOLDER one that begins today, for the same names and key.

    Daemons take a new certificate when its file changes; they need no restart.

    \b
    Example:
      filefly-client tls renew tls
    """
    from filefly.security.authority import Authority

    renewed = Authority(folder, datetime.now(UTC)).renew()
    if not renewed:
        raise TlsUnusable(f"there is no host's certificate in {folder}; filefly-client tls new makes one")
    for host in renewed:
        click.echo(_line("renewed", host))
