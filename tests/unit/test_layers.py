"""Imports point down only, and each dependency has one door. Reads the source; imports none of it."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "txstate"

LAYERS = (
    {"_checks", "errors", "resolution", "events", "retry", "durability", "_effects"},
    {"_documents"},
    {"_engine"},
    {"_drivers"},
    {"embedded"},
    {"_target", "_core", "_running", "tx", "store", "transactional", "__init__"},
    {"cli", "testing", "__main__"},
)
"""From the bottom up: modules, or whole packages, directly in txstate."""

UPWARD_FOR_TYPES = {("_effects", "_engine")}
"""What lower layers know of upper ones for the type checkers only. A longer list would need a better reason."""

DOORS = {
    "redis": {"_drivers", "cli"},  # the command line compares with redis-py's own ways
    "hiredis": {"_drivers"},
    "tenacity": {"retry"},
    "orjson": {"_documents/codec.py"},
    "typer": {"cli"},
    "rich": {"cli"},
    "hypothesis": {"testing"},
    "pytest_txstate": {"testing"},
}
"""Which packages, modules or files may import what is not the standard library's."""

STANDARD = sys.stdlib_module_names | {"annotationlib"}  # from 3.14 on

WAITING = {"asyncio", "threading", "socket", "select", "selectors", "concurrent", "multiprocessing"}
"""What the engine leaves to its drivers; `time.sleep` is the same."""

LINES = 420
LONGER = {"store": 560}
"""Both twins stand in one file, so that drift shows; half of it is docstrings."""


class Import(NamedTuple):
    line: int
    target: str
    for_types: bool


def violations(package: Path) -> list[str]:
    """Everything that breaks a rule, as ``file:line: what``."""
    found = []
    graph: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package)
        tree = ast.parse(path.read_text())
        module = ".".join(["txstate", *file.with_suffix("").parts]).removesuffix(".__init__")
        unit = file.parts[0].removesuffix(".py")
        found += [f"{file}:1: {what}" for what in _bad_file(path, unit)]
        for item in _imports(
            tree, package, module if path.name == "__init__.py" else module.rpartition(".")[0]
        ):
            if item.target.split(".")[0] == "txstate" and not item.for_types:
                graph[module].add(item.target)
            found += [f"{file}:{item.line}: {what}" for what in _bad_import(item, unit, file)]
        if unit == "_engine":
            found += [
                f"{file}:{node.lineno}: the engine sleeps"
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep"
            ]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"imports in a circle: {' -> '.join(error.args[1])}")
    return found


def _bad_file(path: Path, unit: str) -> Iterator[str]:
    if not any(unit in layer for layer in LAYERS):
        yield f"{unit} belongs to no layer"
    lines = len(path.read_text().splitlines())
    if lines > LONGER.get(unit, LINES):
        yield f"{lines} lines are more than one idea"


def _bad_import(item: Import, unit: str, file: Path) -> Iterator[str]:
    top, _, rest = item.target.partition(".")
    if top == "txstate":
        other = rest.partition(".")[0] or "__init__"
        if item.for_types and (unit, other) in UPWARD_FOR_TYPES:
            return
        if _layer(other) > _layer(unit):
            yield f"{unit} imports {other}, which stands above it"
        if unit == "embedded" and other not in ("embedded", "errors", "_checks"):
            yield f"the embedded server knows nothing of {other}"
    elif top not in STANDARD and DOORS.get(top, set()).isdisjoint({unit, file.as_posix()}):
        yield f"{unit} imports {top}"
    if unit == "_engine" and (top in WAITING or item.target == "time.sleep"):
        yield f"the engine imports {item.target}"
    if file.as_posix() == "embedded/guard.py" and top not in STANDARD:
        yield f"the guard runs in a bare interpreter, which has no {top}"


def _layer(unit: str) -> int:
    return next((number for number, layer in enumerate(LAYERS) if unit in layer), len(LAYERS))


def _imports(tree: ast.Module, package: Path, parent: str) -> Iterator[Import]:
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(node.lineno, name.name, id(node) in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = parent.split(".")[: len(parent.split(".")) - node.level + 1]
                base = ".".join([*outer, *filter(None, [node.module])])
            for name in node.names:
                yield Import(node.lineno, _resolved(f"{base}.{name.name}", package), id(node) in for_types)


def _resolved(target: str, package: Path) -> str:
    """The module that an imported name is, or is in."""
    top, *parts = target.split(".")
    if top != "txstate":
        return target
    path = package.joinpath(*parts)
    is_module = path.is_dir() or path.with_suffix(".py").is_file()
    return target if is_module else target.rpartition(".")[0]


def test_the_package_keeps_the_rules() -> None:
    assert violations(PACKAGE) == []


def test_all_of_the_package_was_looked_at() -> None:
    units = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert set.union(*LAYERS[:-1]) <= units


# The checker itself, on a small tree

SOUND = {
    "__init__.py": "from txstate.store import Store\n",
    "errors.py": "from typing import Any\n",
    "events.py": "import dataclasses\nfrom txstate import errors\n",
    "_effects.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from txstate._engine.session import S\n",
    "retry.py": "import tenacity\n",
    "_documents/codec.py": "import orjson\nfrom txstate.errors import CodecError\n",
    "_engine/__init__.py": "",
    "_engine/session.py": "import time\nfrom txstate import events\nnow = time.monotonic\n",
    "_drivers/__init__.py": "",
    "_drivers/sync.py": "import redis, hiredis, socket\nfrom txstate._engine import session\n",
    "embedded/__init__.py": "from txstate.embedded import guard\n",
    "embedded/guard.py": "import os, fcntl\n",
    "store.py": "from txstate._drivers import sync\nimport txstate.embedded\n",
    "cli/__init__.py": "import typer, rich.table, redis\nfrom txstate import Store\n",
    "testing/__init__.py": "import hypothesis, pytest_txstate\nfrom .. import Store\nfrom ..errors import UsageError\n",
}


def plant(root: Path, **files: str) -> Path:
    for name, text in {**SOUND, **files}.items():
        path = root / "txstate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "txstate"


def test_a_sound_tree_passes(tmp_path: Path) -> None:
    assert violations(plant(tmp_path)) == []


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("errors.py", "import txstate.store", "errors.py:1: errors imports store, which stands above it"),
        ("errors.py", "\nfrom txstate import Store", "errors.py:2: errors imports __init__, which stands"),
        ("errors.py", "from . import store", "errors imports store, which stands above it"),
        ("errors.py", "def f():\n    from txstate import _engine", "errors.py:2: errors imports _engine"),
        ("_documents/codec.py", "from txstate._engine import session", "_documents imports _engine, which"),
        ("_engine/more.py", "from .._drivers import sync", "_engine imports _drivers, which"),
        ("_engine/more.py", "from ..embedded.guard import f", "_engine imports embedded, which"),
        ("_drivers/sync.py", "from txstate.embedded import guard", "_drivers imports embedded, which"),
        ("embedded/lease.py", "from txstate import _engine", "the embedded server knows nothing of _engine"),
        ("tx.py", "import txstate.testing.explorer", "tx imports testing, which stands above it"),
        ("store.py", "import txstate.cli", "store imports cli, which stands above it"),
        (
            "errors.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from txstate.store import Store",
            "errors.py:3: errors imports store, which stands above it",
        ),
        (
            "_effects.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    x = 1\nelse:\n    import txstate._engine",
            "_effects.py:5: _effects imports _engine, which stands above it",
        ),
        ("_engine/more.py", "import redis.asyncio", "_engine imports redis"),
        ("testing/more.py", "from redis import Redis", "testing imports redis"),
        ("store.py", "from hiredis import Reader", "store imports hiredis"),
        ("_core.py", "import tenacity", "_core imports tenacity"),
        ("_documents/snapshot.py", "import orjson", "_documents imports orjson"),
        ("retry.py", "import numpy.linalg", "retry imports numpy"),
        ("_engine/more.py", "import asyncio", "the engine imports asyncio"),
        ("_engine/more.py", "from threading import Lock", "the engine imports threading.Lock"),
        ("_engine/more.py", "import socket", "the engine imports socket"),
        ("_engine/more.py", "from time import sleep", "the engine imports time.sleep"),
        ("_engine/more.py", "import time\n\ntime.sleep(1)", "_engine/more.py:3: the engine sleeps"),
        ("embedded/guard.py", "from txstate import errors", "the guard runs in a bare interpreter"),
        ("newcomer.py", "", "newcomer.py:1: newcomer belongs to no layer"),
        ("tx.py", "x = 1\n" * 421, "tx.py:1: 421 lines are more than one idea"),
        ("errors.py", "from txstate import events", "imports in a circle: txstate.e"),
    ],
)
def test_a_planted_violation_is_found(file: str, text: str, expected: str, tmp_path: Path) -> None:
    found = violations(plant(tmp_path, **{file: text}))
    assert any(expected in violation for violation in found), found
