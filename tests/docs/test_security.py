"""docs/security.md names tests that exist, and the dependencies that there are."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    """What shows that a threat is met can be run."""
    assert f"def {name}(" in (ROOT / path).read_text()


def test_every_threat_names_a_test() -> None:
    """A claim without one is only a claim."""
    threats = TEXT.partition("## Threats")[2].partition("## ")[0]
    rows = [line for line in threats.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 5
    assert [] == [row for row in rows if "`tests/" not in row]


def test_the_dependencies_are_those_that_are_installed() -> None:
    """Each with its range, and what it is for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    groups = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = [line.split() for group in groups for line in group.strip().splitlines()]
    expected = {(name, f"{least.rstrip(',')} or newer, below {below}") for name, _ge, least, _lt, below in required}
    listed = TEXT.partition("## What FileFly depends on")[2]
    found = set(re.findall(r"^\| (\S+) \| (\S+ or newer, below \S+) \| \S.* \|$", listed, re.MULTILINE))
    assert expected == found
