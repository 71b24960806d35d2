import os
from pathlib import Path

from tests.system.processes import processes


def test_others_cannot_read_what_a_server_keeps(tmp_path: Path) -> None:
    """Not even with an umask that forbids nothing: names are in the catalog, contents in the blocks."""
    before = os.umask(0)
    try:
        with processes(tmp_path) as running:
            running.store_by_hand("private", b"nobody else's business")
            kept = [path for each in ("blocks*", "filefly-catalog*") for path in tmp_path.glob(each)]
            below = [path for folder in kept if folder.is_dir() for path in folder.rglob("*")]
            open_to_others = [path for path in [*kept, *below] if path.stat().st_mode & 0o007]
            assert {"private-0", "filefly-catalog.sqlite"} <= {path.name for path in [*kept, *below]}
            assert [] == open_to_others
    finally:
        os.umask(before)
