"""Fuzzes one target by coverage, with atheris, in a process of its own.

    python -m tests.fuzz.guided TARGET RUNS SEED FOLDER

It begins with the target's examples. An input that fails is printed as Python spells it, and ends the process. So does
one that takes too long, and memory that grows.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["filefly", "jwt"]):
    from tests.fuzz.running import Failed, Memory, Runner
    from tests.fuzz.targets import TARGETS, Target

from twisted.logger import globalLogBeginner

from filefly.units import MIB

MOST_GROWTH = 128 * MIB
"""What is found on the way is kept in memory."""


def main(name: str, runs: int, seed: int, folder: Path) -> None:
    """Run a target so often, with an empty folder for what it keeps; never returns."""
    target = TARGETS[name]
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    with target.opened(folder) as run:
        runner = Runner(f"{name}, guided, seed {seed}", run)
        memory = Memory(runs, MOST_GROWTH)

        def run_once(data: bytes) -> None:
            try:
                runner(data)
                memory.look(runner.count)
            except AssertionError as error:
                print(error if isinstance(error, Failed) else f"{name}: {error}", flush=True)
                raise
            if runner.count == runs:
                print(f"{name}: {runner.count} inputs", flush=True)

        atheris.Setup(_arguments(folder, target, runs, seed), run_once)
        atheris.Fuzz()


def _arguments(folder: Path, target: Target, runs: int, seed: int) -> list[str]:
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, example in enumerate(target.examples):
        (corpus / str(number)).write_bytes(example)
    dictionary = folder / "words"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if 0 < len(word) <= 64))
    return [
        *("fuzz", str(corpus), f"-dict={dictionary}", f"-runs={runs}", f"-seed={seed}"),
        *(f"-max_len={target.longest}", "-timeout=60", "-rss_limit_mb=1500", f"-artifact_prefix={folder}/"),
    ]


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
