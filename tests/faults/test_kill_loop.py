"""kill -9 of one daemon after another while clients are at work: nothing acknowledged is lost, and nothing is wrong."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from tests.faults.crowd import Crowd, check
from tests.faults.manifest import BLOCK
from tests.system.processes import Daemon, Processes, processes

CLIENTS = 3
TIMEOUT_SECONDS = 30
DATA_SERVERS = 3
QUICK_KILLS = 5
SLOW_KILLS = 100


@define(eq=False)
class KillLoop:
    """A cluster whose daemons are killed, and its clients."""

    cluster: Processes
    crowd: Crowd
    chance: random.Random

    def run(self, kills: int) -> str:
        """Let clients work, kill so many daemons, check what came of it, and return the figures."""
        self.crowd.start(CLIENTS, TIMEOUT_SECONDS)
        for _ in range(kills):
            self.crowd.wait_for_steps(self.chance.randrange(10, 60))
            self._kill(self.chance.choice(self.cluster.all))
        self.crowd.wait_for_steps(20)
        return check(self.cluster, self.crowd.stop())

    def _kill(self, daemon: Daemon) -> None:
        daemon.kill()
        self.crowd.wait_for_steps(self.chance.choice([0, 2, 5, 20]))
        daemon.start()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[KillLoop]:
    """Run a cluster that repairs at once, and throws away at once what was deleted."""
    options = {
        "block-size": BLOCK,
        "trash-grace": 0,
        "pending-ttl": 30,
        "health-interval": 1,
        "down-after": 2,
        "repair-delay": 0,
        "catalog-backup-interval": 3,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", f"{value}")]
    with processes(tmp_path, *words, data_servers=DATA_SERVERS) as cluster:
        crowd = Crowd(cluster)
        try:
            yield KillLoop(cluster, crowd, random.Random(2026))
        finally:
            crowd.kill()


def test_five_kills_lose_nothing_acknowledged(loop: KillLoop) -> None:
    """After five kills every file is what its clients were told, fsck is clean, and no reader saw wrong bytes."""
    print(f"kill -9: {QUICK_KILLS} kills, {loop.run(QUICK_KILLS)}")


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_acknowledged(loop: KillLoop) -> None:
    """The same holds after a hundred kills; prints what was done."""
    print(f"kill -9: {SLOW_KILLS} kills, {loop.run(SLOW_KILLS)}")
