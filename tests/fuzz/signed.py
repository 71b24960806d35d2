"""Fuzz targets: tokens and tickets that were changed, made up, or signed with claims that nobody means."""

import base64
import hmac
from collections.abc import Callable
from typing import Any

from filefly.errors import Unauthorized
from filefly.security.keys import Key, Keyring
from filefly.security.tickets import Right, Ticket, indexes_of, issue_ticket, read_ticket
from filefly.security.tokens import Role, Token, issue_token, read_token

NOW = 1_800_000_000
STORAGE = "s1"
KEYRING = Keyring([Key("00000002", b"k" * 32), Key("00000001", b"o" * 32)])
TOKENS = [
    Token("t1", Role.READ, "docs/", NOW + 60),
    Token("t2", Role.ADMIN),
    Token("t3", Role.WRITE, "日本/", NOW - 1),
]
TICKETS = [
    Ticket(STORAGE, Right.STORE, "docs/a.txt", 7, 0b1011, 28, 8, NOW + 60, "t1"),
    Ticket(STORAGE, Right.RETRIEVE, "a", None, indexes_of(range(100)), 10**9, 2**20, NOW + 900),
    Ticket(STORAGE, Right.STORE, "late", 1, 1, 8, 8, NOW - 1),
    Ticket("s2", Right.STORE, "elsewhere", 1, 1, 8, 8, NOW + 60),
]
TOKEN_TEXTS = [issue_token(KEYRING, token) for token in TOKENS]
TICKET_TEXTS = [issue_ticket(KEYRING, ticket) for ticket in TICKETS]
CHANGES = 255
"""The first byte of an input whose rest is a signed text by itself; 254: claims to be signed; else it is changes."""


class Signed:
    """Reads what was signed: Unauthorized is all that it may raise, and only what was issued is accepted."""

    def __init__(
        self, read: Callable[[str], Any], texts: list[str], valid: list[Any], key_of: Callable[[Key], bytes]
    ) -> None:
        self._read = read
        self._texts = [text.encode() for text in texts]
        self._valid = valid
        self._key_of = key_of

    def __call__(self, data: bytes) -> None:
        """Read an input; see CHANGES."""
        mode, rest = (data[0], data[1:]) if data else (0, b"")
        if mode == CHANGES:
            self._accept_only_what_was_issued(rest.decode("utf-8", "replace"))
        elif mode == CHANGES - 1:
            self._read_claims(rest)
        else:
            changed = _changed(self._texts[mode % len(self._texts)], rest)
            self._accept_only_what_was_issued(changed.decode("latin-1"))

    def _accept_only_what_was_issued(self, text: str) -> None:
        try:
            said = self._read(text)
        except Unauthorized:
            return
        assert said in self._valid, said

    def _read_claims(self, claims: bytes) -> None:
        """Whatever has a good signature is read or refused, and what is read is whole."""
        try:
            said = self._read(signed(self._key_of(KEYRING.signing), claims))
        except Unauthorized:
            return
        assert said == self._issue_again(said), said

    def _issue_again(self, said: Any) -> Any:
        issue: Callable[..., str] = issue_token if isinstance(said, Token) else issue_ticket
        return self._read(issue(KEYRING, said))


def signed(key: bytes, claims: bytes) -> str:
    """Return any bytes, signed as claims are."""
    head = _segment(b'{"alg":"HS256","kid":"00000002","typ":"JWT"}')
    said = f"{head}.{_segment(claims)}"
    return f"{said}.{_segment(hmac.digest(key, said.encode(), 'sha256'))}"


def _segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _changed(text: bytes, changes: bytes) -> bytes:
    """Carry out changes of three bytes each: where, which bits; a place beyond the end cuts the text or adds to it."""
    changed = bytearray(text)
    for at in range(0, len(changes) - 2, 3):
        place, bits = int.from_bytes(changes[at : at + 2], "big"), changes[at + 2]
        if place < len(changed):
            changed[place] ^= bits
        elif place % 2:
            changed.append(bits)
        else:
            del changed[len(changed) - bits % (len(changed) + 1) :]
    return bytes(changed)


tokens = Signed(lambda text: read_token(KEYRING, text, NOW), TOKEN_TEXTS, TOKENS[:2], lambda key: key.for_tokens)
tickets = Signed(
    lambda text: read_ticket(KEYRING, text, STORAGE, NOW), TICKET_TEXTS, TICKETS[:2], lambda key: key.for_tickets
)
TOKEN_CLAIMS = [
    b'{"jti":"t1","role":"read","prefix":"docs/","exp":1800000060}',
    b'{"jti":"t2","role":"admin"}',
    b'{"jti":"t2","role":"admin","exp":NaN,"nbf":[],"iat":1e400,"crit":["x"]}',
]
TICKET_CLAIMS = [
    b'{"aud":"s1","right":"store","stem":"a","indexes":"Cw==","size":28,"block_size":8,"exp":1800000060,'
    b'"generation":7,"sub":"t1"}',
    b'{"aud":"s1","right":"retrieve","stem":"a","indexes":"","size":0,"block_size":8,"exp":1800000060}',
]
TOKEN_SEEDS = [
    *(bytes([CHANGES]) + text.encode() for text in [*TOKEN_TEXTS, *TICKET_TEXTS]),
    *(bytes([CHANGES - 1]) + claims for claims in TOKEN_CLAIMS),
    *(bytes([number, 0, 40, 1]) for number in range(len(TOKENS))),
]
TICKET_SEEDS = [
    *(bytes([CHANGES]) + text.encode() for text in [*TICKET_TEXTS, *TOKEN_TEXTS]),
    *(bytes([CHANGES - 1]) + claims for claims in TICKET_CLAIMS),
    *(bytes([number, 0, 40, 1]) for number in range(len(TICKETS))),
]
WORDS = [b".", b"=", b"==", b"e30", b"eyJ", b'"exp"', b'"aud"', b'"jti"', b'"role"', b'"indexes"', b"\xff", b"\0\x28"]
