"""Signed texts, changed and forged."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import jwt
from hypothesis import strategies as st

from filefly.security.keys import Key, Keyring

OLD = Key("00000001", b"o" * 32)
KEY = Key("00000002", b"k" * 32)
STRANGER = Key("00000002", b"s" * 32)
"""A key of another cluster that happens to have the same id."""
KEYRING = Keyring([KEY])

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def single_bit_changes(text: str) -> Iterator[str]:
    """Yield `text` with each bit of each character changed."""
    for place, character in enumerate(text):
        for bit in range(8):
            yield text[:place] + chr(ord(character) ^ 1 << bit) + text[place + 1 :]


def other_spellings(text: str) -> set[str]:
    """Return what spells the same signature: its last character has two bits that belong to no byte."""
    first = _ALPHABET.index(text[-1]) & ~3
    return {text[:-1] + character for character in _ALPHABET[first : first + 4]} - {text}


def forge(secret: Any, claims: Mapping[str, Any], algorithm: str = "HS256", key_id: str = KEY.id) -> str:
    """Return claims signed with any key and algorithm."""
    return jwt.encode(dict(claims), secret, algorithm=algorithm, headers={"kid": key_id})


def segment(content: bytes) -> str:
    """Return one of the three parts of a signed text."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
