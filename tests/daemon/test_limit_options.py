from typing import Any

import pytest
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from filefly.all_in_one import Options as AllInOneOptions
from filefly.daemon.limits import ConnectionLimits
from filefly.data.tap import Options as DataOptions
from filefly.meta.tap import Options as MetaOptions
from filefly.units import MIB
from filefly.wire.budget import DEFAULT_MAX_BUFFERED, DEFAULT_MAX_UNSENT

every_server = pytest.mark.parametrize("kind", [DataOptions, MetaOptions, AllInOneOptions])


def parsed(kind: type[UsageOptions], *arguments: str) -> Any:
    options: Any = kind()
    options.parseOptions([*arguments, *(["--data-servers", "a:1"] if kind is MetaOptions else [])])
    return options


@every_server
def test_limits_are_taken_as_people_write_them(kind: type[UsageOptions]) -> None:
    """Sizes and durations with their units."""
    given = ["--max-buffered", "1GiB", "--max-unsent", "5MiB", "--idle-timeout", "0", "--peer-timeout", "2m"]
    limits = ConnectionLimits.of(parsed(kind, *given))
    assert (1024 * MIB, 5 * MIB, 0, 120) == (
        limits.max_buffered,
        limits.max_unsent,
        limits.idle_seconds,
        limits.peer_seconds,
    )


@every_server
def test_limits_have_defaults(kind: type[UsageOptions]) -> None:
    """The help shows them with their units."""
    limits = ConnectionLimits.of(parsed(kind))
    assert (DEFAULT_MAX_BUFFERED, DEFAULT_MAX_UNSENT) == (limits.max_buffered, limits.max_unsent)
    assert (3600, 60) == (limits.idle_seconds, limits.peer_seconds)
    text = " ".join(str(kind()).split())
    assert all(f"[default: {default}]" in text for default in ("64MiB", "24MiB", "1h", "60s"))


@every_server
def test_the_longest_line_must_find_room(kind: type[UsageOptions]) -> None:
    """It takes twice its length."""
    parsed(kind, "--max-line", "8MiB", "--max-buffered", "16MiB")
    with pytest.raises(UsageError, match=r"^--max-buffered must be at least 2 times --max-line, so 16\.0 MiB"):
        parsed(kind, "--max-line", "8MiB", "--max-buffered", "15MiB")


@every_server
@pytest.mark.parametrize("option", ["--max-buffered", "--max-unsent", "--idle-timeout", "--peer-timeout"])
def test_what_is_no_limit_is_refused(kind: type[UsageOptions], option: str) -> None:
    """With a sentence."""
    with pytest.raises(UsageError, match="write"):
        parsed(kind, option, "much")
