from typing import Any

import msgspec
import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

from filefly.daemon.audit import CHANGES, READS, Audit, Audited
from filefly.daemon.guard import Session
from filefly.data.server import DataServer
from filefly.errors import BadRequest, Busy, Forbidden, NotFound, Unauthorized, WrongStorage
from filefly.meta.server import MetadataServer
from filefly.security.keys import Keyring
from filefly.security.tickets import Right, Ticket, issue_ticket
from filefly.security.tokens import Role, Token, issue_token
from filefly.wire.administration import Drain, Fsck, FsckPage
from filefly.wire.batches import (
    BlockResult,
    BlockResults,
    BlockToStore,
    CompleteFiles,
    FileResult,
    FileResults,
    FileToComplete,
    FileToStore,
    StoreBlocks,
    StoreFiles,
)
from filefly.wire.blocks import BlockSum, Copy, Delete, Link, Quarantine, Quarantined, Retrieve, Store
from filefly.wire.messages import (
    CompleteFile,
    DeleteFile,
    GetMetadata,
    Metadata,
    MetadataReply,
    Ping,
    RenameFile,
    Reply,
    Request,
    StoreFile,
)
from filefly.wire.security import Auth, Proof, Prove, RevokeToken, SetQuota, SignedIn
from tests.security.texts import KEY

HOST = "192.0.2.7"
HELD = Token("t-1", Role.WRITE)


@implementer(ILogObserver)
class Told:
    """An audit log, and what it has told."""

    def __init__(self, closed: bool = False, audited: Audited = Audited.CHANGES) -> None:
        self.clock = Clock()
        self.events: list[Any] = []
        self.audit = Audit(self.clock.seconds, closed, audited, self)

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)

    def of(
        self,
        request: Request,
        outcome: Reply | Exception | None = None,
        token: Token | None = None,
        daemon: bool = False,
    ) -> dict[str, Any]:
        """Return the event of a request that must be told."""
        self.events.clear()
        self.audit.note(request, Session(HOST, token, daemon), outcome or Reply())
        [event] = self.events
        return dict(event["audit"])

    def silent(self, request: Request, outcome: Reply | Exception | None = None) -> bool:
        """Whether nothing is told of a request."""
        self.audit.note(request, Session(HOST), outcome or Reply())
        return [] == self.events


def event(command: str, /, result: str = "ok", who: str = "anyone", **fields: Any) -> dict[str, Any]:
    return {"who": who, "from": HOST, "command": command, **fields, "result": result}


def plan(name: str) -> Metadata:
    return Metadata(
        name=name, total_size=3, block_size=8, generation=17, state="pending", replicas=1, attributes={}, blocks=[]
    )


def a_ticket(holder: str) -> str:
    return issue_ticket(Keyring([KEY]), Ticket("s", Right.STORE, "a", None, 1, 3, 8, 1_000_000, holder))


# What is told


def test_every_command_is_a_change_or_a_read() -> None:
    """Nobody adds a command to a server without saying which it is."""
    known = {*DataServer.commands.values(), *MetadataServer.commands.values(), Auth, Prove}
    assert known == {*CHANGES, *READS}
    assert set() == {*CHANGES} & {*READS}


def test_what_is_told_of_a_request_is_in_it() -> None:
    """And never a token, a ticket, a proof, a nonce, or a file's bytes."""
    secret = {"token", "ticket", "source_ticket", "proof", "nonce", "data", "attributes", "metadata", "blocks"}
    for kind, names in {**CHANGES, **READS}.items():
        assert set(names) <= {each.name for each in msgspec.structs.fields(kind)} - secret, kind


@pytest.mark.parametrize(
    ("request_", "outcome", "expected"),
    [
        (
            StoreFile("a.txt", file_size=3),
            MetadataReply(plan("a.txt")),
            event("store_file", file_name="a.txt", file_size=3, generation=17),
        ),
        (
            CompleteFile(generation=17),
            MetadataReply(plan("a.txt")),
            event("complete_file", generation=17, file_name="a.txt", file_size=3),
        ),
        (DeleteFile("a.txt"), Reply(), event("delete_file", file_name="a.txt")),
        (DeleteFile("a.txt"), NotFound(), event("delete_file", "not_found", file_name="a.txt")),
        (RenameFile("a", "b"), Reply(), event("rename_file", file_name="a", new_name="b")),
        (Drain(":9001"), Reply(), event("drain", data_server_addr=":9001")),
        (RevokeToken("t-2"), Reply(), event("revoke_token", token_id="t-2")),
        (SetQuota("a/", max_files=7), Reply(), event("set_quota", prefix="a/", max_files=7)),
        (Fsck(repair=True), FsckPage([], 1, 1), event("fsck", after="", repair=True)),
        (Store("a-0", data="aGk="), BlockSum(size=2), event("store", block_id="a-0", size=2)),
        (Store("a-0", size=9), ConnectionDone(), event("store", "lost", block_id="a-0", size=9)),
        (Store("a-0", size=9), ZeroDivisionError(), event("store", "internal", block_id="a-0", size=9)),
        (Delete("a-0"), Reply(), event("delete", block_id="a-0")),
        (Copy("a-0", "b:1", "0" * 8, "s"), BlockSum(size=2), event("copy", block_id="a-0", source="b:1", size=2)),
        (
            Quarantine("a-0", "0" * 8, "s"),
            Quarantined(False),
            event("quarantine", block_id="a-0", quarantined=False),
        ),
    ],
)
def test_a_change_is_told(request_: Request, outcome: Reply | Exception, expected: dict[str, Any]) -> None:
    """Who, from where, what, and what came of it."""
    assert expected == Told().of(request_, outcome)


def test_reading_is_not_told() -> None:
    """Unless somebody wants all; looking without repair is reading, too."""
    assert Told().silent(GetMetadata("a"), MetadataReply(plan("a")))
    assert Told().silent(Fsck())
    told = Told(audited=Audited.ALL).of(GetMetadata("a"), NotFound())
    assert event("get_metadata", "not_found", file_name="a") == told


def test_nothing_is_told_where_nobody_wants_it() -> None:
    """`--audit off`."""
    told = Told(audited=Audited.OFF)
    assert told.silent(DeleteFile("a"))
    assert told.silent(GetMetadata("a"), Forbidden())


# Who


@pytest.mark.parametrize(
    ("closed", "token", "daemon", "expected"),
    [
        (False, None, False, {"who": "anyone"}),
        (True, None, False, {"who": "nobody"}),
        (True, HELD, False, {"who": "token:t-1", "role": "write"}),
        (True, None, True, {"who": "daemon"}),
    ],
)
def test_it_is_told_who_it_was(closed: bool, token: Token | None, daemon: bool, expected: dict[str, str]) -> None:
    """The token's id and role, a daemon, or whoever it may have been."""
    told = Told(closed).of(DeleteFile("a"), token=token, daemon=daemon)
    assert expected == {name: told[name] for name in ("who", "role") if name in told}


@pytest.mark.parametrize(("holder", "who"), [("t-1", "token:t-1"), ("", "daemon")])
@pytest.mark.parametrize("outcome", [BlockSum(size=3), Forbidden(), Busy()])
def test_a_ticket_tells_whom_it_was_given_for(holder: str, who: str, outcome: Reply | Exception) -> None:
    """A data server knows nobody, but its guard has verified the ticket."""
    assert who == Told(closed=True).of(Store("a-0", size=3, ticket=a_ticket(holder)), outcome)["who"]
    link = Link("a-0", "b-0", "0" * 8, ticket="unseen", source_ticket=a_ticket(holder))
    assert who == Told(closed=True).of(link, outcome)["who"]


@pytest.mark.parametrize("outcome", [Unauthorized(), WrongStorage()])
def test_a_ticket_that_was_not_verified_tells_nothing(outcome: Exception) -> None:
    """Anybody can write a name on it."""
    told = Told(closed=True).of(Store("a-0", size=3, ticket=a_ticket("t-1")), outcome)
    assert "nobody" == told["who"]


def test_in_an_open_cluster_a_ticket_tells_nothing() -> None:
    """Nobody looks at it there."""
    assert "anyone" == Told().of(Store("a-0", size=3, ticket=a_ticket("t-1")), BlockSum(size=3))["who"]


def test_a_batch_tells_whose_ticket_was_accepted() -> None:
    """The first one that was."""
    blocks = [BlockToStore("a-0", 3, ticket=a_ticket("forged")), BlockToStore("b-0", 3, ticket=a_ticket("t-1"))]
    results = BlockResults([BlockResult(code="unauthorized", error="no"), BlockResult(size=3)])
    assert "token:t-1" == Told(closed=True).of(StoreBlocks(6, blocks), results)["who"]


# Signing in


def test_signing_in_is_told() -> None:
    """By the token's id."""
    told = Told(closed=True).of(Auth("a token's text"), SignedIn("write"), token=HELD)
    assert event("auth", who="token:t-1", role="write") == told


def test_a_sign_in_that_fails_is_told() -> None:
    """With the id that the token says it has: it may be one that was revoked."""
    token = issue_token(Keyring([KEY]), HELD)
    assert event("auth", "unauthorized", "nobody", claimed_token_id="t-1") == Told(True).of(Auth(token), Unauthorized())


@pytest.mark.parametrize("text", ["", "hunter2", "a.b.c", "a.W10.c", "a.eyJqdGkiOjd9.c", "ü.ü.ü", "." * 9000])
def test_what_is_no_token_is_not_told(text: str) -> None:
    """It may be a password that was pasted in the wrong place."""
    assert event("auth", "unauthorized", "nobody") == Told(True).of(Auth(text), Unauthorized())


def test_a_proof_is_told_once() -> None:
    """Its first step only if it fails."""
    assert Told(True).silent(Prove(key_id="k", nonce="0" * 32), Proof())
    assert event("prove", who="daemon") == Told(True).of(Prove(proof="00"), Proof(), daemon=True)
    assert event("prove", "unauthorized", "nobody") == Told(True).of(Prove(key_id="k", nonce="0" * 32), Unauthorized())


# Refusals


@pytest.mark.parametrize("error", [Unauthorized(), Forbidden()])
def test_a_refusal_is_told_also_of_reading(error: Exception) -> None:
    """Who looks for what is not theirs."""
    told = Told(True).of(Retrieve("a-0"), error)
    assert event("retrieve", error.code, "nobody", block_id="a-0") == told  # type: ignore[attr-defined]


def test_refusals_cannot_fill_a_disk() -> None:
    """After some in a second they are counted, and the number is told with the next one."""
    told = Told(True)
    for _ in range(1000):
        told.audit.note(Retrieve("a-0"), Session(HOST), Unauthorized())
    told.audit.note(DeleteFile("a"), Session(HOST, HELD), Reply())
    assert ["retrieve"] * 50 + ["delete_file"] == [each["audit"]["command"] for each in told.events]
    told.clock.advance(1)
    del told.events[:]
    told.audit.note(Retrieve("a-0"), Session(HOST), Unauthorized())
    assert {"command": "any", "count": 950, "result": "refused"} == dict(told.events[0]["audit"])
    assert 2 == len(told.events)


STRANGERS: dict[str, tuple[Request, Reply | Exception]] = {
    "a storage that is another": (Delete("a-0"), WrongStorage("no")),
    "half of a proof": (Prove(), BadRequest("no")),
    "a sign-in that is one too many": (Auth("x"), Busy("no")),
    "a batch of refusals": (
        StoreBlocks(1, [BlockToStore("a-0", 1, ticket="x")]),
        BlockResults([BlockResult(code="unauthorized", error="no")]),
    ),
    "a ping": (Ping(), Reply()),
}


@pytest.mark.parametrize(("request_", "outcome"), STRANGERS.values(), ids=STRANGERS)
def test_strangers_cannot_fill_a_disk(request_: Request, outcome: Reply | Exception) -> None:
    """Whatever comes of what they ask for; who has shown something is told of, and so is anyone in an open cluster."""
    with_ticket = Session(HOST, ticket_expires=900)
    for closed, session, most in (
        (True, Session(HOST), 50),
        (True, with_ticket, 100),
        (True, Session(HOST, HELD), 100),
        (False, Session(HOST), 100),
    ):
        told = Told(closed, Audited.ALL)
        for _ in range(100):
            told.audit.note(request_, session, outcome)
        assert most == len(told.events)


# Batches


def test_a_batch_is_one_event() -> None:
    """With what became of its files."""
    files = [FileToStore("a", 1), FileToStore("b", 1), FileToStore("c", 1)]
    results = [FileResult(plan("a")), FileResult(code="forbidden", error="no"), FileResult(plan("c"))]
    expected = event("store_files", count=3, files=["a", "c"], failed=["b"], codes=["forbidden"])
    assert expected == Told().of(StoreFiles(files), FileResults(results))


def test_files_that_are_named_by_their_plans_are_told_by_name() -> None:
    """As far as their names are known."""
    files = [FileToComplete(17), FileToComplete(18)]
    results = [FileResult(plan("a")), FileResult(code="conflict", error="no")]
    expected = event("complete_files", count=2, files=["a"], failed=["generation 18"], codes=["conflict"])
    assert expected == Told().of(CompleteFiles(files), FileResults(results))


def test_a_batch_that_fails_is_told() -> None:
    """By its size."""
    expected = event("store_blocks", "busy", count=1)
    assert expected == Told().of(StoreBlocks(1, [BlockToStore("a-0", 1)]), Busy())


def test_a_batch_of_long_names_is_cut() -> None:
    """One event does not take megabytes."""
    blocks = [BlockToStore(f"{n:01024}", 1) for n in range(1000)]
    told = Told().of(StoreBlocks(1000, blocks), BlockResults([BlockResult(size=1)] * 1000))
    assert (1000, 64, 936) == (told["count"], len(told["blocks"]), told["not_named"])


# Its text


def text_of(request: Request) -> str:
    told = Told()
    told.of(request)
    return formatEvent(told.events[0])


def test_an_event_is_a_line_of_fields() -> None:
    """What has to be quoted is quoted."""
    assert f"who=anyone from={HOST} command=delete_file file_name=a/b.txt result=ok" == text_of(DeleteFile("a/b.txt"))
    assert 'file_name="a \\"b\\" é" result' in text_of(DeleteFile('a "b" é'))
    assert "max_files=7" in text_of(SetQuota("", max_files=7))


@pytest.mark.parametrize("bad", ["\n", "\r", "\x1b[2J", "\x85", "\x9b", "\u2028", "\u202e", "\x00", "\ud800"])
def test_a_name_cannot_forge_an_event(bad: str) -> None:
    """It ends neither the line nor its own field, and does nothing to a terminal."""
    text = text_of(DeleteFile(f"a{bad} result=ok"))
    assert text.isprintable()
    assert 1 == text.count('file_name="a\\u') + text.count('file_name="a\\n') + text.count('file_name="a\\r')


def test_braces_in_a_name_are_nothing_special() -> None:
    """A name is not a format."""
    assert 'file_name="{log_time} {who}"' in text_of(DeleteFile("{log_time} {who}"))


def test_a_name_that_is_too_long_for_any_file_is_cut() -> None:
    """A line of megabytes must not make a log of megabytes."""
    assert len(text_of(DeleteFile("x" * 1_000_000))) < 1200
