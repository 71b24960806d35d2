"""Every bit of a token and of a ticket, changed, as a server sees it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filefly.wire.names import name_on_disk
from tests.rights.data_server import closed_data_server
from tests.rights.signers import token
from tests.rights.talking import Server, verdict
from tests.rights.tickets import EXHIBITS, PRESENT, TO_STORE
from tests.security.texts import other_spellings, single_bit_changes

DATA = b"sec\nret!"


def ticket(right: str) -> str:
    [text] = [exhibit.text for exhibit in EXHIBITS if exhibit.name == f"a {right} ticket"]
    assert text is not None
    return text


def answer(server: Server, payload: bytes, fields: dict[str, Any]) -> str:
    """Ask from an address that has done nothing wrong yet."""
    talk = server.connect()
    reply, behind = talk.ask(payload, **fields)
    talk.hang_up()
    said = verdict(reply)
    assert said == "ok" or not behind
    return said


@pytest.mark.parametrize(
    ("text", "payload", "request_of"),
    [
        (token(), b"", lambda text: {"command": "auth", "token": text}),
        (ticket("retrieve"), b"", lambda text: {"command": "retrieve", "block_id": PRESENT, "ticket": text}),
        (ticket("store"), DATA, lambda text: {"command": "store", "block_id": TO_STORE, "size": 8, "ticket": text}),
    ],
    ids=["token", "retrieve", "store"],
)
def test_every_changed_bit_is_refused(
    tmp_path: Path, text: str, payload: bytes, request_of: Callable[[str], dict[str, Any]]
) -> None:
    """A single one, wherever it is, but for the two of the last character that belong to no byte; nothing is stored."""
    with closed_data_server(tmp_path / "blocks") as server:
        (tmp_path / "blocks" / name_on_disk(PRESENT).decode()).write_bytes(DATA)
        changes = set(single_bit_changes(text)) - other_spellings(text)
        assert 8 * (len(text) - 1) < len(changes)
        accepted = [changed for changed in changes if answer(server, payload, request_of(changed)) != "unauthorized"]
        assert [] == accepted
        assert not (tmp_path / "blocks" / name_on_disk(TO_STORE).decode()).exists()
        assert "ok" == answer(server, payload, request_of(text))
