from pathlib import Path
from typing import Any

from filefly.catalog.endings import delete_file
from filefly.catalog.repairs import Place, due_repairs
from filefly.catalog.replicas import mark
from filefly.catalog.undeletion import bring_back
from tests.catalog.catalogs import DUE, done, opened, seen, store
from tests.meta.checked import DATA, waiting_for_repair
from tests.meta.running import asking, bytes_of, error, put
from tests.on_reactor import on_reactor


def test_the_blocks_of_what_comes_back_are_looked_at(tmp_path: Path) -> None:
    """All of them, at once, whatever they waited for before."""
    with opened(tmp_path) as database:
        generation = store(database, "a", 21, servers=(1, 2)).generation
        done(database, mark, Place(generation, 1), 1, "missing")
        done(database, delete_file, "a", DUE)
        back = done(database, bring_back, "a")
        assert ("committed", generation) == (back.state, back.generation)
        assert [(generation, position, 0) for position in range(3)] == seen(database, waiting_for_repair)
        [damaged, *_others] = seen(database, due_repairs, 0, 10)
        assert Place(generation, 1) == damaged  # the one with the fewest good replicas


@on_reactor
async def test_undelete_is_a_command(tmp_path: Path, reactor: Any) -> None:
    """The file reads as before; what is not there is said."""
    async with asking(reactor, tmp_path) as (cluster, caller):
        stored = await put(cluster, caller, "a", DATA)
        await caller.ask(command="delete_file", file_name="a")
        reply = await caller.ask(command="undelete_file", file_name="a")
        assert {"status": "ok", "metadata": stored} == reply
        assert DATA == await bytes_of(caller, "a")
        reply = await caller.ask(command="undelete_file", file_name="a")
        assert error("a exists; rename or delete it first", "conflict") == reply
        reply = await caller.ask(command="undelete_file", file_name="b")
        sentence = "nothing of this name can be brought back: it was never stored, or its time is over"
        assert error(sentence, "not_found") == reply
        reply = await caller.ask(command="undelete_file", file_name="")
        assert error("missing file_name", "bad_request") == reply
