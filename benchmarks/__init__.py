"""FileFly and what one would use instead, as real processes on one machine, run in turn. Run by `make bench`.

| module | what it is for |
| --- | --- |
| `__main__` | the command line: `python -m benchmarks --help` |
| `cases/` | what is measured: one module a subject, one `Row` a line of the table |
| `measures` | a row of figures, its ratio and its bound; two sides run in turn |
| `place` | where a run works (on the disk, in memory), and the systems that run there |
| `cluster`, `seaweed` | FileFly and SeaweedFS as processes |
| `processes` | starting, timing and surely ending processes |
| `load/` | programs that run as processes of their own: load generators, bare loop, pump |
| `report`, `plot`, `machine` | the tables, the picture, the facts of the machine |

The sides of a row run A B A B ...: first a pair that does not count, then the counted ones. What one run left is
removed, and the disk is synced, before the next one. A ratio is the median of the ratios of the pairs, so what slows
the machine for a while slows both sides of a pair.
"""
