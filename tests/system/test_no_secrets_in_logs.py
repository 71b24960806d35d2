"""Neither a log nor an error tells a secret, a token, a ticket or a file's contents, whatever goes wrong."""

import base64
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from filefly.daemon.audit import Audited
from filefly.daemon.guard import Session
from filefly.daemon.logs import LogWriter, Spell, TextFormat, format_json
from filefly.daemon.protocol import ServerFactory
from filefly.data.server import DataServer
from filefly.security.keys import create_secret, read_secret
from filefly.security.tickets import Right
from filefly.security.tokens import Role, Token, issue_token
from filefly.wire.framing import Conversation
from filefly.wire.messages import Reply, Request
from tests.data.closed import a_ticket
from tests.peer import Peer
from tests.system.processes import Daemon, Processes, processes, talk, wait_until

CONTENTS = b"XYZZY the contents of a file XYZZY"
TALKATIVE = ("--audit", "all", "--secret-file", "secret")


def spellings(secret: bytes) -> list[bytes]:
    """Return in which forms bytes might turn up."""
    return [
        secret,
        secret.hex().encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        repr(secret)[2:-1].encode(),
    ]


@define(eq=False)
class Spoken:
    """A closed cluster, all that it has answered, and what it must never have said."""

    cluster: Processes
    never: list[bytes] = field(factory=list)
    answers: list[bytes] = field(factory=list)

    def issue(self, name: str, role: Role, expires: int | None = None) -> str:
        """Make a token whose text nobody may tell."""
        text = issue_token(read_secret(self.cluster.folder / "secret"), Token(name, role, expires=expires))
        self.never.append(text.encode())
        self.never.append(text.rpartition(".")[2].encode())  # its signature
        return text

    def say(self, daemon: Daemon, *requests: Any, payload: bytes = b"") -> list[Any]:
        """Send requests, and `payload` behind the last; return the answers, whose errors are kept."""
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in requests]
        answers = talk(daemon.ports[0], b"\n".join(lines) + b"\n" + payload).splitlines()
        self.answers += [answer for answer in answers if b'"error"' in answer]
        return [json.loads(answer) for answer in answers]


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Spoken]:
    """Run a closed cluster that tells all that it can; the metadata server in text, the data servers in JSON."""
    create_secret(tmp_path / "secret")
    keys = read_secret(tmp_path / "secret").keys
    never = [*spellings(CONTENTS), *spellings(CONTENTS[:16])]
    for key in keys:
        for secret in (key.secret, key.for_tokens, key.for_tickets, key.for_proofs):
            never += spellings(secret)
    options = (*TALKATIVE, "--log-format", "json")
    with processes(tmp_path, *TALKATIVE, data_servers=2, data_options=options) as cluster:
        yield Spoken(cluster, never)


def changed(text: str) -> str:
    """Return a token or a ticket with one character of its signature changed."""
    return text[:-9] + ("A" if text[-9] != "A" else "B") + text[-8:]


def test_a_closed_cluster_keeps_to_itself_what_is_secret(spoken: Spoken) -> None:
    """Good requests and bad ones, of those who may and of those who may not."""
    cluster, meta = spoken.cluster, spoken.cluster.meta
    writer, reader = spoken.issue("writer", Role.WRITE), spoken.issue("reader", Role.READ)
    admin, expired = spoken.issue("admin", Role.ADMIN), spoken.issue("past", Role.ADMIN, expires=1)
    auth = {"command": "auth", "token": writer}
    plan = {"command": "store_file", "file_name": "a", "file_size": len(CONTENTS), "explicit": True}

    plans: list[Any] = []

    def planned() -> bool:
        plans.append(spoken.say(meta, auth, plan)[-1].get("metadata", {}))
        return "tickets" in plans[-1]

    wait_until(planned, "data servers to be known")
    told = plans[-1]
    [block] = told["blocks"]
    spoken.never += [ticket.encode() for ticket in told["tickets"].values()]
    [server] = [each for each in cluster.data if each.address == block["data_server"]]
    ticket = told["tickets"][server.address]
    size = len(CONTENTS)
    store = {"command": "store", "block_id": block["id"], "size": size}
    encoded = {"command": "store", "block_id": block["id"], "data": base64.b64encode(CONTENTS).decode()}
    stored = spoken.say(server, {**store, "ticket": ticket}, payload=CONTENTS)
    assert "ok" == stored[0]["status"]
    assert "ok" == spoken.say(server, {**encoded, "ticket": ticket})[0]["status"]
    for bad in (changed(ticket), ticket[:-1], ticket + ticket, writer, 7):
        assert "error" == spoken.say(server, {**store, "ticket": bad}, payload=CONTENTS)[0]["status"]
        assert "error" == spoken.say(server, {**encoded, "ticket": bad})[0]["status"]
    for wrong in ({"size": size + 1}, {"size": "7"}, {"block_id": 7}, {"crc32c": "00000000"}, {"block_id": "../x"}):
        spoken.say(server, {**store, "ticket": ticket, **wrong}, payload=CONTENTS)
    spoken.say(server, {**encoded, "data": encoded["data"][:-3] + "!!!", "ticket": ticket})
    spoken.say(
        server,
        {
            "command": "store_blocks",
            "size": size,
            "blocks": [{"block_id": block["id"], "size": size, "ticket": changed(ticket)}],
        },
        payload=CONTENTS,
    )
    spoken.say(server, {"command": "delete", "block_id": block["id"]})
    for daemon in cluster.all:
        for token in (writer, reader, admin, expired, changed(writer), writer[:-1], ticket, 7, None, [writer]):
            spoken.say(daemon, {"command": "auth", "token": token}, {"command": "status"}, {"command": "list_quotas"})
        spoken.say(daemon, {"command": writer}, {"command": "auth", "tocken": writer})
        for line in (auth, store | {"ticket": ticket}, encoded | {"ticket": ticket}):
            text = json.dumps(line).encode()
            spoken.say(daemon, text[:-1], text + b"x", b"\xff" + text, b"[" + text + b"]")
        spoken.say(daemon, {"command": "prove", "key_id": "x", "nonce": "0" * 32}, {"command": "prove", "proof": "00"})
    spoken.say(meta, auth, {"command": "store_file", "file_name": "d", "data": encoded["data"]})
    spoken.say(meta, auth, {"command": "complete_file", "generation": told["generation"]})
    spoken.say(meta, {"command": "auth", "token": reader}, {"command": "fetch_file", "file_name": "a"})
    spoken.say(meta, {"command": "auth", "token": reader}, {"command": "delete_file", "file_name": "a"})
    for mistaken in (writer, writer.rpartition(".")[2]):
        revoke = {"command": "revoke_token", "token_id": mistaken}
        assert "bad_request" == spoken.say(meta, {"command": "auth", "token": admin}, revoke)[1]["code"]
    spoken.say(meta, {"command": "auth", "token": admin}, {"command": "revoke_token", "token_id": "writer"}, auth)
    (cluster.folder / "token").write_text(writer)
    (cluster.folder / "token").chmod(0o600)
    done = cluster.client("--token-file", "token", "ls", check=False)
    spoken.answers += [done.stdout, done.stderr]
    assert done.returncode == 1
    for daemon in cluster.all:
        daemon.stop()
    logs = [daemon.log.read_bytes() for daemon in cluster.all]
    assert all(log.count(b"filefly.audit") > 10 for log in logs)
    assert len(spoken.answers) > 50
    for said in (*logs, *spoken.answers):
        for secret in spoken.never:
            assert secret not in said, said


class Failing:
    """Verbs that have a bug, which shows when they have the whole request at hand."""

    commands = DataServer.commands
    max_payload = 1000

    async def answer(self, request: Request, conversation: Conversation, session: Session) -> Reply | None:
        held = [request, [] if conversation.payload_ended else await conversation.receive_chunks()]
        raise ZeroDivisionError(f"a bug, with {len(held)} at hand")


@pytest.mark.parametrize("form", [TextFormat(), format_json])
@pytest.mark.parametrize("encoded", [True, False])
def test_a_traceback_keeps_to_itself_what_is_secret(form: Spell, encoded: bool, logged_failures: list[Failure]) -> None:
    """The frames of a failure hold the whole request."""
    ticket, inside = a_ticket(Right.STORE, 0), base64.b64encode(CONTENTS).decode()
    log, clock = StringIO(), Clock()
    writer = LogWriter(clock, log, form)
    globalLogPublisher.addObserver(writer)
    try:
        peer = Peer(ServerFactory(clock, Failing(), audited=Audited.ALL).buildProtocol(None))
        part = {"data": inside} if encoded else {"size": len(CONTENTS)}
        store = {"command": "store", "block_id": "a-0", "ticket": ticket, **part}
        peer.give(json.dumps(store).encode() + b"\n", b"" if encoded else CONTENTS)
        peer.hang_up()
    finally:
        globalLogPublisher.removeObserver(writer)
    clock.advance(1)
    logged_failures.clear()
    assert 1 == log.getvalue().count("Traceback")
    assert "internal" in log.getvalue()
    said = log.getvalue() + peer.transport.value().decode()
    assert [] == [secret for secret in (CONTENTS.decode(), inside, ticket) if secret in said]
