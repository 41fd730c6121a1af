"""How much memory calls on a large document take: a program that runs in a process of its own, and prints JSON.

Counts what the process needs at one moment for a call, beyond what it had before it: what the server sent and is sent,
with the snapshot that the call returns. The document that is put was there before. For that to be seen in the
process's size, the allocator has to give large blocks back at once: see `measured`.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from support.twins import open_twin

from benchmarks import machine
from txstate._engine import writeset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.twins import Twin

    from txstate import AsyncTx

SIZE: Final = 1_000_000
TIMES: Final = 4
"""Often enough for connections to be armed, and for what one call leaves behind to add up."""

SHAPES: Final[Mapping[str, int]] = {"1 field": 1, "50 fields": 50}


def measured(url: str, kind: str, *, copying: bool = False) -> dict[str, float]:
    """What each call takes at most, in documents.

    Args:
        url: the server.
        kind: of the twin.
        copying: send all of a batch in one piece, as a small one.
    """
    found = subprocess.run(
        [sys.executable, "-m", "support.appetite", url, kind, "copying"[: 7 * copying]],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    taken: dict[str, float] = json.loads(found.stdout)
    return taken


def _document(fields: int, letter: str) -> dict[str, Any]:
    return {"n": 0, **{f"f{number}": letter * (SIZE // fields) for number in range(fields)}}


async def _increment(tx: AsyncTx) -> None:
    (await tx.get("doc")).increment("n")


async def _increment_alone(tx: AsyncTx) -> None:
    (await tx.get("doc", fields=["n"])).increment("n")


async def _read(tx: AsyncTx) -> int:
    value: int = (await tx.get("doc"))["n"]
    return value


def _calls(twin: Twin, fields: int) -> dict[str, Callable[[], object]]:
    documents = [_document(fields, letter) for letter in "ab"]

    def another() -> dict[str, Any]:
        documents.reverse()
        return documents[0]

    return {
        "create": lambda: (twin.delete("other"), twin.put("other", another())),
        "put": lambda: twin.put("doc", another()),
        "assign": lambda: twin.update("doc", lambda doc: doc.update(f0=another()["f0"])),
        "increment": lambda: twin.run(_increment),
        "increment, fields=": lambda: twin.run(_increment_alone),
        "read": lambda: twin.run(_read),
        "get": lambda: twin.get("doc"),
        "get, fields=": lambda: twin.get("doc", ["n"]),
    }


def _most(url: str, kind: str, fields: int, name: str) -> float:
    """By a store of its own: what is left of another call must not be there before, and gone then."""
    with open_twin(kind, url) as twin:
        twin.put("doc", _document(fields, "a"))
    with open_twin(kind, url) as twin:
        call = _calls(twin, fields)[name]
        for _ in range(TIMES):
            twin.update("small", lambda doc: doc.increment("n"))
        gc.collect()
        before = machine.memory()
        assert before is not None
        for _ in range(TIMES):
            call()
        return (machine.peak_memory() - before) / SIZE


def main(url: str, kind: str, copying: str) -> None:
    if copying:
        patch.object(writeset, "LARGE", sys.maxsize).start()
    with open_twin(kind, url) as twin:
        names = list(_calls(twin, 1))
    taken = {
        f"{name}: {shape}": _most(url, kind, fields, name)
        for shape, fields in SHAPES.items()
        for name in names
    }
    json.dump(taken, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
