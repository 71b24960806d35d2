"""The client library: plans from the metadata server, blocks straight to and from the data servers."""

from filefly.client.api import Client
from filefly.client.progress import Progress

__all__ = ["Client", "Progress"]
