"""Ask two servers the same, request by request in alternation: how much longer does one take?

Usage: python -m benchmarks.load.alternation plan|metadata|list --count N --page N ADDRESS NAMES ADDRESS NAMES

One process asks both, one request at a time, and first now the one and now the other, so that whatever else goes on on
the machine meets both alike.
"""

import argparse
import json
import select
from array import array
from collections.abc import Sequence
from statistics import median

from benchmarks.load.generator import Conversation, connect
from benchmarks.load.works import WORKS, Work


def alternate(conversations: Sequence[Conversation], works: Sequence[Work]) -> list[float]:
    """Have each conversation do its work, one item after the other in turn; return each one's median seconds."""
    for number, scripts in enumerate(zip(*(work.scripts() for work in works), strict=True)):
        in_turn = list(zip(conversations, scripts, strict=True))
        for conversation, script in in_turn if number % 2 else in_turn[::-1]:
            conversation.scripts = iter([script])
            conversation.start(1)
            while not conversation.over:
                select.select([conversation.socket], [], [])
                conversation.receive()
    return [median(conversation.latencies) for conversation in conversations]


def main() -> None:
    """Ask both servers and print the two medians in milliseconds as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("plan", "metadata", "list"))
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--page", type=int, default=0)
    parser.add_argument("--prefix", default="new")
    parser.add_argument(
        "servers", nargs=4, help="the address of a server and the number of files in its catalog, twice"
    )
    given = parser.parse_args()
    works = [WORKS[given.work](argparse.Namespace(**vars(given), names=int(names))) for names in given.servers[1::2]]
    conversations = [Conversation(connect(address), array("d"), iter(())) for address in given.servers[::2]]
    print(json.dumps([seconds * 1000 for seconds in alternate(conversations, works)]))


if __name__ == "__main__":
    main()
