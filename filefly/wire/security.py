"""Requests and replies about who may do what: signing in, proofs between daemons, revoked tokens, quotas."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from filefly.wire.messages import Number, Reply, Request

Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
"""16 random bytes as lower-case hex digits."""

TokenId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{1,32}\Z")]
"""A token's id; what is longer may be a token itself, or a part of one, which nobody is to write down."""

# Both servers


class Auth(Request, frozen=True, tag="auth"):
    """Sign in: the connection may do from now on what the token allows."""

    token: str


class SignedIn(Reply, frozen=True, tag="ok"):
    """What the token allows."""

    role: str
    prefix: str | None = None
    expires: str | None = None


class Prove(Request, frozen=True, tag="prove"):
    """Sign in as a daemon, in two steps: first `key_id` and `nonce`, then `proof` (see filefly.security.proofs)."""

    key_id: str | None = None
    nonce: Nonce | None = None
    proof: str | None = None


class Proof(Reply, frozen=True, tag="ok"):
    """The answer to the first step of `prove`, from a data server with its storage's id; to the second it is empty."""

    nonce: Nonce | None = None
    storage_id: str | None = None
    proof: str | None = None


# The metadata server


class RevokeToken(Request, frozen=True, tag="revoke_token"):
    """Make a token void from now on, by its id."""

    token_id: TokenId


class RevokedToken(Struct, frozen=True):
    """One line of `list_revoked_tokens`; the time is RFC 3339 in UTC."""

    token_id: str
    revoked: str


class ListRevokedTokens(Request, frozen=True, tag="list_revoked_tokens"):
    """Show the tokens that were made void."""


class RevokedTokens(Reply, frozen=True, tag="ok"):
    """The tokens that were made void, in the order of their ids."""

    tokens: Sequence[RevokedToken]


class SetQuota(Request, frozen=True, tag="set_quota"):
    """Limit what files whose names begin with `prefix` may take in all; a limit that is absent is none."""

    prefix: str
    max_bytes: Number | None = None
    max_files: Number | None = None


class Quota(Struct, frozen=True, omit_defaults=True):
    """One line of `list_quotas`."""

    prefix: str
    used_bytes: Number
    used_files: Number
    max_bytes: Number | None = None
    max_files: Number | None = None


class ListQuotas(Request, frozen=True, tag="list_quotas"):
    """Show the quotas and how much of them is used."""


class QuotaList(Reply, frozen=True, tag="ok"):
    """The quotas, in the order of their prefixes."""

    quotas: Sequence[Quota]


class PlanRenewed(Reply, frozen=True, tag="ok"):
    """The answer to `renew_plan`: fresh tickets, by the address of the data server."""

    tickets: Mapping[str, str] = {}
