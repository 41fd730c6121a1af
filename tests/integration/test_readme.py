"""The code in the README and in docs/ runs, is fully typed, and the README's two commands stand where a script finds them.

The blocks of one section (from one ``## `` heading to the next) are one program, in their order, run in an empty folder.
They may name one server, `ADDRESS`, in whose place the test's own is put, so that nothing touches the network. A program
with tests is run by pytest. Where a section shows a ``text``, the program is to fail, and to say just that, line by line;
``...`` ends a line early.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from txstate.testing import FAULTS

if TYPE_CHECKING:
    from support.servers import ServerHandle

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ADDRESS = "redis://localhost:6379/0"


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    section: str
    language: str
    lines: tuple[str, ...]


def blocks(text: str) -> list[Block]:
    """All code blocks. A heading inside of one is code."""
    found: list[Block] = []
    section, language, lines = "", None, list[str]()
    for line in text.splitlines():
        if language is None and line.startswith("```"):
            language, lines = line.removeprefix("```").strip(), []
        elif language is None:
            section = line.removeprefix("## ") if line.startswith("## ") else section
        elif line == "```":
            found.append(Block(section, language, tuple(lines)))
            language = None
        else:
            lines.append(line)
    assert language is None, f"a block in {section!r} has no end"
    return found


def programs(text: str, address: str) -> dict[str, str]:
    """The Python code of each section that has some, talking to this server."""
    code: dict[str, list[str]] = {}
    for block in blocks(text):
        if block.language == "python":
            code.setdefault(block.section, []).extend(block.lines)
    joined = {section: "\n".join(lines).replace(ADDRESS, address) + "\n" for section, lines in code.items()}
    for section, program in joined.items():
        assert "://" not in program.replace(address, ""), f"{section!r} names another server than {ADDRESS}"
    return joined


def failures(text: str) -> dict[str, list[str]]:
    """What the program of a section is to say when it fails, by section."""
    return {block.section: list(block.lines) for block in blocks(text) if block.language == "text"}


def run(program: str, folder: Path) -> str:
    """What the program complains about; nothing if it works."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", program]
    if re.search(r"^def test_", program, re.MULTILINE):
        (folder / "test_program.py").write_text(program)
        plugin = ["-p", "no:txstate", "-p", "pytest_txstate"]
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *plugin, "test_program.py"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    told = ended.stderr or ("" if ended.returncode == 0 else f"exit code {ended.returncode}")
    return told + ended.stdout if told else ""


def unsaid(expected: list[str], complaint: str) -> list[str]:
    """The lines that it should have said, and didn't."""
    return [line for line in expected if line.strip().removesuffix("...") not in complaint]


def check_types(written: dict[str, str], folder: Path) -> str:
    """What mypy says about these programs, each of them a module of its own; nothing if they are right."""
    for number, program in enumerate(written.values()):
        (folder / f"section_{number}.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False).stdout


def commands_at(text: str) -> tuple[int, int]:
    """On which lines, from 0, the two commands are."""
    lines = text.splitlines()
    mentions = [n for n, line in enumerate(lines) if "txstate stress" in line or "pytest" in line]
    assert len(mentions) > 1, "the README has to show how to run `txstate stress` and `pytest`"
    for n, end in zip(mentions, ("/txstate stress", "/pytest"), strict=False):
        assert lines[n].startswith("python3 -m venv "), f"line {n + 1} mentions a command before it is shown"
        assert lines[n].endswith(end), f"line {n + 1} is to end in {end}"
        assert lines[n - 1].startswith("```"), f"line {n + 1} is to be in a block of its own"
        assert lines[n + 1] == "```", f"line {n + 1} is to be in a block of its own"
    return mentions[0], mentions[1]


@pytest.fixture
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_code_runs_and_runs_again(document: Path, valkey9: ServerHandle, tmp_path: Path) -> None:
    text = document.read_text(encoding="utf-8")
    expected = failures(text)
    complaints = {
        section: complaint
        for time in range(2)
        for number, (section, program) in enumerate(programs(text, valkey9.url).items())
        if time == 0 or valkey9.url in program  # others begin with a server of their own
        if (complaint := run(program, tmp_path / f"{number}-{time}"))
    }
    assert {section: complaints[section] for section in complaints.keys() - expected.keys()} == {}
    assert {section: unsaid(lines, complaints.get(section, "")) for section, lines in expected.items()} == {
        section: [] for section in expected
    }


def test_the_code_is_typed(tmp_path: Path) -> None:
    written = {
        f"{document.name}, {section}": program
        for document in DOCUMENTS
        for section, program in programs(document.read_text(encoding="utf-8"), ADDRESS).items()
    }
    assert check_types(written, tmp_path) == ""


def test_every_fault_is_told() -> None:
    text = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^  \| `(\w+)` \| ", text, re.MULTILINE)) == set(FAULTS)


def test_the_two_commands_can_be_found(readme: str) -> None:
    stress, tests = commands_at(readme)
    assert stress < tests


def named_tests(text: str) -> list[str]:
    """The tests that are named, as pytest takes them."""
    return re.findall(r"`(tests/[\w/.]+::\w+)`", text)


def missing_tests(names: list[str]) -> list[str]:
    """Those that there are not."""
    missing = []
    for name in names:
        path, _, function = name.partition("::")
        file = ROOT / path
        if not file.exists() or not re.search(rf"^def {function}\(", file.read_text(), re.MULTILINE):
            missing.append(name)
    return missing


def test_every_promise_names_tests_that_exist(readme: str) -> None:
    shown = [line for line in readme.splitlines() if line.startswith("| ") and named_tests(line)]
    promises = re.findall(r"^\| (P\d) \| \*\*", readme, re.MULTILINE)
    assert len(promises) >= 7
    assert set(promises) <= {line.split()[1] for line in shown}
    assert missing_tests(named_tests(readme)) == []
    assert missing_tests(["tests/unit/test_gone.py::test_it", "tests/unit/test_resp.py::test_gone"]) != []


SAMPLE = f"""
# A project

```python
import txstate
store = txstate.Store("{ADDRESS}")
```

```console
python3 -m venv .venv && .venv/bin/txstate stress
```

```sh
python3 -m venv .venv && .venv/bin/pytest
```

Then `pytest` may be mentioned.

```python
## this is no heading
store.put("a", {{"n": 1}})
```

## More

```python
print(store)
```
"""


def test_the_blocks_of_a_section_are_one_program(valkey9: ServerHandle, tmp_path: Path) -> None:
    first, more = programs(SAMPLE, valkey9.url).values()
    assert "## this is no heading" in first
    assert run(first, tmp_path) == ""
    assert "NameError" in run(more, tmp_path)


FAILING = """
## A failure

```python
def test_it() -> None:
    assert 1 + 1 == 3, "too little"
```

```text
too little...
    assert (1 + 1) == 3
```
"""


def test_a_failure_must_be_the_one_that_is_shown(tmp_path: Path) -> None:
    (program,) = programs(FAILING, ADDRESS).values()
    complaint = run(program, tmp_path)
    assert unsaid(failures(FAILING)["A failure"], complaint) == []
    assert unsaid(["too much"], complaint) == ["too much"]


def test_what_is_not_typed_is_found(tmp_path: Path) -> None:
    complaints = check_types(programs(SAMPLE, ADDRESS), tmp_path)
    assert 'Name "store" is not defined' in complaints
    assert "section_0" not in complaints


def test_another_server_is_refused() -> None:
    with pytest.raises(AssertionError, match="another server"):
        programs(SAMPLE.replace("localhost", "example.com"), "redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("change", "to"),
    [
        ("# A project", "# A project: run pytest"),
        ("# A project", "# A project: run txstate stress"),
        ("&& .venv/bin/txstate stress", "&& \\\n.venv/bin/txstate stress"),
        ("```console\n", "```console\ncd project\n"),
        ("/txstate stress", "/pytest"),
        (".venv/bin/pytest\n", ".venv/bin/pytest\necho done\n"),
    ],
)
def test_a_command_out_of_its_place_is_found(change: str, to: str) -> None:
    assert commands_at(SAMPLE) == (9, 13)
    with pytest.raises(AssertionError, match=r"line \d+"):
        commands_at(SAMPLE.replace(change, to, 1))
