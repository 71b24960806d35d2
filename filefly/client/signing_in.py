"""Signing in as a daemon of the cluster does: both sides show that they have the secret, and nothing of it."""

from collections.abc import Callable

from attrs import frozen

from filefly.client.connection import ServerConnection, SignIn
from filefly.errors import Unauthorized, UnknownCommand
from filefly.security.keys import Key, Keyring
from filefly.security.proofs import Part, check_proof, new_nonce
from filefly.security.proofs import prove as proof_of
from filefly.wire.security import Proof, Prove

CheckStorage = Callable[[str, str], None]
"""Raises Unauthorized if a storage, by its id, cannot be at an address."""


@frozen
class _Proving:
    """Proves that it has a key to a data server, after that has, and has said which it is."""

    _keyring: Callable[[], Keyring]
    _check_storage: CheckStorage

    def identity(self) -> str:
        """See SignIn."""
        return self._keyring().signing.id

    async def __call__(self, connection: ServerConnection) -> None:
        """See SignIn."""
        try:
            await self._prove(connection)
        except UnknownCommand:
            raise Unauthorized(f"{connection.address} knows of no secrets (--secret-file): it is too old") from None
        except Unauthorized as error:
            raise Unauthorized(f"{connection.address}: {error}") from None

    async def _prove(self, connection: ServerConnection) -> None:
        refused = Unauthorized()
        for key in self._keyring().keys:  # while the key is being changed the other side may have the older one alone
            nonce = new_nonce()
            try:
                answer = await connection.request(Prove(key_id=key.id, nonce=nonce), Proof)
            except Unauthorized as error:
                refused = error
                continue
            await self._answer(connection, key, nonce, answer)
            return
        raise refused

    async def _answer(self, connection: ServerConnection, key: Key, nonce: str, answer: Proof) -> None:
        if answer.nonce is None or answer.proof is None:
            raise Unauthorized("it has no secret (--secret-file), so everybody may do everything there")
        if answer.storage_id is None:
            raise Unauthorized("it is no data server")
        check_proof(key, Part.ANSWERING, nonce, answer.nonce, answer.storage_id, answer.proof)
        self._check_storage(connection.address, answer.storage_id)
        proof = proof_of(key, Part.ASKING, nonce, answer.nonce, answer.storage_id)
        await connection.request(Prove(proof=proof), Proof)


def prove(keyring: Callable[[], Keyring], check_storage: CheckStorage) -> SignIn:
    """Return the way to sign in at data servers as a daemon that has the keys, which are asked for whenever needed.

    The other side has to prove first that it has them: raises Unauthorized, naming `--secret-file`, if it does not, and
    what `check_storage` raises.
    """
    return _Proving(keyring, check_storage)
