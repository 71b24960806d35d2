"""A daemon's life: start what it needs after twistd has forked, listen, and stop in order."""

import os
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, NoReturn, Protocol

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from filefly.daemon.protocol import ServerFactory, ServerProtocol
from filefly.errors import FileFlyError
from filefly.wire.address import HostPort

STOP_DEADLINE_SECONDS = 10.0


class Part(Protocol):
    """Something that a daemon starts before it listens, and stops after its last request."""

    def start(self) -> None:
        """Start, in the reactor's thread."""

    def stop(self) -> Any:
        """Stop; may return a Deferred."""


class DaemonService(Service):
    """One daemon; stops its port, then its requests in flight (with a deadline), then its parts, last to first."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        name: str,
        endpoint: IStreamServerEndpoint,
        factory: ServerFactory,
        parts: Sequence[Part],
        lets_anybody_in: bool = True,
    ) -> None:
        """`lets_anybody_in` is false where whoever connects has to show a certificate."""
        self._daemon = name
        self._reactor = reactor
        self._endpoint = endpoint
        self._factory = factory
        self._parts = parts
        self.warns_if_open = lets_anybody_in and factory.guard.is_open
        """Whether to warn if others than this machine can connect; one warning is enough for a process."""
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Start the parts, then listen."""
        super().startService()
        for part in self._parts:
            part.start()
        failures: list[Failure] = []
        self._endpoint.listen(self._factory).addCallbacks(self._listening, failures.append)
        if failures:
            # Only of an endpoint string that is not TCP: the others were bound before the fork. Not `refuse`: after
            # the fork a SystemExit would leave twistd's first process waiting for ever.
            raise RuntimeError(f"{self._daemon}: cannot listen: {failures[0].getErrorMessage()}")

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        host = port.getHost()
        address = _spelled(host)
        on_network = isinstance(host, IPv4Address | IPv6Address) and not ip_address(host.host).is_loopback
        if self.warns_if_open and on_network:
            self.log.warn(
                "{daemon}: whoever reaches {address} can read, overwrite and delete everything; where that is not a"
                " private network, listen on 127.0.0.1 (--addr), close the cluster (--secret-file), or keep"
                " others out with a firewall",
                daemon=self._daemon,
                address=address,
            )
        self.log.info("{daemon} is listening on {address}", daemon=self._daemon, address=address)

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when all is over."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        await self._requests_in_flight()
        for part in reversed(self._parts):
            await maybeDeferred(part.stop).addErrback(self._not_stopped)

    def _not_stopped(self, failure: Failure) -> None:
        """Go on: threads of the parts that are still to be stopped would keep the process alive."""
        if failure.check(FileFlyError):
            self.log.warn("{daemon}: {error}", daemon=self._daemon, error=failure.value)
        else:
            self.log.failure("stopping failed; going on with it", failure)

    async def _requests_in_flight(self) -> None:
        conversations = dict(self._factory.conversations)
        for conversation in conversations:
            conversation.leave()
        deadline = self._reactor.callLater(STOP_DEADLINE_SECONDS, _abort_all, conversations)
        await DeferredList(list(conversations.values()))
        if deadline.active():
            deadline.cancel()


def _spelled(address: Any) -> str:
    """Return an address as one would write it."""
    if isinstance(address, IPv4Address | IPv6Address):
        return str(HostPort(address.host, address.port))
    if isinstance(address, UNIXAddress) and address.name is not None:
        return f"unix:{os.fsdecode(address.name)}"
    return str(address)


def _abort_all(conversations: Sequence[ServerProtocol]) -> None:
    for conversation in conversations:
        conversation.abort()


def refuse(daemon: str, sentence: str) -> NoReturn:
    """End the process with a sentence and exit status 1; twistd turns anything else into a traceback."""
    raise SystemExit(f"{daemon}: {sentence}")
