"""The program `filefly-client`: how it starts, and the exit statuses with which it ends."""

import gc
import sys


def main() -> None:
    """Run `filefly-client`; exit status 0, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    gc.disable()  # nothing that is imported becomes garbage, and to look for it would take 17 ms of 220
    try:
        _main()
    finally:
        gc.enable()


def _main() -> None:
    import click

    from filefly.cli.lean import lean

    with lean():
        from filefly.cli.commands import cli
    from filefly.cli.run import INTERRUPTED, say
    from filefly.errors import FileFlyError

    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except FileFlyError as error:
        say(str(error))
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
