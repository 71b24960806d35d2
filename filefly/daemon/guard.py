"""Who is at the other end of a connection, and whether they may do what they ask for."""

from typing import Protocol

from attrs import define

from filefly.security.tokens import Token
from filefly.wire.messages import Reply, Request
from filefly.wire.security import Auth, Proof, Prove, SignedIn


@define(eq=False)
class Session:
    """Who is at the other end of a connection from `host`: nobody known, until a token or a proof says who."""

    host: str
    token: Token | None = None
    is_daemon: bool = False


class Guard(Protocol):
    """Says who may do what on a server."""

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        """Note in `session` who it is, and return the reply; raises Unauthorized, Busy."""

    async def check(self, request: Request, session: Session) -> None:
        """Raise Unauthorized or Forbidden unless the session may ask for `request`.

        What a request's parts may need, each for itself, its server looks at when it carries it out.
        """


class OpenGuard:
    """The guard of an open cluster: everybody may do everything, and who signs in is welcome."""

    async def sign_in(self, request: Auth | Prove, session: Session) -> Reply:
        """Say yes."""
        return SignedIn("admin") if isinstance(request, Auth) else Proof()

    async def check(self, request: Request, session: Session) -> None:
        """Let everything pass."""
