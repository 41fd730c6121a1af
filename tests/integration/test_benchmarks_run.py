"""A benchmark run that ends before its time leaves a readable result, and no process behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if importlib.util.find_spec("benchmarks") is None:
    # At the end, so that an installed txstate stays the one that is tested.
    sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.results import Results

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
PEERS = {"lua-script", "redis-py-ping"}  # what goes on trying would take its time


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    "number",
    [  # SIGTERM is handled as SIGINT is
        signal.SIGINT,
        pytest.param(
            signal.SIGKILL,
            marks=pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs util-linux's setpriv"),
        ),
    ],
)
def test_an_interrupted_run_leaves_its_results_and_no_process(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "delay", "--rounds", "100000", "--quick"]
    command += ["--peers", ",".join(PEERS), "--budget", "200", "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE) as process:
        until(
            lambda: (tmp_path / "delay.json").exists() or process.poll() is not None,
            "nothing is written",
        )
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)  # as a terminal does
        process.wait(PATIENCE)
        assert process.stderr is not None
        told = process.stderr.read().decode()
    until(lambda: is_gone(process.pid), "processes are left behind")
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), told
    assert "Traceback" not in told
    results = Results.load(tmp_path)
    assert {one.case.peer for one in results.measured if one.rounds} == PEERS
    assert all(one.off_by == 0 for one in results.measured)
    (call,) = results.about["calls"]
    assert call["complete"] is False
