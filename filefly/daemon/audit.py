"""The audit log: who changed what, from where, and what came of it; a structured event for each change.

Its fields, which the log shows as `name=value`, or in JSON as they are (filefly.daemon.logs):

| field | what it is |
| --- | --- |
| `who` | `token:ID`, also of the ticket that was shown; `daemon`; `anyone` in an open cluster; else `nobody` |
| `role` | the token's |
| `from` | the address that was asked from |
| `command` | what was asked for |
| `result` | `ok`, or the error's code; `lost` if the client went away in the middle |
| others | what the request names (`CHANGES`, `READS`); of a batch `count`, what was done, what `failed`, and `codes` |

Nothing else of a request is ever told: no token, no ticket, no byte of a file. Names are cut where they are too long
for any file. A refusal is told whatever was asked for. But of refusals, and of all that strangers ask a closed cluster
for, only so many are told in a second: nobody must be able to fill a disk that way.
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec
from attrs import define, field
from twisted.internet.error import ConnectionClosed
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher

from filefly.daemon.guard import Session
from filefly.errors import FileFlyError, Forbidden, Internal, Unauthorized, WrongStorage
from filefly.security.signing import MAX_SIGNED_CHARACTERS
from filefly.wire.administration import (
    AcceptCatalog,
    AcceptDataServer,
    BackupCatalog,
    Drain,
    Fsck,
    RemoveDataServer,
    Scrub,
    UndeleteFile,
    Undrain,
)
from filefly.wire.batches import (
    BlockResults,
    CompleteFiles,
    FileResults,
    RetrieveBlocks,
    StoreBlocks,
    StoreFiles,
)
from filefly.wire.blocks import (
    Adopt,
    BlockSum,
    Copy,
    Delete,
    Link,
    ListBlocks,
    Quarantine,
    Quarantined,
    Retrieve,
    SetAside,
    Stat,
    Status,
    Store,
)
from filefly.wire.messages import (
    CompleteFile,
    DeleteFile,
    FetchFile,
    GetMetadata,
    ListDataServers,
    ListFiles,
    MetadataReply,
    Ping,
    RegisterDataServer,
    RenameFile,
    RenewPlan,
    ReplaceReplica,
    Reply,
    ReportReplica,
    Request,
    StoreFile,
)
from filefly.wire.security import (
    Auth,
    ListQuotas,
    ListRevokedTokens,
    Prove,
    RevokeToken,
    SetQuota,
)

CHANGES: Mapping[type[Request], Sequence[str]] = {
    Auth: (),
    Prove: (),
    StoreFile: ("file_name", "file_size"),
    StoreFiles: (),
    CompleteFile: ("file_name", "generation"),
    CompleteFiles: (),
    DeleteFile: ("file_name",),
    RenameFile: ("file_name", "new_name"),
    UndeleteFile: ("file_name",),
    ReplaceReplica: ("generation", "block_id", "data_server"),
    RegisterDataServer: ("data_server_addr", "advertised_addr"),
    AcceptDataServer: ("data_server_addr", "take_over"),
    Drain: ("data_server_addr",),
    Undrain: ("data_server_addr",),
    RemoveDataServer: ("data_server_addr", "lost"),
    Scrub: ("data_server_addr",),
    Fsck: ("after", "repair"),
    AcceptCatalog: (),
    BackupCatalog: (),  # it changes nothing, but hands out all there is to know
    RevokeToken: ("token_id",),
    SetQuota: ("prefix", "max_bytes", "max_files"),
    Store: ("block_id", "size"),
    StoreBlocks: (),
    Delete: ("block_id",),
    Copy: ("block_id", "source"),
    Link: ("block_id", "source_block_id"),
    Quarantine: ("block_id",),
    SetAside: ("block_id",),
    Adopt: ("storage_id", "catalog_id", "generation", "force"),
}
"""The requests that are told, and what of each. `Fsck` is one of them with `repair` only."""

READS: Mapping[type[Request], Sequence[str]] = {
    Ping: (),
    FetchFile: ("file_name",),
    GetMetadata: ("file_name",),
    ListFiles: ("prefix",),
    ListDataServers: (),
    ReportReplica: ("block_id", "data_server"),
    RenewPlan: ("generation",),
    ListRevokedTokens: (),
    ListQuotas: (),
    Retrieve: ("block_id",),
    RetrieveBlocks: (),
    Stat: ("block_id",),
    ListBlocks: (),
    Status: (),
}
"""Those that change nothing, and are told if they are refused."""

_TOLD = {kind: (str(kind.__struct_config__.tag), names) for kind, names in {**CHANGES, **READS}.items()}
"""The word for each request, and what is told of it."""

_DAEMON, _ANYONE, _NOBODY = {"who": "daemon"}, {"who": "anyone"}, {"who": "nobody"}

_MOST_CHARACTERS = 1024
_MOST_CHARACTERS_IN_A_BATCH = 64 * 1024
_MOST_REFUSALS_A_SECOND = 50
_PLAIN = re.compile(r"[\w./:@%~+-]+", re.ASCII)

Outcome = Reply | BaseException | None
"""A request's reply, None if it was sent by the verb itself, or what was raised."""


class Audited(StrEnum):
    """How much is told."""

    ALL = "all"
    CHANGES = "changes"
    OFF = "off"


class AuditEvent(dict[str, Any]):
    """The fields of an event; as a string it is one line without control characters."""

    @property
    def title(self) -> str:
        """Return the least that there is to say."""
        return f"{self['command']}: {self['result']}"

    def __str__(self) -> str:
        """Return the fields as `name=value`."""
        return " ".join([f"{name}={_spelled(value)}" for name, value in self.items()])


def _spelled(value: Any) -> str:
    if type(value) is str:
        return _spelled_text(value)
    if type(value) is list:
        return json.dumps(value, ensure_ascii=not all(map(str.isprintable, value)))
    return str(value).lower()  # a number, or a boolean


@lru_cache(maxsize=256)  # most texts are in event after event
def _spelled_text(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=not value.isprintable())


@define(eq=False)
class Audit:
    """Tells the log of one server what it was asked for; `closed`: who asks must have signed in."""

    _seconds: Callable[[], float]
    _closed: bool = False
    _audited: Audited = Audited.CHANGES
    _log: ILogObserver = globalLogPublisher
    _refusals_told: int = field(default=0, init=False)
    _refusals_untold: int = field(default=0, init=False)
    _second: int = field(default=0, init=False)

    def note(self, request: Request, session: Session, outcome: Outcome) -> None:
        """Tell what came of a request, if it is one that is told."""
        error = outcome if isinstance(outcome, BaseException) else None
        if not self._is_told(request, session, error):
            return
        event = AuditEvent(self._who(request, session, outcome))
        event["from"] = session.host
        event["command"], names = _TOLD[type(request)]
        for name in names:
            value = getattr(request, name)
            if value is not None and value is not False:
                event[name] = _cut(value)
        if type(outcome) is BlockSum:  # of many stores, each
            event["size"] = outcome.size
        else:
            event.update(_found(request, outcome))
        event["result"] = "ok" if error is None else _result(error)
        self._tell(event)

    def _who(self, request: Request, session: Session, outcome: Outcome) -> Mapping[str, str]:
        if session.token is not None:
            return {"who": f"token:{_cut(session.token.id)}", "role": str(session.token.role)}
        if session.is_daemon:
            return _DAEMON
        if not self._closed:
            return _ANYONE
        ticket = _accepted_ticket(request, outcome)
        holder = None if ticket is None else _claims_of(ticket).sub
        return _NOBODY if holder is None else {"who": f"token:{holder}"} if holder else _DAEMON

    def _is_told(self, request: Request, session: Session, error: BaseException | None) -> bool:
        if self._audited is Audited.OFF:
            return False
        is_refusal = error is not None and isinstance(error, (Unauthorized, Forbidden))
        if not (is_refusal or self._audited is Audited.ALL or _is_change(request, error)):
            return False
        is_strangers = self._closed and session.is_stranger
        return self._may_tell_refusal() if is_refusal or is_strangers else True

    def _may_tell_refusal(self) -> bool:
        second = int(self._seconds())
        if second != self._second:
            if self._refusals_untold:
                self._tell(AuditEvent(command="any", count=self._refusals_untold, result="refused"))
            self._second, self._refusals_told, self._refusals_untold = second, 0, 0
        if self._refusals_told == _MOST_REFUSALS_A_SECOND:
            self._refusals_untold += 1
            return False
        self._refusals_told += 1
        return True

    def _tell(self, event: AuditEvent) -> None:
        self._log(
            {
                "log_time": self._seconds(),
                "log_level": LogLevel.info,
                "log_namespace": "filefly.audit",
                "log_format": "{audit}",
                "audit": event,
            }
        )


def _is_change(request: Request, error: BaseException | None) -> bool:
    if type(request) not in CHANGES:
        return False
    if isinstance(request, Fsck):
        return request.repair
    if isinstance(request, Prove):
        return request.proof is not None or error is not None  # the first of its steps says little
    return True


def _result(error: BaseException) -> str:
    match error:
        case FileFlyError():
            return error.code
        case ConnectionClosed():
            return "lost"
    return Internal.code


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        return value[:_MOST_CHARACTERS] + "..."
    return value


def _found(request: Request, outcome: Outcome) -> Mapping[str, Any]:
    """Return what only the outcome tells, or what is told of the parts of a batch."""
    match outcome:
        case MetadataReply():
            plan = outcome.metadata
            return {"file_name": plan.name, "file_size": plan.total_size, "generation": plan.generation}
        case Quarantined():
            return {"quarantined": outcome.quarantined}
        case FileResults() if isinstance(request, StoreFiles | CompleteFiles):
            named = [file.file_name or f"generation {getattr(file, 'generation', 0)}" for file in request.files]
            names = [
                name if result.metadata is None else result.metadata.name
                for name, result in zip(named, outcome.results, strict=False)
            ]
            return _parts("files", names, [result.code for result in outcome.results])
        case BlockResults() if isinstance(request, StoreBlocks):
            names = [block.block_id for block in request.blocks]
            return _parts("blocks", names, [result.code for result in outcome.results])
        case Unauthorized() if isinstance(request, Auth):
            return _claimed(request.token)
    match request:
        case StoreFiles() | CompleteFiles():
            return {"count": len(request.files)}
        case StoreBlocks() | RetrieveBlocks():
            return {"count": len(request.blocks)}
    return {}


def _parts(what: str, names: Sequence[str], codes: Sequence[str | None]) -> Mapping[str, Any]:
    """Return what became of a batch's parts, by name as long as the names are not too many."""
    told: dict[str, Any] = {"count": len(names)}
    done = [name for name, code in zip(names, codes, strict=True) if code is None]
    failed = [name for name, code in zip(names, codes, strict=True) if code is not None]
    for title, some in ((what, done), ("failed", failed)):
        if some:
            told[title] = list(islice(map(_cut, some), _number_that_fits(some)))
    if failed:
        told["codes"] = sorted({code for code in codes if code is not None})
    if left_out := len(names) - len(told.get(what, ())) - len(told.get("failed", ())):
        told["not_named"] = left_out
    return told


def _number_that_fits(names: Sequence[str]) -> int:
    room = _MOST_CHARACTERS_IN_A_BATCH
    for number, name in enumerate(names):
        room -= min(len(name), _MOST_CHARACTERS)
        if room < 0:
            return number
    return len(names)


def _accepted_ticket(request: Request, outcome: Outcome) -> str | None:
    """Return a ticket that the guard has verified; it looks at a storage's id before that, and at all else after it."""
    if isinstance(outcome, Unauthorized | WrongStorage):
        return None
    match request:
        case Store() | Retrieve() | Stat():
            return request.ticket
        case Link():
            return request.source_ticket
        case StoreBlocks() if isinstance(outcome, BlockResults):
            accepted = zip(request.blocks, outcome.results, strict=True)
            return next((block.ticket for block, result in accepted if result.code != Unauthorized.code), None)
    return None


class _Claims(msgspec.Struct):
    """Who a token or a ticket says it is for: its id, its holder's."""

    jti: str = ""
    sub: str = ""


def _claims_of(signed: str) -> _Claims:
    """Return what a JSON Web Token says, whoever has signed it."""
    if len(signed) > MAX_SIGNED_CHARACTERS:
        return _Claims()
    try:
        return msgspec.json.decode(urlsafe_b64decode(signed.split(".")[1] + "=="), type=_Claims)
    except (IndexError, ValueError, RecursionError, msgspec.DecodeError):
        return _Claims()


def _claimed(token: str) -> Mapping[str, str]:
    """Return the id that a token that was not accepted says it has: an expired or revoked one, or a made-up one."""
    claimed = _claims_of(token).jti
    return {"claimed_token_id": claimed[:64]} if claimed else {}
