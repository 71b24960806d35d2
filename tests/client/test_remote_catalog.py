"""Which requests to the metadata server are sent again, against a scripted one."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from filefly.client.api import Client
from filefly.errors import Conflict, FileFlyError, NotFound, TimedOut, Unavailable
from filefly.wire.messages import CompleteFile, DeleteFile, GetMetadata, RenameFile, Request, StoreFile
from tests.client.scripted import ScriptedCluster, always, for_kind, for_the_first, scripted
from tests.on_reactor import on_reactor

DATA = b"0123456789abcdefghijklmnop"
HUNG_UP = ConnectionError()

Ask = Callable[[Client], Deferred[Any]]
HARMLESS: dict[type[Request], Ask] = {
    GetMetadata: lambda client: client.stat("a"),
    StoreFile: lambda client: client.upload("a", DATA),
    CompleteFile: lambda client: client.upload("a", DATA),
}
ONCE: dict[type[Request], Ask] = {
    DeleteFile: lambda client: client.delete("a"),
    RenameFile: lambda client: client.rename("a", "b"),
}
PASSING = [HUNG_UP, Unavailable("shutting down"), TimedOut("too busy")]


async def with_file(cluster: ScriptedCluster) -> None:
    await cluster.client.upload("a", DATA)
    cluster.catalog.asked.clear()


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("kind", HARMLESS)
@on_reactor
async def test_what_is_harmless_is_asked_again(reactor: Any, kind: type[Request], error: Exception) -> None:
    """It goes well the third time, also where only the answers were lost."""
    async with scripted(reactor) as cluster:
        await with_file(cluster)
        cluster.catalog.fault = for_the_first(2, for_kind(kind, error))
        await HARMLESS[kind](cluster.client)
        assert 3 == len(cluster.catalog.of(kind))


@pytest.mark.parametrize("kind", [*HARMLESS, *ONCE])
@on_reactor
async def test_a_refusal_is_final(reactor: Any, kind: type[Request]) -> None:
    """It is an answer, and would be the same again."""
    async with scripted(reactor) as cluster:
        await with_file(cluster)
        cluster.catalog.fault = for_kind(kind, Conflict("no"))
        with pytest.raises(Conflict, match=r"^no$"):
            await (HARMLESS | ONCE)[kind](cluster.client)
        assert 1 == len(cluster.catalog.of(kind))


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("kind", ONCE)
@on_reactor
async def test_what_would_mean_something_else_is_asked_once(
    reactor: Any, kind: type[Request], error: Exception
) -> None:
    """A second delete would say `file not found` of a file that was deleted, or delete another one."""
    async with scripted(reactor) as cluster:
        await with_file(cluster)
        cluster.catalog.fault = for_kind(kind, error)
        with pytest.raises(FileFlyError):
            await ONCE[kind](cluster.client)
        assert 1 == len(cluster.catalog.of(kind))


@on_reactor
async def test_after_three_tries_it_is_an_error(reactor: Any) -> None:
    """The last one."""
    async with scripted(reactor) as cluster:
        cluster.catalog.fault = always(Unavailable("shutting down"))
        with pytest.raises(Unavailable, match=r"^shutting down$"):
            await cluster.client.stat("a")
        assert 3 == len(cluster.catalog.asked)


@on_reactor
async def test_a_question_about_a_file_names_it(reactor: Any) -> None:
    """Of many that are asked for, the user must know which is missing."""
    async with scripted(reactor) as cluster:
        with pytest.raises(NotFound, match=r"^missing: file not found$"):
            await cluster.client.stat("missing")
