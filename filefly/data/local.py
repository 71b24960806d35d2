"""Local reads, the server's end: a Unix socket on which clients of this machine get open files instead of bytes.

A client that has a block's file open reads it itself; through a socket every byte is copied twice more. The socket
answers all commands, as the port does. Its name is in Linux's abstract namespace: it needs no folder, goes with the
process, and nobody else can have it meanwhile.
"""

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from attrs import define, frozen
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorUNIX, IStreamServerEndpoint, IUNIXTransport
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from filefly.data.blocks import BlockStore
from filefly.errors import BadRequest
from filefly.threads import InThread
from filefly.wire.blocks import BlockSum, Retrieve
from filefly.wire.codec import encode
from filefly.wire.framing import Conversation

_HAS_ABSTRACT_NAMES = sys.platform == "linux"
_BACKLOG = 1024


@frozen
class LocalSocket:
    """A data server's local socket: its name, without the NUL, and the user who listens there.

    Where there is none, others may take its name; so clients look whose it is.
    """

    name: str
    uid: int


def name_of_local_socket(storage_id: str) -> str:
    """Return a name that is the storage's own and does not tell which one it is: everybody on the machine sees it."""
    return f"filefly-{sha256(storage_id.encode()).hexdigest()[:32]}"


@implementer(IStreamServerEndpoint)
@define(eq=False)
class WithLocalSocket:
    """Listens at a TCP `endpoint` and, where that can be, on the storage's local socket; `found` hears of it.

    Beside any other endpoint there is none: who may use a Unix socket with a path, its folder says.
    """

    log = Logger()
    _reactor: Any
    _endpoint: IStreamServerEndpoint
    _storage_id: str
    _found: Callable[[LocalSocket], None]

    def listen(self, factory: Any) -> Deferred[IListeningPort]:
        """See IStreamServerEndpoint."""
        return self._endpoint.listen(factory).addCallback(self._listen_beside, factory)

    def _listen_beside(self, port: IListeningPort, factory: Factory) -> IListeningPort:
        if not isinstance(port.getHost(), IPv4Address | IPv6Address):
            return port
        name = name_of_local_socket(self._storage_id)
        try:
            if not (_HAS_ABSTRACT_NAMES and IReactorUNIX.providedBy(self._reactor)):
                raise CannotListenError(None, name, "this system has no such sockets")
            local = self._reactor.listenUNIX("\0" + name, factory, backlog=_BACKLOG)
        except CannotListenError as error:
            self.log.info("no local reads: {error}", error=error)
            return port
        self._found(LocalSocket(name, os.geteuid()))
        return _TwoPorts(port, local)


@implementer(IListeningPort)
@define(eq=False)
class _TwoPorts:
    """A port, and another one that starts and stops with it."""

    _port: IListeningPort
    _other: IListeningPort

    def getHost(self) -> Any:
        """Return the address of the port."""
        return self._port.getHost()

    def startListening(self) -> None:
        """Listen again."""
        self._port.startListening()
        self._other.startListening()

    def stopListening(self) -> Deferred[Any]:
        """Stop; fires when both have."""
        return gatherResults([maybeDeferred(port.stopListening) for port in (self._port, self._other)])


async def send_open_file(request: Retrieve, conversation: Conversation, in_thread: InThread, store: BlockStore) -> None:
    """Send a block's size as a line and, on a Unix socket, its open file with it; raises BadRequest, NotFound."""
    if (request.offset, request.length, request.raw, request.crc32c) != (0, None, False, None):
        raise BadRequest("descriptor goes with none of offset, length, raw and crc32c")
    transport = conversation.transport
    if not IUNIXTransport.providedBy(transport):
        raise BadRequest("descriptor is for the data server's local socket; over TCP ask for raw")
    block = await in_thread(store.open, request.block_id)
    try:
        if conversation.lost is None:
            transport.sendFileDescriptor(block.fileno())  # with the next byte: all before it was sent
        await conversation.send(encode(BlockSum(size=block.size)) + b"\n")
    finally:
        await in_thread(block.close)
