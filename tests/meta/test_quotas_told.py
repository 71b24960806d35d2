"""What a quota's error tells: numbers only of what the token is for."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from attrs import define, field

from filefly.security.keys import Keyring
from filefly.security.tokens import Role, Token, issue_token
from tests.fuzz.running import quick_folder
from tests.rights.closed import ClosedCluster
from tests.rights.talking import KEY, Server, Talk

SHARED = "a quota that counts other files as well has no room for this"


@define(eq=False)
class Office:
    """The metadata server of a closed cluster, and one prefix after another with a quota and 7 bytes of it used."""

    server: Server
    numbers: Iterator[int] = field(factory=count)

    def holder(self, prefix: str, role: Role = Role.WRITE) -> Talk:
        """Return the conversation of a token's holder."""
        talk = self.server.connect()
        talk.ask(command="auth", token=issue_token(Keyring([KEY]), Token(f"t-{prefix}", role, prefix)))
        return talk

    def limited(self) -> str:
        prefix = f"{next(self.numbers)}/"
        admin = self.holder("", Role.ADMIN)
        ask(admin, "set_quota", prefix=prefix, max_bytes=10)
        put(admin, f"{prefix}other", 7)
        return prefix


def ask(talk: Talk, command: str, **fields: Any) -> Any:
    """Return the answer to what must succeed."""
    reply, _behind = talk.ask(command=command, **fields)
    assert "ok" == reply["status"], reply
    return reply


def refusal(talk: Talk, command: str, **fields: Any) -> str:
    """Return what is said to who asks for too much."""
    reply, _behind = talk.ask(command=command, **fields)
    [said] = reply.get("results", [reply])
    assert "quota_exceeded" == said["code"], reply
    return str(said["error"])


def put(talk: Talk, name: str, size: int) -> None:
    """Store a file, whose block is only said to be there."""
    planned = ask(talk, "store_file", file_name=name, file_size=size, explicit=True)["metadata"]
    ask(talk, "complete_file", generation=planned["generation"], blocks=said_of(planned))


def said_of(planned: Any) -> list[Any]:
    return [{"id": block["id"], "crc32c": "00000000", "replicas": block["replicas"]} for block in planned["blocks"]]


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with quick_folder() as folder:
        cluster = ClosedCluster(folder, {"health-interval": 10**6, "catalog-backup-interval": 0})
        yield Office(Server(cluster.factory, None, lambda until: cluster.simulation.run(900, until)))
        cluster.stop()


def test_a_quota_of_other_files_too_tells_no_numbers(office: Office) -> None:
    """Whichever way a file comes: what others use is not the holder's business."""
    prefix = office.limited()
    talk, admin = office.holder(f"{prefix}me/"), office.holder("", Role.ADMIN)
    name = f"{prefix}me/a"
    file = {"file_name": name, "file_size": 4}
    assert SHARED == refusal(talk, "store_file", **file)
    assert SHARED == refusal(talk, "store_files", files=[file])
    planned = ask(talk, "store_file", file_name=name, file_size=3)["metadata"]
    ask(admin, "set_quota", prefix=prefix, max_bytes=9)
    said = {"generation": planned["generation"], "blocks": said_of(planned)}
    assert SHARED == refusal(talk, "complete_file", **said)
    assert SHARED == refusal(talk, "complete_files", files=[said])
    ask(admin, "set_quota", prefix=prefix, max_bytes=10)
    ask(talk, "complete_file", **said)
    ask(talk, "delete_file", file_name=name)
    ask(admin, "set_quota", prefix=prefix, max_bytes=9)
    assert SHARED == refusal(talk, "undelete_file", file_name=name)


@pytest.mark.parametrize("narrower", [False, True])
def test_a_quota_of_the_tokens_own_files_tells_all(office: Office, narrower: bool) -> None:
    """Of its prefix, or below it."""
    prefix = office.limited()
    sentence = f"the quota of files below {prefix!r} is 10 bytes: 7 are used, and this takes 4 more"
    talk = office.holder(prefix[: 1 if narrower else None])
    assert sentence == refusal(talk, "store_file", file_name=f"{prefix}a", file_size=4)


def test_who_has_no_prefix_is_told_all(office: Office) -> None:
    """Every file is its own."""
    prefix = office.limited()
    assert "7 are used" in refusal(office.holder(""), "store_file", file_name=f"{prefix}a", file_size=4)
