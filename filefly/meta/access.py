"""The verbs about who may do what: tokens that are void before their time, and quotas."""

from collections.abc import Callable, Iterable
from typing import ClassVar

from attrs import define

from filefly.catalog.quotas import list_quotas, set_quota
from filefly.catalog.revocations import list_revoked_tokens, revoke_token
from filefly.errors import UnknownCommand
from filefly.meta.transactions import Transactions
from filefly.wire.codec import CommandTable, commands_of
from filefly.wire.messages import Reply, Request
from filefly.wire.security import (
    ListQuotas,
    ListRevokedTokens,
    QuotaList,
    RevokedToken,
    RevokedTokens,
    RevokeToken,
    SetQuota,
)


class Revocations:
    """The ids of revoked tokens, in memory, for a look at each request."""

    def __init__(self, revoked: Iterable[RevokedToken]) -> None:
        self._ids = {token.token_id for token in revoked}

    def add(self, token_id: str) -> None:
        """Have a token be void from now on."""
        self._ids.add(token_id)

    def is_revoked(self, token_id: str) -> bool:
        """Whether a token is void."""
        return token_id in self._ids


@define(eq=False)
class Access:
    """Answers who decides about tokens and quotas; `now` tells the time (RFC 3339)."""

    commands: ClassVar[CommandTable] = commands_of(RevokeToken, ListRevokedTokens, SetQuota, ListQuotas)

    _transactions: Transactions
    _revocations: Revocations
    _now: Callable[[], str]

    async def answer(self, request: Request) -> Reply:
        """Carry out `request`; raises UnknownCommand for what is none of these."""
        match request:
            case RevokeToken():
                await self._transactions.write(revoke_token, request.token_id, self._now())
                self._revocations.add(request.token_id)
            case ListRevokedTokens():
                return RevokedTokens(await self._transactions.read(list_revoked_tokens))
            case SetQuota():
                await self._transactions.write(set_quota, request.prefix, request.max_bytes, request.max_files)
            case ListQuotas():
                return QuotaList(await self._transactions.read(list_quotas))
            case _:
                raise UnknownCommand
        return Reply()
