"""The metadata server of a closed cluster: every command, by everybody, about names of theirs or of others."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import jwt
import pytest
from attrs import define, field

from filefly.meta.server import MetadataServer
from tests.fuzz.running import quick_folder
from tests.rights.asked import ASKED, Asked, Request, World, done
from tests.rights.closed import ClosedCluster
from tests.rights.expected import (
    APPEND,
    METADATA_COMMANDS,
    OK,
    ROLES,
    WRITE,
    Plan,
    Vouched,
    of_metadata_server,
)
from tests.rights.signers import REVOKED, SIGNERS, Signer, present, signed_in, token
from tests.rights.talking import Secret, Server, Talk, verdict

_LONGEST_ANSWER_SECONDS = 900


@define(eq=False)
class Matrix:
    """A cluster that is asked again and again."""

    cluster: ClosedCluster
    server: Server
    cases: int = 0
    wrong: list[str] = field(factory=list)
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    def talk_of(self, signer: Signer) -> Talk:
        """Return a conversation that somebody has begun."""
        return signed_in(signer, self.server.connect, self.server.earlier, self.server.later)

    def catalog(self) -> dict[str, list[Any]]:
        """Return what is in the catalog, but for how long it runs and how the data servers are."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
        tables = [name for (name,) in self.cluster.meta.ask(query)]
        found = {name: sorted(map(repr, self.cluster.meta.ask(f"SELECT * FROM {name}"))) for name in tables}
        found["catalog"] = self.cluster.meta.ask("SELECT suspended FROM catalog")
        return found

    def try_one(self, asked: Asked, signer: Signer) -> None:
        """Ask once, and note what is wrong about the answer."""
        self.cases += 1
        daemon, writer = self.talk_of(_named("daemon")), self.talk_of(_named(WRITE))
        talk = self.talk_of(signer)
        world = World(daemon, writer, signer, talk, next(self._numbers))
        request = asked.asking(world)
        assert asked.command == request.fields["command"]
        before = self.catalog()
        reply, behind = talk.ask(**request.fields)
        after = self.catalog()
        for each in (daemon, writer, talk):
            each.hang_up()
        who = (signer.vouched, signer.role, signer.prefix)
        wanted = of_metadata_server(asked.command, *who, request.names, request.plan, request.exists)
        got = verdict(reply)
        what = f"{asked.command} {asked.words}: {signer.name}: {wanted}"
        if (asked.answer if wanted == OK else wanted) != got:
            self.wrong.append(f"{what}, but {reply}")
        elif before != after and not (wanted == OK and asked.changes):
            self.wrong.append(f"{what}, but {_difference(before, after)}")
        elif wanted == OK and asked.changes and before == after:
            self.wrong.append(f"{what}, but nothing has changed: {reply}")
        elif wanted != OK and (behind or "metadata" in reply or "files" in reply):
            self.wrong.append(f"{what}, but it tells {reply} {behind!r}")
        elif not _may_have(_tickets_in(reply), signer, request):
            self.wrong.append(f"{what}, but with tickets that it should not have: {reply}")


def _named(name: str) -> Signer:
    [signer] = [signer for signer in SIGNERS if signer.name == name]
    return signer


def _difference(before: Mapping[str, list[Any]], after: Mapping[str, list[Any]]) -> str:
    return "; ".join(
        f"{table}: {set(map(str, before[table])) ^ set(map(str, after[table]))}"
        for table in before
        if before[table] != after[table]
    )


def _tickets_in(value: Any) -> list[Any]:
    """Return what the tickets say that are anywhere in a reply."""
    match value:
        case dict():
            own = [_claims(text) for text in value.get("tickets", {}).values()]
            return own + [found for each in value.values() for found in _tickets_in(each)]
        case list():
            return [found for each in value for found in _tickets_in(each)]
    return []


def _claims(text: str) -> Any:
    return jwt.decode(text, options={"verify_signature": False})


def _may_have(tickets: Sequence[Any], signer: Signer, request: Request) -> bool:
    """Whether somebody may have these: to store only who may go on with the plan, and all of them under the prefix."""
    may_store = signer.vouched is Vouched.PROOF or (
        signer.role is not None
        and ROLES.index(signer.role) >= ROLES.index(APPEND)
        and (ROLES.index(signer.role) >= ROLES.index(WRITE) or request.plan is not Plan.FOREIGN)
    )
    if request.fields["command"] == "get_metadata" and signer.role == APPEND:
        may_store = False  # it is another one's plan
    return all(
        claims["stem"].startswith(signer.prefix) and (claims["right"] == "retrieve" or may_store) for claims in tickets
    )


@pytest.fixture
def matrix() -> Iterator[Matrix]:
    with quick_folder() as folder:
        cluster = ClosedCluster(folder, {"health-interval": 10**6, "catalog-backup-interval": 0})
        factory, secret = cluster.factory, Secret()
        server = Server(factory, secret, lambda until: cluster.simulation.run(_LONGEST_ANSWER_SECONDS, until))
        factory.guard._secret, factory.guard._now = secret, lambda: server.now
        matrix = Matrix(cluster, server)
        daemon = matrix.talk_of(_named("daemon"))
        done(daemon, command="revoke_token", token_id=REVOKED)
        daemon.hang_up()
        yield matrix
        cluster.stop()


def _everybody(matrix: Matrix) -> list[Signer]:
    """Return all, those whose tokens are revoked among them."""

    def revoked_since(talk: Talk) -> None:
        text = token("admin", token_id=f"since-{next(matrix._numbers)}")
        present(text, True)(talk)
        daemon = matrix.talk_of(_named("daemon"))
        done(daemon, command="revoke_token", token_id=jwt.decode(text, options={"verify_signature": False})["jti"])
        daemon.hang_up()

    return [
        *SIGNERS,
        Signer("revoked token", Vouched.NOTHING, present(token(token_id=REVOKED), False)),
        Signer("token revoked since", Vouched.LAPSED_TOKEN, revoked_since),
    ]


def test_it_is_said_of_every_command_who_may_use_it() -> None:
    """A new command has to be put into the model, and asked for here."""
    assert set(METADATA_COMMANDS) == set(MetadataServer.commands) == {asked.command for asked in ASKED}


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: f"{asked.command} {asked.words}".strip())
def test_everybody(asked: Asked, matrix: Matrix) -> None:
    """Each gets the right answer, no ticket too many, and what is refused leaves the catalog as it was."""
    everybody = _everybody(matrix)
    for signer in everybody:
        matrix.try_one(asked, signer)
    assert [] == matrix.wrong
    assert len(everybody) == matrix.cases
