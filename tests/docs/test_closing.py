"""docs/closing.md's terminal session, run for real."""

from pathlib import Path

from tests.docs.console import run_document

CLOSING = Path(__file__).parents[2] / "docs" / "closing.md"


def test_the_session_in_closing_works_as_shown(tmp_path: Path) -> None:
    """Every ```console block of docs/closing.md, in order in one folder, prints what it shows."""
    run_document(CLOSING, tmp_path)
