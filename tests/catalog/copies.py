"""Copies of a catalog, as tests look at them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from filefly.catalog.snapshots import Snapshots
from filefly.meta.backup import PREFIX


def names_in(file: Path) -> list[str]:
    """Return the names of the files in a catalog's backup, once it is found to be sound."""
    with closing(sqlite3.connect(file)) as database:
        assert [("ok",)] == database.execute("PRAGMA integrity_check").fetchall()
        query = "SELECT name FROM plans WHERE state = 'committed' ORDER BY name"
        return [name for (name,) in database.execute(query)]


def beside(folder: Path) -> list[str]:
    """Return what is in the catalog's folder that belongs to copies of it."""
    return [file.name for file in folder.iterdir() if "snapshot" in file.name]


def snapshots_in(folder: Path) -> Snapshots:
    """Return what makes copies of the catalog in a folder."""
    return Snapshots(folder / "catalog.sqlite", PREFIX)
