"""Local reads, the client's end: from a data server on this machine a block comes as an open file, not as bytes.

The thread that writes the file then reads the block itself, which costs half as much as to have it from a socket. The
bytes are verified as always, so that whoever is behind a local socket can at worst make a read fail; and what fails
there is asked for over TCP again. A ticket is shown there only to the user who the data server says it is.
"""

import os
import re
import socket
import stat
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import DeferredLock
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from filefly.client.connection import ConnectionPool, ServerConnection
from filefly.errors import FileFlyError, Unavailable
from filefly.units import KIB, MIB, Chunks
from filefly.wire.address import has_one_address
from filefly.wire.blocks import BlockSum, Retrieve
from filefly.wire.codec import NotUnderstood
from filefly.wire.messages import Ping, Pong

WORTH_A_FILE = 256 * KIB
"""Smaller blocks come as quickly over TCP."""
_SILENCE_SECONDS = 5.0  # a file is opened quickly, or bytes will not come quickly either
_PIECE_BYTES = MIB
_CREDENTIALS = struct.Struct("iII")  # Linux's ucred
_NAME = re.compile(r"filefly-[\w.-]{1,90}", re.ASCII)


@define(eq=False)
class OpenBlock:
    """A block's open file; closed by whoever is done with it first, or by the thread that is reading it."""

    _descriptor: int
    _lock: threading.Lock = field(factory=threading.Lock)
    _taken: bool = False
    _given_up: bool = False

    def close(self) -> None:
        """Close it, or have a thread that is reading stop and close it. Again is fine."""
        self._given_up = True
        if self._take():
            os.close(self._descriptor)

    def _take(self) -> bool:
        with self._lock:
            taken, self._taken = self._taken, True
        return not taken

    def read(self, size: int, take: Callable[[Chunks], None]) -> None:
        """Read `size` bytes, hand them to `take` in pieces that it must not keep, and close the file.

        Raises Unavailable if they cannot be read, and what `take` raises.
        """
        if not self._take():
            raise Unavailable("the read was given up")
        try:
            self._read(size, take)
        finally:
            os.close(self._descriptor)

    def _read(self, size: int, take: Callable[[Chunks], None]) -> None:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise Unavailable("what came is no file")  # a pipe might be silent for ever
        buffer = memoryview(bytearray(min(size, _PIECE_BYTES)))
        at = 0
        while at < size:
            if self._given_up:
                raise Unavailable("the read was given up")
            try:
                got = os.preadv(self._descriptor, [buffer[: size - at]], at)
            except OSError as error:
                raise Unavailable(f"cannot read the block's file: {error.strerror}") from error
            if not got:
                raise Unavailable("the block was cut short while it was read")
            take([buffer[:got]])
            at += got


@implementer(IFileDescriptorReceiver)
class LocalConnection(ServerConnection):
    """A conversation over a Unix socket, whose replies may bring an open file."""

    def __init__(self, clock: Any, address: str, timeout_seconds: float) -> None:
        super().__init__(clock, address, min(timeout_seconds, _SILENCE_SECONDS))
        self._received: OpenBlock | None = None

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Keep it for who asked; what nobody has taken is closed."""
        os.set_inheritable(descriptor, False)
        self._drop()
        self._received = OpenBlock(descriptor)

    def check_user(self, uid: int) -> None:
        """Raise Unavailable unless it is the user `uid` who listens at the other end, as the system says."""
        found = self.transport.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, found_uid, _gid = _CREDENTIALS.unpack(found)
        if found_uid != uid:
            raise Unavailable("the local socket is another user's")

    def take_file(self) -> OpenBlock:
        """Return the file that came with the last reply; raises Unavailable if none did."""
        received, self._received = self._received, None
        if received is None:
            raise Unavailable("no file came with the reply")
        return received

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        """Close what nobody has taken."""
        super().connectionLost(reason)
        self._drop()

    def _drop(self) -> None:
        received, self._received = self._received, None
        if received is not None:
            received.close()


@frozen
class LocalSocket:
    """Where a data server hands out open files: the endpoint, the user who listens there, and the TCP end that says so.

    When that is lost the data server may be gone, and the name another program's.
    """

    endpoint: str
    uid: int
    told_by: ServerConnection


@define(eq=False)
class LocalReads:
    """Knows which data servers hand out open files, and asks for them."""

    _pool: ConnectionPool
    _sockets: dict[str, LocalSocket | None] = field(factory=dict, init=False)
    _asking: dict[str, DeferredLock] = field(factory=dict, init=False)

    async def socket_of(self, address: str) -> LocalSocket | None:
        """Return where the data server at `address` hands out open files, None if it does not.

        It is asked once, and again when the connection is lost. Raises Unavailable or TimedOut if it cannot be asked.
        """
        if not self._is_known(address):
            lock = self._asking.setdefault(address, DeferredLock())
            await lock.acquire()
            try:
                if not self._is_known(address):
                    self._sockets[address] = await self._ask(address)
            finally:
                lock.release()
        return self._sockets[address]

    def _is_known(self, address: str) -> bool:
        if address not in self._sockets:
            return False
        known = self._sockets[address]
        return known is None or known.told_by.lost is None

    async def _ask(self, address: str) -> LocalSocket | None:
        async with self._pool.connection(address) as connection:
            if not has_one_address(connection.transport):
                return None
            try:
                pong = await connection.request(Ping(identity=True), Pong)
            except NotUnderstood:
                return None
            except FileFlyError:
                if not connection.usable:
                    raise
                return None  # it has said no
        name, uid = pong.local_socket, pong.local_uid
        if name is None or uid is None or not _NAME.fullmatch(name):
            return None
        return LocalSocket(f"unix:\0{name}:timeout={_SILENCE_SECONDS:.0f}", uid, connection)

    def give_up(self, address: str) -> None:
        """Ask the data server at `address` for bytes from now on."""
        self._sockets[address] = None

    @asynccontextmanager
    async def opened(
        self, local_socket: LocalSocket, block_id: str, ticket: str | None = None
    ) -> AsyncIterator[tuple[OpenBlock, int]]:
        """Have a block's file and its size; it is closed in the end. Raises what the data server says."""
        async with self._pool.connection_of(LocalConnection, local_socket.endpoint) as connection:
            connection.check_user(local_socket.uid)
            reply = await connection.request(Retrieve(block_id=block_id, descriptor=True, ticket=ticket), BlockSum)
            file = connection.take_file()
        try:
            yield file, reply.size
        finally:
            file.close()
