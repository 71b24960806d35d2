"""Signing in as a client does: the token is shown to the metadata server, and to nobody else."""

from contextlib import suppress

from attrs import field, frozen

from filefly.client.connection import ServerConnection
from filefly.errors import UnknownCommand
from filefly.wire.security import Auth, SignedIn


@frozen
class TokenFor:
    """Presents a token to the server at `address`; data servers want tickets, and who listens there needs no more."""

    _address: str
    _token: str = field(repr=False)

    def identity(self) -> object:
        """See SignIn."""
        return self._token

    async def __call__(self, connection: ServerConnection) -> None:
        """See SignIn."""
        if connection.address != self._address:
            return
        with suppress(UnknownCommand):  # it is older than tokens, and so open
            await connection.request(Auth(self._token), SignedIn)
