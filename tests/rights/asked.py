"""What the metadata server of a closed cluster is asked: every command, for names and plans of all kinds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, frozen

from tests.rights.expected import OK, Plan, of_metadata_server
from tests.rights.signers import FITTING, Signer
from tests.rights.talking import Talk

DATA_SERVER = "10.0.1.1:9001"
_SIZE = 5


@frozen
class Request:
    """What is asked: its fields, the names that it uses, and whose plan it goes on with."""

    fields: Mapping[str, Any]
    names: Sequence[str] = ()
    plan: Plan = Plan.NONE
    exists: bool = False


@define(eq=False)
class World:
    """Somebody who is about to ask, others who prepare that, and what is there to ask about, which is new each time."""

    daemon: Talk
    writer: Talk
    signer: Signer
    talk: Talk
    number: int

    def name(self, words: str = "new", folder: str = FITTING) -> str:
        """Return a name that nothing has yet."""
        return f"{folder}{words} {self.number}"

    def file(self, words: str = "there", folder: str = FITTING) -> str:
        """Store a file and return its name."""
        name = self.name(words, folder)
        planned = done(self.daemon, command="store_file", file_name=name, file_size=0, explicit=True)
        done(self.daemon, command="complete_file", generation=planned["metadata"]["generation"])
        return name

    def deleted(self) -> str:
        """Delete a file and return its name."""
        name = self.file("deleted")
        done(self.daemon, command="delete_file", file_name=name)
        return name

    def plan(self, whose: Plan, size: int = 0, folder: str = FITTING, explicit: bool = True) -> tuple[str, Any]:
        """Plan a file and return its name and metadata."""
        name = self.name("planned", folder)
        fields = {"command": "store_file", "file_name": name, "file_size": size, "replicas": 1, "explicit": explicit}
        signer = self.signer
        own = of_metadata_server("store_file", signer.vouched, signer.role, signer.prefix, [name]) == OK
        talk = self.talk if own and whose is Plan.OWN else self.writer
        return name, done(talk, **fields)["metadata"]

    def request(
        self, command: str, whose: Plan = Plan.NONE, /, *names: str, exists: bool = False, **fields: Any
    ) -> Request:
        """Return what is to be asked."""
        return Request({"command": command, **fields}, names, whose, exists)


def done(talk: Talk, **fields: Any) -> Any:
    """Ask for what must succeed, and return the answer."""
    reply, _behind = talk.ask(**fields)
    assert "ok" == reply["status"], (fields, reply)
    return reply


# What is asked for

Asking = Callable[[World], Request]


def _get(world: World) -> Request:
    name = world.file()
    return world.request("get_metadata", Plan.NONE, name, file_name=name)


def _get_planned(world: World) -> Request:
    name, _plan = world.plan(Plan.FOREIGN, _SIZE, explicit=False)
    return world.request("get_metadata", Plan.NONE, name, file_name=name)


def _fetch(world: World) -> Request:
    name = world.file()
    return world.request("fetch_file", Plan.NONE, name, file_name=name)


def _fetch_raw(world: World) -> Request:
    name = world.file()
    return world.request("fetch_file", Plan.NONE, name, file_name=name, raw=True)


def _list_under_prefix(world: World) -> Request:
    return world.request("list_files", Plan.NONE, FITTING, prefix=FITTING, blocks=True, limit=3)


def _list_all(world: World) -> Request:
    return world.request("list_files", Plan.NONE, "", limit=3)


def _list_half_a_prefix(world: World) -> Request:
    return world.request("list_files", Plan.NONE, FITTING[:-1], prefix=FITTING[:-1], after=FITTING, limit=3)


def _report(world: World) -> Request:
    return world.request("report_replica", block_id=f"{world.name()}-0", data_server=DATA_SERVER)


def _store(world: World) -> Request:
    return world.request("store_file", Plan.NONE, world.name(), file_name=world.name(), file_size=_SIZE)


def _store_data(world: World) -> Request:
    return world.request("store_file", Plan.NONE, world.name(), file_name=world.name(), data="eA==", explicit=True)


def _store_only_new(world: World) -> Request:
    return world.request("store_file", Plan.NONE, world.name(), file_name=world.name(), file_size=1, if_generation=0)


def _store_existing(world: World) -> Request:
    name = world.file()
    return world.request("store_file", Plan.NONE, name, file_name=name, file_size=_SIZE, exists=True)


def _store_this_one(world: World) -> Request:
    name = world.file()
    generation = done(world.daemon, command="get_metadata", file_name=name)["metadata"]["generation"]
    fields: dict[str, Any] = {"file_name": name, "file_size": _SIZE, "if_generation": generation}
    return world.request("store_file", Plan.NONE, name, exists=True, **fields)


def _resume(world: World) -> Request:
    fields: dict[str, Any] = {"file_name": world.name(), "file_size": _SIZE, "explicit": True, "resume": True}
    return world.request("store_file", Plan.NONE, world.name(), **fields)


def _store_many(world: World) -> Request:
    files = [{"file_name": world.name(), "file_size": _SIZE, "explicit": True}]
    return world.request("store_files", Plan.NONE, world.name(), files=files)


def _store_many_existing(world: World) -> Request:
    name = world.file()
    return world.request("store_files", Plan.NONE, name, files=[{"file_name": name, "file_size": 1}], exists=True)


def _complete(whose: Plan, *said: str) -> Asking:
    def asking(world: World) -> Request:
        name, plan = world.plan(whose)
        fields: dict[str, Any] = {}
        if "name" in said:
            fields["file_name"] = name
        if "generation" in said:
            fields["generation"] = plan["generation"]
        if "plan" in said:
            fields["metadata"] = plan
        return world.request("complete_file", whose, name, **fields)

    return asking


def _complete_many(whose: Plan) -> Asking:
    def asking(world: World) -> Request:
        name, plan = world.plan(whose)
        return world.request("complete_files", whose, name, files=[{"generation": plan["generation"]}])

    return asking


def _renew(whose: Plan, folder: str = FITTING) -> Asking:
    def asking(world: World) -> Request:
        name, plan = world.plan(whose, _SIZE, folder)
        return world.request("renew_plan", whose, name, generation=plan["generation"])

    return asking


def _replace(whose: Plan) -> Asking:
    def asking(world: World) -> Request:
        name, plan = world.plan(whose, _SIZE)
        [block] = plan["blocks"]
        fields = {"generation": plan["generation"], "block_id": block["id"], "data_server": block["data_server"]}
        return world.request("replace_replica", whose, name, **fields)

    return asking


def _delete(world: World) -> Request:
    name = world.file()
    return world.request("delete_file", Plan.NONE, name, file_name=name)


def _rename(to: str = FITTING, of: str = FITTING) -> Asking:
    def asking(world: World) -> Request:
        name, new = world.file(folder=of), world.name("renamed", to)
        return world.request("rename_file", Plan.NONE, name, new, file_name=name, new_name=new)

    return asking


def _undelete(world: World) -> Request:
    name = world.deleted()
    return world.request("undelete_file", Plan.NONE, name, file_name=name)


def _care(command: str, **fields: Any) -> Asking:
    return lambda world: world.request(command, **{name: _filled(value, world) for name, value in fields.items()})


def _filled(value: Any, world: World) -> Any:
    return value.format(world.number) if isinstance(value, str) else value


_NOBODY = "10.0.9.9:1"


@frozen
class Asked:
    """A request, what its answer is where it is allowed, and whether the catalog is another one then."""

    words: str
    command: str
    asking: Asking
    changes: bool = False
    answer: str = OK


ASKED: Sequence[Asked] = [
    Asked("", "ping", _care("ping")),
    Asked("of a file", "get_metadata", _get),
    Asked("of a plan", "get_metadata", _get_planned),
    Asked("", "fetch_file", _fetch),
    Asked("raw", "fetch_file", _fetch_raw),
    Asked("under a prefix, with blocks", "list_files", _list_under_prefix),
    Asked("of everything", "list_files", _list_all),
    Asked("under half of a prefix", "list_files", _list_half_a_prefix),
    Asked("", "list_data_servers", _care("list_data_servers")),
    Asked("", "report_replica", _report),
    Asked("of a new name", "store_file", _store, changes=True),
    Asked("with its data", "store_file", _store_data, changes=True),
    Asked("only if it is new", "store_file", _store_only_new, changes=True),
    Asked("of a name that there is", "store_file", _store_existing, changes=True),
    Asked("in the place of one generation", "store_file", _store_this_one, changes=True),
    Asked("to be resumed", "store_file", _resume, changes=True),
    Asked("of a new name", "store_files", _store_many, changes=True),
    Asked("of a name that there is", "store_files", _store_many_existing, changes=True),
    *(
        Asked(
            f"by {' and '.join(said)}, {whose.name.lower()} plan",
            "complete_file",
            _complete(whose, *said),
            changes=True,
        )
        for whose in (Plan.OWN, Plan.FOREIGN)
        for said in (("generation",), ("name", "generation"), ("plan",))
    ),
    Asked("own plan", "complete_files", _complete_many(Plan.OWN), changes=True),
    Asked("foreign plan", "complete_files", _complete_many(Plan.FOREIGN), changes=True),
    Asked("own plan", "renew_plan", _renew(Plan.OWN)),
    Asked("foreign plan", "renew_plan", _renew(Plan.FOREIGN)),
    Asked("foreign plan of another name", "renew_plan", _renew(Plan.FOREIGN, "private/")),
    Asked("own plan", "replace_replica", _replace(Plan.OWN), changes=True),
    Asked("foreign plan", "replace_replica", _replace(Plan.FOREIGN), changes=True),
    Asked("", "delete_file", _delete, changes=True),
    Asked("under the prefix", "rename_file", _rename(), changes=True),
    Asked("to elsewhere", "rename_file", _rename(to="private/"), changes=True),
    Asked("from elsewhere", "rename_file", _rename(of="private/"), changes=True),
    Asked("", "undelete_file", _undelete, changes=True),
    Asked("", "register_data_server", _care("register_data_server", data_server_addr="10.0.9.8:{}"), changes=True),
    Asked("", "accept", _care("accept", data_server_addr=_NOBODY), answer="not_found"),
    Asked("", "drain", _care("drain", data_server_addr=_NOBODY), answer="not_found"),
    Asked("", "undrain", _care("undrain", data_server_addr=_NOBODY), answer="not_found"),
    Asked("", "remove_data_server", _care("remove_data_server", data_server_addr=_NOBODY), answer="not_found"),
    Asked("", "scrub", _care("scrub", data_server_addr=_NOBODY), answer="not_found"),
    Asked("", "fsck", _care("fsck", limit=1, verify=False)),
    Asked("", "backup_catalog", _care("backup_catalog")),
    Asked("", "accept_catalog", _care("accept_catalog")),
    Asked("", "revoke_token", _care("revoke_token", token_id="void-{}"), changes=True),
    Asked("", "list_revoked_tokens", _care("list_revoked_tokens")),
    Asked("", "set_quota", _care("set_quota", prefix="limited {}/", max_files=1), changes=True),
    Asked("", "list_quotas", _care("list_quotas")),
]
