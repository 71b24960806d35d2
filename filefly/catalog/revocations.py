"""Tokens that were made void before their time. Statements only; see filefly.catalog.plans.

They are kept for good: an id does not tell when its token would have expired.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from filefly.catalog.schema import revoked_tokens
from filefly.wire.security import RevokedToken

_c = revoked_tokens.c


def revoke_token(connection: Connection, token_id: str, now: str) -> None:
    """Note that a token is void since `now` (RFC 3339); again is fine."""
    if connection.execute(select(_c.token_id).where(_c.token_id == token_id)).first() is None:
        connection.execute(insert(revoked_tokens).values(token_id=token_id, revoked=now))


def list_revoked_tokens(connection: Connection) -> Sequence[RevokedToken]:
    """Return the tokens that are void, in the order of their ids."""
    return [RevokedToken(*row) for row in connection.execute(select(_c.token_id, _c.revoked).order_by(_c.token_id))]
