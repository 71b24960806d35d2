"""README.md's terminal sessions and its Python example, run for real."""

import subprocess
import sys
from pathlib import Path

from tests.docs.console import run_document
from tests.docs.markdown import fenced_blocks
from tests.system.processes import processes

README = Path(__file__).parents[2] / "README.md"


def test_the_sessions_in_readme_work_as_shown(tmp_path: Path) -> None:
    """Every ```console block of README.md, in order in one folder, prints what it shows."""
    assert fenced_blocks(README, "console")
    run_document(README, tmp_path)


def test_the_python_example_in_readme_works(tmp_path: Path) -> None:
    """The ```python block of README.md runs against a real cluster and prints what it should."""
    [example] = fenced_blocks(README, "python")
    with processes(tmp_path) as cluster:
        program = "\n".join(line.text for line in example.lines).replace("localhost:9000", cluster.meta.address)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
    assert "Python\ngreeting.txt 17\n" == done.stdout
    assert "hello from Python" == (tmp_path / "greeting-copy.txt").read_text()
