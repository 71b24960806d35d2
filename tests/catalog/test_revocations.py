from pathlib import Path

from filefly.catalog.revocations import list_revoked_tokens, revoke_token
from filefly.catalog.snapshots import Snapshots
from filefly.wire.security import RevokedToken
from tests.catalog.catalogs import done, opened, seen

EARLIER, LATER = "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06.000Z"


def test_revoked_tokens_are_kept(tmp_path: Path) -> None:
    """Across restarts, in the order of their ids."""
    with opened(tmp_path) as database:
        done(database, revoke_token, "b", EARLIER)
        done(database, revoke_token, "a", LATER)
    with opened(tmp_path) as database:
        expected = [RevokedToken("a", LATER), RevokedToken("b", EARLIER)]
        assert expected == seen(database, list_revoked_tokens)


def test_to_revoke_again_is_fine(tmp_path: Path) -> None:
    """The first time counts."""
    with opened(tmp_path) as database:
        done(database, revoke_token, "a", EARLIER)
        done(database, revoke_token, "a", LATER)
        assert [RevokedToken("a", EARLIER)] == seen(database, list_revoked_tokens)


def test_a_revocation_is_worth_a_backup(tmp_path: Path) -> None:
    """Else the token would be valid again in a catalog that is restored."""
    with opened(tmp_path) as database:
        snapshots = Snapshots(tmp_path / "catalog.sqlite", ".filefly/")
        before = snapshots.digest()
        done(database, revoke_token, "a", EARLIER)
        assert before != snapshots.digest()
