"""The facts of the machine."""

from pathlib import Path

import pytest

from benchmarks.machine import facts, file_system

MOUNTS = "/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n/dev/vdb /dev xfs rw 0 0\n"


@pytest.mark.parametrize(("kind", "folder"), [("tmpfs", "/dev/shm/a"), ("xfs", "/dev/shmoo"), ("ext4", "/home")])
def test_a_folder_is_on_the_file_system_of_the_longest_mount_point_above_it(kind: str, folder: str) -> None:
    """Whole parts of the path count."""
    assert kind == file_system(Path(folder), MOUNTS)


def test_a_machine_without_seaweedfs_says_so(tmp_path: Path) -> None:
    """The facts name each place's file system, and what there is not."""
    found = facts({"disk": tmp_path}, tmp_path / "weed")

    assert found["seaweedfs"] == "not installed"
    assert "unknown" != found["file system (disk)"]
