import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from filefly.errors import QuotaExceeded
from filefly.units import GIB
from filefly.wire.security import ListQuotas, Quota, QuotaList, SetQuota
from tests.cli.watched import shell_at
from tests.client.administered import administered
from tests.on_reactor import on_reactor


@pytest.mark.parametrize(
    ("arguments", "request_", "said"),
    [
        (["set", "ana/", "--max-bytes", "10GiB"], SetQuota("ana/", 10 * GIB), "'ana/' may take 10.0 GiB;"),
        (["set", "ana/", "--max-files", "100000"], SetQuota("ana/", None, 100_000), "'ana/' may take 100,000 files;"),
        (["set", "", "--max-bytes", "0", "--max-files", "0"], SetQuota("", 0, 0), "'' may take 0 B and 0 files;"),
        (["remove", "ana/"], SetQuota("ana/"), "there is no quota for 'ana/'"),
    ],
)
@on_reactor
async def test_a_quota_is_set_and_taken_away(
    reactor: Any, tmp_path: Path, arguments: Sequence[str], request_: SetQuota, said: str
) -> None:
    """A limit that is not named is none."""
    async with administered(reactor, {}) as (server, _client):
        done = await shell_at(server.address, tmp_path).run("quota", *arguments)
        assert (0, "", [request_]) == (done.returncode, done.stdout, server.asked)
        assert said in done.stderr


@on_reactor
async def test_quotas_are_shown(reactor: Any, tmp_path: Path) -> None:
    """As a table, or in JSON."""
    quotas = [Quota("", 3 * GIB, 1234, None, 100_000), Quota("ana/", 2 * GIB, 12, 10 * GIB)]
    async with administered(reactor, {ListQuotas: [QuotaList(quotas)]}) as (server, _client):
        shell = shell_at(server.address, tmp_path)
        assert [
            "prefix     used     limit  files    limit",
            '""      3.0 GiB         -  1,234  100,000',
            "ana/    2.0 GiB  10.0 GiB     12        -",
        ] == (await shell.out("quota", "list")).splitlines()
        shown = [json.loads(line) for line in (await shell.out("quota", "list", "--json")).splitlines()]
        assert {"prefix": "ana/", "used_bytes": 2 * GIB, "used_files": 12, "max_bytes": 10 * GIB} == shown[1]


@on_reactor
async def test_where_there_are_no_quotas_is_said_how_to_set_one(reactor: Any, tmp_path: Path) -> None:
    """It is no error."""
    async with administered(reactor, {ListQuotas: [QuotaList([])]}) as (server, _client):
        done = await shell_at(server.address, tmp_path).run("quota", "list")
        assert (0, "") == (done.returncode, done.stdout)
        assert "filefly-client quota set PREFIX --max-bytes SIZE" in done.stderr


@on_reactor
async def test_who_is_over_a_quota_hears_what_to_do(reactor: Any, tmp_path: Path) -> None:
    """Behind what the metadata server says."""
    async with administered(reactor, {ListQuotas: [QuotaExceeded("ana/ may have 10 files")]}) as (server, _client):
        said = await shell_at(server.address, tmp_path).refusal("quota", "list")
        assert "ana/ may have 10 files; delete something there, or have the quota raised" in said
