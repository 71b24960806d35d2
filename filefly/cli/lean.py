"""Twisted without its own TLS, where nobody asks for that: to load it takes a fifth of what a command takes.

FileFly's TLS (`tls://HOST:PORT`) loads OpenSSL when it dials; only Twisted's endpoint strings (`ssl:`, `tls:`) need
what is left out.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

_LEFT_OUT = "OpenSSL"
_ENDPOINT = re.compile(r"\b(ssl|tls):(?!//)")


@contextmanager
def lean() -> Iterator[None]:
    """Import Twisted in the block: without its TLS, unless the command line or the environment has an `ssl:`."""
    texts = [*sys.argv[1:], os.environ.get("FILEFLY_METADATA_ADDR", "")]
    if _LEFT_OUT in sys.modules or any(_ENDPOINT.search(text) for text in texts):
        yield
        return
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    modules[_LEFT_OUT] = None  # which makes an import of it fail, as if it were not installed
    try:
        yield
    finally:
        del modules[_LEFT_OUT]
