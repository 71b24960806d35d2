from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import jwt
import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from filefly.catalog.inventory import DataServerRow
from filefly.catalog.plans import Plan
from filefly.errors import Forbidden, Unauthorized
from filefly.meta.cluster import Cluster
from filefly.meta.placement import cut
from filefly.meta.rights import EVERYTHING, Grant
from filefly.meta.tickets import Claim, TicketOffice, Tickets
from filefly.security.keys import Keyring
from filefly.security.tickets import Right, Ticket, read_ticket
from filefly.security.tokens import Role, Token, issue_token
from filefly.threads import InThread
from filefly.wire.messages import MAX_BLOCKS
from filefly.wire.names import make_block_id, stem_of
from tests.data.closed import NOW, KnownSecret
from tests.fuzz.running import quick_folder
from tests.peer import HeldThreads, inline, now
from tests.rights.closed import ClosedCluster
from tests.rights.talking import KEY as SIMULATED_KEY
from tests.rights.talking import Server, Talk
from tests.security.texts import KEY, OLD

MINUTES_15 = 900
BLOCK_SIZE = 7
SERVERS = (1, 2, 3)
READER, ADDER, WRITER = (Grant(Token("t-1", role)) for role in (Role.READ, Role.APPEND, Role.WRITE))


def row(server: int, **said: Any) -> DataServerRow:
    """Return a data server that was heard from."""
    usual = {"address": address(server), "advertised": None, "placing": True, "storage_id": storage(server)}
    return DataServerRow(server, **{**usual, **said})


def address(server: int) -> str:
    return f"10.0.1.{server}:9001"


def storage(server: int) -> str:
    return f"storage {server}"


def a_plan(
    *places: tuple[int, ...],
    name: str = "docs/a",
    size: int | None = None,
    generation: int = 7,
    long_ids: bool = False,
    committed: bool = False,
    **said: Any,
) -> Plan:
    """Return a plan whose blocks are on the data servers `places`."""
    total_size = len(places) * BLOCK_SIZE if size is None else size
    sizes = cut(total_size, BLOCK_SIZE)
    stem = stem_of(name)
    blocks = [
        {
            "id": make_block_id(stem, number, generation if long_ids else None),
            "size": size,
            "crc32c": None,
            "servers": servers,
        }
        for number, (size, servers) in enumerate(zip(sizes, places, strict=True))
    ]
    fields = {"explicit": True, "block_size": BLOCK_SIZE, "replicas": 1, "attributes": {}, "stem": stem}
    unsaid = {"if_generation": 0, "modified": None, "resumes": None, "holder": "t-1"}
    own = {"generation": generation, "name": name, "total_size": total_size, "blocks": blocks}
    return convert({**fields, **unsaid, **own, "state": "committed" if committed else "pending", **said}, Plan)


@define(eq=False)
class Office:
    """The ticket office of a cluster with three data servers; its time is the test's."""

    secret: KnownSecret | None = field(factory=KnownSecret)
    in_thread: InThread = inline
    clock: Clock = field(factory=Clock)
    cluster: Cluster = field(init=False)
    office: TicketOffice = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Open it."""
        self.clock.advance(NOW)
        self.cluster = Cluster(self.clock, inline)
        self.cluster.take([row(server) for server in SERVERS])
        self.office = TicketOffice(self.cluster, self.secret, self.clock.seconds, self.in_thread)

    def for_plan(self, plan: Plan, grant: Grant = EVERYTHING) -> Tickets:
        return now(Deferred.fromCoroutine(self.office.for_plan(plan, grant)))

    def for_plans(self, *plans: Plan, grant: Grant = EVERYTHING) -> Sequence[Tickets]:
        return now(Deferred.fromCoroutine(self.office.for_plans(plans, grant)))

    def to_read(self, plan: Plan, grant: Grant = EVERYTHING) -> Tickets:
        return now(Deferred.fromCoroutine(self.office.to_read(plan, grant)))

    def issue(self, *claims: Claim | None, grant: Grant = EVERYTHING) -> Sequence[Tickets]:
        return now(Deferred.fromCoroutine(self.office.issue(claims, grant)))

    def read(self, tickets: Tickets, server: int, keyring: Keyring | None = None) -> Ticket:
        """Return what a data server reads in the ticket that is for it."""
        return read_ticket(keyring or Keyring([KEY]), tickets[address(server)], storage(server), self.clock.seconds())


@pytest.fixture
def office() -> Office:
    return Office()


def allowed(ticket: Ticket, right: Right, plan: Plan) -> list[int]:
    """Return which blocks of a plan a ticket is for, by position; each of exactly its size."""
    found = []
    for position, block in enumerate(plan.blocks):
        try:
            ticket.check(right, block.id, block.size)
        except Forbidden:
            continue
        for size in (block.size - 1, block.size + 1):
            with pytest.raises(Forbidden):
                ticket.check(right, block.id, size)
        found.append(position)
    return found


def blocks_on(plan: Plan, server: int) -> list[int]:
    return [position for position, block in enumerate(plan.blocks) if server in block.servers]


def other(right: Right) -> Right:
    return Right.RETRIEVE if right is Right.STORE else Right.STORE


# For what


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    places = draw(st.lists(st.lists(st.sampled_from(SERVERS), unique=True).map(tuple), max_size=30))
    size = max(0, len(places) * BLOCK_SIZE - draw(st.integers(0, BLOCK_SIZE - 1)))
    name = draw(st.sampled_from(["a", "docs/a-0", "a-1.7", "é" * 300]))
    return a_plan(*places, name=name, size=size, long_ids=draw(st.booleans()), committed=draw(st.booleans()))


@given(plan=plans())
def test_tickets_are_for_exactly_what_is_where(plan: Plan) -> None:
    """Those of an open plan to store, those of a file to read; one for each data server that has blocks of it."""
    office = Office()
    tickets = office.for_plan(plan)
    used = {server for server in SERVERS if blocks_on(plan, server)}
    assert {address(server) for server in used} == tickets.keys()
    right = Right.RETRIEVE if plan.committed else Right.STORE
    for server in used:
        ticket = office.read(tickets, server)
        assert blocks_on(plan, server) == allowed(ticket, right, plan)
        assert [] == allowed(ticket, other(right), plan)


def test_a_ticket_is_for_no_other_plan(office: Office) -> None:
    """Neither for another file's blocks nor for another generation's."""
    plan = a_plan((1,), (1,), long_ids=True)
    ticket = office.read(office.for_plan(plan), 1)
    assert [0, 1] == allowed(ticket, Right.STORE, plan)
    for foreign in (
        a_plan((1,), (1,)),
        a_plan((1,), (1,), long_ids=True, generation=8),
        a_plan((1,), (1,), long_ids=True, name="docs/b"),
    ):
        assert [] == allowed(ticket, Right.STORE, foreign)
    longer = a_plan((1,), (1,), (1,), long_ids=True)
    assert [0, 1] == allowed(ticket, Right.STORE, longer)


def test_a_ticket_is_for_no_other_data_server(office: Office) -> None:
    """That has a ticket of its own, if it has blocks of the plan."""
    tickets = office.for_plan(a_plan((1, 2)))
    with pytest.raises(Unauthorized, match=r"^the ticket is for another data server$"):
        office.read({address(2): tickets[address(1)]}, 2)


def test_an_empty_file_has_no_tickets(office: Office) -> None:
    """There is nothing to store, and nothing to read."""
    assert [{}, {}] == office.for_plans(a_plan(), a_plan(committed=True))


def test_a_renamed_file_s_tickets_are_for_the_ids_that_its_blocks_have(office: Office) -> None:
    """They stay what they were."""
    file = a_plan((1,), (2,), committed=True)
    renamed = convert({**_fields(file), "name": "elsewhere"}, Plan)
    tickets = office.for_plan(renamed)
    assert [[0], [1]] == [allowed(office.read(tickets, server), Right.RETRIEVE, file) for server in (1, 2)]


def _fields(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in Plan.__struct_fields__}


def test_what_there_is_of_an_open_plan_may_be_read(office: Office) -> None:
    """By who resumes it: the older blocks are linked."""
    plan = a_plan((1,), (2,))
    tickets = office.to_read(plan, WRITER)
    assert [[0], [1]] == [allowed(office.read(tickets, server), Right.RETRIEVE, plan) for server in (1, 2)]
    assert [] == allowed(office.read(tickets, 1), Right.STORE, plan)


# For whom

OWN, OWN_THAT_MAY_REPLACE = a_plan((1,)), a_plan((1,), if_generation=None)
FOREIGN, A_DAEMON_S = a_plan((1,), holder="t-2"), a_plan((1,), holder=None)
FILE = a_plan((1,), committed=True, holder="t-2")


@pytest.mark.parametrize(
    ("grant", "stored"),
    [
        (READER, []),
        (ADDER, [OWN]),
        (WRITER, [OWN, OWN_THAT_MAY_REPLACE, FOREIGN, A_DAEMON_S]),
        (Grant(Token("t-1", Role.ADMIN)), [OWN, OWN_THAT_MAY_REPLACE, FOREIGN, A_DAEMON_S]),
        (EVERYTHING, [OWN, OWN_THAT_MAY_REPLACE, FOREIGN, A_DAEMON_S]),
    ],
)
def test_who_may_not_go_on_with_a_plan_gets_nothing(grant: Grant, stored: Sequence[Plan]) -> None:
    """Not even to read what is not committed; a file everybody may read, who was let through to it."""
    office = Office()
    for plan in (OWN, OWN_THAT_MAY_REPLACE, FOREIGN, A_DAEMON_S):
        tickets = office.for_plan(plan, grant)
        assert (plan in stored) == bool(tickets)
        assert not tickets or Right.STORE is office.read(tickets, 1).right
    assert Right.RETRIEVE is office.read(office.for_plan(FILE, grant), 1).right


def test_a_plan_of_another_prefix_has_no_tickets(office: Office) -> None:
    """Whatever the token may do elsewhere."""
    grant = Grant(Token("t-1", Role.WRITE, "docs/"))
    assert {} == office.for_plan(a_plan((1,), name="other/a"), grant)
    assert {address(1)} == office.for_plan(a_plan((1,)), grant).keys()


def test_plans_have_their_tickets_each(office: Office) -> None:
    """In their order, also where one between them has none."""
    given = office.for_plans(a_plan((1,)), a_plan((2,), holder="t-2"), a_plan((3,)), FILE, grant=ADDER)
    assert [{address(1)}, set(), {address(3)}, {address(1)}] == [set(tickets) for tickets in given]
    assert [Right.STORE, Right.STORE, Right.RETRIEVE] == [
        office.read(given[number], server).right for number, server in ((0, 1), (2, 3), (3, 1))
    ]


def test_a_ticket_says_whose_it_is(office: Office) -> None:
    """By the token's id, for the data server's audit log; of a daemon there is none."""
    assert "t-1" == office.read(office.for_plan(OWN, WRITER), 1).holder
    assert "t-1" == office.read(office.to_read(FOREIGN, WRITER), 1).holder
    assert "" == office.read(office.for_plan(OWN), 1).holder


def test_an_open_cluster_has_no_tickets() -> None:
    """Its data servers look at none."""
    office = Office(secret=None)
    claim = Claim(Right.STORE, OWN.blocks, OWN.total_size, OWN.block_size)
    assert office.office.is_open
    assert ({}, [{}, {}], {}) == (office.for_plan(OWN), office.for_plans(OWN, FILE), office.to_read(OWN))
    assert [{}, {}] == office.issue(claim, None)
    assert not Office().office.is_open


# Where


def test_clients_find_a_ticket_by_the_address_that_they_are_told(office: Office) -> None:
    """It is for the storage that is there."""
    office.cluster.take([row(1, advertised="files.example:9001"), row(2)])
    tickets = office.for_plan(a_plan((1, 2)))
    assert {"files.example:9001", address(2)} == tickets.keys()
    read_ticket(Keyring([KEY]), tickets["files.example:9001"], storage(1), NOW)


@pytest.mark.parametrize(
    "rows",
    [[row(1), row(2, storage_id=None)], [row(1), row(2, address=None, advertised="files.example:9001")], [row(1)]],
    ids=["not heard from yet", "seen at no address", "removed"],
)
def test_a_data_server_that_nobody_knows_gets_no_ticket(office: Office, rows: Sequence[DataServerRow]) -> None:
    """The other ones get theirs."""
    office.cluster.take(rows)
    plan = a_plan((1, 2), (2,), (2, 1))
    tickets = office.for_plan(plan)
    assert {address(1)} == tickets.keys()
    assert [0, 2] == allowed(office.read(tickets, 1), Right.STORE, plan)


# How long


@pytest.mark.parametrize("past", [0, 0.001, 0.999])
def test_a_ticket_lives_a_quarter_of_an_hour_at_most(office: Office, past: float) -> None:
    """Not a part of a second more, and hardly less."""
    office.clock.advance(past)
    for tickets in (office.for_plan(OWN), office.for_plan(FILE, READER), office.to_read(OWN, WRITER)):
        left = office.read(tickets, 1).expires - office.clock.seconds()
        assert MINUTES_15 - 1 < left <= MINUTES_15


@pytest.mark.parametrize(
    ("expires", "seconds"), [(None, MINUTES_15), (MINUTES_15 + 1, MINUTES_15), (MINUTES_15 - 1, MINUTES_15 - 1), (1, 1)]
)
def test_a_ticket_does_not_outlive_the_token(office: Office, expires: int | None, seconds: int) -> None:
    """That it was given for."""
    grant = Grant(Token("t-1", Role.WRITE, expires=None if expires is None else int(NOW) + expires))
    for tickets in (office.for_plan(OWN, grant), office.for_plan(FILE, grant), office.to_read(OWN, grant)):
        assert int(NOW) + seconds == office.read(tickets, 1).expires


def test_who_asks_again_gets_a_ticket_that_lives_longer(office: Office) -> None:
    """The one before ends when it was to end."""
    first = office.for_plan(OWN)
    office.clock.advance(600)
    second = office.for_plan(OWN)
    office.clock.advance(300)
    with pytest.raises(Unauthorized, match=r"^the ticket has expired"):
        office.read(first, 1)
    assert int(NOW) + 600 + MINUTES_15 == office.read(second, 1).expires
    assert [0] == allowed(office.read(second, 1), Right.STORE, OWN)


def test_the_key_of_now_signs(office: Office) -> None:
    """What was signed before is good as long as that key is."""
    assert office.secret is not None
    office.secret.keyring = Keyring([OLD])
    before = office.for_plan(OWN)
    office.secret.keyring = Keyring([KEY, OLD])
    after = office.for_plan(OWN)
    office.read(before, 1, Keyring([KEY, OLD]))
    office.read(after, 1, Keyring([KEY]))
    with pytest.raises(Unauthorized, match=r"that key is retired$"):
        office.read(before, 1, Keyring([KEY]))


# Many of them


def many_plans() -> list[Plan]:
    return [a_plan((number % 3 + 1,), name=f"docs/{number}") for number in range(400)]


LARGE = a_plan(*[(1,)] * MAX_BLOCKS)


@pytest.mark.parametrize("asked", [many_plans(), [LARGE]], ids=["many plans", "a plan of many blocks"])
def test_many_tickets_are_issued_in_a_thread(asked: Sequence[Plan]) -> None:
    """They are the same; the reactor does something else meanwhile."""
    threads = HeldThreads()
    office = Office(in_thread=threads)
    result = Deferred.fromCoroutine(office.office.for_plans(asked, EVERYTHING))
    assert (1, False) == (threads.held, result.called)
    threads.run_all()
    assert _said(Office().for_plans(*asked)) == _said(now(result))


def _said(given: Sequence[Tickets]) -> list[dict[str, Ticket]]:
    """Return what tickets say, whatever the storage."""
    storages = {address(server): storage(server) for server in SERVERS}
    return [{at: read_ticket(Keyring([KEY]), text, storages[at], NOW) for at, text in each.items()} for each in given]


def test_a_few_tickets_are_issued_at_once() -> None:
    """They take no longer than to hand them to a thread."""
    threads = HeldThreads()
    office = Office(in_thread=threads)
    tickets: Mapping[str, str] = office.for_plan(a_plan(*[(1, 2)] * 100))
    assert (2, 0) == (len(tickets), threads.held)


def test_a_large_plan_has_one_ticket_a_data_server(office: Office) -> None:
    """For all of its blocks, in no more than a line has room for."""
    [tickets] = office.for_plans(LARGE)
    assert {address(1)} == tickets.keys()
    assert MAX_BLOCKS == len(allowed(office.read(tickets, 1), Right.STORE, LARGE))


def test_tickets_that_a_thread_issues_are_those_of_when_they_were_asked_for() -> None:
    """What becomes of the cluster meanwhile does not get into half of them."""
    threads = HeldThreads()
    office = Office(in_thread=threads)
    result = Deferred.fromCoroutine(office.office.for_plans([LARGE], EVERYTHING))
    office.cluster.take([])
    assert office.secret is not None
    office.secret.keyring = Keyring([OLD])
    threads.run_all()
    assert int(NOW) + MINUTES_15 == office.read(now(result)[0], 1).expires


# What the metadata server's answers carry

ADDRESSES = {"10.0.1.1:9001", "10.0.1.2:9001"}


@define(eq=False)
class Asked:
    """The metadata server of a closed cluster with two data servers, and a writer who asks it."""

    talk: Talk
    numbers: Iterator[int] = field(factory=count)

    def ask(self, command: str, **fields: Any) -> Any:
        """Return the answer to what must succeed."""
        reply, _behind = self.talk.ask(command=command, **fields)
        assert "ok" == reply["status"], reply
        return reply

    def plan(self, **fields: Any) -> Any:
        """Plan a file of one block on two data servers, of a new name, and return its metadata."""
        usual = {"file_name": f"file {next(self.numbers)}", "file_size": 5, "explicit": True, "replicas": 2}
        return self.ask("store_file", **{**usual, **fields})["metadata"]

    def file(self) -> Any:
        """Store a file and return its metadata; its block is said to be there."""
        return self.complete(self.plan())["metadata"]

    def complete(self, plan: Any) -> Any:
        return self.ask("complete_file", generation=plan["generation"], blocks=said_of(plan))


def said_of(plan: Any) -> list[Any]:
    """Say of a plan's blocks that they are stored."""
    return [{"id": block["id"], "crc32c": "00000000", "replicas": block["replicas"]} for block in plan["blocks"]]


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    with quick_folder() as folder:
        cluster = ClosedCluster(folder, {"health-interval": 10**6, "catalog-backup-interval": 0})
        simulation = cluster.simulation
        server = Server(cluster.factory, None, lambda until: simulation.run(MINUTES_15, until))
        talk = server.connect()
        token = issue_token(Keyring([SIMULATED_KEY]), Token("t-1", Role.WRITE))
        talk.ask(command="auth", token=token)
        yield Asked(talk)
        talk.hang_up()
        cluster.stop()


def rights_in(told: Any) -> dict[str, set[str]]:
    """Return which data servers there are tickets for, by what they allow."""
    found: dict[str, set[str]] = {}
    for at, text in told["tickets"].items():
        found.setdefault(jwt.decode(text, options={"verify_signature": False})["right"], set()).add(at)
    return found


TO_STORE, TO_READ = {"store": ADDRESSES}, {"retrieve": ADDRESSES}


def test_a_plan_comes_with_tickets_to_store(asked: Asked) -> None:
    """Alone or with others, and when it is renewed."""
    plan = asked.plan()
    assert TO_STORE == rights_in(plan)
    assert TO_STORE == rights_in(asked.ask("renew_plan", generation=plan["generation"]))
    files = [{"file_name": f"together {number}", "file_size": 5, "explicit": True} for number in range(3)]
    results = asked.ask("store_files", files=files)["results"]
    assert [TO_STORE] * 3 == [rights_in(result["metadata"]) for result in results]


def test_a_file_comes_with_tickets_to_read(asked: Asked) -> None:
    """When it is complete, looked up, listed with its blocks, and brought back."""
    plan, too = asked.plan(), asked.plan()
    assert TO_READ == rights_in(asked.complete(plan)["metadata"])
    several = [{"generation": too["generation"], "blocks": said_of(too)}]
    assert TO_READ == rights_in(asked.ask("complete_files", files=several)["results"][0]["metadata"])
    assert TO_READ == rights_in(asked.ask("get_metadata", file_name=plan["name"])["metadata"])
    [listed] = asked.ask("list_files", prefix=plan["name"], blocks=True)["files"]
    assert TO_READ == rights_in(listed)
    asked.ask("delete_file", file_name=plan["name"])
    assert TO_READ == rights_in(asked.ask("undelete_file", file_name=plan["name"])["metadata"])


def test_a_listing_without_blocks_has_no_tickets(asked: Asked) -> None:
    """They are of no use without."""
    [listed] = asked.ask("list_files", prefix=asked.file()["name"])["files"]
    assert "tickets" not in listed


def test_who_resumes_an_upload_may_read_what_there_is(asked: Asked) -> None:
    """And store the rest."""
    older = asked.plan()
    reply = asked.ask("store_file", file_name=older["name"], file_size=5, explicit=True, replicas=2, resume=True)
    assert older["generation"] == reply["resumes"]["generation"]
    assert (TO_STORE, TO_READ) == (rights_in(reply["metadata"]), rights_in(reply["resumes"]))


def test_another_place_comes_with_its_ticket(asked: Asked) -> None:
    """Only with that: the one that failed is not to be tried again."""
    plan = asked.plan(replicas=1)
    [block] = plan["blocks"]
    failed = {"generation": plan["generation"], "block_id": block["id"], "data_server": block["data_server"]}
    reply = asked.ask("replace_replica", **failed)
    assert {"store": ADDRESSES - {block["data_server"]}} == rights_in(reply)
