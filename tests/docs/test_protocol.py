"""docs/protocol.md's examples, held with real daemons."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from attrs import frozen

from filefly.data.local import name_of_local_socket
from filefly.data.server import DataServer
from filefly.meta.server import MetadataServer
from tests.docs.markdown import Block
from tests.docs.volatile import Ports
from tests.docs.wire import conversations, play
from tests.system.processes import processes, wait_until

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
CONVERSATIONS = conversations(PROTOCOL)
STORAGE_ID = "2a6c03fbf78f1633c3eca2a042bf55a0"
"""The storage that the examples name: that of the first data server."""


@frozen
class Names(Ports):
    """Ports, and that storage's id: its local socket is named after it, and no two on a machine can have one name."""

    storage_id: str

    def in_use(self, text: str) -> str:
        """Put the real names where the document's are."""
        text = super().in_use(text).replace(STORAGE_ID, self.storage_id)
        return text.replace(name_of_local_socket(STORAGE_ID), name_of_local_socket(self.storage_id))

    def as_documented(self, text: str) -> str:
        """Put the document's names where the real ones are."""
        text = super().as_documented(text).replace(self.storage_id, STORAGE_ID)
        return text.replace(name_of_local_socket(self.storage_id), name_of_local_socket(STORAGE_ID))


@frozen
class Cluster:
    """The servers that the document speaks of, by name, and what its ports are here."""

    servers: dict[str, int]
    ports: Ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run the cluster that all examples, in their order, are held with."""
    folder = tmp_path_factory.mktemp("protocol")
    storage_id = uuid4().hex
    (folder / "blocks1").mkdir()
    (folder / "blocks1" / ".filefly.json").write_text(f'{{"storage_id":"{storage_id}"}}')
    with processes(folder, "--block-size", "8") as running:
        begun = "SELECT count(scrub_begun) FROM data_servers"
        wait_until(lambda: running.number_of(begun) == 2, "the first scrub passes, which find nothing")
        real = [daemon.ports[0] for daemon in running.all]
        yield Cluster(
            dict(zip(("meta", "data1", "data2"), real, strict=True)),
            Names(dict(zip((9000, 9001, 9002), real, strict=True)), storage_id),
        )
        for daemon in running.all:
            daemon.stop()  # once: a second SIGTERM while it ends makes Twisted log a traceback


@pytest.mark.parametrize(
    "conversation", CONVERSATIONS, ids=[f"line {block.number}: {block.heading}" for block in CONVERSATIONS]
)
def test_an_example_of_the_protocol(conversation: Block, cluster: Cluster) -> None:
    """What the document says comes back does come back, and nothing else. Later examples build on earlier ones."""
    play(conversation, cluster.servers, cluster.ports)


@pytest.mark.parametrize(("server", "commands"), [("meta", MetadataServer.commands), ("data", DataServer.commands)])
def test_every_command_has_an_example(server: str, commands: dict[str, object]) -> None:
    """No command of either server is without one."""
    shown = {
        line.text
        for block in CONVERSATIONS
        if block.words[0].startswith(server)
        for line in block.lines
        if line.text.startswith(">")
    }
    assert [] == [command for command in commands if not any(f'"command":"{command}"' in line for line in shown)]
