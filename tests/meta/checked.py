"""fsck on a bench."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from sqlalchemy import Connection, select

from filefly.catalog.schema import repairs
from filefly.meta.fsck import Inspector
from filefly.wire.administration import Finding, Fsck
from tests.meta.bench import Bench, on_a_bench

REPAIR = "filefly-client fsck --repair"
DATA = b"0123456789"  # two blocks


@define(eq=False)
class Checked:
    """What fsck checks, and fsck."""

    bench: Bench
    inspector: Inspector

    async def findings(self, limit: int = 100, **fields: Any) -> list[Finding]:
        """Check everything, page by page."""
        found: list[Finding] = []
        after: str | None = ""
        while after is not None:
            page = await self.inspector.inspect(Fsck(after, limit=limit, **fields))
            found += page.findings
            after = page.next
        return found

    async def kinds(self, **fields: Any) -> list[tuple[str, str | None, str | None]]:
        """Check everything; return of each finding its kind, its block, and the data server by its key."""
        keys = {row.address: f"{row.key}" for row in self.bench.cluster.servers.values()}
        found = await self.findings(**fields)
        return [(each.kind, each.block_id, keys.get(each.data_server)) for each in found]

    def meanwhile(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
        """Let something happen, once, right after a data server was first asked for a block."""
        find, left = self.bench.cluster.find, [happens]

        async def find_and_more(*args: Any, **fields: Any) -> Any:
            found = await find(*args, **fields)
            if left:
                left.pop()()
            return found

        monkeypatch.setattr(self.bench.cluster, "find", find_and_more)


@asynccontextmanager
async def checked(reactor: Any, folder: Path, data_servers: int = 2) -> AsyncIterator[Checked]:
    """Run data servers, all up, and fsck."""
    async with on_a_bench(reactor, folder, data_servers) as bench:
        inspector = Inspector(bench.transactions, bench.cluster, bench.health, bench.checker)
        yield Checked(bench, inspector)


def waiting_for_repair(connection: Connection) -> list[tuple[int, int, int]]:
    """Return which blocks are noted for repair, and until when they wait."""
    c = repairs.c
    query = select(c.generation, c.position, c.due).order_by(c.generation, c.position)
    return [(generation, position, due) for generation, position, due in connection.execute(query)]
