"""Signed claims: JSON Web Tokens (RFC 7519) with HMAC-SHA256, by PyJWT. The header's `kid` names the key."""

from collections.abc import Callable, Mapping
from typing import Any

import jwt

from filefly.errors import Unauthorized
from filefly.security.keys import Key, Keyring

MAX_SIGNED_CHARACTERS = 8192
_ALGORITHM = "HS256"
# Times are compared with the clock that is handed in; there is no audience but the key itself, one for each purpose.
_SIGNATURE_ONLY: Any = {
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}

KeyOf = Callable[[Key], bytes]


def sign(keyring: Keyring, key_of: KeyOf, claims: Mapping[str, Any]) -> str:
    """Return `claims` signed with the key that signs."""
    key = keyring.signing
    return jwt.encode(dict(claims), key_of(key), algorithm=_ALGORITHM, headers={"kid": key.id})


def read_signed(keyring: Keyring, key_of: KeyOf, text: str, what: str) -> dict[str, Any]:
    """Return the claims that a valid key has signed; raises Unauthorized, in which `what` names the thing."""
    invalid = Unauthorized(f"the {what} is not valid: it was changed, or signed for another cluster")
    if len(text) > MAX_SIGNED_CHARACTERS:
        raise invalid
    try:
        key = keyring.find(jwt.get_unverified_header(text).get("kid"))
        if key is None:
            raise Unauthorized(f"the {what} is not valid: no key of this cluster has signed it, or that key is retired")
        return dict(jwt.decode(text, key_of(key), algorithms=[_ALGORITHM], options=_SIGNATURE_ONLY))
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise invalid from None
