import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filefly.errors import Unauthorized
from filefly.security.keys import Key
from filefly.security.proofs import NONCE_BYTES, Part, check_proof, new_nonce, prove

KEY = Key("00000001", b"x" * 32)
A, B, C = "a" * 32, "b" * 32, "c" * 32
S = "storage"


def refuse(
    part: Part, asking_nonce: str, answering_nonce: str, proof: str, key: Key = KEY, storage_id: str | None = S
) -> None:
    with pytest.raises(Unauthorized, match=r"^the proof is wrong: .*--secret-file"):
        check_proof(key, part, asking_nonce, answering_nonce, storage_id, proof)


@pytest.mark.parametrize("part", Part)
def test_a_proof_is_accepted(part: Part) -> None:
    """Who has the same key takes the proof of either part."""
    for storage_id in (S, None):
        check_proof(KEY, part, A, B, storage_id, prove(KEY, part, A, B, storage_id))


@pytest.mark.parametrize("part", Part)
def test_a_proof_is_an_hmac_of_part_nonces_and_storage(part: Part) -> None:
    """Another program can make it from this description."""
    for storage_id, line in ((S, S), (None, "")):
        expected = hmac.new(KEY.for_proofs, f"{part.value}\n{A}\n{B}\n{line}".encode(), "sha256").hexdigest()
        assert expected == prove(KEY, part, A, B, storage_id)


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize(("sent", "wanted"), [("one", "other"), ("one", None), (None, "one")])
def test_a_proof_cannot_be_passed_on(part: Part, sent: str | None, wanted: str | None) -> None:
    """What one data server was told says nothing to another one, or to a metadata server."""
    refuse(part, A, B, prove(KEY, part, A, B, sent), storage_id=wanted)


def test_nonces_are_random_hex_digits() -> None:
    """None comes twice."""
    nonces = {new_nonce() for _ in range(100)}
    assert 100 == len(nonces)
    assert {NONCE_BYTES} == {len(bytes.fromhex(nonce)) for nonce in nonces}


@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("nonces", [(C, B), (A, C), (B, A), (A, A)])
def test_a_proof_cannot_be_used_again(part: Part, nonces: tuple[str, str]) -> None:
    """With another nonce of either side a recorded proof is worth nothing."""
    refuse(part, *nonces, prove(KEY, part, A, B, S))


@pytest.mark.parametrize(("sent", "wanted"), [(Part.ASKING, Part.ANSWERING), (Part.ANSWERING, Part.ASKING)])
@pytest.mark.parametrize("nonces", [(A, B), (B, A), (A, A)])
def test_a_proof_cannot_be_sent_back(sent: Part, wanted: Part, nonces: tuple[str, str]) -> None:
    """One part's proof is not the other's, even if the nonces are sent back, too."""
    refuse(wanted, *nonces, prove(KEY, sent, A, B, S))


@pytest.mark.parametrize("part", Part)
def test_another_key_proves_nothing(part: Part) -> None:
    """The id of a key alone does not count."""
    refuse(part, A, B, prove(Key(KEY.id, b"y" * 32), part, A, B, S))


@pytest.mark.parametrize("proof", ["", "0" * 64, "é" * 64, "日", "\ud800", "\0", "x" * 100_000])
def test_what_is_no_proof_is_refused(proof: str) -> None:
    """Whatever characters it has."""
    refuse(Part.ASKING, A, B, proof)


@given(st.text(st.characters()))
def test_any_other_text_is_refused(proof: str) -> None:
    """No text makes the check fail in another way."""
    refuse(Part.ANSWERING, A, B, proof)


def test_a_changed_proof_is_refused() -> None:
    """Every bit counts, and so does the case."""
    proof = prove(KEY, Part.ASKING, A, B, S)
    for place, character in enumerate(proof):
        for bit in range(8):
            refuse(Part.ASKING, A, B, proof[:place] + chr(ord(character) ^ 1 << bit) + proof[place + 1 :])
