"""What the load generator can ask of a server, and how the answers are checked.

| work | a script asks | server |
| --- | --- | --- |
| `store` | to store a block of 1 KiB | data |
| `retrieve` | for such a block, in random order | data |
| `pairs` | `store_file`, and then `complete_file` of that plan | metadata |
| `plan` | `store_file` | metadata |
| `metadata` | `get_metadata` of a file of the catalog, at random | metadata |
| `list` | a page of `page` files after one of the catalog, at random | metadata |

Requests are encoded before the clock starts, except those that depend on a reply.
"""

import random
from argparse import Namespace
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen
from crc32c import crc32c
from msgspec import json

from filefly.units import KIB

BLOCK_SIZE = KIB
_FOLDER = 100


@frozen
class Request:
    """What is sent, and how many raw bytes follow the line of its reply."""

    line: bytes
    payload: int = 0


@frozen
class Reply:
    """A reply's line, whose status is ok, and the bytes behind it."""

    line: bytes
    payload: bytes


Script = Generator[Request, Reply, None]


@frozen
class Work:
    """How many items there are to do, and the script of each; a script ends when its item is done."""

    count: int
    scripts: Callable[[], Iterator[Script]]


class Unexpected(Exception):
    """A server's reply is not what was to be expected."""


def catalog_name(number: int) -> str:
    """Return the name of a file of a catalog that was made for measuring: folders of 100 files in scattered order."""
    folder, place = divmod(number, _FOLDER)
    return f"{folder * 0x9E3779B1 % 2**32:08x}/file{place:02}.dat"


def block(number: int) -> bytes:
    """Return the bytes of a block, no two of which are alike."""
    return number.to_bytes(8, "big") * (BLOCK_SIZE // 8)


def _line(command: str, **fields: Any) -> bytes:
    return json.encode({"command": command, **fields}) + b"\n"


def _expect(holds: bool, reply: Reply) -> None:
    if not holds:
        raise Unexpected(f"unexpected reply: {reply.line[:500]!r}")


def _one_exchange(request: Request, holds: Callable[[Reply], bool]) -> Script:
    reply = yield request
    _expect(holds(reply), reply)


def _work(requests: Iterable[tuple[Request, Callable[[Reply], bool]]]) -> Work:
    made = list(requests)
    return Work(len(made), lambda: (_one_exchange(*each) for each in made))


def _store(given: Namespace) -> Work:
    def request(number: int) -> Request:
        data = block(number)
        line = _line("store", block_id=f"{given.prefix}-{number}", size=BLOCK_SIZE, crc32c=f"{crc32c(data):08x}")
        return Request(line + data)

    return _work((request(number), lambda reply: b'"crc32c"' in reply.line) for number in range(given.count))


def _retrieve(given: Namespace) -> Work:
    def request(number: int) -> tuple[Request, Callable[[Reply], bool]]:
        line = _line("retrieve", block_id=f"{given.prefix}-{number}", raw=True)
        return Request(line, BLOCK_SIZE), lambda reply: reply.payload == block(number)

    numbers = list(range(given.count))
    random.Random(given.count).shuffle(numbers)
    return _work(map(request, numbers))


def _plan_request(name: str) -> Request:
    return Request(_line("store_file", file_name=name, file_size=BLOCK_SIZE, explicit=True, if_generation=0))


def _plan(given: Namespace) -> Work:
    return _work(
        (_plan_request(f"{given.prefix}/{number}"), lambda reply: b'"pending"' in reply.line)
        for number in range(given.count)
    )


def _pairs(given: Namespace) -> Work:
    requests = [_plan_request(f"{given.prefix}/{number}") for number in range(given.count)]
    return Work(given.count, lambda: map(_plan_and_complete, requests))


def _plan_and_complete(request: Request) -> Script:
    reply = yield request
    plan = json.decode(reply.line)["metadata"]
    [planned] = plan["blocks"]
    stored = {"id": planned["id"], "crc32c": "00000000", "replicas": planned["replicas"]}
    reply = yield Request(_line("complete_file", generation=plan["generation"], blocks=[stored]))
    _expect(json.decode(reply.line)["metadata"]["state"] == "committed", reply)


def _metadata(given: Namespace) -> Work:
    return _work(
        (Request(_line("get_metadata", file_name=catalog_name(number))), lambda reply: b'"committed"' in reply.line)
        for number in _numbers(given)
    )


def _list(given: Namespace) -> Work:
    def full(reply: Reply) -> bool:
        return bool(len(json.decode(reply.line)["files"]) == given.page)

    names = _names_in_first_half(given)
    return _work((Request(_line("list_files", after=after, limit=given.page)), full) for after in names)


def _numbers(given: Namespace) -> list[int]:
    return random.Random(given.count).choices(range(given.names), k=given.count)


def _names_in_first_half(given: Namespace) -> Iterator[str]:
    """Yield names behind which there is a whole page."""
    half = sorted(catalog_name(number) for number in range(0, given.names, max(1, given.names // 10_000)))
    half = half[: len(half) // 2]
    return (half[number % len(half)] for number in _numbers(given))


WORKS: Mapping[str, Callable[[Namespace], Work]] = {
    "store": _store,
    "retrieve": _retrieve,
    "pairs": _pairs,
    "plan": _plan,
    "metadata": _metadata,
    "list": _list,
}
"""By name; each takes the arguments of the load generator."""
