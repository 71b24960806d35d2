from typing import Any

import pytest
from attrs import define, field
from msgspec import convert
from twisted.internet.task import Clock

from filefly.catalog.plans import Plan
from filefly.daemon.failures import Failures
from filefly.daemon.guard import Session
from filefly.daemon.protocol import ServerFactory
from filefly.errors import Conflict, Forbidden, NotFound, QuotaExceeded
from filefly.meta.rights import EVERYTHING, ROLES, Grant, Rights, grant_of
from filefly.meta.server import MetadataServer
from filefly.security.keys import Key, Keyring
from filefly.security.tokens import Role, Token, issue_token
from filefly.wire.batches import FileToStore
from filefly.wire.blocks import Delete
from filefly.wire.codec import CommandTable, commands_of
from filefly.wire.framing import Conversation
from filefly.wire.messages import Reply, Request, StoreFile
from tests.data.closed import Connection, KnownSecret
from tests.peer import Peer
from tests.rights.expected import ADMIN, ANYBODY, METADATA_COMMANDS
from tests.rights.expected import ROLES as IN_ORDER
from tests.security.texts import KEY, OLD

HOST = "192.0.2.1"
NEEDED: dict[str, dict[str, Any]] = {
    "get_metadata": {"file_name": "docs/a"},
    "fetch_file": {"file_name": "docs/a"},
    "list_files": {"prefix": "docs/"},
    "report_replica": {"block_id": "docs/a-0", "data_server": "localhost:9001"},
    "store_file": {"file_name": "docs/a", "file_size": 1},
    "store_files": {"files": []},
    "complete_file": {"file_name": "docs/a"},
    "complete_files": {"files": []},
    "renew_plan": {"generation": 1},
    "replace_replica": {"generation": 1, "block_id": "docs/a-0", "data_server": "localhost:9001"},
    "delete_file": {"file_name": "docs/a"},
    "rename_file": {"file_name": "docs/a", "new_name": "docs/b"},
    "undelete_file": {"file_name": "docs/a"},
    "register_data_server": {"data_server_addr": "localhost:9001"},
    "accept": {"data_server_addr": "localhost:9001"},
    "drain": {"data_server_addr": "localhost:9001"},
    "undrain": {"data_server_addr": "localhost:9001"},
    "remove_data_server": {"data_server_addr": "localhost:9001"},
    "revoke_token": {"token_id": "t-9"},
    "set_quota": {"prefix": "docs/"},
}
"""The fields without which a command is none; what it names is under `docs/`."""

NAMED: list[dict[str, Any]] = [
    {"command": "get_metadata", "file_name": "{}"},
    {"command": "fetch_file", "file_name": "{}"},
    {"command": "list_files", "prefix": "{}"},
    {"command": "list_files", "prefix": "{}", "delimiter": "/", "after": "docs/a", "blocks": True},
    {"command": "store_file", "file_name": "{}", "file_size": 1},
    {"command": "complete_file", "file_name": "{}"},
    {"command": "complete_file", "metadata": {"name": "{}"}},
    {"command": "complete_file", "file_name": "docs/a", "metadata": {"name": "{}"}},
    {"command": "complete_file", "file_name": "{}", "metadata": {"name": "docs/a"}},
    {"command": "delete_file", "file_name": "{}"},
    {"command": "rename_file", "file_name": "docs/a", "new_name": "{}"},
    {"command": "rename_file", "file_name": "{}", "new_name": "docs/a"},
    {"command": "undelete_file", "file_name": "{}"},
]
"""Everywhere that a request may have a name."""

FILES = {"command": "list_files", "prefix": "docs/"}


COMMANDS: CommandTable = {**MetadataServer.commands, **commands_of(Delete)}
"""Those of a metadata server, and one that no role is known for."""


class AnyVerbs:
    """A server that answers whatever its guard lets pass."""

    commands = COMMANDS
    max_payload = 0

    async def answer(self, _request: Request, _conversation: Conversation, _session: Session) -> Reply:
        """Say yes."""
        return Reply()


@define(eq=False)
class Door:
    """The guard, its time and its revoked tokens; who comes to it comes by a connection."""

    clock: Clock = field(factory=Clock)
    secret: KnownSecret = field(factory=lambda: KnownSecret(Keyring([KEY, OLD])))
    revoked: set[str] = field(factory=set)
    factory: ServerFactory = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Set the guard."""
        guard = Rights(self.secret, self.clock.seconds, Failures(self.clock), lambda token_id: token_id in self.revoked)
        self.factory = ServerFactory(self.clock, AnyVerbs(), guard=guard)

    def connect(self) -> Connection:
        """Return the connection of nobody who is known."""
        return Connection(Peer(self.factory.buildProtocol(None)))

    def holder(self, role: str = "read", prefix: str = "", key: Key = KEY, **said: Any) -> Connection:
        """Return the connection of a token's holder."""
        connection = self.connect()
        signs_in(connection, Token(said.pop("token_id", "t-1"), Role(role), prefix, **said), key)
        return connection


@pytest.fixture
def door() -> Door:
    return Door()


def signs_in(connection: Connection, token: Token, key: Key = KEY) -> None:
    reply = connection.ask(command="auth", token=issue_token(Keyring([key]), token))
    assert "ok" == reply["status"], reply


def code(connection: Connection, request: dict[str, Any]) -> str:
    """Return what becomes of a request, in a word."""
    found: str = connection.ask(**request).get("code", "ok")
    return found


def sentence(connection: Connection, request: dict[str, Any]) -> str:
    """Return what is said to who is refused."""
    found: str = connection.ask(**request)["error"]
    return found


def asked(command: str) -> dict[str, Any]:
    return {"command": command, **NEEDED.get(command, {})}


def naming(request: Any, name: str) -> Any:
    """Return a request with a name in it."""
    if isinstance(request, dict):
        return {field: naming(value, name) for field, value in request.items()}
    return request.format(name) if isinstance(request, str) else request


# Roles


def test_every_command_takes_a_role() -> None:
    """One that is forgotten would be for daemons alone."""
    assert set(MetadataServer.commands.values()) == set(ROLES)


@pytest.mark.parametrize("role", Role)
def test_a_role_allows_its_commands_and_no_others(door: Door, role: str) -> None:
    """And those of the roles before it."""
    connection = door.holder(role)
    for command, needed in METADATA_COMMANDS.items():
        allowed = needed == ANYBODY or IN_ORDER.index(role) >= IN_ORDER.index(needed)
        assert ("ok" if allowed else "forbidden") == code(connection, asked(command)), command


def test_who_lacks_a_role_hears_which(door: Door) -> None:
    """And which one there is."""
    assert "delete_file takes a token of the role write or a higher one; this one has the role append" == sentence(
        door.holder("append"), asked("delete_file")
    )


def test_who_has_shown_nothing_may_ping(door: Door) -> None:
    """And hears what to do for anything else, also for what only daemons do."""
    connection = door.connect()
    assert "ok" == code(connection, {"command": "ping"})
    for command in [*METADATA_COMMANDS.keys() - {"ping"}, "delete"]:
        request = {**asked(command), "block_id": "a-0"}
        assert "unauthorized" == code(connection, request), command
        assert sentence(connection, request).startswith('sign in first, by {"command":"auth","token":"..."}')


def test_a_daemon_may_do_everything(door: Door) -> None:
    """Also what no role allows."""
    connection = door.connect()
    assert {"status": "ok"} == connection.prove()
    for command in [*METADATA_COMMANDS, "delete"]:
        assert "ok" == code(connection, {"block_id": "a-0", **asked(command)}), command


def test_what_has_no_role_is_for_daemons_alone(door: Door) -> None:
    """An administrator may not do it."""
    connection = door.holder("admin")
    assert "forbidden" == code(connection, {"command": "delete", "block_id": "a-0"})
    assert "delete is for daemons of the cluster alone" == sentence(
        connection, {"command": "delete", "block_id": "a-0"}
    )


def test_who_has_half_proven_something_is_nobody(door: Door) -> None:
    """The first step of a proof shows nothing of who began it."""
    connection = door.connect()
    connection.ask(command="prove", key_id=KEY.id, nonce="0" * 32)
    assert "unauthorized" == code(connection, FILES)


def test_the_last_who_has_signed_in_counts(door: Door) -> None:
    """A connection that goes from hand to hand has the rights of one of them; a daemon that shows a token, its."""
    connection = door.holder("admin")
    signs_in(connection, Token("t-2", Role.READ))
    assert ("ok", "forbidden") == (code(connection, FILES), code(connection, asked("delete_file")))
    connection.prove()
    assert "ok" == code(connection, asked("delete_file"))
    signs_in(connection, Token("t-2", Role.READ))
    assert "forbidden" == code(connection, asked("delete_file"))


# Prefixes


@pytest.mark.parametrize("request_", NAMED, ids=lambda request: " ".join(request))
def test_every_name_must_begin_with_the_prefix(door: Door, request_: dict[str, Any]) -> None:
    """Whatever a role allows."""
    connection = door.holder("write", "docs/")
    for name in ("docs/", "docs/a", "docs/a/b"):
        assert "ok" == code(connection, naming(request_, name)), name
    for name in ("docs", "Docs/a", "other/docs/a", "doc", "/docs/a", "docs-a", "docs\\a"):
        assert "forbidden" == code(connection, naming(request_, name)), name
        assert "this token is for names that begin with 'docs/'" == sentence(connection, naming(request_, name))


@pytest.mark.parametrize("request_", NAMED, ids=lambda request: " ".join(request))
def test_a_token_without_a_prefix_is_for_all_names(door: Door, request_: dict[str, Any]) -> None:
    """A daemon has none, either."""
    daemon = door.connect()
    daemon.prove()
    for connection in (door.holder("write"), daemon):
        assert "ok" == code(connection, naming(request_, "other/a"))


def test_a_listing_of_everything_is_not_under_a_prefix(door: Door) -> None:
    """Where no prefix is asked for it is the empty one."""
    assert "forbidden" == code(door.holder("read", "docs/"), {"command": "list_files"})


def test_an_empty_name_is_not_under_a_prefix(door: Door) -> None:
    """It is a name all the same."""
    assert "forbidden" == code(door.holder("read", "docs/"), {"command": "get_metadata", "file_name": ""})


@pytest.mark.parametrize("request_", NAMED, ids=lambda request: " ".join(request))
def test_what_filefly_stores_for_itself_is_for_administrators(door: Door, request_: dict[str, Any]) -> None:
    """Who could add to the catalog's backups could drive them out; who could read them would know all there is."""
    for role in ("read", "append", "write"):
        assert "forbidden" == code(door.holder(role), naming(request_, ".filefly/catalog"))
    assert "ok" == code(door.holder("admin"), naming(request_, ".filefly/catalog"))
    assert "ok" == code(door.holder("write"), naming(request_, ".filefly-is-mine"))


def test_who_looks_after_the_cluster_has_no_prefix(door: Door) -> None:
    """A token with one may do what those below `admin` may, there; not even a quota below it is its own matter."""
    connection = door.holder("admin", "docs/")
    for command, needed in METADATA_COMMANDS.items():
        assert ("forbidden" if needed == ADMIN else "ok") == code(connection, asked(command)), command
    assert "set_quota takes a token without a prefix" == sentence(connection, asked("set_quota"))


def test_a_replica_may_be_reported_whatever_the_prefix(door: Door) -> None:
    """A block's id is no name, and nothing is told of it."""
    request = {"command": "report_replica", "block_id": "other/a-0", "data_server": "localhost:9001"}
    assert "ok" == code(door.holder("read", "docs/"), request)


# On an open connection


def test_a_token_is_good_until_its_end(door: Door) -> None:
    """A request that comes then is refused; a ping goes on."""
    connection = door.holder(expires=20)
    door.clock.advance(19.9)
    assert "ok" == code(connection, FILES)
    door.clock.advance(0.1)
    assert "the token has expired; ask for another one" == sentence(connection, FILES)
    assert ("unauthorized", "ok") == (code(connection, FILES), code(connection, {"command": "ping"}))


def test_a_token_that_is_revoked_is_void_at_the_next_request(door: Door) -> None:
    """On all of its connections, and on no other ones."""
    lost, too, other = door.holder(), door.holder(), door.holder(token_id="t-2")
    assert ["ok"] * 3 == [code(each, FILES) for each in (lost, too, other)]
    door.revoked.add("t-1")
    assert ["unauthorized", "unauthorized", "ok"] == [code(each, FILES) for each in (lost, too, other)]
    assert "the token was revoked; ask for another one" == sentence(lost, FILES)


def test_a_token_of_a_key_that_is_retired_is_void_at_the_next_request(door: Door) -> None:
    """One of the key that stays is not."""
    old, new = door.holder(key=OLD), door.holder()
    assert ["ok", "ok"] == [code(each, FILES) for each in (old, new)]
    door.secret.keyring = Keyring([KEY])
    assert ["unauthorized", "ok"] == [code(each, FILES) for each in (old, new)]


def test_a_daemon_with_a_retired_key_is_none(door: Door) -> None:
    """It proves itself again with the other one."""
    daemon = door.connect()
    daemon.prove(OLD)
    assert "ok" == code(daemon, asked("drain"))
    door.secret.keyring = Keyring([KEY])
    assert "unauthorized" == code(daemon, asked("drain"))
    daemon.prove()
    assert "ok" == code(daemon, asked("drain"))


def test_who_is_shown_out_may_come_back(door: Door) -> None:
    """With another token, on the same connection."""
    connection = door.holder()
    door.revoked.add("t-1")
    assert "unauthorized" == code(connection, FILES)
    signs_in(connection, Token("t-2", Role.READ))
    assert "ok" == code(connection, FILES)


# What the holder of a token may do with names and plans


def a_plan(name: str = "docs/a", holder: str | None = "t-1", if_generation: int | None = 0, **said: Any) -> Plan:
    fields = {"generation": 7, "state": "pending", "explicit": True, "total_size": 0, "block_size": 7, "replicas": 1}
    unsaid: dict[str, Any] = {"attributes": {}, "stem": None, "modified": None, "resumes": None, "blocks": ()}
    own = {"name": name, "holder": holder, "if_generation": if_generation}
    return convert({**fields, **unsaid, **own, **said}, Plan)


def a_grant(role: Role, prefix: str = "") -> Grant:
    return Grant(Token("t-1", role, prefix))


PLANS = {
    "of its own": a_plan(),
    "of its own, which may replace a file": a_plan(if_generation=None),
    "of its own, which replaces a file": a_plan(if_generation=3),
    "of another token": a_plan(holder="t-2"),
    "of a daemon": a_plan(holder=None),
}
MAY_ONLY_ADD = {"of its own"}


def goes_on(grant: Grant, plan: Plan) -> bool:
    """Whether a plan may be completed, renewed or placed elsewhere."""
    try:
        grant.check_plan(plan)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize("role", [Role.READ, Role.APPEND])
def test_who_only_adds_goes_on_with_what_it_added_alone(role: Role) -> None:
    """A plan of its own that could replace something it cannot have made."""
    assert MAY_ONLY_ADD == {words for words, plan in PLANS.items() if goes_on(a_grant(role), plan)}


@pytest.mark.parametrize("grant", [a_grant(Role.WRITE), a_grant(Role.ADMIN), EVERYTHING])
def test_who_may_replace_goes_on_with_all_plans(grant: Grant) -> None:
    """Whoever made them."""
    assert PLANS.keys() == {words for words, plan in PLANS.items() if goes_on(grant, plan)}


@pytest.mark.parametrize(
    ("grant", "allowed"),
    [
        (a_grant(Role.READ), set()),
        (a_grant(Role.APPEND), MAY_ONLY_ADD),
        (a_grant(Role.WRITE), PLANS.keys()),
        (EVERYTHING, PLANS.keys()),
    ],
)
def test_who_stores_blocks_must_be_allowed_to_add(grant: Grant, allowed: set[str]) -> None:
    """A reader has no plans, but its token's id may be one that had."""
    assert allowed == {words for words, plan in PLANS.items() if grant.may_go_on(plan)}


@pytest.mark.parametrize("role", Role)
def test_nobody_goes_on_with_a_plan_of_another_prefix(role: Role) -> None:
    """It is found by its generation, so the guard has not seen its name."""
    grant = a_grant(role, "docs/")
    assert not goes_on(grant, a_plan("other/a"))
    assert not grant.may_go_on(a_plan("other/a"))
    assert goes_on(grant, a_plan())


@pytest.mark.parametrize("file", [StoreFile("docs/a", 1), FileToStore("docs/a", 1)])
def test_who_only_adds_asks_for_a_new_file(file: Any) -> None:
    """Whether it says so or not; nothing else of what is asked for is changed."""
    grant = a_grant(Role.APPEND, "docs/")
    restricted = grant.restrict(file)
    assert type(file)("docs/a", 1, if_generation=0) == restricted == grant.restrict(restricted)


@pytest.mark.parametrize("grant", [a_grant(Role.WRITE), a_grant(Role.ADMIN, "docs/"), EVERYTHING])
@pytest.mark.parametrize("if_generation", [None, 0, 3])
def test_who_may_replace_gets_what_it_asks_for(grant: Grant, if_generation: int | None) -> None:
    """Its own condition, or none."""
    file = StoreFile("docs/a", 1, if_generation=if_generation)
    assert file == grant.restrict(file)


def test_who_only_adds_cannot_ask_to_replace_something() -> None:
    """It hears why."""
    with pytest.raises(Forbidden, match=r"^this token may add files, but not replace one$"):
        a_grant(Role.APPEND).restrict(StoreFile("docs/a", 1, if_generation=3))


@pytest.mark.parametrize("role", Role)
def test_a_file_to_store_must_begin_with_the_prefix(role: Role) -> None:
    """Those of a batch are looked at each for itself."""
    with pytest.raises(Forbidden, match=r"^this token is for names that begin with 'docs/'$"):
        a_grant(role, "docs/").restrict(FileToStore("other/a", 1))


def test_who_only_adds_hears_why_a_file_is_not_planned() -> None:
    """It did not ask for generation 0, so a conflict would be a riddle; other errors stay what they are."""
    conflict, others = Conflict("the file has generation 3"), [NotFound(), QuotaExceeded("full")]
    told = a_grant(Role.APPEND).as_told(conflict)
    assert ("forbidden", "this token may add files, but not replace one") == (told.code, str(told))
    assert others == [a_grant(Role.APPEND).as_told(error) for error in others]
    assert [conflict, conflict] == [grant.as_told(conflict) for grant in (a_grant(Role.WRITE), EVERYTHING)]


def test_a_grant_is_that_of_the_token() -> None:
    """Who has none is a daemon, or in an open cluster: the guard has let it pass."""
    token = Token("t-1", Role.READ, "docs/")
    assert Grant(token) == grant_of(Session(HOST, token))
    assert "t-1" == grant_of(Session(HOST, token)).holder
    for session in (Session(HOST), Session(HOST, is_daemon=True)):
        assert EVERYTHING is grant_of(session)
    assert (None, False) == (EVERYTHING.holder, EVERYTHING.only_adds)
