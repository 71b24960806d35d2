"""Tokens: what a client may do, signed, so that nobody has to keep a list of them."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from attrs import frozen

from filefly.errors import Unauthorized
from filefly.security.keys import Key, Keyring
from filefly.security.signing import read_signed, sign


class Role(StrEnum):
    """What a token allows; each role may do what those before it may.

    `append` adds files, but neither replaces nor deletes one; `admin` looks after the cluster.
    """

    READ = "read"
    APPEND = "append"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Whether who has this role may do what `other` may."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER: Sequence[Role] = list(Role)


@frozen
class Token:
    """What a token says: `expires` is in seconds since the epoch, None for never; `prefix` begins all its names."""

    id: str
    role: Role
    prefix: str = ""
    expires: int | None = None


class _Claims(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    jti: str
    role: Role
    prefix: str = ""
    exp: int | None = None


def issue_token(keyring: Keyring, token: Token) -> str:
    """Return `token`, signed."""
    claims = _Claims(token.id, token.role, token.prefix, token.expires)
    return sign(keyring, _key_of, claims)


def read_token(keyring: Keyring, text: str, now: float) -> Token:
    """Return what a token says; raises Unauthorized if it is not valid, or not any more at `now` (Unix time)."""
    said = read_signed(keyring, _key_of, text, _Claims, "token")
    check_token_time(said.exp, now)
    return Token(said.jti, said.role, said.prefix, said.exp)


def check_token_time(expires: float | None, now: float) -> None:
    """Raise Unauthorized once a token has expired."""
    if expires is not None and expires <= now:
        raise Unauthorized("the token has expired; ask for another one")


def _key_of(key: Key) -> bytes:
    return key.for_tokens
