"""What the daemons' logs tell of changes, as programs read them: every line is JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from filefly.security.keys import create_secret, read_secret
from filefly.security.tokens import Role, Token, issue_token
from tests.system.processes import Daemon, Processes, processes, wait_until

JSON = ("--log-format", "json")
SECRET = ("--secret-file", "secret")


def events(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the lines of a daemon's log."""
    return [json.loads(line) for line in daemon.log.read_bytes().splitlines()]


def changes(daemon: Daemon) -> list[dict[str, Any]]:
    """Return what a daemon's log tells of requests."""
    return [event for event in events(daemon) if event["namespace"] == "filefly.audit"]


@define(eq=False)
class Watched:
    """A cluster with a log in JSON."""

    cluster: Processes

    def told(self, daemon: Daemon, **fields: Any) -> dict[str, Any]:
        """Return, once it is there, the change that has these fields."""

        def found() -> list[dict[str, Any]]:
            return [each for each in changes(daemon) if fields.items() <= each.items()]

        wait_until(lambda: found() != [], f"{fields} to be told")
        return found()[-1]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Run an open cluster."""
    folder = tmp_path_factory.mktemp("opened")
    with processes(folder, *JSON, data_servers=1, data_options=JSON) as cluster:
        yield Watched(cluster)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Run a closed cluster, with tokens of an admin `boss` and of a reader `guest`."""
    folder = tmp_path_factory.mktemp("closed")
    create_secret(folder / "secret")
    for name, role in (("boss", Role.ADMIN), ("guest", Role.READ)):
        (folder / name).write_text(issue_token(read_secret(folder / "secret"), Token(f"id-of-{name}", role)))
        (folder / name).chmod(0o600)
    with processes(folder, *JSON, *SECRET, data_servers=1, data_options=[*JSON, *SECRET]) as cluster:
        yield Watched(cluster)


def test_every_line_is_json(opened: Watched) -> None:
    """Also twistd's own, before a daemon has said anything."""
    for daemon in opened.cluster.all:
        texts = [event["text"] for event in events(daemon)]
        assert texts[0].startswith("twistd ")
        assert any("is listening on" in text for text in texts)


def test_a_session_by_hand_is_told(opened: Watched) -> None:
    """In an open cluster it was anyone, from here."""
    opened.cluster.store_by_hand("by hand", b"hello")
    opened.cluster.fetch("by hand")
    opened.cluster.ask_one("delete_file", file_name="by hand")
    told = opened.told(opened.cluster.meta, command="store_file", file_name="by hand")
    assert ("anyone", "127.0.0.1", "ok", 5) == (told["who"], told["from"], told["result"], told["file_size"])
    assert "ok" == opened.told(opened.cluster.data[0], command="store", block_id="by hand-0")["result"]
    assert "ok" == opened.told(opened.cluster.meta, command="delete_file", file_name="by hand")["result"]


def test_a_plan_that_commits_itself_is_told(opened: Watched) -> None:
    """Nobody has asked for it, so it was a daemon."""
    generation = opened.cluster.store_by_hand("by itself", b"hello")["generation"]
    opened.cluster.fetch("by itself")
    told = opened.told(opened.cluster.meta, command="complete_file", file_name="by itself")
    assert ("daemon", generation, "ok") == (told["who"], told["generation"], told["result"])


def test_a_name_in_a_bad_request_forges_nothing(opened: Watched) -> None:
    """It stays one field of one line."""
    name = 'x"}\n{"namespace":"filefly.audit","who":"forged\u2028\x1b[2J'
    opened.cluster.ask_one("delete_file", file_name=name)
    assert "bad_request" == opened.told(opened.cluster.meta, file_name=name)["result"]
    assert [] == [event for event in changes(opened.cluster.meta) if "forged" in event["who"]]


def test_a_folder_is_told_at_once(opened: Watched, tmp_path: Path) -> None:
    """By its files' names, at both servers."""
    for name in "abc":
        (tmp_path / name).write_text(name)
    opened.cluster.client("upload", "-q", "-r", tmp_path, "--name", "folder")
    names = [f"folder/{name}" for name in "abc"]
    for command in ("store_files", "complete_files"):
        told = opened.told(opened.cluster.meta, command=command)
        assert (3, names) == (told["count"], sorted(told["files"]))
    stored = opened.told(opened.cluster.data[0], command="store_blocks")
    assert [f"{name}-0" for name in names] == sorted(stored["blocks"])


def test_a_closed_cluster_tells_who_it_was(closed: Watched) -> None:
    """By the token's id, also where only a ticket was shown."""
    meta, [data] = closed.cluster.meta, closed.cluster.data
    closed.cluster.client("--token-file", "boss", "upload", "-q", "-", "--name", "secret.txt", stdin=b"x")
    closed.cluster.client("--token-file", "guest", "rm", "secret.txt", check=False)
    closed.cluster.client("--token-file", "boss", "mv", "secret.txt", "other.txt")
    boss = {"who": "token:id-of-boss", "role": "admin"}
    assert "ok" == closed.told(meta, command="auth", **boss)["result"]
    assert "ok" == closed.told(meta, command="store_file", file_name="secret.txt", **boss)["result"]
    assert "ok" == closed.told(meta, command="complete_file", file_name="secret.txt", **boss)["result"]
    assert "ok" == closed.told(meta, command="rename_file", new_name="other.txt", **boss)["result"]
    assert "forbidden" == closed.told(meta, command="delete_file", who="token:id-of-guest", role="read")["result"]
    assert "ok" == closed.told(data, command="store", who="token:id-of-boss")["result"]
    assert "ok" == closed.told(data, command="prove", who="daemon")["result"]


def test_caring_for_a_cluster_is_told(closed: Watched) -> None:
    """Tokens, quotas and data servers."""
    address = closed.cluster.data[0].address
    for command in (
        ["token", "revoke", "1234567890abcdef"],
        ["quota", "set", "logs/", "--max-files", "7"],
        ["undrain", address],
    ):
        closed.cluster.client("--token-file", "boss", *command)
    assert "ok" == closed.told(closed.cluster.meta, command="revoke_token", token_id="1234567890abcdef")["result"]
    assert 7 == closed.told(closed.cluster.meta, command="set_quota", prefix="logs/")["max_files"]
    assert "ok" == closed.told(closed.cluster.meta, command="undrain", data_server_addr=address)["result"]


def test_who_is_refused_is_told(closed: Watched) -> None:
    """Reading as well: nobody has signed in, or with a token that is not accepted."""
    closed.cluster.ask_one("list_files", prefix="private/")
    stale = issue_token(read_secret(closed.cluster.folder / "secret"), Token("id-of-past", Role.READ, expires=1))
    closed.cluster.ask_one("auth", token=stale)
    closed.cluster.ask_one("delete", closed.cluster.data[0], block_id="a-0")
    meta, [data] = closed.cluster.meta, closed.cluster.data
    assert "unauthorized" == closed.told(meta, command="list_files", who="nobody", prefix="private/")["result"]
    assert "unauthorized" == closed.told(meta, command="auth", claimed_token_id="id-of-past")["result"]
    assert "unauthorized" == closed.told(data, command="delete", who="nobody")["result"]
