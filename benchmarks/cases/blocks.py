"""Small blocks to and from one data server over 16 connections: what a request costs."""

import os
from collections.abc import Iterator, Sequence

from benchmarks.cases.trees import bare_loop
from benchmarks.cluster import DataServer, start_data_server
from benchmarks.measures import Bound, Row, Side, at_least
from benchmarks.place import Place
from benchmarks.processes import load
from filefly.units import KIB

_CONNECTIONS = 16
_SIZE = KIB
_DEEP = 16


def store(place: Place) -> Iterator[Row]:
    """Store 1 KiB blocks: against the bare loop on the disk, against `weed benchmark` in memory."""
    title = "1 KiB blocks, 16 connections, `store`"
    server = _data_server(place)
    ours = Side(lambda: _blocks_per_second(place, "store", [server]), server.remove_blocks)
    if place.on_disk:
        own, others = place.in_turn(ours, bare_loop(place, place.sizes.blocks, _SIZE))
        yield Row("store", title, place.name, "blocks/s", own, "bare loop", others, at_least(0.6))
    elif place.weed is None:
        yield place.without_weed("store", title)
    else:
        own, others = place.in_turn(ours, Side(lambda: place.seaweed.writes_per_second(*_weed_work(place))))
        yield Row("store", title, place.name, "blocks/s", own, "weed benchmark", others, at_least(1.0))
    [deep] = place.in_turn(Side(lambda: _blocks_per_second(place, "store", [server], _DEEP), server.remove_blocks))
    yield Row("store", f"{title}, {_DEEP} requests ahead", place.name, "blocks/s", deep)
    place.processes.kill(server.daemon)


def retrieve(place: Place) -> Iterator[Row]:
    """Retrieve 1 KiB blocks: against `weed benchmark`, from one process and from as many as there are cores."""
    title = "1 KiB blocks, 16 connections, `retrieve`"
    cores = os.cpu_count() or 1
    yield from _retrieve(place, title, at_least(0.6), 1)
    yield from _retrieve(place, f"{title}, {cores} data servers", at_least(0.6 if place.on_disk else 1.0), cores)


def _retrieve(place: Place, title: str, bound: Bound, processes: int) -> Iterator[Row]:
    servers = [_data_server(place) for _number in range(processes)]
    for server in servers:  # each has every block
        load("generator", *_work(place, "store", [server], 1))
    ours = Side(lambda: _blocks_per_second(place, "retrieve", servers))
    if place.weed is None:
        [own] = place.in_turn(ours)
        yield Row("retrieve", title, place.name, "blocks/s", own, note="SeaweedFS is not installed")
    else:
        place.seaweed.writes_per_second(*_weed_work(place))
        own, others = place.in_turn(ours, Side(lambda: place.seaweed.reads_per_second(*_weed_work(place))))
        yield Row("retrieve", title, place.name, "blocks/s", own, "weed benchmark", others, bound)
    [deep] = place.in_turn(Side(lambda: _blocks_per_second(place, "retrieve", servers, _DEEP)))
    yield Row("retrieve", f"{title}, {_DEEP} requests ahead", place.name, "blocks/s", deep)
    for server in servers:
        place.processes.kill(server.daemon)
        server.remove_blocks()


def _data_server(place: Place) -> DataServer:
    return start_data_server(place.processes, place.new_folder("blocks"), "blocks")


def _weed_work(place: Place) -> tuple[int, int, int]:
    return place.sizes.blocks, _SIZE, _CONNECTIONS


def _blocks_per_second(place: Place, verb: str, servers: Sequence[DataServer], depth: int = 1) -> float:
    return float(load("generator", *_work(place, verb, servers, depth))["per_second"])


def _work(place: Place, verb: str, servers: Sequence[DataServer], depth: int) -> Sequence[str]:
    numbers = ("--count", str(place.sizes.blocks), "--connections", str(_CONNECTIONS), "--depth", str(depth))
    addresses = ",".join(server.address for server in servers)
    return (verb, addresses, *numbers, "--processes", str(len(servers)))
