"""A block store on a disk that is watched; modules that need another one have their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filefly.data.blocks import BlockStore
from tests.data.disks import WatchedDisk, open_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blocks"


@pytest.fixture
def disk() -> WatchedDisk:
    return WatchedDisk()


@pytest.fixture
def store(folder: Path, disk: WatchedDisk) -> Iterator[BlockStore]:
    opened = open_store(folder, disk)
    yield opened
    opened.storage.release()
