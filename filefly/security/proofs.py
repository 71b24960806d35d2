"""Proofs: two daemons show each other that they have the secret, and nothing of it.

Each answers the other's random nonce with an HMAC-SHA256 (RFC 2104) of both nonces, its own part, and who answers: S is
the id of a data server's storage, nothing for a metadata server. So an answer can neither be used again nor sent back,
and who passes it on to another server than the asking side believes to ask has proven nothing there.

    asking    {"command":"prove","key_id":"...","nonce":"A"}
    answering {"status":"ok","nonce":"B","storage_id":"S","proof":HMAC("answering", A, B, S)}
    asking    {"command":"prove","proof":HMAC("asking", A, B, S)}
    answering {"status":"ok"}
"""

import hmac
import os
from enum import StrEnum

from filefly.errors import Unauthorized
from filefly.security.keys import Key

NONCE_BYTES = 16


class Part(StrEnum):
    """Who proves."""

    ASKING = "asking"
    ANSWERING = "answering"


def new_nonce() -> str:
    """Return a nonce, in hex."""
    return os.urandom(NONCE_BYTES).hex()


def prove(key: Key, part: Part, asking_nonce: str, answering_nonce: str, storage_id: str | None) -> str:
    """Return the proof, in hex, that whoever plays `part` has the key; `storage_id` is a data server's that answers."""
    said = "\n".join((part, asking_nonce, answering_nonce, storage_id or ""))
    return hmac.digest(key.for_proofs, said.encode(), "sha256").hex()


def check_proof(
    key: Key, part: Part, asking_nonce: str, answering_nonce: str, storage_id: str | None, proof: str
) -> None:
    """Raise Unauthorized unless `proof` is what `prove` returns."""
    expected = prove(key, part, asking_nonce, answering_nonce, storage_id)
    if not hmac.compare_digest(expected.encode(), proof.encode(errors="replace")):
        raise Unauthorized("the proof is wrong: the daemons have different secrets (--secret-file)")
