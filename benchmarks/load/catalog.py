"""Make a catalog of many committed files, each of one block, without storing any.

Usage: python -m benchmarks.load.catalog FILE HOST:PORT COUNT   (the address is that of the data server of all blocks)
"""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, insert

from benchmarks.load.works import BLOCK_SIZE, catalog_name
from filefly.catalog.database import open_database
from filefly.catalog.inventory import take_data_servers
from filefly.catalog.schema import blocks, plans, replicas
from filefly.units import MIB
from filefly.wire.names import make_block_id, stem_of

_AT_ONCE = 10_000
_MODIFIED = "2026-01-01T00:00:00.000Z"
_ATTRIBUTES = '{"mode":"0644","mtime":"2026-01-01T00:00:00.000000000Z"}'


def main(file: str, address: str, count: int) -> None:
    """Make the catalog; the first generation is 1."""
    database = open_database(f"sqlite:///{file}", lambda: os.urandom(16).hex())

    def fill(connection: Connection) -> None:
        [server] = take_data_servers(connection, {address: None})
        for begin in range(0, count, _AT_ONCE):
            numbers = range(begin, min(begin + _AT_ONCE, count))
            connection.execute(insert(plans), list(map(_plan, numbers)))
            connection.execute(insert(blocks), list(map(_block, numbers)))
            connection.execute(insert(replicas), list(_replicas(numbers, server.key)))

    [failed] = database.write([fill])
    database.close()
    if failed is not None:
        sys.exit(str(failed))
    print("{}")


def _plan(number: int) -> Mapping[str, Any]:
    name = catalog_name(number)
    return {
        "generation": number + 1,
        "name": name,
        "state": "committed",
        "explicit": True,
        "total_size": BLOCK_SIZE,
        "block_size": 8 * MIB,
        "replicas": 1,
        "attributes": _ATTRIBUTES,
        "stem": stem_of(name),
        "modified": _MODIFIED,
    }


def _block(number: int) -> Mapping[str, Any]:
    block_id = make_block_id(stem_of(catalog_name(number)), 0, None)
    return {"generation": number + 1, "position": 0, "id": block_id, "size": BLOCK_SIZE, "crc32c": f"{number:08x}"}


def _replicas(numbers: range, server: int) -> Iterator[Mapping[str, Any]]:
    return ({"generation": number + 1, "position": 0, "rank": 0, "server": server} for number in numbers)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
