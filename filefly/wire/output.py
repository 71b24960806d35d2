"""What is on its way to a peer: sent at once as far as the system takes it, and the rest slice by slice as it reads."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, succeed

from filefly.units import KIB
from filefly.wire.budget import Reader, UnsentReplies
from filefly.wire.gates import SLICE_BYTES, Rest, SendingGate, slices_of
from filefly.wire.lending import can_be_lent

_SMALL_BYTES = 64 * KIB  # pieces of so little in all are cheaper to copy than to send one by one


class Output:
    """The sending side of the connection to `reader`; `unsent` hears how much waits for it."""

    _transport: Any

    def __init__(self, reader: Reader, unsent: UnsentReplies | None) -> None:
        self._reader: Reader | None = reader
        self._unsent = unsent
        self._gate = SendingGate()
        self._rest: Rest | None = None
        self._one_by_one = DeferredLock()
        self.direct = False
        """Whether it is a plain TCP connection, and the gate open exactly while that has nothing left to send."""
        self.moved = 0
        """Changes as the peer reads what was waiting for it."""

    def connect(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        self.direct = can_be_lent(transport)
        if not self.direct:
            transport.registerProducer(self._gate, True)
        with suppress(AttributeError, OSError):  # not every transport is TCP
            transport.setTcpNoDelay(True)

    @property
    def waits(self) -> bool:
        """Whether something waits to be read."""
        return not self._gate.open

    def flushed(self) -> Deferred[None]:
        """Fire once the transport takes more (TCP: has nothing left to send), or the connection is lost."""
        return succeed(None) if self._gate.open else self._gate.passed()

    def send(self, pieces: Sequence[bytes]) -> Deferred[None]:
        """Send `pieces`, behind what was sent before; the result fires once the transport takes more."""
        if self.direct:
            if self._rest is not None and self.waits:
                self._rest.add(pieces)
            else:
                self._send_at_once(pieces)
        elif self._one_by_one.locked or sum(map(len, pieces)) > SLICE_BYTES:
            return self._one_by_one.run(Deferred.fromCoroutine, self._send_slices(pieces))
        else:
            self._transport.write(b"".join(pieces))
        return succeed(None) if self._gate.open else self._gate.passed()

    def _send_at_once(self, pieces: Sequence[bytes]) -> None:
        """Send what the system takes, without a turn of the reactor, and leave the rest to the transport."""
        if len(pieces) > 1 and sum(map(len, pieces)) <= _SMALL_BYTES:
            pieces = [b"".join(pieces)]
        for place, piece in enumerate(pieces):
            unsent = memoryview(piece)
            while unsent:
                sent = self._transport.writeSomeData(unsent)
                if sent == 0 or isinstance(sent, Exception):  # full; or lost, as the transport will find out itself
                    self._rest = Rest(self._transport, self._gate, [bytes(unsent), *pieces[place + 1 :]], self._note)
                    return
                unsent = unsent[sent:]

    async def _send_slices(self, pieces: Sequence[bytes]) -> None:
        """Send what another transport than TCP would keep all at once."""
        left = sum(map(len, pieces))
        for piece in slices_of(pieces):
            self._transport.write(piece)
            left -= len(piece)
            self._note(left)
            await self.flushed()

    def _note(self, left: int) -> None:
        self.moved += 1
        if self._unsent is not None and self._reader is not None:
            self._unsent.note(self._reader, left)

    def end(self, abruptly: bool = False) -> None:
        """Leave all that was sent to the transport, unless `abruptly`; nothing more is sent, or hardly anything."""
        self.direct = False
        if self._rest is not None and not abruptly:
            self._rest.hand_over()
        self._transport.unregisterProducer()

    def connection_lost(self) -> None:
        """Release whoever waits."""
        if self._unsent is not None and self._reader is not None:
            self._unsent.forget(self._reader)
        self._reader = self._rest = None  # no cycle keeps what was not sent
        self._gate.resumeProducing()
