"""What is measured: a module a subject, a generator of rows a case."""

from collections.abc import Mapping

from benchmarks.cases import blocks, files, machine, plans, repair, scaling, tls, trees
from benchmarks.place import Case

CASES: Mapping[str, Case] = {
    "up": files.up,
    "down": files.down,
    "tls": tls.up_and_down,
    "tree-up": trees.tree_up,
    "tree-down": trees.tree_down,
    "store": blocks.store,
    "retrieve": blocks.retrieve,
    "limits": machine.limits,
    "tiny": files.tiny,
    "pairs": plans.pairs,
    "repair": repair.repair,
    "catalog": plans.catalog,
    "scaling": scaling.scaling,
}
"""By the name that `--cases` knows them by, in the order in which they run."""

ONCE = frozenset({"tiny", "pairs", "repair", "catalog", "scaling"})
"""Those that run at the first place only: on the disk, unless something else was asked for."""
