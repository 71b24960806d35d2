from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from filefly.client.api import Client
from filefly.errors import FileFlyError, TimedOut, Unavailable
from tests.client.clusters import Heard
from tests.client.faults import Mangle, cut_after, proxy_of, say_instead, say_nothing, the_first
from tests.meta.running import TIMEOUT_SECONDS, running
from tests.on_reactor import on_reactor

DATA = b"0123456789abcdefghijklmnop"

ANSWERS: dict[str, tuple[Mangle, type[FileFlyError]]] = {
    "nothing": (say_nothing, TimedOut),
    "garbage": (say_instead(b"garbage\n"), Unavailable),
    "no object": (say_instead(b"[1]\n"), Unavailable),
    "wrong types": (say_instead(b'{"status":"ok","metadata":1,"files":1,"servers":1,"pong":1}\n'), Unavailable),
    "an unknown code": (say_instead(b'{"status":"error","error":"%s","code":"new"}\n' % (b"no" * 1000)), FileFlyError),
    "half a line": (cut_after(5), Unavailable),
    "the end": (cut_after(0), Unavailable),
}
ASKING: dict[str, Callable[[Client, Path], Deferred[Any]]] = {
    "stat": lambda client, _folder: client.stat("a"),
    "read": lambda client, _folder: client.read("a"),
    "upload": lambda client, _folder: client.upload("a", b"new"),
    "download": lambda client, folder: client.download("a", folder / "copy"),
    "list_page": lambda client, _folder: client.list_page(),
    "data_servers": lambda client, _folder: client.data_servers(),
    "ping": lambda client, _folder: client.ping(),
}


def patience(answer: str) -> float:
    """Return for how many seconds to wait: long, but where nothing else can end it."""
    return 0.05 if answer == "nothing" else TIMEOUT_SECONDS


@pytest.mark.parametrize("answer", ANSWERS)
@on_reactor
async def test_a_bad_answer_is_an_error(reactor: Any, tmp_path: Path, answer: str) -> None:
    """Of its own kind, whatever was asked; the file stays, and nothing appears on disk."""
    mangle, kind = ANSWERS[answer]
    async with running(reactor, tmp_path) as cluster, proxy_of(reactor, cluster.port) as proxy:
        await cluster.client().upload("a", DATA)
        proxy.always = mangle
        client = Client(reactor, proxy.address, timeout_seconds=patience(answer))
        try:
            found = {}
            for name, ask in ASKING.items():
                with pytest.raises(FileFlyError) as caught:
                    await ask(client, tmp_path)
                found[name] = caught.value.code
        finally:
            client.close()
        assert dict.fromkeys(ASKING, kind.code) == found
        assert not list(tmp_path.glob("*copy*")) + list(tmp_path.glob(".*part"))
        assert DATA == await cluster.client().read("a")


@pytest.mark.parametrize("answer", ANSWERS)
@on_reactor
async def test_a_client_goes_on_after_a_bad_answer(reactor: Any, tmp_path: Path, answer: str) -> None:
    """On a new connection, where no late answer is taken for that to the next request."""
    async with running(reactor, tmp_path) as cluster, proxy_of(reactor, cluster.port) as proxy:
        await cluster.client().upload("a", DATA)
        proxy.faults = [the_first(1, ANSWERS[answer][0])]
        client = Client(reactor, proxy.address, timeout_seconds=patience(answer))
        try:
            with pytest.raises(FileFlyError):
                await client.ping()
            client._pool._timeout_seconds = TIMEOUT_SECONDS
            assert DATA == await client.read("a")
        finally:
            client.close()


@on_reactor
async def test_a_commit_whose_answer_is_lost_may_be_asked_about(reactor: Any, tmp_path: Path) -> None:
    """The upload fails, for its client cannot know; the file is there whole, and can be uploaded again."""
    async with running(reactor, tmp_path, 1) as cluster, proxy_of(reactor, cluster.port) as proxy:
        heard, client = Heard(), Client(reactor, proxy.address, timeout_seconds=TIMEOUT_SECONDS)
        try:
            proxy.always = lambda data, _at: None if b'"committed"' in data else data
            with pytest.raises(Unavailable):
                await client.upload("a", DATA, progress=heard)
            assert [] == heard.ended
            proxy.always = None
            assert DATA == await client.read("a")
            await client.upload("a", DATA[::-1], if_generation=(await client.stat("a")).generation)
            assert DATA[::-1] == await client.read("a")
        finally:
            client.close()
