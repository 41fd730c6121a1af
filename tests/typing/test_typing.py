"""The static types, as users' checkers see them: what must pass does, and each wrong line is reported.

The checkers run in strict mode, outside of the repository, on the txstate that is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[Path], dict[int, str]]

HERE = Path(__file__).parent
ACCEPTED = (HERE / "accepted.py").read_text()
REJECTED = (HERE / "rejected.py").read_text().replace("# type: ignore\n", "\n", 1)


def mypy(file: Path) -> dict[int, str]:
    """What mypy reports, by line."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--cache-dir", os.devnull]
    output = run([*command, "--config-file", os.devnull, file.name], file.parent)
    errors = re.finditer(rf"^{file.name}:(\d+): error: (.*)$", output, re.MULTILINE)
    return {int(error[1]): error[2] for error in errors}


def pyright(file: Path) -> dict[int, str]:
    """What pyright reports, by line."""
    (file.parent / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    report: dict[str, Any] = json.loads(run([*command, file.name], file.parent))
    return {
        found["range"]["start"]["line"] + 1: found["message"]
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }


def run(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=[mypy, pyright], ids=lambda check: check.__name__)
def check(request: pytest.FixtureRequest) -> Check:
    checker: Check = request.param
    if importlib.util.find_spec(checker.__name__) is None and not os.environ.get("CI"):
        pytest.skip(f"{checker.__name__} is not installed")
    return checker


def test_right_code_is_accepted(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "accepted.py"
    file.write_text(ACCEPTED)
    assert check(file) == {}


def test_each_wrong_line_is_reported(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "rejected.py"
    file.write_text(REJECTED)
    expected = {number for number, line in enumerate(REJECTED.splitlines(), 1) if line.endswith("  # wrong")}
    assert len(expected) > 100
    reported = check(file)
    lines = dict(enumerate(REJECTED.splitlines(), 1))
    assert {lines[number]: reported[number] for number in reported.keys() - expected} == {}
    assert [lines[number] for number in sorted(expected - reported.keys())] == []
