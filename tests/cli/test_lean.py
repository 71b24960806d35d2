import subprocess
import sys

import pytest

_PROGRAM = """
import sys
from filefly.cli.main import main
try:
    main()
except SystemExit as end:
    print(end.code, "OpenSSL" in sys.modules)
"""


@pytest.mark.parametrize(
    ("address", "loaded"),
    [("127.0.0.1:1", False), ("tls://127.0.0.1:1", True), ("tls:127.0.0.1:1", True), ("ssl:127.0.0.1:1", True)],
)
def test_openssl_is_loaded_only_where_it_is_used(address: str, loaded: bool) -> None:
    """Most commands would wait for it in vain."""
    command = [sys.executable, "-c", _PROGRAM, "--metadata-addr", address, "ls"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert f"1 {loaded}\n" == done.stdout
    assert f"filefly-client: cannot reach {address}: " in done.stderr
