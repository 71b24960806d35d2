"""Pump bytes from one process to another over loopback, 1 MiB at a time: what sockets give.

Usage: python -m benchmarks.load.pump BYTES
"""

import json
import os
import socket
import sys
import time

from filefly.units import MIB


def main(total: int) -> None:
    """Send `total` bytes to a forked reader; print the MiB a second as JSON."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if os.fork():
            with listener.accept()[0] as connected:
                _read(connected, total)
            os.wait()
        else:
            with socket.create_connection(listener.getsockname()) as connected:
                piece = bytes(MIB)
                for _ in range(total // MIB):
                    connected.sendall(piece)


def _read(connected: socket.socket, total: int) -> None:
    buffer, received, begun = bytearray(MIB), 0, time.perf_counter()
    while received < total:
        received += (got := connected.recv_into(buffer))
        if not got:
            sys.exit(f"the pump stopped after {received} of {total} bytes")
    print(json.dumps({"per_second": total / MIB / (time.perf_counter() - begun)}))


if __name__ == "__main__":
    main(int(sys.argv[1]) // MIB * MIB)
