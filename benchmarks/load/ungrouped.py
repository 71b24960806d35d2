"""twistd, with a metadata server that makes each change of its catalog durable by itself: no group commit.

Usage: python benchmarks/load/ungrouped.py, and what `twistd` takes

It is the same service with one number changed: how many changes one transaction may take.
"""

import sys

from twisted.scripts.twistd import run

from filefly.meta import transactions


def main() -> None:
    """Change the number and be twistd."""
    if not hasattr(transactions, "_LARGEST_GROUP"):
        sys.exit("filefly.meta.transactions has no _LARGEST_GROUP any more: say here how to do without group commit")
    transactions._LARGEST_GROUP = 1  # noqa: SLF001 - an option that nobody but a benchmark wants
    run()


if __name__ == "__main__":
    main()
