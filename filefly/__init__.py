"""FileFly, a small distributed file store: a metadata server, data servers and a client."""

__version__ = "0.1.0"
