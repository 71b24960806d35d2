"""Deleted is deleted: old bytes never come back, and the trash takes what is old and nothing else."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.processes import Processes, processes, wait_until

OLD = b"old-old-old-old-old-old-!"
NEW = b"NEW+NEW+NEW+NEW+NEW+NEW+?"

with_each_grace = pytest.mark.parametrize("deleting", ["0", "1s"], indirect=True)
with_grace = pytest.mark.parametrize("deleting", ["1s"], indirect=True)
without_grace = pytest.mark.parametrize("deleting", ["0"], indirect=True)


@pytest.fixture(scope="module")
def deleting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run a cluster with blocks of 8 bytes and a short grace period."""
    folder = tmp_path_factory.mktemp("deleting")
    with processes(folder, "--block-size", "8", "--trash-grace", request.param) as running:
        yield running


@pytest.fixture
def without_trash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Run such a cluster for one test, which may end its daemons."""
    with processes(tmp_path_factory.mktemp("deleting"), "--block-size", "8", "--trash-grace", "0") as running:
        yield running


def trash(cluster: Processes) -> int:
    """Return how many ended files, and replicas of them, the catalog still knows."""
    ended = cluster.number_of("SELECT count(*) FROM plans WHERE state = 'deleted'")
    return ended + cluster.number_of("SELECT count(*) FROM trash")


def wait_for_the_trash(cluster: Processes) -> None:
    """Return once the metadata server believes that everything given up is gone."""
    wait_until(lambda: trash(cluster) == 0, "the trash to be emptied")


def ids(plan: Any) -> set[str]:
    return {block["id"] for block in plan["blocks"]}


def store_and_commit(cluster: Processes, name: str, data: bytes) -> Any:
    plan = cluster.store_by_hand(name, data)
    assert data == cluster.fetch(name)
    return plan


def delete(cluster: Processes, name: str) -> None:
    assert {"status": "ok"} == cluster.ask_one("delete_file", file_name=name)


def plan_only(cluster: Processes, name: str) -> Any:
    return cluster.ask_one("store_file", file_name=name, file_size=len(OLD))["metadata"]


def code_of_fetch(cluster: Processes, name: str) -> Any:
    return cluster.ask_one("fetch_file", file_name=name).get("code")


# The same name and size again, at once


@with_each_grace
def test_a_file_stored_again_by_hand_is_the_new_one(deleting: Processes) -> None:
    """The trash takes all blocks of the deleted file, and none of the new one."""
    old = store_and_commit(deleting, "by hand", OLD)
    delete(deleting, "by hand")
    new = store_and_commit(deleting, "by hand", NEW)
    wait_for_the_trash(deleting)
    assert ids(new) <= deleting.block_files().keys()
    assert ids(old).isdisjoint(deleting.block_files())
    assert NEW == deleting.fetch("by hand")


@with_each_grace
def test_a_file_uploaded_again_by_the_client_is_the_new_one(deleting: Processes) -> None:
    """`rm` and `upload` at once: the trash leaves the new file whole, and only the new file."""
    for data in (OLD, NEW):
        deleting.client("upload", "-q", "--name", "by client", "-", stdin=data)
        if data is OLD:
            deleting.client("rm", "by client")
    wait_for_the_trash(deleting)
    blocks = {name: data for name, data in deleting.block_files().items() if name.startswith("by client")}
    assert sorted(NEW[at : at + 8] for at in range(0, 25, 8)) == sorted(blocks.values())
    assert NEW == deleting.client("cat", "by client").stdout


@with_each_grace
def test_a_file_planned_again_but_not_pushed_is_incomplete(deleting: Processes) -> None:
    """The deleted file's blocks do not pass for the new plan's, neither before the trash is emptied nor after."""
    store_and_commit(deleting, "unpushed", OLD)
    delete(deleting, "unpushed")
    plan_only(deleting, "unpushed")
    before = code_of_fetch(deleting, "unpushed")
    wait_for_the_trash(deleting)
    assert ["incomplete"] * 2 == [before, code_of_fetch(deleting, "unpushed")]


@with_grace
def test_a_file_deleted_before_it_was_read_does_not_come_back(deleting: Processes) -> None:
    """Blocks of a plan that was deleted while open do not pass for those of the next plan."""
    deleting.store_by_hand("unread", OLD)
    delete(deleting, "unread")
    plan_only(deleting, "unread")
    before = code_of_fetch(deleting, "unread")
    wait_for_the_trash(deleting)
    assert ["incomplete"] * 2 == [before, code_of_fetch(deleting, "unread")]


@with_grace
def test_a_file_deleted_and_planned_many_times_is_the_last_one(deleting: Processes) -> None:
    """Ten times over, the last push is what is read, and what is left on the disks in the end."""
    for number in range(10):
        store_and_commit(deleting, "many times", OLD[:-1] + b"%d" % number)
        delete(deleting, "many times")
    store_and_commit(deleting, "many times", NEW)
    wait_for_the_trash(deleting)
    assert 4 == sum(name.startswith("many times-") for name in deleting.block_files())
    assert NEW == deleting.fetch("many times")


@without_grace
def test_a_file_pushed_again_in_part_is_incomplete(deleting: Processes) -> None:
    """One new block and three old ones are no file."""
    store_and_commit(deleting, "in part", OLD)
    delete(deleting, "in part")
    plan = plan_only(deleting, "in part")
    deleting.store_blocks({"blocks": plan["blocks"][:1]}, NEW)
    assert "incomplete" == code_of_fetch(deleting, "in part")


@without_grace
def test_a_deleted_file_is_not_found(deleting: Processes) -> None:
    """Nothing brings a deleted file back while its blocks are still there."""
    store_and_commit(deleting, "deleted", OLD)
    delete(deleting, "deleted")
    assert "not_found" == code_of_fetch(deleting, "deleted")
    assert "deleted" not in deleting.names()


@with_grace
def test_a_replaced_files_blocks_go(deleting: Processes) -> None:
    """Storing over a file leaves the new file's blocks on the disks, and in the end those alone."""
    old = store_and_commit(deleting, "replaced", OLD)
    new = store_and_commit(deleting, "replaced", NEW)
    wait_for_the_trash(deleting)
    assert ids(new) == {name for name in deleting.block_files() if name.startswith("replaced")}
    assert ids(new).isdisjoint(ids(old))


@without_grace
def test_a_file_renamed_over_another_keeps_its_blocks(deleting: Processes) -> None:
    """The trash takes the blocks of the file that lost its name, not of the one that took it."""
    lost = store_and_commit(deleting, "target", OLD)
    store_and_commit(deleting, "source", NEW)
    deleting.ask_one("rename_file", file_name="source", new_name="target")
    store_and_commit(deleting, "source", OLD)
    delete(deleting, "source")
    wait_for_the_trash(deleting)
    assert NEW == deleting.fetch("target")
    assert ids(lost).isdisjoint(deleting.block_files())


# Stray block files


@without_grace
def test_a_stray_block_file_does_not_pass_for_a_planned_block(deleting: Processes) -> None:
    """Files with the names and sizes of a plan's blocks, there before it, do not make it complete."""
    for number in (1, 2):
        for index, size in enumerate((8, 8, 8, 1)):
            (deleting.storage(number) / f"stray-{index}").write_bytes(b"s" * size)
    plan_only(deleting, "stray")
    assert "incomplete" == code_of_fetch(deleting, "stray")


@without_grace
def test_one_stray_block_file_does_not_pass_for_a_planned_block(deleting: Processes) -> None:
    """A file whose other blocks were pushed is incomplete where only a stray file has the last one's name."""
    for number in (1, 2):
        (deleting.storage(number) / "one stray-3").write_bytes(b"s")
    plan = plan_only(deleting, "one stray")
    deleting.store_blocks({"blocks": plan["blocks"][:3]}, NEW)
    assert "incomplete" == code_of_fetch(deleting, "one stray")


@without_grace
def test_a_stray_block_file_is_not_deleted(deleting: Processes) -> None:
    """What FileFly did not plan it does not delete, whatever happens to the file of that name."""
    (deleting.storage(1) / "foreign-0").write_bytes(b"mine")
    store_and_commit(deleting, "foreign", OLD)
    delete(deleting, "foreign")
    wait_for_the_trash(deleting)
    assert {"foreign-0": b"mine"} == {
        name: data for name, data in deleting.block_files().items() if name.startswith("foreign")
    }


# With daemons that are down


def test_a_stray_block_file_of_a_server_that_is_down_does_not_pass_either(without_trash: Processes) -> None:
    """A data server that cannot be asked at the time of the plan may hold such a file, and it does not count."""
    without_trash.data[1].stop()
    for number in (1, 2):
        (without_trash.storage(number) / "down-1").write_bytes(b"s" * 8)
    plan = plan_only(without_trash, "down")
    without_trash.data[1].start()
    without_trash.store_blocks({"blocks": [plan["blocks"][index] for index in (0, 2, 3)]}, NEW[:8] + NEW[16:])
    assert "incomplete" == code_of_fetch(without_trash, "down")


def test_a_server_that_was_down_deletes_when_it_is_back(without_trash: Processes) -> None:
    """Trash whose deletion failed is kept over a restart of the metadata server, and goes in the end."""
    store_and_commit(without_trash, "late", OLD)
    without_trash.data[1].stop()
    delete(without_trash, "late")
    wait_until(lambda: b"cannot delete late-" in without_trash.meta.log.read_bytes(), "a deletion to fail")
    kept = without_trash.block_files(2)
    without_trash.meta.stop()
    without_trash.data[1].start()
    without_trash.meta.start()
    new = store_and_commit(without_trash, "late", NEW)
    wait_for_the_trash(without_trash)
    assert 2 == len(kept)
    assert ids(new) == without_trash.block_files().keys()
    assert NEW == without_trash.fetch("late")


@pytest.mark.slow
def test_a_server_that_was_down_is_asked_again(without_trash: Processes) -> None:
    """Trash whose deletion failed goes without anybody's help after half a minute."""
    store_and_commit(without_trash, "later", OLD)
    without_trash.data[1].stop()
    delete(without_trash, "later")
    wait_until(lambda: b"cannot delete later-" in without_trash.meta.log.read_bytes(), "a deletion to fail")
    without_trash.data[1].start()
    wait_until(lambda: trash(without_trash) == 0, "the trash to be emptied", seconds=90)
    assert {} == without_trash.block_files()


def test_a_plan_after_a_restart_does_not_get_the_old_blocks(without_trash: Processes) -> None:
    """A name planned again behind a restart of the metadata server, while a disk still has the old file's blocks."""
    store_and_commit(without_trash, "restarted", OLD)
    without_trash.data[0].stop()
    delete(without_trash, "restarted")
    without_trash.meta.kill()
    without_trash.meta.start()
    without_trash.data[0].start()
    plan = plan_only(without_trash, "restarted")
    without_trash.store_blocks({"blocks": [plan["blocks"][index] for index in (1, 3)]}, NEW[8:16] + NEW[24:])
    assert "incomplete" == code_of_fetch(without_trash, "restarted")


def test_a_server_killed_while_the_trash_is_emptied_keeps_the_new_file(without_trash: Processes) -> None:
    """A kill -9 of everything right after a replacement: the new file stays whole, the old one's blocks go."""
    old = store_and_commit(without_trash, "killed", OLD)
    new = store_and_commit(without_trash, "killed", NEW)
    without_trash.kill()
    without_trash.start()
    wait_for_the_trash(without_trash)
    assert NEW == without_trash.fetch("killed")
    assert ids(new) == without_trash.block_files().keys()
    assert ids(old).isdisjoint(without_trash.block_files())
