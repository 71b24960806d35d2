"""Closes a scripted cluster: its metadata server gives tickets, and its data servers want to see them."""

from collections.abc import Sequence
from typing import Any

from attrs import define
from msgspec.structs import replace

from filefly.errors import FileFlyError, Forbidden, Unauthorized
from filefly.wire.batches import BlockToRetrieve, BlockToStore, FileResult, FileResults, RetrieveBlocks, StoreBlocks
from filefly.wire.blocks import Link, Retrieve, Stat, Store
from filefly.wire.messages import Block, BlockReply, Metadata, MetadataReply, RenewPlan, Reply
from filefly.wire.security import PlanRenewed
from tests.client.scripted import Answer, ScriptedCluster, ScriptedData, no

Item = Store | Retrieve | Link | Stat | BlockToStore | BlockToRetrieve


@define(eq=False)
class Closing:
    """Gives tickets of an `edition`, which are void once the next one is out.

    A ticket is the edition, the data server, what it allows, and the plan's generation. What data servers refuse
    because there is no ticket, or one that is void, is counted in `refused`.
    """

    cluster: ScriptedCluster
    edition: int = 1
    refused: int = 0

    def ticket(self, address: str, right: str, generation: int) -> str:
        """Return a valid ticket."""
        return f"{self.edition} {address} {right} {generation}"

    def told(self, metadata: Metadata, right: str | None = None) -> Metadata:
        """Return metadata with its tickets."""
        right = right or ("store" if metadata.state == "pending" else "retrieve")
        return replace(metadata, tickets=self.tickets(metadata.blocks, right, metadata.generation))

    def tickets(self, blocks: Sequence[Block], right: str, generation: int) -> dict[str, str]:
        """Return tickets for the data servers that have, or are to have, these blocks."""
        places = {replica.data_server for block in blocks for replica in block.replicas}
        return {address: self.ticket(address, right, generation) for address in places}

    def check(self, server: ScriptedData, item: Item) -> FileFlyError | None:
        """Return what is wrong with what a request shows."""
        generation = int(item.block_id.rpartition(".")[2])
        match item:
            case Link():
                older = int(item.source_block_id.rpartition(".")[2])
                shown = [(item.ticket, "store", generation), (item.source_ticket, "store retrieve", older)]
            case Store() | BlockToStore():
                shown = [(item.ticket, "store", generation)]
            case _:
                shown = [(item.ticket, "retrieve", generation)]
        for ticket, rights, of in shown:
            edition, _space, rest = (ticket or "").partition(" ")
            if edition != str(self.edition):
                self.refused += 1
                return Unauthorized("the ticket has expired" if ticket else "a ticket is needed")
            if rest not in [f"{server.address} {right} {of}" for right in rights.split()]:
                return Forbidden(f"the ticket {rest!r} is not for {server.address} {rights} {of}")
        return None

    def with_tickets(self, reply: Any, request: Any) -> Reply | None:
        """Return a metadata server's reply with the tickets that belong into it."""
        match reply:
            case MetadataReply():
                older = None if reply.resumes is None else self.told(reply.resumes, "retrieve")
                return MetadataReply(self.told(reply.metadata), older)
            case BlockReply():
                return replace(reply, tickets=self.tickets([reply.block], "store", request.generation))
            case FileResults():
                results = [
                    result if result.metadata is None else FileResult(self.told(result.metadata))
                    for result in reply.results
                ]
                return FileResults(results)
            case Reply() if isinstance(request, RenewPlan):
                return PlanRenewed(self.told(self.cluster.catalog.open[request.generation].metadata).tickets)
        return reply  # type: ignore[no-any-return]

    def closed(self, fault: Sequence[Answer]) -> None:
        """Let the servers give tickets and want to see them; `fault` is what else goes wrong with each data server."""
        catalog, answer = self.cluster.catalog, self.cluster.catalog.answer

        async def with_tickets(request: Any, conversation: Any, session: Any) -> Reply | None:
            return self.with_tickets(await answer(request, conversation, session), request)

        catalog.answer = with_tickets  # type: ignore[method-assign]
        for server, other in zip(self.cluster.data, fault, strict=True):
            server.fault = self._fault_of(server, other)
            server.item_fault = lambda item, server=server: self.check(server, item)  # type: ignore[misc]

    def _fault_of(self, server: ScriptedData, other: Answer) -> Answer:
        def fault(request: Any) -> Exception | None:
            if isinstance(request, Store | Retrieve | Link):
                return other(request) or self.check(server, request)
            return other(request) if isinstance(request, StoreBlocks | RetrieveBlocks) else None

        return fault


def close(cluster: ScriptedCluster, *fault: Answer) -> Closing:
    """Close the cluster; `fault` is what goes wrong with each of its data servers, if it is not too few tickets."""
    closing = Closing(cluster)
    closing.closed(fault or [no] * len(cluster.data))
    return closing
