"""fsck: the catalog held against what is on the data servers, a page at a time.

First every block of every committed file is looked for, then every block file of every data server is looked up. The
work of a page is bounded: so many blocks, so many bytes to read, or one listing of a data server.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import msgspec
from attrs import define, field

from filefly.catalog.repairs import FIRST, Place, repair_at_once
from filefly.catalog.replicas import Bad, StoredBlock, stored_block
from filefly.catalog.stretches import next_stretch
from filefly.catalog.unknown_blocks import set_unknown_aside, unknown_ids
from filefly.client.transfer import run_all
from filefly.errors import BadRequest, FileFlyError
from filefly.meta.checking import Checker
from filefly.meta.cluster import AT_ONCE, CANNOT_BE_ASKED, Cluster
from filefly.meta.findings import damage_of, findings_of, unknown, unreachable
from filefly.meta.health import Health
from filefly.meta.transactions import Transactions
from filefly.units import MIB
from filefly.wire.administration import Finding, Fsck, FsckPage
from filefly.wire.messages import MAX_PAGE, Number

_MOST_BYTES = 256 * MIB
"""How much one page reads, or a little more: at the pace of a slow disk its answer comes within a client's patience."""

_LOOKED_UP_AT_ONCE = 1000


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How far the check is: behind a block of a file or, with a `server`, behind a block file there.

    `told` are the unreachable data servers that earlier pages told of.
    """

    generation: Number = FIRST.generation
    position: Annotated[int, msgspec.Meta(ge=-1, le=2**31)] = FIRST.position
    server: Number | None = None
    block_id: str = ""
    told: tuple[Number, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Return what `str` made a text of; an empty one is the beginning. Raises BadRequest."""
        try:
            return msgspec.json.decode(text, type=cls) if text else cls()
        except msgspec.MsgspecError:
            raise BadRequest("after must be empty, or what the page before had as next") from None

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()


@define(eq=False)
class _Page:
    """A page in the making; `silent` are the data servers that did not answer a question of it."""

    request: Fsck
    told: set[int]
    silent: set[int] = field(factory=set)
    findings: list[Finding] = field(factory=list)


@define(eq=False)
class Inspector:
    """Checks the catalog against the data servers. Without `repair` it changes nothing.

    What was deleted, replaced or moved while it was looked at is no finding.
    """

    _transactions: Transactions
    _cluster: Cluster
    _health: Health
    _checker: Checker

    async def inspect(self, request: Fsck) -> FsckPage:
        """Return the next page; raises BadRequest."""
        cursor = Cursor.parse(request.after)
        page = _Page(request, set(cursor.told))
        if cursor.server is None:
            return await self._check_files(cursor, page)
        return await self._look_up_server(cursor, page)

    # Is there what the catalog knows?

    async def _check_files(self, cursor: Cursor, page: _Page) -> FsckPage:
        request, after = page.request, Place(cursor.generation, cursor.position)
        most_bytes = _MOST_BYTES if request.verify else 2**53
        stretch = await self._transactions.read(next_stretch, after, request.limit, most_bytes)
        found: dict[Place, list[Finding]] = {}
        await run_all((partial(self._check_block, block, page, found) for block in stretch.blocks), AT_ONCE)
        findings = [*page.findings, *(finding for place in sorted(found) for finding in found[place])]
        told = tuple(sorted(page.told))
        if stretch.next is None:
            following = Cursor(server=0, told=told)
        else:
            following = Cursor(stretch.next.generation, stretch.next.position, told=told)
        return FsckPage(findings, stretch.files, len(stretch.blocks), str(following))

    async def _check_block(self, block: StoredBlock, page: _Page, found: dict[Place, list[Finding]]) -> None:
        bad = await self._bad_replicas(block, page)
        if not bad and self._kept(block, page) >= block.wanted:
            return
        now = await self._transactions.read(stored_block, block.place)
        if now is None:
            return
        servers = self._cluster.servers
        still_bad = {servers[server]: bad[server] for server in now.servers if server in bad and server in servers}
        suspended = self._health.suspended is not None
        found[block.place] = findings_of(now, still_bad, self._kept(now, page), suspended)
        if page.request.repair and found[block.place]:
            away = [server for server in servers if self._cluster.condition(server).away]
            await self._transactions.write(repair_at_once, block.place, away)

    def _kept(self, block: StoredBlock, page: _Page) -> int:
        """Return on how many data servers that count a block should be; whether it is there was looked at apart.

        Where nobody could look, what was found bad before does not count.
        """
        unseen = page.silent & block.bad.keys()
        return sum(server not in unseen and not self._cluster.condition(server).away for server in block.servers)

    async def _bad_replicas(self, block: StoredBlock, page: _Page) -> dict[int, Bad]:
        bad: dict[int, Bad] = {}
        for server in block.servers:
            if not self._can_be_asked(server, page):
                continue
            try:
                why = await self._look(block, server, page.request)
            except CANNOT_BE_ASKED as error:
                self._tell_unreachable(server, str(error), page)
            except FileFlyError:  # it cannot read this block, or may not move it aside
                bad[server] = "corrupt"
            else:
                if why is not None:
                    bad[server] = why
        return bad

    async def _look(self, block: StoredBlock, server: int, request: Fsck) -> Bad | None:
        if request.repair:
            return await self._checker.check(block, server, request.verify)
        return damage_of(block, await self._cluster.find(server, block.id, request.verify), request.verify)

    def _can_be_asked(self, server: int, page: _Page) -> bool:
        row = self._cluster.servers.get(server)
        if row is None or server in page.silent:
            return False
        if row.address is None:
            self._tell_unreachable(server, "its storage is seen at no address", page)
        elif self._cluster.condition(server).state == "down":
            self._tell_unreachable(server, self._health.seen(server).error or "it is down", page)
        return server not in page.silent

    def _tell_unreachable(self, server: int, error: str, page: _Page) -> None:
        page.silent.add(server)
        if server not in page.told:
            page.told.add(server)
            refused = self._health.seen(server).refused
            page.findings.append(unreachable(self._cluster.servers[server], error, refused))

    # Does the catalog know what is there?

    async def _look_up_server(self, cursor: Cursor, page: _Page) -> FsckPage:
        """List a page of the block files of the next data server that can be asked."""
        following = None
        for server in sorted(key for key in self._cluster.servers if key >= (cursor.server or 0)):
            # A storage that is seen nowhere was told of with its blocks, if it has any that matter.
            if self._cluster.servers[server].address is None or not self._can_be_asked(server, page):
                continue
            after = cursor.block_id if server == cursor.server else ""
            try:
                listing = await self._cluster.list_blocks(server, after, MAX_PAGE)
            except CANNOT_BE_ASKED as error:
                self._tell_unreachable(server, str(error), page)
                continue
            await self._look_up(server, [block.id for block in listing.blocks], page)
            told = tuple(sorted(page.told))
            if listing.next is not None:
                following = Cursor(server=server, block_id=listing.next, told=told)
            elif server < max(self._cluster.servers):
                following = Cursor(server=server + 1, told=told)
            break
        return FsckPage(page.findings, 0, 0, None if following is None else str(following))

    async def _look_up(self, server: int, block_ids: Sequence[str], page: _Page) -> None:
        for begin in range(0, len(block_ids), _LOOKED_UP_AT_ONCE):
            some = block_ids[begin : begin + _LOOKED_UP_AT_ONCE]
            if left := await self._transactions.read(unknown_ids, server, some):
                await self._tell_unknown(server, left, page)

    async def _tell_unknown(self, server: int, block_ids: Sequence[str], page: _Page) -> None:
        """Tell of the blocks that are still there, and still unknown; set them aside if that is wanted."""
        there: set[str] = set()

        async def look(block_id: str) -> None:
            if await self._cluster.find(server, block_id, verify=False) is not None:
                there.add(block_id)

        try:
            await run_all((partial(look, block_id) for block_id in block_ids), AT_ONCE)
        except CANNOT_BE_ASKED as error:
            self._tell_unreachable(server, str(error), page)
        left = [block_id for block_id in block_ids if block_id in there]
        suspended = self._health.suspended is not None
        # Only a data server that was heard from can tell that the catalog is older than its data.
        if page.request.repair and not suspended and self._cluster.condition(server).state == "up":
            left = await self._transactions.write(set_unknown_aside, server, left)
        else:
            left = await self._transactions.read(unknown_ids, server, left)
        row = self._cluster.servers[server]
        page.findings += [unknown(row, block_id, suspended) for block_id in left]
