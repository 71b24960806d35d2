"""Sealed claims: the same form as filefly.security.signing has, but for what is checked for every small block.

A JSON Web Token (RFC 7519) with HMAC-SHA256, so that any tool shows what it says. PyJWT takes 70 us to look at one, of
which 5 us are the signature: it has to expect any header and any kind of key. Here the first part must be, to the last
byte, what one of the valid keys signs with; nothing is decoded before the signature is seen to be right.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from typing import TypeVar

import msgspec

from filefly.errors import Unauthorized
from filefly.security.keys import Keyring
from filefly.security.signing import MAX_SIGNED_CHARACTERS, KeyOf

C = TypeVar("C", bound=msgspec.Struct)


def seal(keyring: Keyring, key_of: KeyOf, claims: msgspec.Struct) -> str:
    """Return `claims` sealed with the key that signs."""
    key = keyring.signing
    said = f"{_header(key.id)}.{_encode(msgspec.json.encode(claims))}"
    return f"{said}.{_signature(key_of(key), said)}"


def read_sealed(keyring: Keyring, key_of: KeyOf, text: str, kind: type[C], what: str) -> C:
    """Return the claims that a valid key has sealed; raises Unauthorized, in which `what` names the thing."""
    said, _, signature = text.rpartition(".")
    header, _, claims = said.partition(".")
    key = next((key for key in keyring.keys if header == _header(key.id)), None)
    if key is None or len(text) > MAX_SIGNED_CHARACTERS:
        raise Unauthorized(f"the {what} is not valid: no key of this cluster has signed it, or that key is retired")
    if not hmac.compare_digest(_signature(key_of(key), said).encode(), signature.encode(errors="replace")):
        raise Unauthorized(f"the {what} is not valid: it was changed, or signed for another cluster")
    try:
        return msgspec.json.decode(urlsafe_b64decode(claims + "=="), type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Unauthorized(f"the {what} is not valid: it is not one of this version of FileFly") from None


def _signature(secret: bytes, said: str) -> str:
    return _encode(hmac.digest(secret, said.encode(errors="replace"), "sha256"))


@lru_cache(maxsize=8)
def _header(key_id: str) -> str:
    return _encode(b'{"alg":"HS256","kid":"%b","typ":"JWT"}' % key_id.encode())


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
