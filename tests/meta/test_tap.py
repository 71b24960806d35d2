from pathlib import Path
from typing import Any

import pytest
from twisted.python.usage import UsageError

from filefly.catalog.plans import committed_plan
from filefly.meta.tap import Options, makeService, take_catalog
from filefly.units import MIB
from tests.catalog.catalogs import open_catalog, opened, seen, store, url_of
from tests.meta.running import put, running
from tests.on_reactor import on_reactor

DAY = 86400
SERVERS = ["--data-servers", "a:1,b:2"]


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


def test_the_defaults_are_those_of_the_documentation() -> None:
    """Only the data servers must be named."""
    options = parsed(*SERVERS)
    expected = {
        "addr": ":9000",
        "block-size": 8 * MIB,
        "catalog": "sqlite:///filefly-catalog.sqlite",
        "down-after": 15,
        "health-interval": 5,
        "max-line": 24 * MIB,
        "pending-ttl": DAY,
        "repair-delay": 600,
        "repair-rate": 100 * MIB,
        "replicas": 1,
        "scrub-period": 14 * DAY,
        "trash-grace": 600,
    }
    assert expected == {name: options[name] for name in expected}
    assert {"a:1": None, "b:2": None} == options.listed


@pytest.mark.parametrize("name", ["trash-grace", "pending-ttl", "down-after", "repair-delay", "scrub-period"])
@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("24h", DAY), ("14d", 14 * DAY)])
def test_durations_take_units(name: str, text: str, seconds: int) -> None:
    """As people write durations."""
    assert seconds == parsed(*SERVERS, f"--{name}", text)[name]


@pytest.mark.parametrize(("text", "size"), [("8", 8), ("64KiB", 65536), ("8MiB", 8 * MIB), ("64MiB", 64 * MIB)])
def test_the_block_size_takes_units(text: str, size: int) -> None:
    """As people write sizes."""
    assert size == parsed(*SERVERS, "--block-size", text)["block-size"]


def test_advertised_addresses_go_with_data_servers() -> None:
    """In the same order; spaces do not matter."""
    options = parsed("--data-servers", "a:1, b:2", "--advertised-data-servers", "x:1,y:2")
    assert {"a:1": "x:1", "b:2": "y:2"} == options.listed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--data-servers is needed: HOST:PORT of each data server, separated by commas"),
        (["--data-servers", ","], "--data-servers is needed: HOST:PORT of each data server, separated by commas"),
        (["--data-servers", "a:1,a:1"], "--data-servers names one address twice"),
        (["--data-servers", "a"], "'a' is not an address; write HOST:PORT"),
        ([*SERVERS, "--advertised-data-servers", "x:1"], "--advertised-data-servers has 1 addresses, --data-servers 2"),
        ([*SERVERS, "--block-size", "65MiB"], "--block-size is at most 64MiB"),
        ([*SERVERS, "--block-size", "0"], "--block-size: must be at least 1 byte"),
        ([*SERVERS, "--replicas", "0"], "--replicas: must be at least 1"),
        ([*SERVERS, "--trash-grace", "soon"], "--trash-grace: 'soon' is not a duration; write 30s"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], sentence: str) -> None:
    """With a sentence that says what is expected."""
    with pytest.raises(UsageError) as caught:
        parsed(*arguments)
    assert str(caught.value).startswith(sentence)


def test_a_relative_catalog_is_where_the_daemon_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after it has left that folder."""
    monkeypatch.chdir(tmp_path)
    database = take_catalog("filefly-meta", "sqlite:///catalog.sqlite")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    database.close_connections()
    store(database, "a", 0)
    database.close()
    with opened(tmp_path) as database:
        assert "a" == seen(database, committed_plan, "a").name


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "filefly-meta: --catalog 'nonsense' is not a database URL; write sqlite:///catalog.sqlite"),
        ("sqlite:////dev/null/c", "filefly-meta: cannot write beside the catalog /dev/null/c: Not a directory"),
    ],
)
def test_a_catalog_that_cannot_be_taken_ends_the_process(url: str, sentence: str) -> None:
    """With one sentence."""
    with pytest.raises(SystemExit) as caught:
        makeService(parsed(*SERVERS, "--catalog", url))
    assert sentence == caught.value.code


def test_a_catalog_in_use_ends_the_process(tmp_path: Path) -> None:
    """A second daemon does not even bind its port."""
    database = open_catalog(tmp_path)
    with pytest.raises(SystemExit, match="is in use by another metadata server"):
        makeService(parsed(*SERVERS, "--catalog", url_of(tmp_path), "--addr", "127.0.0.1:0"))
    database.close()


@on_reactor
async def test_a_stopped_service_lets_the_catalog_go(reactor: Any, tmp_path: Path) -> None:
    """Another one can take it at once, and finds what was stored."""
    async with running(reactor, tmp_path, 1) as cluster:
        async with cluster.calling() as caller:
            await put(cluster, caller, "a", b"x")
        await cluster.stop_meta()
        with opened(tmp_path, servers=0) as database:
            assert 1 == seen(database, committed_plan, "a").total_size
