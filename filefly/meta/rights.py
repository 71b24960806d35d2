"""Who may do what on the metadata server of a closed cluster.

What a role may do is in ROLES. Beyond that every name that a token's holder uses must begin with the token's prefix, if
it has one; what FileFly stores for itself, backups of the catalog, is for administrators alone; and who may only add is
kept from replacing anything: all plans of such a token ask for generation 0, and it may go on with no other plans than
its own. `report_replica` is open to all readers whatever their prefix: it tells them nothing, and what it costs is
bounded (filefly.meta.checking).
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from attrs import frozen
from msgspec.structs import replace

from filefly.catalog.plans import Plan
from filefly.daemon.guard import SecretGuard, Session
from filefly.errors import Conflict, FileFlyError, Forbidden, QuotaExceeded, Unauthorized
from filefly.security.tokens import Role, Token
from filefly.wire import administration as care
from filefly.wire import batches, messages, security
from filefly.wire.messages import Request

F = TypeVar("F", messages.StoreFile, batches.FileToStore)

ROLES: Mapping[type[Request], Role | None] = {
    messages.Ping: None,
    messages.GetMetadata: Role.READ,
    messages.FetchFile: Role.READ,
    messages.ListFiles: Role.READ,
    messages.ListDataServers: Role.READ,
    messages.ReportReplica: Role.READ,
    messages.StoreFile: Role.APPEND,
    batches.StoreFiles: Role.APPEND,
    messages.CompleteFile: Role.APPEND,
    batches.CompleteFiles: Role.APPEND,
    messages.RenewPlan: Role.APPEND,
    messages.ReplaceReplica: Role.APPEND,
    messages.DeleteFile: Role.WRITE,
    messages.RenameFile: Role.WRITE,
    care.UndeleteFile: Role.WRITE,
    messages.RegisterDataServer: Role.ADMIN,
    care.AcceptDataServer: Role.ADMIN,
    care.Drain: Role.ADMIN,
    care.Undrain: Role.ADMIN,
    care.RemoveDataServer: Role.ADMIN,
    care.Scrub: Role.ADMIN,
    care.Fsck: Role.ADMIN,
    care.BackupCatalog: Role.ADMIN,
    care.AcceptCatalog: Role.ADMIN,
    security.RevokeToken: Role.ADMIN,
    security.ListRevokedTokens: Role.ADMIN,
    security.SetQuota: Role.ADMIN,
    security.ListQuotas: Role.ADMIN,
}
"""The least role that each request takes; None: anybody may ask. What is not here is for daemons alone."""

OWN_NAMES = ".filefly/"
"""What the names of files begin with that FileFly stores for itself."""

_NAMES = ("file_name", "new_name", "prefix")
"""The fields of a request that name a file, or begin the names of files."""


@frozen
class Grant:
    """What the holder of a token may do with names and plans; without one, everything."""

    token: Token | None = None

    @property
    def holder(self) -> str | None:
        """The id of the token."""
        return None if self.token is None else self.token.id

    @property
    def only_adds(self) -> bool:
        """Whether nothing may be replaced."""
        return self.token is not None and not self.token.role.includes(Role.WRITE)

    def check_name(self, name: str) -> None:
        """Raise Forbidden unless a name, or the beginning of one, is under the token's prefix."""
        if self.token is not None and not name.startswith(self.token.prefix):
            raise Forbidden(f"this token is for names that begin with {self.token.prefix!r}")
        if not self.may_see(name):
            raise Forbidden(f"{OWN_NAMES} is FileFly's own: it takes a token of the role {Role.ADMIN}")

    def may_see(self, name: str) -> bool:
        """Whether a file of that name is shown in a listing of names that one may use."""
        return self.token is None or self.token.role is Role.ADMIN or not name.startswith(OWN_NAMES)

    def check_plan(self, plan: Plan) -> None:
        """Raise Forbidden unless one may go on with a plan."""
        self.check_name(plan.name)
        if self.only_adds and (plan.holder, plan.if_generation) != (self.holder, 0):
            raise Forbidden("this token may only go on with plans of its own")

    def may_go_on(self, plan: Plan) -> bool:
        """Whether one may go on with a plan, and store its blocks."""
        try:
            self.check_plan(plan)
        except Forbidden:
            return False
        return self.token is None or self.token.role.includes(Role.APPEND)

    def restrict(self, file: F) -> F:
        """Return what may be planned of what is asked for; raises Forbidden."""
        self.check_name(file.file_name)
        if not self.only_adds:
            return file
        if file.if_generation:
            raise _only_adds()
        return replace(file, if_generation=0)

    def as_told(self, error: FileFlyError) -> FileFlyError:
        """Return the error that says why a file was not planned: who may only add did not ask for generation 0."""
        return _only_adds() if self.only_adds and isinstance(error, Conflict) else error

    def without_others(self, error: FileFlyError) -> FileFlyError:
        """Return the error without what it tells of names that do not begin with the token's prefix."""
        quota = error.prefix if isinstance(error, QuotaExceeded) else None
        if self.token is None or quota is None or quota.startswith(self.token.prefix):
            return error
        return QuotaExceeded("a quota that counts other files as well has no room for this")


def _only_adds() -> Forbidden:
    return Forbidden("this token may add files, but not replace one")


EVERYTHING = Grant()


def grant_of(session: Session) -> Grant:
    """Return what the other end of a conversation may do, once its guard has let a request pass."""
    return EVERYTHING if session.token is None else Grant(session.token)


class Rights(SecretGuard):
    """The guard of a closed cluster's metadata server."""

    def check(self, request: Request, session: Session) -> None:
        """See Guard: is there a role, and do the names that the request has fit?"""
        if type(request) in ROLES and ROLES[type(request)] is None:
            return
        if self.is_daemon(session):
            return
        token = self.token_of(session)
        if token is None:
            raise Unauthorized('sign in first, by {"command":"auth","token":"..."} or filefly-client --token-file')
        self._check_role(request, token)
        grant = Grant(token)
        for name in _names_of(request):
            grant.check_name(name)

    def _check_role(self, request: Request, token: Token) -> None:
        needed = ROLES.get(type(request))
        command = request.__struct_config__.tag
        if needed is None:
            raise Forbidden(f"{command} is for daemons of the cluster alone")
        if not token.role.includes(needed):
            higher = "" if needed is Role.ADMIN else " or a higher one"
            raise Forbidden(f"{command} takes a token of the role {needed}{higher}; this one has the role {token.role}")
        if needed is Role.ADMIN and token.prefix:
            raise Forbidden(f"{command} takes a token without a prefix")


def _names_of(request: Request) -> Iterator[str]:
    for field in _NAMES:
        name = getattr(request, field, None)
        if name is not None:
            yield name
    if (
        isinstance(request, messages.CompleteFile)
        and request.metadata is not None
        and request.metadata.name is not None
    ):
        yield request.metadata.name
