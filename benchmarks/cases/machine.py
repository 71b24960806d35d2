"""What the machine gives without any store, and what memory the daemons of all cases took."""

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.measures import Row, Side, at_most
from benchmarks.place import Place, random_file
from benchmarks.processes import Command, load, timed
from filefly.units import MIB

_DAEMONS = ("data server", "metadata server")


def limits(place: Place) -> Iterator[Row]:
    """Copy a file in the ways that need no store, and pump its bytes over loopback."""
    size = place.sizes.file
    source = random_file(place.folder / "limits.bin", size)
    target = source.with_suffix(".copy")
    copies: dict[str, Command] = {
        "cp": ["cp", source, target],
        "dd conv=fsync": ["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync"],
    }
    sides = {name: Side(partial(_speed, size, command), target.unlink) for name, command in copies.items()}
    sides["loopback pump, 1 MiB sends"] = Side(lambda: float(load("pump", str(size))["per_second"]))
    for name, figures in zip(sides, place.in_turn(*sides.values()), strict=True):
        yield Row("limits", "the machine's limit", place.name, "MiB/s", peer=name, peer_figures=figures)
    source.unlink()


def _speed(size: int, command: Command) -> float:
    return size / MIB / timed(command)


def memory(peaks: Mapping[str, int]) -> Iterator[Row]:
    """Tell the most memory that a daemon of each kind had resident, over all cases."""
    weed = [peaks["SeaweedFS"] / MIB] if "SeaweedFS" in peaks else []
    for role in _DAEMONS:
        if role in peaks:
            peer, bound = ("weed server", at_most(0.25)) if weed else ("", None)
            own = [peaks[role] / MIB]
            yield Row("memory", f"peak memory, {role}", "all", "MiB", own, peer, weed, bound, at_most(120))
