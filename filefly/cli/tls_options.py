"""The options of every command that say whom to believe, and what to show, at `tls://` addresses."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from filefly.wire.tls.files import TlsFiles

_OPTIONS = (
    ("--tls-ca", "FILEFLY_TLS_CA", "The CA of the servers at tls:// addresses", "  [default: whom the system trusts]"),
    ("--tls-cert", "FILEFLY_TLS_CERT", "A certificate to show to servers that demand one", ""),
    ("--tls-key", "FILEFLY_TLS_KEY", "Its key", ""),
)


def tls_options(of_environment: Callable[[str], str | None]) -> Sequence[Callable[[Any], Any]]:
    """Return click's options; they set what `tls_files` returns."""
    return [
        click.option(
            name,
            metavar="FILE",
            envvar=of_environment(variable),
            expose_value=False,
            callback=_remember,
            help=f"{what}; also {variable}.{default}",
        )
        for name, variable, what, default in _OPTIONS
    ]


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value:
        context.meta[_key(str(parameter.name))] = Path(value)


def _key(name: str) -> str:
    return f"filefly.{name}"


def tls_files() -> TlsFiles:
    """Return the files that this command line, or the environment, names; raises UsageError for half a pair."""
    meta = click.get_current_context().meta
    ca, certificate, key = (meta.get(_key(name)) for name in ("tls_ca", "tls_cert", "tls_key"))
    if (certificate is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together")
    return TlsFiles(certificate, key, ca)
