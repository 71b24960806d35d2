"""What FileFly stores for itself is not listed for who is no administrator."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from filefly.security.keys import Keyring
from filefly.security.tokens import Role, Token, issue_token
from tests.fuzz.running import quick_folder
from tests.rights.closed import ClosedCluster
from tests.rights.talking import KEY, Server

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def holder() -> Iterator[Callable[[Role], Ask]]:
    """Run a closed cluster with the files `.filefly/own`, `.filefly-other` and `a`; who is asked for asks it."""
    with quick_folder() as folder:
        cluster = ClosedCluster(folder, {"health-interval": 10**6, "catalog-backup-interval": 0})
        server = Server(cluster.factory, None, lambda until: cluster.simulation.run(900, until))

        def holder(role: Role) -> Ask:
            talk = server.connect()
            talk.ask(command="auth", token=issue_token(Keyring([KEY]), Token("t-1", role)))
            return lambda command, **fields: talk.ask(command=command, **fields)[0]

        admin = holder(Role.ADMIN)
        for name in (".filefly/own", ".filefly-other", "a"):
            assert "ok" == admin("store_file", file_name=name, file_size=0)["status"]
            assert "ok" == admin("complete_file", file_name=name)["status"]
        yield holder
        cluster.stop()


def names(listing: Any) -> list[str]:
    return [file["name"] for file in listing["files"]] + list(listing.get("prefixes", []))


@pytest.mark.parametrize("role", [Role.READ, Role.APPEND, Role.WRITE])
@pytest.mark.parametrize("blocks", [False, True])
def test_who_is_no_administrator_sees_the_other_files(holder: Callable[[Role], Ask], role: Role, blocks: bool) -> None:
    """Whole, as folders, and page by page."""
    ask = holder(role)
    assert [".filefly-other", "a"] == names(ask("list_files", blocks=blocks))
    assert [".filefly-other", "a"] == names(ask("list_files", delimiter="/", blocks=blocks))
    assert [".filefly-other"] == names(ask("list_files", prefix=".file", blocks=blocks))
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = ask("list_files", limit=1, after=after, blocks=blocks)
        found += names(page)
        after = page.get("next")
    assert [".filefly-other", "a"] == found


def test_an_administrator_sees_all(holder: Callable[[Role], Ask]) -> None:
    """Backups are files like any others."""
    ask = holder(Role.ADMIN)
    assert [".filefly-other", ".filefly/own", "a"] == names(ask("list_files"))
    assert [".filefly-other", "a", ".filefly/"] == names(ask("list_files", delimiter="/"))
