from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from filefly.cli.care import _named, _tell_scrubbed, _verdict, watch_drain, watch_scrub
from filefly.errors import Unavailable
from filefly.wire.administration import DrainProgress
from filefly.wire.messages import DataServerList, DataServerState, ScrubProgress
from tests.cli.test_catalog import with_files
from tests.cli.watched import Answering, Noted, begun, states, times
from tests.on_reactor import next_turn, on_reactor
from tests.peer import now

SAFE = DrainProgress(0, 0, True)
BUSY = DrainProgress(3, 0, False)


def draining(answers: Any, clock: Clock, noted: Noted) -> Any:
    return begun(watch_drain(answers, "x:1", clock, noted))


# drain


def test_a_drain_is_asked_for_until_it_is_done() -> None:
    """Once a second; how far it is counts from the most that was there."""
    clock, noted = Clock(), Noted()
    answers = Answering(DrainProgress(4, 0, False), DrainProgress(5, 0, False), DrainProgress(2, 1, False), SAFE)
    result = draining(answers, clock, noted)
    times(clock, 3)
    assert SAFE == now(result)
    assert [("drain", "x:1")] * 4 == answers.asked
    assert [
        ("4 blocks left", 0, 4),
        ("5 blocks left", 0, 5),
        ("2 blocks and 1 upload left", 3, 5),
        ("0 blocks left", 5, 5),
    ] == noted.shown
    assert [] == noted.notes


def test_an_empty_data_server_is_drained_at_once() -> None:
    """Without waiting."""
    assert SAFE == now(draining(Answering(SAFE), Clock(), Noted()))


def test_why_a_drain_waits_is_said_once() -> None:
    """And what may help; again only when it is something else."""
    clock, noted = Clock(), Noted()
    full, down = (DrainProgress(3, 0, False, why) for why in ("all are full", "one is down"))
    result = draining(Answering(full, full, BUSY, full, down, SAFE), clock, noted)
    times(clock, 5)
    assert SAFE == now(result)
    hint = "(filefly-client servers shows them, servers add HOST:PORT adds one)"
    end = "to take it back: filefly-client undrain x:1"
    assert [f"waiting: {why} {hint}; {end}" for why in ("all are full", "one is down")] == noted.notes


def test_a_drain_waits_for_uploads() -> None:
    """It is said when nothing else is left."""
    clock, noted = Clock(), Noted()
    result = draining(Answering(DrainProgress(1, 2, False), DrainProgress(0, 2, False), SAFE), clock, noted)
    times(clock, 2)
    assert SAFE == now(result)
    [note] = noted.notes
    assert note.startswith("waiting: 2 uploads may still store blocks there;")


def test_a_drain_goes_on_after_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    """And that is said."""
    result = draining(Answering(BUSY), Clock(), Noted())
    result.cancel()
    with pytest.raises(CancelledError):
        now(result)
    said = "filefly-client: the draining of x:1 goes on; to watch it: filefly-client drain x:1, "
    assert ("", f"{said}to take it back: filefly-client undrain x:1\n") == capsys.readouterr()


def test_a_drain_goes_on_without_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as while the metadata server is restarted."""
    clock = Clock()
    result = draining(Answering(BUSY, Unavailable()), clock, Noted())
    times(clock, 1)
    with pytest.raises(Unavailable):
        now(result)
    assert "the draining of x:1 goes on" in capsys.readouterr().err


def test_a_drain_that_never_began_does_not_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the error is told."""
    with pytest.raises(Unavailable):
        now(draining(Answering(Unavailable()), Clock(), Noted()))
    assert ("", "") == capsys.readouterr()


def test_the_verdict_names_the_next_command() -> None:
    """Whatever it is."""
    assert _verdict("x:1", SAFE).startswith("safe to remove: ")
    assert _verdict("x:1", SAFE).endswith("filefly-client servers remove x:1")
    assert "draining x:1: 3 blocks left; to watch it: filefly-client drain x:1" == _verdict("x:1", BUSY)


# scrub


def server(address: str, checked: int, bad: int = 0, *, done: bool = False, **fields: Any) -> DataServerState:
    scrub = ScrubProgress(checked, 10, bad, "2026-01-02T03:04:05Z" if done else None)
    return DataServerState(address, healthy=True, **{"state": "up", "scrub": scrub, **fields})


def scrubbing(address: str | None, noted: Noted, clock: Clock, *answers: Any) -> Any:
    return begun(watch_scrub(Answering(*answers), address, clock, noted))  # type: ignore[arg-type]


def test_a_scrub_is_watched_until_all_are_through() -> None:
    """With the blocks of all, and the bad ones once there are any."""
    clock, noted = Clock(), Noted()
    end = [server("x:1", 10, 1, done=True), server("y:1", 10, done=True)]
    result = scrubbing(
        None,
        noted,
        clock,
        DataServerList([server("x:1", 0), server("y:1", 0, scrub=None)]),
        DataServerList([server("x:1", 10, 1, done=True), server("y:1", 4)]),
        DataServerList(end),
    )
    times(clock, 2)
    assert end == now(result)
    assert [("0 of 10 blocks", 0, 10), ("14 of 20 blocks, 1 bad", 14, 20), ("20 of 20 blocks, 1 bad", 20, 20)] == (
        noted.shown
    )


def test_a_scrub_of_one_data_server_is_watched_alone() -> None:
    """By any of its names."""
    both = DataServerList(
        [server("x:1", 3), server("y:1", 10, done=True, advertised_address="files:1", storage_id="s")]
    )
    for name in ("y:1", "files:1", "s"):
        noted = Noted()
        assert ["y:1"] == [each.address for each in now(scrubbing(name, noted, Clock(), both))]
        assert ["10 of 10 blocks"] == states(noted)


def test_an_address_is_one_data_server() -> None:
    """Its own before one that clients are told, as the metadata server has it."""
    told, own = server("x:1", 0, advertised_address="y:1"), server("y:1", 0)
    assert [own] == list(_named([told, own], "y:1"))
    assert [] == list(_named([told, own], "z:1"))


def test_a_scrub_does_not_wait_for_who_is_down() -> None:
    """That may take for ever; for who missed a ping it does."""
    clock = Clock()
    down, suspect, up = server("x:1", 3, state="down"), server("y:1", 3, state="suspect"), server("y:1", 3, done=True)
    result = scrubbing(None, Noted(), clock, DataServerList([down, suspect]), DataServerList([down, up]))
    assert not result.called
    times(clock, 1)
    assert [down, up] == now(result)


def test_a_scrub_goes_on_after_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    """And that is said."""
    result = scrubbing(None, Noted(), Clock(), DataServerList([server("x:1", 3)]))
    result.cancel()
    with pytest.raises(CancelledError):
        now(result)
    assert "filefly-client: the scrub goes on all the same; to see how far it is: filefly-client servers\n" == (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("servers", "status", "out", "err"),
    [
        ([server("x:1", 10, done=True)], 0, "checked 10 blocks on 1 data server: all good\n", ""),
        (
            [server("x:1", 1000, 2, done=True), server("y:1", 234, done=True)],
            1,
            "checked 1,234 blocks on 2 data servers: 2 bad\n",
            "what is bad is being repaired; to see what is left: filefly-client fsck --quick",
        ),
        (
            [server("x:1", 10, done=True), server("y:1", 3, state="down")],
            1,
            "checked 10 blocks on 1 data server: all good\n",
            "y:1 is down; what it has is checked once it is back",
        ),
        (
            [server("", 3, state="down", scrub=None, storage_id="s")],
            1,
            "checked 0 blocks on 0 data servers: all good\n",
            "s is down; what it has is checked once it is back",
        ),
    ],
)
def test_what_a_scrub_found_is_told(
    servers: list[DataServerState], status: int, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 0 only if all was read and is good."""
    assert status == _tell_scrubbed(servers, quiet=False)
    assert (out, f"filefly-client: {err}\n" if err else "") == capsys.readouterr()


# The commands


@on_reactor
async def test_drain_empties_a_data_server(reactor: Any, tmp_path: Any) -> None:
    """And says when that is done; then it can be removed, and what it had is elsewhere."""
    async with with_files(reactor, tmp_path, "a", "b") as shell:
        [first, second] = (node.address for node in shell.cluster.data)
        await shell.cluster.client().administration.accept(first)  # which looks how all are
        said = "safe to remove: nothing needs {0} any more; to retire it: filefly-client servers remove {0}\n"
        assert said.format(first) == await shell.out("drain", first)
        assert "" == await shell.out("drain", first, "-q")
        assert '{"status":"ok","remaining_blocks":0,"open_plans":0,"safe_to_remove":true}\n' == (
            await shell.out("drain", "--json", first)
        )
        assert 0 == (await shell.run("servers", "remove", first)).returncode
        assert "0123456789" * 2 == await shell.out("cat", "a", "b")
        assert second in await shell.out("servers")
    for _ in range(3):
        await next_turn()  # the connections between the data servers close


@on_reactor
async def test_drain_need_not_be_waited_for(reactor: Any, tmp_path: Any) -> None:
    """Nor does it get on where there is no other data server; undrain takes it back."""
    async with with_files(reactor, tmp_path, "a", data_servers=1) as shell:
        [address] = (node.address for node in shell.cluster.data)
        expected = f"draining {address}: 2 blocks left; to watch it: filefly-client drain {address}\n"
        assert expected == await shell.out("drain", address, "--no-wait")
        done = await shell.run("undrain", address)
        assert (
            0,
            f"filefly-client: {address} is not drained any more: it keeps what it has and gets new blocks\n",
        ) == (
            done.returncode,
            done.stderr,
        )


@on_reactor
async def test_scrub_reads_everything(reactor: Any, tmp_path: Any) -> None:
    """Of all data servers, or of one; a flipped bit is an exit status."""
    async with with_files(reactor, tmp_path, "a") as shell:
        await shell.cluster.client().administration.accept(shell.cluster.data[0].address)
        assert "checked 2 blocks on 2 data servers: all good\n" == await shell.out("scrub")
        [node, *_] = (node for node in shell.cluster.data if "a-0" in node.block_ids())
        node.put("a-0", b"0123457")
        done = await shell.run("scrub", node.address)
        assert (1, "checked 1 block on 1 data server: 1 bad\n") == (done.returncode, done.stdout)
        assert "filefly-client: scrubbing; to see how far it is: filefly-client servers\n" == (
            (await shell.run("scrub", "--no-wait")).stderr
        )


@on_reactor
async def test_care_for_nobody_is_an_error(reactor: Any, tmp_path: Any) -> None:
    """That says what to do."""
    async with with_files(reactor, tmp_path) as shell:
        for command in (("drain", "x:1"), ("undrain", "x:1"), ("scrub", "x:1"), ("servers", "remove", "x:1")):
            assert "there is no data server x:1; filefly-client servers lists them" == await shell.refusal(*command)
