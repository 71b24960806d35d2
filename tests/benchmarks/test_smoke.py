"""The harness from end to end, on real processes and next to no bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cases import CASES
from benchmarks.processes import environment

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_every_case_measures_filefly_on_the_disk_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Each case has figures, SeaweedFS or not; the folder of the run and all its processes are gone."""
    work, results = tmp_path / "work", tmp_path / "results"
    options = ["--size", "tiny", "--pairs", "1", "--where", "disk"]
    folders: list[str | Path] = ["--disk", work, "--output", results, "--weed", tmp_path / "there is none"]
    command = [sys.executable, "-m", "benchmarks", *options, *folders]

    subprocess.run(command, cwd=ROOT, env=environment(), check=True, timeout=240)

    rows = json.loads((results / "bench.json").read_text())["rows"]
    measured = {row["case"] for row in rows if row["figures"] or row["peer_figures"]}
    assert set(CASES) | {"memory"} == measured
    assert [] == list(work.iterdir())
    assert [] == _processes_of(work)
    assert (results / "bench.md").read_text().startswith("### Floors\n")


def _processes_of(folder: Path) -> list[str]:
    """Return the command lines that name a folder."""
    everything = subprocess.check_output(["ps", "-eo", "args"], text=True)
    return [line for line in everything.splitlines() if str(folder) in line]


@pytest.mark.slow
def test_the_picture_is_a_png(tmp_path: Path) -> None:
    """What the ratios are drawn into can be opened."""
    pytest.importorskip("matplotlib", reason="only make bench installs matplotlib")
    from benchmarks.measures import Row, at_least
    from benchmarks.plot import draw

    path = tmp_path / "bench.png"

    assert draw([Row("up", "1 GiB up", "disk", "MiB/s", [1.0, 2.0], "dd", [2.0, 2.0], at_least(0.7))], path)
    assert path.read_bytes().startswith(b"\x89PNG")
