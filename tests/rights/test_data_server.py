"""The data server of a closed cluster: every command, by everybody, with every ticket."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen

from filefly.data.server import DataServer
from filefly.security.tickets import Right
from filefly.wire.names import name_on_disk
from tests.data.running import sum_of
from tests.fuzz.running import quick_folder
from tests.rights.data_server import closed_data_server
from tests.rights.expected import DATA_COMMANDS, OK, Vouched, of_data_server
from tests.rights.signers import REVOKED, SIGNERS, Signer, present, signed_in, token
from tests.rights.talking import Server, verdict
from tests.rights.tickets import BLOCK_BYTES, EXHIBITS, PRESENT, STORAGE, TO_STORE, Exhibit

DATA = b"sec\nret!"
IN_BASE64 = b64encode(DATA).decode()
OTHER_SUM = "00000000"
assert len(DATA) == BLOCK_BYTES

GOOD_STORE, GOOD_RETRIEVE = (
    next(exhibit for exhibit in EXHIBITS if exhibit.name == f"a {right} ticket") for right in ("store", "retrieve")
)
# Of revocations data servers do not know: what they accept a token for is `status`.
WHO = [*SIGNERS, Signer("revoked token", Vouched.TOKEN, present(token(token_id=REVOKED), True), "admin")]
_generations = count(1)


@frozen
class Slot:
    """Room for a ticket in a request: its field, and what it must allow."""

    field: str
    right: Right | None
    size_matters: bool = False


@frozen
class Asked:
    """A request: how it differs from others of its command, and what comes of it where it is allowed."""

    words: str
    fields: Mapping[str, Any]
    payload: bytes = b""
    slots: Sequence[Slot] = ()
    item: bool = False
    """Whether the tickets are those of its only item."""
    answer: str = OK
    stores: str | None = None
    moves: str | None = None
    tells: bool = False
    """Whether the bytes of the block are in the answer."""

    @property
    def command(self) -> str:
        """The command."""
        return str(self.fields["command"])

    def with_tickets(self, texts: Sequence[str | None]) -> dict[str, Any]:
        """Return its fields, with tickets in their slots."""
        shown = {slot.field: text for slot, text in zip(self.slots, texts, strict=True) if text is not None}
        if not self.item:
            return {**self.fields, **shown}
        [item] = self.fields["blocks"]
        return {**self.fields, "blocks": [{**item, **shown}]}


def _asked(words: str, command: str, /, **fields: Any) -> Asked:
    own = {name: fields.pop(name) for name in list(fields) if name in ("answer", "stores", "moves", "tells", "slots")}
    payload, item = fields.pop("payload", b""), "blocks" in fields
    return Asked(words, {"command": command, **fields}, payload, item=item, **own)


_STORING = (Slot("ticket", Right.STORE, size_matters=True),)
_READING = (Slot("ticket", Right.RETRIEVE),)
_ITEM = {"block_id": TO_STORE, "size": BLOCK_BYTES}
_LINKING = (Slot("source_ticket", None), Slot("ticket", Right.STORE, size_matters=True))
_CARE = {"block_id": PRESENT, "storage_id": STORAGE}

REQUESTS: Sequence[Asked] = [
    _asked("", "ping"),
    _asked("for the identity", "ping", identity=True),
    _asked("", "status"),
    _asked("raw", "store", block_id=TO_STORE, size=8, payload=DATA, slots=_STORING, stores=TO_STORE),
    _asked(
        "raw, with a sum",
        "store",
        block_id=TO_STORE,
        size=8,
        crc32c=sum_of(DATA),
        payload=DATA,
        slots=_STORING,
        stores=TO_STORE,
    ),
    _asked("in base64", "store", block_id=TO_STORE, data=IN_BASE64, slots=_STORING, stores=TO_STORE),
    _asked(
        "with the storage's id",
        "store",
        block_id=TO_STORE,
        size=8,
        payload=DATA,
        slots=_STORING,
        stores=TO_STORE,
        storage_id=STORAGE,
    ),
    _asked("", "store_blocks", size=8, blocks=[_ITEM], payload=DATA, slots=_STORING, stores=TO_STORE),
    _asked("raw", "retrieve", block_id=PRESENT, raw=True, slots=_READING, tells=True),
    _asked("in base64", "retrieve", block_id=PRESENT, slots=_READING, tells=True),
    _asked("of a range", "retrieve", block_id=PRESENT, offset=1, length=4, raw=True, slots=_READING),
    _asked(
        "as an open file, not over TCP",
        "retrieve",
        block_id=PRESENT,
        descriptor=True,
        slots=_READING,
        answer="bad_request",
    ),
    _asked("", "retrieve_blocks", blocks=[{"block_id": PRESENT}], slots=_READING, tells=True),
    _asked("", "stat", block_id=PRESENT, slots=(Slot("ticket", None),)),
    _asked("with the sum", "stat", block_id=PRESENT, verify=True, slots=(Slot("ticket", None),)),
    _asked(
        "", "link", block_id=TO_STORE, source_block_id=PRESENT, crc32c=sum_of(DATA), slots=_LINKING, stores=TO_STORE
    ),
    _asked("", "delete", block_id=PRESENT, moves=""),
    _asked("", "list_blocks"),
    _asked("from where nobody is", "copy", **_CARE, source="10.0.0.9:1", crc32c=sum_of(DATA), answer="unavailable"),
    _asked("", "quarantine", **_CARE, crc32c=OTHER_SUM, moves=".corrupt"),
    _asked("", "set_aside", **_CARE, moves=".unknown"),
    _asked("", "adopt", storage_id=STORAGE, catalog_id="c1"),
]


@define(eq=False)
class Matrix:
    """A data server with a block, and how it is asked again and again."""

    folder: Path
    server: Server
    cases: int = 0
    wrong: list[str] = field(factory=list)
    _there: dict[str, bytes] | None = None
    """What is in the folder, unless it is to be cleared."""

    def files(self) -> dict[str, bytes]:
        """Return all that is in the folder, by its path there."""
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def begin(self) -> dict[str, bytes]:
        """Have just the one block there; return all that is there."""
        if self._there is not None:
            return self._there
        for path in self.folder.rglob("*"):
            if path.is_file() and path.name not in (".filefly.json", ".lock"):
                path.unlink()
        (self.folder / _on_disk(PRESENT)).write_bytes(DATA)
        self._there = self.files()
        return self._there

    def try_one(self, asked: Asked, signer: Signer, exhibits: Sequence[Exhibit]) -> None:
        """Ask once, and note what is wrong about the answer."""
        self.cases += 1
        self._show_earlier(exhibits)
        talk = signed_in(signer, self.server.connect, self.server.earlier, self.server.later)
        before = self.begin()
        more = {"generation": next(_generations)} if asked.command == "adopt" else {}
        fields = {**asked.with_tickets([exhibit.text for exhibit in exhibits]), **more}
        reply, behind = talk.ask(asked.payload, **fields)
        after = self.files()
        talk.hang_up()
        if before != after:
            self._there = None
        shown = [
            exhibit.as_shown(
                slot.right, slot.size_matters and exhibit.other_size != exhibits[0].other_size * (place > 0)
            )
            for place, (slot, exhibit) in enumerate(zip(asked.slots, exhibits, strict=True))
        ]
        wanted = of_data_server(asked.command, signer.vouched, shown)
        got = verdict(reply)
        what = f"{asked.command} {asked.words}: {signer.name}, {[exhibit.name for exhibit in exhibits]}"
        if (asked.answer if wanted == OK else wanted) != got:
            self.wrong.append(f"{what}: {wanted}, but {reply}")
        elif wanted != OK and before != after:
            self.wrong.append(f"{what}: {wanted}, but the folder has changed: {set(before) ^ set(after)}")
        elif wanted != OK and (behind or IN_BASE64 in str(reply)):
            self.wrong.append(f"{what}: {wanted}, but it tells: {reply} {behind!r}")
        elif wanted == OK and not _is_done(asked, reply, behind, before, after):
            self.wrong.append(f"{what}: {wanted}, but not done: {reply} {behind!r} {set(before) ^ set(after)}")

    def _show_earlier(self, exhibits: Sequence[Exhibit]) -> None:
        for exhibit in exhibits:
            if exhibit.earlier is not None:
                self.server.earlier(exhibit.earlier)
                talk = self.server.connect()
                reply, _behind = talk.ask(command="stat", block_id=PRESENT, ticket=exhibit.text)
                assert reply["status"] == "ok", reply
                talk.hang_up()
                self.server.later()


def _on_disk(block_id: str) -> str:
    return name_on_disk(block_id).decode()


def _is_done(asked: Asked, reply: Any, behind: bytes, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bool:
    """Whether what is allowed was done."""
    if asked.command == "adopt":
        return before[".filefly.json"] != after[".filefly.json"]
    if asked.stores is not None:
        return after == {**before, _on_disk(asked.stores): DATA}
    if asked.moves is not None:
        place = _on_disk(PRESENT)
        elsewhere = [name for name, data in after.items() if data == DATA and name.startswith(asked.moves or "/")]
        return place not in after and len(elsewhere) == bool(asked.moves)
    if asked.tells:
        return before == after and (behind == DATA or reply.get("data") == IN_BASE64)
    return before == after


@pytest.fixture
def matrix() -> Iterator[Matrix]:
    with quick_folder() as folder, closed_data_server(folder / "blocks") as server:
        yield Matrix(folder / "blocks", server)


def test_it_is_said_of_every_command_who_may_use_it() -> None:
    """A new command has to be put into the model, and asked for here."""
    assert set(DATA_COMMANDS) == set(DataServer.commands) == {asked.command for asked in REQUESTS}


@pytest.mark.parametrize("asked", REQUESTS, ids=lambda asked: f"{asked.command} {asked.words}".strip())
def test_everybody_with_every_ticket(asked: Asked, matrix: Matrix) -> None:
    """Each gets the right answer, the conversation goes on, and what is refused has no effect."""
    for signer in WHO:
        for exhibit in EXHIBITS:
            if len(asked.slots) < 2:
                matrix.try_one(asked, signer, [exhibit] * len(asked.slots))
            else:
                matrix.try_one(asked, signer, [exhibit, GOOD_STORE])
                matrix.try_one(asked, signer, [GOOD_RETRIEVE, exhibit])
    assert [] == matrix.wrong
    assert len(WHO) * len(EXHIBITS) * max(1, len(asked.slots)) == matrix.cases


@pytest.mark.parametrize("name", ["nobody", "admin", "daemon"])
def test_every_pair_of_tickets_for_a_link(name: str, matrix: Matrix) -> None:
    """Both must be good."""
    [asked] = [each for each in REQUESTS if each.command == "link"]
    [signer] = [each for each in WHO if each.name == name]
    for source in EXHIBITS:
        for own in EXHIBITS:
            matrix.try_one(asked, signer, [source, own])
    assert [] == matrix.wrong
    assert len(EXHIBITS) ** 2 == matrix.cases
