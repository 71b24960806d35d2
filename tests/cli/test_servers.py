import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import click
import pytest

from filefly.cli.servers import _confirm_loss, print_servers, state_of
from filefly.errors import FileFlyError
from filefly.meta.identity import OF_ANOTHER_CATALOG, right_catalog
from filefly.units import GIB
from filefly.wire.messages import DataServerList, DataServerState, ListDataServers, ScrubProgress
from tests.cli.test_catalog import TIME, with_files
from tests.cli.watched import shell_at
from tests.client.administered import administered
from tests.on_reactor import on_reactor

REFUSED = "holds another storage than before (is its disk mounted?); to take it as it is: filefly-client servers accept"


def server(address: str = "x:1", **fields: Any) -> DataServerState:
    return DataServerState(address, **{"healthy": True, "state": "up", **fields})


def table(capsys: pytest.CaptureFixture[str], *servers: DataServerState) -> list[list[str]]:
    """Return the cells of the table."""
    print_servers(servers)
    return [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]


def test_a_data_server_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With what is used and free of its disk; columns without content are left out."""
    state = server(total_bytes=10 * GIB, free_bytes=4 * GIB, last_pong="2026-01-02T03:04:05.678Z")
    assert [
        ["address", "state", "disk used", "free", "last answer", "scrub"],
        ["x:1", "up", "6.0 GiB", "4.0 GiB", "2026-01-02 03:04:05", "-"],
    ] == table(capsys, state)


def test_what_is_not_known_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    """A data server that was never heard from."""
    assert ["x:1", "down", "-", "-", "-", "-"] == table(capsys, server(state="down"))[1]


def test_advertised_addresses_and_errors_have_columns_if_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    """How to accept a storage is said below."""
    rows = table(capsys, server(advertised_address="files:1"), server("y:1", error=f"{REFUSED} y:1"))
    assert ["address", "advertised", "state", "disk used", "free", "last answer", "scrub", "last error"] == rows[0]
    assert ["files:1", "-"] == [row[1] for row in rows[1:]]
    assert "holds another storage than before (is its disk mounted?)" == rows[2][-1]
    mistyped = f"{OF_ANOTHER_CATALOG}; {right_catalog('x:1')}"
    assert OF_ANOTHER_CATALOG == table(capsys, server(error=mistyped))[1][-1]
    assert "lost the connection; trying" == table(capsys, server(error="lost the connection; trying"))[1][-1]


def test_a_storage_that_is_seen_nowhere_is_called_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    """That is how to name it in commands."""
    assert "5e2a" == table(capsys, server("", storage_id="5e2a", state="down"))[1][0]


@pytest.mark.parametrize(
    ("scrub", "shown"),
    [
        (None, "-"),
        (ScrubProgress(0, 0, 0), "-"),
        (ScrubProgress(0, 10, 0), "0%"),
        (ScrubProgress(999, 1000, 0), "99%"),
        (ScrubProgress(12, 10, 1), "100%, 1 bad"),
        (ScrubProgress(10, 10, 0, "2026-01-02T03:04:05.678Z"), "2026-01-02"),
        (ScrubProgress(0, 0, 0, "2026-01-02T03:04:05.678Z"), "2026-01-02"),
        (ScrubProgress(9999, 9999, 1234, "2026-01-02T03:04:05.678Z"), "2026-01-02, 1,234 bad"),
    ],
)
def test_a_scrub_is_shown_by_its_progress_or_its_day(
    scrub: ScrubProgress | None, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And by what it found."""
    assert shown == table(capsys, server(scrub=scrub))[1][-1]


def test_an_older_metadata_server_tells_two_states() -> None:
    """By `healthy`."""
    assert ("up", "down") == (state_of(server(state=None)), state_of(server(state=None, healthy=False)))


# The command


@on_reactor
async def test_servers_shows_who_answers(reactor: Any, tmp_path: Any) -> None:
    """As a table, or in JSON."""
    async with with_files(reactor, tmp_path) as shell:
        await shell.cluster.client().administration.accept(shell.cluster.data[0].address)
        lines = (await shell.out("servers")).splitlines()
        expected = [rf"{node.address} +up +[\d.]+ [GT]iB +[\d.]+ [GMT]iB +{TIME} +\S+" for node in shell.cluster.data]
        for pattern, line in zip(expected, lines[1:], strict=True):
            assert re.fullmatch(pattern, line)
        shown = [json.loads(line) for line in (await shell.out("servers", "--json")).splitlines()]
        assert [(node.address, "up") for node in shell.cluster.data] == [(it["address"], it["state"]) for it in shown]


@pytest.mark.parametrize(
    ("servers", "warnings", "status", "said"),
    [
        ([server()], [], 0, []),
        ([server(state="suspect"), server(state="full"), server(state="draining")], [], 0, []),
        ([server(state="down", error="cannot reach x:1")], [], 1, []),
        ([server()], ["the catalog is old"], 1, ["warning: the catalog is old"]),
        ([server(state="down", error=f"{REFUSED} x:1")], [], 1, [f"warning: x:1 {REFUSED} x:1"]),
        ([], [], 0, ["there are no data servers yet; add one: filefly-client servers add HOST:PORT"]),
    ],
)
@on_reactor
async def test_what_is_not_well_is_told(
    reactor: Any, tmp_path: Any, servers: Sequence[DataServerState], warnings: Sequence[str], status: int, said: Any
) -> None:
    """By the exit status, and below the table what should not be overlooked."""
    async with administered(reactor, {ListDataServers: [DataServerList(servers, warnings)]}) as (there, _client):
        done = await shell_at(there.address, tmp_path).run("servers")
        assert (status, said) == (done.returncode, [line.split(": ", 1)[1] for line in done.stderr.splitlines()])


@on_reactor
async def test_servers_are_added_and_removed(reactor: Any, tmp_path: Any) -> None:
    """Options may stand before or after the word."""
    async with with_files(reactor, tmp_path) as shell:
        done = await shell.run("servers", "add", "nas:1", "--advertised", "files:1")
        assert (0, "filefly-client: added nas:1; filefly-client servers shows whether it answers\n") == (
            done.returncode,
            done.stderr,
        )
        shown = [json.loads(line) for line in (await shell.run("servers", "--json")).stdout.splitlines()]
        assert ("nas:1", "files:1") == (shown[-1]["address"], shown[-1]["advertised_address"])
        done = await shell.run("servers", "remove", "files:1")
        assert 0 == done.returncode
        assert "filefly-client: removed files:1; take it out of the metadata server's --data-servers too" in done.stderr
        assert "nas:1" not in (await shell.run("servers", "--json")).stdout


@on_reactor
async def test_what_is_needed_is_removed_only_as_lost(reactor: Any, tmp_path: Any) -> None:
    """And only by who says so twice."""
    async with with_files(reactor, tmp_path, "a") as shell:
        [address] = {node.address for node in shell.cluster.data if "a-0" in node.block_ids()}
        said = f"{address} still has 1 block and 0 open plans: drain it first (filefly-client drain {address})"
        assert (await shell.refusal("servers", "remove", address)).startswith(said)
        done = await shell.run("servers", "remove", address, "--lost")
        assert 2 == done.returncode
        assert f"Say that you mean it: servers remove {address} --lost --yes" in done.stderr
        done = await shell.run("servers", "remove", address, "--lost", "--yes")
        assert 0 == done.returncode
        assert "to see what is lost: filefly-client fsck --quick\n" in done.stderr
        assert address not in await shell.out("servers")


@on_reactor
async def test_a_storage_is_accepted(reactor: Any, tmp_path: Any) -> None:
    """One that came in place of another, which is refused until then."""
    async with with_files(reactor, tmp_path) as shell:
        node = shell.cluster.data[0]
        await shell.cluster.client().administration.accept(node.address)
        await node.stop()
        node.folder = tmp_path / "other"
        node.start()
        await shell.cluster.client().administration.accept(shell.cluster.data[1].address)  # which looks how all are
        done = await shell.run("servers")
        assert 1 == done.returncode
        assert f"filefly-client: warning: {node.address} {REFUSED} {node.address}\n" == done.stderr
        done = await shell.run("servers", "accept", node.address)
        said = f"filefly-client: accepted what is at {node.address}; filefly-client servers shows it\n"
        assert (0, said) == (done.returncode, done.stderr)
        shown = [json.loads(line) for line in (await shell.run("servers", "--json")).stdout.splitlines()]
        assert "up" == next(it["state"] for it in shown if it["address"] == node.address)


@pytest.mark.parametrize("sure", [True, False])
def test_a_person_is_asked_before_something_is_lost(sure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal."""
    asked: list[str] = []

    def confirm(question: str, **_options: Any) -> bool:
        asked.append(question)
        return sure

    monkeypatch.setattr(click, "confirm", confirm)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    if sure:
        _confirm_loss("x:1")
    else:
        with pytest.raises(FileFlyError, match="nothing was changed"):
            _confirm_loss("x:1")
    assert ["Blocks that only x:1 has are lost for good, and files with them. Remove it?"] == asked
