"""The facts of the machine and of the programs that figures are to be read with."""

import os
import platform
import re
import sqlite3
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import benchmarks.seaweed
from filefly import __version__
from filefly.units import format_size


def facts(folders: Mapping[str, Path], weed: Path) -> dict[str, str]:
    """Return what there is to know; `folders` are those that the runs work in, by the name of the place."""
    return {
        "cores": str(os.cpu_count()),
        "processor": _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo"),
        "memory": format_size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{f"file system ({name})": file_system(folder) for name, folder in folders.items()},
        "filefly": __version__,
        "twisted": version("twisted"),
        "sqlite": sqlite3.sqlite_version,
        "seaweedfs": benchmarks.seaweed.version(weed) or "not installed",
    }


def _first(pattern: str, path: str) -> str:
    found = re.search(pattern, Path(path).read_text())
    return found[1].strip() if found else "unknown"


def file_system(folder: Path, mounts: str | None = None) -> str:
    """Return the kind of the file system that `folder` is on: that of the longest mount point above it."""
    lines = [line.split() for line in (mounts or Path("/proc/mounts").read_text()).splitlines()]
    path = folder.absolute()
    above = [(mount, kind) for _device, mount, kind, *_rest in lines if path.is_relative_to(mount)]
    return max(above, key=lambda entry: len(entry[0]))[1] if above else "unknown"
