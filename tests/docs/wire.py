"""Runs the conversations that a document shows in ```wire blocks; the word behind `wire` names the server.

    ```wire data1
    > {"command":"store","block_id":"a-0","size":1}
    >> x
    < {"status":"ok","size":1,"crc32c":"c1d04330"}
    ```

| line | means |
| --- | --- |
| `> TEXT` | send TEXT and a newline |
| `>> TEXT` | send TEXT as it is, with `\\r` and `\\n` for those bytes |
| `< TEXT` | the next line that comes back: equal as JSON (see `tests/docs/volatile.py`), fields in this order |
| `<< TEXT` | just these bytes come back next |
| `-- the client closes its sending side` | as `nc -N` does at the end of its input |
| `-- the server closes the connection` | nothing more comes back |
| `-- a line with a size comes back, and so many bytes` | whatever they are |

Each block is a connection of its own. At its end the client closes its sending side; nothing more may come back.
"""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.docs.markdown import Block, Line, fenced_blocks
from tests.docs.volatile import Ports, steady

_TIMEOUT_SECONDS = 60
_CLIENT_CLOSES = "-- the client closes its sending side"
_SERVER_CLOSES = "-- the server closes the connection"
_BYTES_COME = "-- a line with a size comes back, and so many bytes"


@frozen
class Peer:
    """The client's end of a connection."""

    connection: socket.socket
    ports: Ports

    def play(self, line: Line) -> None:
        """Send or receive what a line of the document says; raises AssertionError if something else comes back."""
        mark, _space, text = line.text.partition(" ")
        if line.text == _CLIENT_CLOSES:
            self.connection.shutdown(socket.SHUT_WR)
        elif line.text == _SERVER_CLOSES:
            assert b"" == self.connection.recv(1)
        elif line.text == _BYTES_COME:
            size = json.loads(self._receive(lambda received: received.endswith(b"\n")))["size"]
            self._receive(lambda received: len(received) == size)
        elif mark == ">":
            self.connection.sendall(self.ports.in_use(text).encode() + b"\n")
        elif mark == ">>":
            self.connection.sendall(text.replace("\\r", "\r").replace("\\n", "\n").encode())
        elif mark == "<":
            self._expect(text)
        elif mark == "<<":
            wanted = text.encode()
            assert wanted == self._receive(lambda received: len(received) == len(wanted))
        else:
            raise AssertionError("a line of a wire block begins with >, >>, <, << or --")

    def end(self) -> None:
        """Close the sending side and check that nothing more comes back."""
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the server has closed already, as the document said
        rest = self.connection.recv(1 << 16)
        assert b"" == rest, f"came back, but is not shown: {rest.decode()}"

    def _expect(self, text: str) -> None:
        received = self._receive(lambda received: received.endswith(b"\n")).decode()
        came = self.ports.as_documented(received.rstrip("\n"))
        shown, found = json.loads(text), json.loads(came)
        assert steady(shown) == steady(found), f"shown: {text}\ncame:  {came}"
        assert _keys(shown) == _keys(found), f"the order of the fields differs\nshown: {text}\ncame:  {came}"

    def _receive(self, complete: Callable[[bytes], bool]) -> bytes:
        received = b""
        while not complete(received):
            byte = self.connection.recv(1)
            assert byte, f"the connection ended after {received!r}"
            received += byte
        return received


def _keys(value: Any) -> Any:
    match value:
        case dict():
            return [(key, _keys(each)) for key, each in value.items()]
        case list():
            return [_keys(each) for each in value]
    return None


def conversations(document: Path) -> list[Block]:
    """Return the ```wire blocks of a document."""
    return fenced_blocks(document, "wire")


def play(block: Block, servers: Mapping[str, int], ports: Ports) -> None:
    """Hold the conversation of a block with one of `servers` (name to port); errors tell the document's line."""
    [server] = block.words
    with socket.create_connection(("127.0.0.1", servers[server]), timeout=_TIMEOUT_SECONDS) as connection:
        peer = Peer(connection, ports)
        for line in block.lines:
            try:
                peer.play(line)
            except (AssertionError, OSError, ValueError) as error:
                raise AssertionError(f"line {line.number}: {line.text}\n{error}") from None
        peer.end()
