"""Times as the wire spells them."""

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """Spell seconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
