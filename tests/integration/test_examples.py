"""The examples do what they say: each runs as it stands, and once more on a server that has its data already."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.servers import ServerHandle

EXAMPLES = Path(__file__).parents[2] / "examples"

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def verdict(name: str) -> str:
    """What the example prints in the end, when it has found its own result to be right."""
    sentences: list[str] = re.findall(
        r'^    print\("([^{"]+)"\)$', (EXAMPLES / f"{name}.py").read_text(), re.MULTILINE
    )
    assert sentences, f"{name}.py has to end by printing what it found to be right"
    return sentences[-1]


def run(name: str, *arguments: str, cwd: Path) -> str:
    """The example's output; its warnings are errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    return ended.stdout


def test_all_of_them_are_here() -> None:
    assert {"bank", "jobs", "sessions", "shared_config", "stock", "tokens", "web"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    assert run(name, cwd=tmp_path).splitlines()[-1] == verdict(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_twice_on_the_same_server(name: str, valkey9: ServerHandle, tmp_path: Path) -> None:
    for _ in range(2):
        assert run(name, valkey9.url, cwd=tmp_path).splitlines()[-1] == verdict(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short_and_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert f"\n    python examples/{name}.py [folder or URL]\n" in text
    assert len(text.splitlines()) <= 100
