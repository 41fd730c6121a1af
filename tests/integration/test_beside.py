"""`pytest -n 2`: what is marked `alone` runs alone, the rest beside each other; and what a test states gets through."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PLUGIN: Final = Path(__file__).parent.parent / "support" / "beside.py"
PROGRAM: Final = '''
import time
from pathlib import Path

import pytest

MET, RUNNING = Path("met"), Path("running")

def others_come(mine, patience):
    """Whether there is another one's mark beside this one within so many seconds."""
    mine.touch()
    until = time.monotonic() + patience
    while len(list(mine.parent.iterdir())) == 1 and time.monotonic() < until:
        time.sleep(0.01)
    return len(list(mine.parent.iterdir())) > 1

class Stated:
    pass

def test_beside(record_property):
    record_property("figures", Stated())
    assert others_come(MET / Path(__file__).stem, 30)

@pytest.mark.parametrize("alone", [pytest.param(True, marks=pytest.mark.alone), False] * 3)
def test_alone(alone):
    mine = RUNNING / Path(__file__).stem
    assert not (others_come(mine, 0.1) and alone)
    mine.unlink()
'''


def test_what_is_marked_alone_runs_alone(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    for name in ("met", "running"):
        (tmp_path / name).mkdir()
    for name in ("test_a.py", "test_b.py"):  # each worker gets one
        (tmp_path / name).write_text(PROGRAM)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone: it is\n")
    shutil.copy(PLUGIN, tmp_path)  # which locks itself: this test may hold the original
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"]
    done = subprocess.run(
        [*command, "-p", "beside", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 passed" in done.stdout
