import json
from typing import Any

import pytest

from filefly.cli.fsck import Summary, check_all
from filefly.errors import Unavailable
from filefly.wire.administration import Finding, Fsck, FsckPage
from tests.cli.test_catalog import with_files
from tests.cli.watched import Answering, Noted, begun, shell_at, states
from tests.client.administered import administered
from tests.on_reactor import on_reactor
from tests.peer import now

MISSING = Finding("missing", "block a-0 of a is missing on x:1", "filefly-client fsck --repair", "a", "a-0", "x:1")
THIN = Finding("under_replicated", "block b-0 of b is on 1 data server", "filefly-client fsck --repair", "b", "b-0")
SHOWN = "missing: block a-0 of a is missing on x:1\n  to mend it: filefly-client fsck --repair\n"


def checked(*pages: Any, as_json: bool = False, verify: bool = True, repair: bool = False) -> tuple[Any, Any, Summary]:
    """Check a cluster that answers with these pages, to the end."""
    answers: Any = Answering(*pages)
    noted = Noted()
    return answers, noted, now(begun(check_all(answers, noted, as_json, verify=verify, repair=repair)))


def test_a_clean_cluster_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed but the summary."""
    answers, noted, summary = checked(FsckPage([], 1, 2345))
    assert "checked 1 file, 2,345 blocks: clean" == str(summary)
    assert [("fsck", "", ("repair", False), ("verify", True))] == answers.asked
    assert ("", "") == capsys.readouterr()
    assert [] == noted.shown


def test_pages_follow_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    """Each from where the one before has ended; all add up, and how far it is is shown."""
    pages = (FsckPage([], 2, 3, "p"), FsckPage([MISSING, THIN], 1, 4, "q"), FsckPage([THIN], 0, 0))
    answers, noted, summary = checked(*pages)
    assert ["", "p", "q"] == [asked[1] for asked in answers.asked]
    assert "checked 3 files, 7 blocks: 3 findings (1 missing, 2 under-replicated)" == str(summary)
    assert ["2 files, 3 blocks", "3 files, 7 blocks, 2 findings"] == states(noted)
    assert 2 == noted.asides
    assert capsys.readouterr().out.startswith(SHOWN + "under-replicated: block b-0 of b")


def test_what_is_asked_for_is_asked_on_every_page() -> None:
    """Not only on the first."""
    answers, _noted, _summary = checked(FsckPage([], 1, 1, "p"), FsckPage([], 1, 1), verify=False, repair=True)
    assert [("fsck", after, ("repair", True), ("verify", False)) for after in ("", "p")] == answers.asked


def test_findings_are_json_if_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line."""
    _answers, _noted, summary = checked(FsckPage([MISSING], 1, 1), as_json=True)
    assert {
        "kind": "missing",
        "sentence": "block a-0 of a is missing on x:1",
        "mend": "filefly-client fsck --repair",
        "file_name": "a",
        "block_id": "a-0",
        "data_server": "x:1",
    } == json.loads(capsys.readouterr().out)
    assert (1, 1, 1, "summary") == (
        summary.for_json.files,
        summary.for_json.blocks,
        summary.for_json.findings,
        summary.for_json.kind,
    )


def test_an_error_ends_the_check() -> None:
    """What was not looked at is not clean."""
    with pytest.raises(Unavailable):
        checked(FsckPage([], 1, 1, "p"), Unavailable())


# The command


@on_reactor
async def test_fsck_finds_what_is_missing(reactor: Any, tmp_path: Any) -> None:
    """Also without reading anything; and what is damaged only by reading. The exit status tells."""
    async with with_files(reactor, tmp_path, "a", "b", replicas=2) as shell:
        await shell.cluster.client().administration.accept(shell.cluster.data[0].address)
        assert "checked 2 files, 4 blocks: clean\n" == await shell.out("fsck")
        node = shell.cluster.data[0]
        node.put("b-0", b"0123457")
        assert "checked 2 files, 4 blocks: clean\n" == await shell.out("fsck", "--quick", "-q")
        done = await shell.run("fsck")
        sentence = f"block b-0 of b is corrupt on {node.address}"
        expected = f"corrupt: {sentence}\n  to mend it: filefly-client fsck --repair\n"
        assert (1, expected) == (done.returncode, "".join(done.stdout.splitlines(keepends=True)[:2]))
        shown = [json.loads(line) for line in (await shell.run("fsck", "--json")).stdout.splitlines()]
        assert ["corrupt", sentence] == [shown[0]["kind"], shown[0]["sentence"]]
        assert {"files": 2, "blocks": 4, "findings": len(shown) - 1, "kind": "summary"} == shown[-1]


@pytest.mark.parametrize(
    ("options", "request_", "said"),
    [
        ([], Fsck(), ""),
        (["--quick"], Fsck(verify=False), ""),
        (
            ["--repair"],
            Fsck(repair=True),
            "filefly-client: what can be mended is being mended; to see what is left: filefly-client fsck --quick\n",
        ),
    ],
)
@on_reactor
async def test_fsck_asks_for_what_is_wanted(
    reactor: Any, tmp_path: Any, options: list[str], request_: Fsck, said: str
) -> None:
    """Where something is repaired, how to see that."""
    async with administered(reactor, {Fsck: [FsckPage([MISSING], 1, 1)]}) as (server, _client):
        done = await shell_at(server.address, tmp_path).run("fsck", *options)
        assert [request_] == server.asked
        shown = f"{SHOWN}checked 1 file, 1 block: 1 finding (1 missing)\n"
        assert (1, shown, said) == (done.returncode, done.stdout, done.stderr)


@on_reactor
async def test_where_nothing_is_wrong_nothing_is_repaired(reactor: Any, tmp_path: Any) -> None:
    """And nothing is said of that."""
    async with administered(reactor, {Fsck: [FsckPage([], 1, 1)]}) as (server, _client):
        done = await shell_at(server.address, tmp_path).run("fsck", "--repair")
        assert (0, "checked 1 file, 1 block: clean\n", "") == (done.returncode, done.stdout, done.stderr)
