"""The cluster that most modules here share."""

from collections.abc import Iterator

import pytest

from tests.system.processes import Processes, processes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run a metadata server with blocks of 8 bytes, as README.md does, and two data servers."""
    with processes(tmp_path_factory.mktemp("cluster"), "--block-size", "8") as running:
        yield running
