"""Signing in as a client does: the token is shown to the metadata server, and to nobody else."""

from contextlib import suppress

from attrs import field, frozen

from filefly.client.connection import ServerConnection
from filefly.errors import BadRequest, UnknownCommand
from filefly.wire.address import parse_host_port
from filefly.wire.security import Auth, SignedIn


@frozen
class TokenFor:
    """Presents a token to the server at `address`; data servers want tickets, and who listens there needs no more.

    Where TLS is wanted it is presented only under TLS: raises BadRequest.
    """

    _address: str
    _token: str = field(repr=False)
    _tls_wanted: bool = False

    def identity(self) -> object:
        """See SignIn."""
        return self._token

    async def __call__(self, connection: ServerConnection) -> None:
        """See SignIn."""
        if connection.address != self._address:
            return
        address = parse_host_port(self._address)
        if self._tls_wanted and address is not None and not address.tls:
            raise BadRequest(
                f"a token is not shown to {address} without TLS (--tls-ca is given); write tls://{address}"
            )
        with suppress(UnknownCommand):  # it is older than tokens, and so open
            await connection.request(Auth(self._token), SignedIn)
