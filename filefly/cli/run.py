"""Runs one command on the reactor: its end, however it comes, is an exit status and at most one sentence."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import click

from filefly.cli.lean import lean
from filefly.cli.options import token
from filefly.cli.tls_options import tls_files
from filefly.cli.token_files import GivenToken
from filefly.errors import FileFlyError, Forbidden, QuotaExceeded, Unauthorized, Unavailable, UnknownCommand

INTERRUPTED = 130
_BROKEN_PIPE = 141
_TERMINATED = 143


def run(
    metadata_addr: str,
    concurrency: int,
    command: Callable[[Any], Coroutine[Any, Any, int | None]],
    timeout_seconds: float = 60.0,
    interrupted: str | None = None,
) -> None:
    """Run `command` with a Client that has the token of this command line, then end the process.

    Its exit status is what `command` returns, None is 0; 1 with a sentence on stderr for a FileFlyError; 130 on Ctrl-C,
    after `command` was cancelled and has cleaned up after itself, and what `interrupted` says of that. An answer may
    take `timeout_seconds`.
    """
    given, tls = token(), tls_files()  # what cannot be used is told before anything begins

    with lean():
        from twisted.internet import reactor as twisted_reactor
        from twisted.internet.defer import Deferred

        from filefly.client.api import Client

    reactor: Any = twisted_reactor  # which reactor it is, and so what it can do, is decided at run time
    client = Client(
        reactor,
        metadata_addr,
        concurrency=concurrency,
        timeout_seconds=timeout_seconds,
        token=None if given is None else given.text,
        tls=tls,
    )
    ended: list[Any] = []

    def begin() -> None:
        running = Deferred.fromCoroutine(command(client))
        on_signal(running)
        running.addBoth(ended.append)
        running.addBoth(lambda _result: reactor.stop())

    def on_signal(running: Any) -> None:
        for number, status in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, _TERMINATED)):
            signal.signal(number, lambda *_, status=status: stop(running, status))

    def stop(running: Any, status: int) -> None:
        if exit_statuses:
            os._exit(status)  # asked twice: do not wait for the clean-up
        exit_statuses.append(status)
        reactor.callFromThread(running.cancel)

    exit_statuses: list[int] = []
    gc.freeze()  # what is there now stays: whoever looks for garbage need not look at it again
    gc.enable()
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    if exit_statuses:
        if interrupted is not None and not _went_well(ended[0]):
            with suppress(OSError):  # Ctrl-C may have ended who reads our stderr too
                say(f"interrupted; {interrupted}")
        os._exit(exit_statuses[0])  # `command` has cleaned up; a thread may still be reading a terminal
    client.close()
    sys.exit(_status_of(ended[0], metadata_addr, given))


def _status_of(result: Any, metadata_addr: str, given: GivenToken | None = None) -> int:
    """Return the exit status that `result` is or, as a Failure, stands for; and say why it is not 0."""
    if _went_well(result):
        return result or 0
    error = result.value
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        return _BROKEN_PIPE
    if not isinstance(error, FileFlyError):
        result.raiseException()
    say(f"{error}{_hint(error, metadata_addr, given)}")
    return 1


def _went_well(result: Any) -> bool:
    """Whether a command came to its end, with whatever status; else `result` is a Failure."""
    return result is None or isinstance(result, int)


def _hint(error: FileFlyError, metadata_addr: str, given: GivenToken | None) -> str:
    """Return what to do next where the error does not say it by itself."""
    match error:
        case Unavailable() if str(error) == f"cannot reach {metadata_addr}: this host name is not known":
            return "; is it spelled right? (--metadata-addr)"
        case Unavailable() if str(error).startswith(f"cannot reach {metadata_addr}"):
            return "; is the metadata server running there? (--metadata-addr)"
        case UnknownCommand():
            return f"; is {metadata_addr} a metadata server, and not a data server? (--metadata-addr)"
        case Unauthorized() if given is None and "--token-file" not in str(error):
            return "; sign in with a token: --token-file FILE, or FILEFLY_TOKEN_FILE in the environment"
        case Unauthorized() | Forbidden() if given is not None:
            return f" (signed in with the token of {given.source})"
        case QuotaExceeded():
            return "; delete something there, or have the quota raised (filefly-client quota set)"
    return ""


def say(sentence: str) -> None:
    """Tell the user something that is not data."""
    click.echo(f"filefly-client: {sentence}", err=True)
