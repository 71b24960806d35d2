"""README.md's terminal sessions, run for real."""

from pathlib import Path

from tests.docs.console import run_document
from tests.docs.markdown import fenced_blocks

README = Path(__file__).parents[2] / "README.md"


def test_the_sessions_in_readme_work_as_shown(tmp_path: Path) -> None:
    """Every ```console block of README.md, in order in one folder, prints what it shows."""
    assert fenced_blocks(README, "console")
    run_document(README, tmp_path)
