"""The verbs by which a metadata server looks after its data servers."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.caller import Caller, calling
from tests.data.disks import WatchedDisk
from tests.data.running import DIGITS, HeldDisk, Running, asking, error, sum_of
from tests.on_reactor import next_turn, on_reactor

SUM = sum_of(DIGITS)
PONG = {"status": "ok", "pong": True}
MINE = "id of blocks"
NOT_MINE = error("this is another storage, not another", "wrong_storage")
SILENT = error("the disk did not answer for 10 seconds", "timeout")


# Pings


@on_reactor
async def test_a_ping_tells_identity_and_room_if_it_is_asked(reactor: Any, tmp_path: Path) -> None:
    """A storage that no catalog has adopted says so by what it leaves out."""
    disk = WatchedDisk()
    disk.free = 12345
    async with asking(reactor, tmp_path / "blocks", disk) as (_server, caller):
        pong = await caller.ask(command="ping", identity=True)
        assert pong.pop("total_bytes") > 0
        assert PONG | {"storage_id": MINE, "generation": 0, "free_bytes": 12345, "reserve_bytes": 0} == pong
        assert PONG == await caller.ask(command="ping", identity=False)


@on_reactor
async def test_a_disk_that_lost_what_it_was_given_is_not_well(reactor: Any, tmp_path: Path) -> None:
    """Nothing more is stored there until a restart, so nothing more should be sent there; what it has can be read."""
    disk = WatchedDisk()
    async with asking(reactor, tmp_path / "blocks", disk) as (server, caller):
        server.put("a-0", DIGITS)
        disk.fail("fsync_directory", errno.EIO)
        await caller.ask(command="store", block_id="b-0", data="YQ==")
        disk.mend()
        assert "unavailable" == (await caller.ask(command="ping", identity=True))["code"]
        assert sum_of(DIGITS) == (await caller.ask(command="stat", block_id="a-0", verify=True))["crc32c"]


@on_reactor
async def test_an_adopted_storage_tells_its_catalog(reactor: Any, tmp_path: Path) -> None:
    """And the highest generation that it has seen."""
    async with asking(reactor, tmp_path / "blocks") as (_server, caller):
        adopt = {"command": "adopt", "storage_id": MINE, "catalog_id": "catalog"}
        assert {"status": "ok"} == await caller.ask(**adopt, generation=7)
        assert {"status": "ok"} == await caller.ask(**adopt, generation=5)
        pong = await caller.ask(command="ping", identity=True)
        assert ("catalog", 7) == (pong["catalog_id"], pong["generation"])


@on_reactor
async def test_a_storage_belongs_to_one_catalog(reactor: Any, tmp_path: Path) -> None:
    """Until somebody insists."""
    async with asking(reactor, tmp_path / "blocks") as (_server, caller):
        adopt = {"command": "adopt", "storage_id": MINE}
        await caller.ask(**adopt, catalog_id="catalog", generation=7)
        assert error("this storage belongs to catalog catalog, not other", "wrong_storage") == (
            await caller.ask(**adopt, catalog_id="other", generation=3)
        )
        assert {"status": "ok"} == await caller.ask(**adopt, catalog_id="other", generation=3, force=True)
        pong = await caller.ask(command="ping", identity=True)
        assert ("other", 3) == (pong["catalog_id"], pong["generation"])


@pytest.mark.parametrize("identity", [True, False])
@on_reactor
async def test_an_unmounted_disk_does_not_pong(reactor: Any, tmp_path: Path, identity: bool) -> None:
    """A data server is only as well as its disk."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        (server.folder / ".filefly.json").rename(tmp_path / "elsewhere")
        lost = error("the storage directory has lost its .filefly.json; is its disk mounted?", "unavailable")
        assert lost == await caller.ask(command="ping", identity=identity)
        (tmp_path / "elsewhere").rename(server.folder / ".filefly.json")
        assert PONG.items() <= (await caller.ask(command="ping", identity=identity)).items()


@pytest.mark.parametrize("identity", [True, False])
@on_reactor
async def test_another_disk_in_its_place_does_not_pong(reactor: Any, tmp_path: Path, identity: bool) -> None:
    """The replicas that are asked for are not there."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        (server.folder / ".filefly.json").write_bytes(b'{"storage_id":"another"}')
        sentence = "the storage directory holds another storage now; mount the right disk, or restart the data server"
        assert error(sentence, "wrong_storage") == await caller.ask(command="ping", identity=identity)


@pytest.mark.parametrize(("operation", "identity"), [("read", False), ("read", True), ("open", True), ("space", True)])
@on_reactor
async def test_a_hung_disk_does_not_pong(reactor: Any, tmp_path: Path, operation: str, identity: bool) -> None:
    """After ten seconds the data server says so itself; other connections are served, and so is this one."""
    disk = HeldDisk(reactor, operation)
    async with asking(reactor, tmp_path / "blocks", disk) as (server, caller), calling(reactor, server.port) as other:
        caller.tell(command="ping", identity=identity)
        await disk.begun
        assert "ok" == (await other.ask(command="list_blocks"))["status"]
        server.clock.advance(9.9)
        await next_turn()
        server.clock.advance(0.1)
        assert SILENT == await caller.hear()
        disk.go_on.set()


@on_reactor
async def test_a_ping_asks_the_disk_itself(reactor: Any, tmp_path: Path) -> None:
    """What the system remembers of the file would be told of a hung disk, too."""
    disk = WatchedDisk()
    async with asking(reactor, tmp_path / "blocks", disk) as (_server, caller):
        assert PONG == await caller.ask(command="ping")
        assert ["open", "drop_cached", "read", "close"] == disk.calls


@on_reactor
async def test_pings_do_not_pile_up_on_a_hung_disk(reactor: Any, tmp_path: Path) -> None:
    """Until the disk has answered the one, others need not wait; then it is well again."""
    disk = HeldDisk(reactor, "read")
    async with asking(reactor, tmp_path / "blocks", disk) as (server, caller):
        caller.tell(command="ping")
        await disk.begun
        server.clock.advance(10)
        assert SILENT == await caller.hear()
        calls = len(disk.calls)
        assert [SILENT] * 20 == [await caller.ask(command="ping", identity=True) for _ in range(20)]
        assert calls == len(disk.calls)
        disk.go_on.set()
        while (reply := await caller.ask(command="ping")) == SILENT:
            await next_turn()
        assert PONG == reply


@on_reactor
async def test_a_disk_that_fails_does_not_pong(reactor: Any, tmp_path: Path) -> None:
    """The system's own words are in the sentence; the next ping may be well."""
    disk = WatchedDisk()
    async with asking(reactor, tmp_path / "blocks", disk) as (_server, caller):
        disk.fail("read", errno.EIO)
        sentence = "cannot read the storage directory's .filefly.json: Input/output error"
        assert error(sentence, "unavailable") == await caller.ask(command="ping")
        disk.mend()
        assert PONG == await caller.ask(command="ping")


# Which storage is meant


FOR_A_STORAGE: dict[str, dict[str, object]] = {
    "store": {"block_id": "a-0", "data": "eA=="},
    "delete": {"block_id": "a-0"},
    "stat": {"block_id": "a-0"},
    "copy": {"block_id": "a-0", "source": "localhost:1", "crc32c": SUM},
    "link": {"block_id": "b-0", "source_block_id": "a-0", "crc32c": SUM},
    "quarantine": {"block_id": "a-0", "crc32c": "00000000"},
    "set_aside": {"block_id": "a-0"},
    "adopt": {"catalog_id": "catalog", "generation": 1, "force": True},
}


@pytest.mark.parametrize("command", FOR_A_STORAGE)
@on_reactor
async def test_what_is_meant_for_another_storage_is_refused(reactor: Any, tmp_path: Path, command: str) -> None:
    """Whoever asks has another disk in mind: nothing changes."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        server.put("a-0", DIGITS)
        before = (server.folder / ".filefly.json").read_bytes()
        request = FOR_A_STORAGE[command] | {"storage_id": "another"}
        assert NOT_MINE == await caller.ask(command=command, **request)
        assert (["a-0"], DIGITS) == (server.blocks(), (server.folder / "a-0").read_bytes())
        assert before == (server.folder / ".filefly.json").read_bytes()


@on_reactor
async def test_the_payload_for_another_storage_is_skipped(reactor: Any, tmp_path: Path) -> None:
    """What follows it is the next request."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        payload = b'{"command":"delete","block_id":"a-0"}\n'
        server.put("a-0", DIGITS)
        refused = await caller.ask(payload, command="store", block_id="b-0", size=len(payload), storage_id="another")
        assert NOT_MINE == refused
        assert PONG == await caller.ask(command="ping")
        assert ["a-0"] == server.blocks()


@pytest.mark.parametrize("command", ["store", "delete", "stat", "link"])
@pytest.mark.parametrize("storage", [{"storage_id": MINE}, {"storage_id": None}, {}])
@on_reactor
async def test_what_is_meant_for_this_storage_is_done(
    reactor: Any, tmp_path: Path, command: str, storage: dict[str, object]
) -> None:
    """Clients that know no storages name none."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        server.put("a-0", DIGITS)
        assert "ok" == (await caller.ask(command=command, **(FOR_A_STORAGE[command] | storage)))["status"]


@pytest.mark.parametrize("command", ["copy", "quarantine", "set_aside", "adopt"])
@on_reactor
async def test_who_looks_after_a_storage_names_it(reactor: Any, tmp_path: Path, command: str) -> None:
    """Nothing is moved about by mistake."""
    async with asking(reactor, tmp_path / "blocks") as (_server, caller):
        reply = await caller.ask(command=command, **FOR_A_STORAGE[command])
        assert error("missing storage_id", "bad_request") == reply


# Links, and what is moved away


@on_reactor
async def test_a_block_is_linked(reactor: Any, tmp_path: Path) -> None:
    """A resumed upload keeps under a new id what is in place."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        server.put("a-0", DIGITS)
        link = {"command": "link", "block_id": "b-0", "source_block_id": "a-0"}
        assert {"status": "ok", "size": 10, "crc32c": SUM} == await caller.ask(**link, crc32c=SUM)
        assert DIGITS == (server.folder / "b-0").read_bytes()
        refused = error(f"crc32c is {SUM}, expected 00000000", "corrupt")
        assert refused == await caller.ask(**link, crc32c="00000000")
        await caller.ask(command="delete", block_id="a-0")
        assert error("block not found", "not_found") == await caller.ask(**link, crc32c=SUM)
        assert ["b-0"] == server.blocks()


async def quarantine(caller: Caller, crc32c: str) -> Any:
    return await caller.ask(command="quarantine", block_id="a-0", crc32c=crc32c, storage_id=MINE)


@on_reactor
async def test_only_a_corrupt_block_is_quarantined(reactor: Any, tmp_path: Path) -> None:
    """The reply says whether it was."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        assert error("block not found", "not_found") == await quarantine(caller, SUM)
        server.put("a-0", DIGITS)
        assert {"status": "ok", "quarantined": False} == await quarantine(caller, SUM)
        assert ["a-0"] == server.blocks()
        server.put("a-0", DIGITS[:-1])
        assert {"status": "ok", "quarantined": True} == await quarantine(caller, SUM)
        assert [".corrupt/a-0"] == server.blocks()
        assert {"status": "ok", "blocks": []} == await caller.ask(command="list_blocks")
        assert 0 == (await caller.ask(command="status"))["block_count"]


async def set_aside(caller: Caller) -> Any:
    return await caller.ask(command="set_aside", block_id="a-0", storage_id=MINE)


@on_reactor
async def test_an_unknown_block_is_set_aside(reactor: Any, tmp_path: Path) -> None:
    """Twice is as good as once."""
    async with asking(reactor, tmp_path / "blocks") as (server, caller):
        server.put("a-0", DIGITS)
        assert [{"status": "ok"}] * 2 == [await set_aside(caller) for _ in range(2)]
        assert [".unknown/a-0"] == server.blocks()


@on_reactor
async def test_a_block_that_is_being_stored_is_not_set_aside(reactor: Any, tmp_path: Path) -> None:
    """Its plan may just have been made."""
    disk = HeldDisk(reactor, "fsync")
    async with asking(reactor, tmp_path / "blocks", disk) as (server, caller), calling(reactor, server.port) as other:
        caller.tell(DIGITS, command="store", block_id="a-0", size=10)
        await disk.begun
        assert error("this block is being stored", "conflict") == await set_aside(other)
        disk.go_on.set()
        assert "ok" == (await caller.hear())["status"]
        assert ["a-0"] == server.blocks()


async def lose(server: Running, storing: Deferred[Any], disk: HeldDisk) -> Any:
    """Take the storage's folders away under a store."""
    await disk.begun
    (server.folder / ".incoming").rename(server.folder.with_name("gone"))
    disk.go_on.set()
    return await storing


@pytest.mark.parametrize("operation", ["create", "fsync"])
@on_reactor
async def test_a_store_whose_disk_goes_away_is_told_so(reactor: Any, tmp_path: Path, operation: str) -> None:
    """Before its file is made, or before it gets its name."""
    disk = HeldDisk(reactor, operation)
    async with asking(reactor, tmp_path / "blocks", disk) as (server, caller):
        storing = Deferred.fromCoroutine(caller.ask(DIGITS, command="store", block_id="a-0", size=10))
        sentence = "cannot store the block: a folder of the storage directory is gone; is its disk mounted?"
        assert error(sentence, "unavailable") == await lose(server, storing, disk)
        os.rename(server.folder.with_name("gone"), server.folder / ".incoming")
        assert not (server.folder / "a-0").exists()
