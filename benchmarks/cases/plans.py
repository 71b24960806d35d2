"""The catalog under load: commits a second, and whether it matters how many files it has."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import benchmarks.load
from benchmarks.cluster import TWISTD, start_data_server, start_metadata_server
from benchmarks.measures import Row, Side, at_least, at_most
from benchmarks.place import Place
from benchmarks.processes import Command, load

_CONNECTIONS = "16"
_PAGE = 1000
_NEVER = "36500d"
_UNGROUPED: Command = (sys.executable, Path(benchmarks.load.__file__).parent / "ungrouped.py")


def pairs(place: Place) -> Iterator[Row]:
    """Plan and commit small files over 16 connections: against the same server without group commit."""
    title = "`store_file` + `complete_file`, 16 connections"
    grouped, alone = (_pairs_per_second(place, twistd) for twistd in (TWISTD, _UNGROUPED))
    own, others = place.in_turn(grouped, alone)
    yield Row("pairs", title, place.name, "pairs/s", own, "without group commit", others, at_least(2.0), at_least(3000))


def _pairs_per_second(place: Place, twistd: Command) -> Side:
    folder = place.new_folder("pairs")
    data = start_data_server(place.processes, folder, "blocks")
    address = start_metadata_server(place.processes, folder, [data], twistd=twistd)
    count = str(place.sizes.plans)

    def run() -> float:
        given = ("--count", count, "--connections", _CONNECTIONS, "--prefix", place.fresh("pairs"))
        return float(load("generator", "pairs", address, *given)["per_second"])

    return Side(run)


def catalog(place: Place) -> Iterator[Row]:
    """Ask a catalog of many files what a catalog of few files is asked, in turn: the median time of a request."""
    few, many = place.sizes.catalogs
    asked = {
        "metadata": ("`get_metadata`", place.sizes.asked),
        "plan": ("`store_file`", place.sizes.asked),
        "list": ("a page of `list_files`", max(place.sizes.asked // 10, 5)),
    }
    servers = {count: _metadata_server(place, count) for count in (many, few)}
    for work, (title, count) in asked.items():
        own, others = place.in_turn(*_latencies(place, work, servers, count))
        full_title = f"{title}, {many:,} files in the catalog"
        yield Row("catalog", full_title, place.name, "ms", own, f"{few:,} files", others, at_most(1.3))


def _metadata_server(place: Place, files: int) -> str:
    """Start a metadata server over a catalog of `files` files that it does not go and look for."""
    folder = place.new_folder("catalog")
    data = start_data_server(place.processes, folder, "blocks")
    load("catalog", folder / "filefly-catalog.sqlite", data.address, str(files))
    return start_metadata_server(place.processes, folder, [data], "--scrub-period", _NEVER)


def _latencies(place: Place, work: str, servers: Mapping[int, str], count: int) -> tuple[Side, Side]:
    """Return the sides of the two servers; both are asked in the run of the first, request by request in turn."""
    page = str(min(_PAGE, place.sizes.catalogs[0] // 2))
    both = [text for files, address in servers.items() for text in (address, str(files))]
    found: list[float] = []

    def ask_both() -> float:
        given = ("--count", str(count), "--page", page, "--prefix", place.fresh("new"))
        found[:] = load("alternation", work, *given, *both)
        return found[0]

    return Side(ask_both), Side(lambda: found[1])
