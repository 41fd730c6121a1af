"""Tests that run beside each other, by `pytest -n 2`: one that is marked `alone` gets the machine for itself.

A pytest plugin, which conftest.py registers. Each worker of pytest-xdist is a process with servers of its own, so tests
share nothing but the machine; for those that compare how long things take, that is too much.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_MACHINE: Final = Path(__file__)
_GATE: Final = _MACHINE.parent
"""What is locked; it is there anyway."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hold the machine while a test runs, its fixtures included: beside others, or alone."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    with _held(alone=item.get_closest_marker("alone") is not None) if worker else contextlib.nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """What a test states for `tests.report`, which has no workers, goes from one to another process as text."""
    data = yield
    if data is not None and "user_properties" in data:
        data["user_properties"] = [(name, str(value)) for name, value in data["user_properties"]]
    return data


@contextlib.contextmanager
def _held(*, alone: bool) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        with _locked(
            _GATE, fcntl.LOCK_EX
        ):  # who waits to be alone keeps it, so that nobody else begins meanwhile
            held.enter_context(_locked(_MACHINE, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, how)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # for the copies of it too that children of the test may have
        os.close(file)
