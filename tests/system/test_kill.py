"""kill -9 of every daemon in the middle of uploads: what was acknowledged is whole, and nothing is half there."""

import itertools
import json
import random
import subprocess
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from filefly.units import KIB, MIB
from tests.system.processes import BIN, DEADLINE_SECONDS, Processes, connect, processes, wait_until

CLIENTS = 3
FILES_PER_CLIENT = 30
HANDS = 2
QUICK_ROUNDS = 3
SLOW_ROUNDS = 20
BLOCK = 4 * KIB
BLOCKS_PER_FILE = 5


def content(name: str, version: int) -> bytes:
    """Return what `name` is to hold in a version: blocks that no other file or version has, of one size for all."""
    return random.Random(f"{name} {version}").randbytes((BLOCKS_PER_FILE - 1) * BLOCK + 123)


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


@define(eq=False)
class Uploader:
    """`filefly-client upload` of many files, each the next version of what the cluster has or had."""

    process: subprocess.Popen[bytes]
    output: Path

    @classmethod
    def start(cls, cluster: Processes, number: int, version: int) -> "Uploader":
        names = [f"client {number} file {index}" for index in range(FILES_PER_CLIENT)]
        folder = cluster.folder / f"version {version} of client {number}"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(content(name, version))
        output = cluster.folder / f"{folder.name}.json"
        with output.open("wb") as stdout, output.with_suffix(".log").open("wb") as stderr:
            command = [f"{BIN}/filefly-client", "--metadata-addr", cluster.meta.address, "upload", "--json"]
            process = subprocess.Popen([*command, *names], cwd=folder, stdout=stdout, stderr=stderr)
        return cls(process, output)

    def acknowledged(self) -> list[str]:
        """Return the names of the files that the client said were stored."""
        lines = self.output.read_bytes().splitlines(keepends=True)
        return [json.loads(line)["name"] for line in lines if line.endswith(b"\n")]

    def blocks(self) -> int:
        """Return how many blocks the client has stored."""
        return self.output.with_suffix(".log").read_bytes().count(b"\n")

    def end(self) -> None:
        """Let it give up: it then says what was stored."""
        self.process.wait(DEADLINE_SECONDS)


@define(eq=False)
class Hand:
    """A program with a socket of its own: implicit plans whose blocks it stores, or explicit ones of one name."""

    cluster: Processes
    names: Iterator[tuple[str, int]]
    explicit: bool
    acknowledged: list[tuple[str, int]] = field(factory=list)
    begun: list[tuple[str, int]] = field(factory=list)
    thread: threading.Thread = field(init=False)

    def start(self) -> "Hand":
        self.thread = threading.Thread(target=self._go_on_until_the_end)
        self.thread.start()
        return self

    def _go_on_until_the_end(self) -> None:
        for name, version in self.names:
            self.begun.append((name, version))
            try:
                self._store(name, content(name, version))
            except (OSError, ValueError):  # the daemons are gone
                return
            self.acknowledged.append((name, version))

    def _store(self, name: str, data: bytes) -> None:
        fields = {"explicit": True} if self.explicit else {}
        [planned] = self.cluster.ask({"command": "store_file", "file_name": name, "file_size": len(data), **fields})
        self._store_blocks(planned["metadata"], data)
        if self.explicit:
            plan = {"file_name": name, "generation": planned["metadata"]["generation"]}
            [done] = self.cluster.ask({"command": "complete_file", **plan})
            if done["status"] != "ok":
                raise ValueError(done)

    def _store_blocks(self, plan: Any, data: bytes) -> None:
        try:
            self.cluster.store_blocks(plan, data)
        except AssertionError as error:
            raise ValueError from error

    def end(self) -> None:
        self.thread.join()


@define(eq=False)
class Rounds:
    """A cluster that is killed again and again, and what it may hold."""

    cluster: Processes
    random: random.Random
    digests: dict[str, set[str]] = field(factory=dict)  # of each name: what its bytes may be
    needed: set[str] = field(factory=set)  # names that must be there

    def intend(self, name: str, version: int) -> None:
        self.digests.setdefault(name, set()).add(digest(content(name, version)))

    def acknowledge(self, name: str, version: int) -> None:
        self.digests[name] = {digest(content(name, version))}
        self.needed.add(name)

    def kill_in_the_middle(self, version: int) -> None:
        """Let everybody store, kill everything, start it again."""
        cluster = self.cluster
        uploaders = [Uploader.start(cluster, number, version) for number in range(CLIENTS)]
        hands = [
            Hand(cluster, ((f"hand {number} {version}.{at}", 0) for at in itertools.count()), explicit=False).start()
            for number in range(HANDS)
        ]
        again = Hand(cluster, (("again", 1000 * version + at) for at in itertools.count()), explicit=True).start()
        enough = self.random.randrange(1, CLIENTS * FILES_PER_CLIENT * BLOCKS_PER_FILE * 9 // 10)
        wait_until(lambda: sum(each.blocks() for each in uploaders) >= enough, f"{enough} blocks to be stored")
        cluster.kill()
        for uploader in uploaders:
            uploader.end()
            self._note_uploads(uploader, version)
        for hand in (*hands, again):
            hand.end()
            self._note_hand(hand)
        cluster.start()

    def _note_uploads(self, uploader: Uploader, version: int) -> None:
        names = [file.name for file in (self.cluster.folder / uploader.output.stem).iterdir()]
        for name in names:
            self.intend(name, version)
        for name in names if uploader.process.returncode == 0 else uploader.acknowledged():
            self.acknowledge(name, version)

    def _note_hand(self, hand: Hand) -> None:
        for name, version in hand.acknowledged:
            self.intend(name, version)
            self.acknowledge(name, version)
        for name, version in hand.begun[len(hand.acknowledged) :]:
            self.intend(name, version)

    def check(self) -> None:
        """Read everything; from now on it must stay what it is now."""
        assert [] == self.cluster.unfinished()
        listed = set(self.cluster.names())
        implicit = {name for name in self.needed if name.startswith("hand")}  # these commit when they are read
        assert self.needed - implicit <= listed
        for name in sorted(listed | implicit):
            found = digest(self.cluster.fetch(name))
            assert found in self.digests[name], f"{name} is neither what it was nor what it was to be"
            self.digests[name] = {found}
            self.needed.add(name)
        assert self.needed == set(self.cluster.names())


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Rounds]:
    """Run a cluster to kill."""
    with processes(tmp_path, "--block-size", str(BLOCK), "--trash-grace", "0") as cluster:
        yield Rounds(cluster, random.Random(2026))


def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half(killed: Rounds) -> None:
    """In each of three rounds every acknowledged file is whole, every listed one old or new, and no temporary left."""
    for version in range(QUICK_ROUNDS):
        killed.kill_in_the_middle(version)
        killed.check()


@pytest.mark.slow
def test_kill_9_loses_nothing_in_many_rounds(killed: Rounds) -> None:
    """The same holds over twenty rounds; prints how many files were read back."""
    for version in range(SLOW_ROUNDS):
        killed.kill_in_the_middle(version)
        killed.check()
    print(f"kill -9: {SLOW_ROUNDS} rounds, {len(killed.needed)} files whole")


def test_a_plan_whose_blocks_were_acknowledged_commits_after_kill_9(killed: Rounds) -> None:
    """A file stored by hand and never read before the kill is whole when it is read after it."""
    killed.cluster.store_by_hand("by hand", content("by hand", 0))
    killed.cluster.kill()
    killed.cluster.start()
    assert digest(content("by hand", 0)) == digest(killed.cluster.fetch("by hand"))


def test_an_upload_that_was_cut_off_is_not_listed(killed: Rounds) -> None:
    """An explicit plan with all blocks but no complete_file is no file after the kill, and an old one stays."""
    cluster = killed.cluster
    cluster.store_by_hand("old", content("old", 0))
    cluster.fetch("old")
    for name in ("old", "new"):
        cluster.store_by_hand(name, content(name, 1), explicit=True)
    cluster.kill()
    cluster.start()
    assert ["old"] == cluster.names()
    assert digest(content("old", 0)) == digest(cluster.fetch("old"))


def test_an_upload_goes_on_after_kill_9(killed: Rounds) -> None:
    """A plan outlives the kill: the blocks that were missing are stored after it, and the file is completed."""
    cluster, data = killed.cluster, content("resumed", 0)
    reply = cluster.ask_one("store_file", file_name="resumed", file_size=len(data), explicit=True)
    plan = reply["metadata"]
    cluster.store_blocks({"blocks": plan["blocks"][:3]}, data)
    cluster.kill()
    cluster.start()
    cluster.store_blocks({"blocks": plan["blocks"][3:]}, data[3 * BLOCK :])
    done = cluster.ask_one("complete_file", file_name="resumed", generation=plan["generation"])
    assert "ok" == done["status"]
    assert digest(data) == digest(cluster.fetch("resumed"))


def test_a_store_that_was_cut_off_leaves_nothing(killed: Rounds) -> None:
    """Half a payload is gone from .incoming after the kill, and is no block."""
    cluster = killed.cluster
    with connect(cluster.data[0].ports[0]) as peer:
        peer.sendall(b'{"command":"store","block_id":"half-0","size":8388608}\n' + b"x" * (4 * MIB))
        wait_until(lambda: len(cluster.unfinished()) == 1, "the payload to arrive")
        cluster.kill()
    before = len(cluster.unfinished())
    cluster.start()
    assert (1, []) == (before, cluster.unfinished())
    assert {} == cluster.block_files()
