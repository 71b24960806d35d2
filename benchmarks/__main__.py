"""`python -m benchmarks`: measure the cases that are asked for and write down what came out."""

import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import click

from benchmarks.cases import CASES, ONCE
from benchmarks.cases.machine import memory
from benchmarks.machine import facts
from benchmarks.measures import Row
from benchmarks.place import DISK, FULL, QUICK, SHM, TINY, Sizes, place
from benchmarks.plot import draw
from benchmarks.processes import Failed, Processes
from benchmarks.report import as_json, line, markdown

_FOLDER = Path(__file__).parent
_SIZES = {"full": FULL, "quick": QUICK, "tiny": TINY}
_PATH = click.Path(path_type=Path, resolve_path=True)  # what is started has folders of its own
_SIZE_HELP = (
    "full: gigabytes, half an hour; quick: a quarter and less; tiny: to see that all runs, its figures say nothing."
)


def _names(known: Collection[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return what makes a list of names, in the order in which they are known, of text with commas."""

    def split(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
        names = value.split(",")
        if unknown := [name for name in names if name not in known]:
            raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}")
        return [name for name in known if name in names]

    return split


@click.command()
@click.option("--cases", callback=_names(CASES), default=",".join(CASES), show_default=True, help="What to measure.")
@click.option("--where", callback=_names([DISK, SHM]), default=f"{DISK},{SHM}", show_default=True, help="Where to.")
@click.option("--disk", type=_PATH, default=_FOLDER / ".work", help="A folder on the disk.")
@click.option("--shm", type=_PATH, default=Path("/dev/shm"), help="A folder in memory.")
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True, help="Counted pairs of runs.")
@click.option("--size", type=click.Choice(list(_SIZES)), default="full", show_default=True, help=_SIZE_HELP)
@click.option("--quick", is_flag=True, help="The same as --size quick.")
@click.option("--weed", type=_PATH, default=_FOLDER / ".weed-venv/bin/weed", help="SeaweedFS.")
@click.option("--output", type=_PATH, default=_FOLDER / "results", help="Folder of the results.")
def main(
    cases: Sequence[str],
    where: Sequence[str],
    disk: Path,
    shm: Path,
    pairs: int,
    size: str,
    quick: bool,
    weed: Path,
    output: Path,
) -> None:
    """Measure FileFly against its peers on this machine; print a table, and write it, a JSON file and a plot."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    folders = {name: folder for name, folder in ((DISK, disk), (SHM, shm)) if name in where and _is_there(name, folder)}
    found = facts(folders, weed)
    rows = []
    try:
        for row in _measured(cases, folders, QUICK if quick else _SIZES[size], pairs, weed if weed.exists() else None):
            click.echo(line(row))
            rows.append(row)
    except Failed as failed:
        raise click.ClickException(str(failed)) from failed
    finally:
        if rows:
            _write(rows, found, output)


def _is_there(name: str, folder: Path) -> bool:
    """Whether a place can be used; a folder on the disk is made, one in memory cannot be."""
    if name == DISK or folder.is_dir():
        return True
    click.echo(f"left out: there is no {folder}")
    return False


def _measured(
    cases: Sequence[str], folders: dict[str, Path], sizes: Sizes, pairs: int, weed: Path | None
) -> Iterator[Row]:
    """Measure at one place after the other, and the memory over all of it."""
    peaks: dict[str, int] = {}
    for number, (name, folder) in enumerate(folders.items()):
        with place(name, folder, sizes, pairs, weed, Processes(peaks)) as here:
            for case in cases:
                if number == 0 or case not in ONCE:
                    yield from CASES[case](here)
    yield from memory(peaks)


def _write(rows: Sequence[Row], found: dict[str, str], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    tables = markdown(rows, found)
    click.echo(f"\n{tables}")
    (output / "bench.md").write_text(tables)
    (output / "bench.json").write_text(as_json(rows, found))
    if not draw(rows, output / "bench.png"):
        click.echo("no plot was made: matplotlib is not installed (make bench installs it)")
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
