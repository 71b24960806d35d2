"""What tests of the client library need."""

import pytest


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: how long a client waits is a test of its own."""
    monkeypatch.setattr("filefly.client.retries.RETRY_DELAYS_SECONDS", (0, 0))
