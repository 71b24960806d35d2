"""What fsck says; what it finds is in test_fsck.py."""

import pytest

from filefly.catalog.inventory import DataServerRow
from filefly.meta.findings import unreachable

ROW = DataServerRow(1, address="h:1", advertised=None, placing=True, storage_id="one")


@pytest.mark.parametrize(
    ("error", "sentence", "mend"),
    [
        (
            "holds another storage than before; to take it as it is: filefly-client servers accept h:1",
            "holds another storage than before",
            "filefly-client servers accept h:1",
        ),
        (
            "holds the storage of h:2, or a copy of it; use one of them",
            "holds the storage of h:2, or a copy of it; use one of them",
            "see to that, and restart the data server",
        ),
        (
            "h:1: it has no secret (--secret-file)",
            "h:1: it has no secret (--secret-file)",
            "see to that, and restart the data server",
        ),
    ],
)
def test_what_is_refused_is_accepted_only_where_that_helps(error: str, sentence: str, mend: str) -> None:
    """A data server without the secret would be refused again."""
    found = unreachable(ROW, error, True)
    assert (f"data server h:1 cannot be asked: {sentence}", mend) == (found.sentence, found.mend)
