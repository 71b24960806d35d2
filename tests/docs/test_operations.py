"""docs/operations.md's terminal sessions, run for real."""

from pathlib import Path

from tests.docs.console import run_document
from tests.docs.markdown import fenced_blocks

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_sessions_in_operations_work_as_shown(tmp_path: Path) -> None:
    """Every ```console block of docs/operations.md, in order in one cluster, prints what it shows."""
    assert fenced_blocks(OPERATIONS, "console")
    run_document(OPERATIONS, tmp_path)
