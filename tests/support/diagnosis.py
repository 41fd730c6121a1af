"""What `txstate doctor` finds, for tests: verdicts by promise."""

from __future__ import annotations

import json

from support.commands import run

HOLDS, CONDITIONAL, BROKEN = "holds", "holds as long as", "does not hold"

ALL = {f"P{number}" for number in range(1, 8)}
"""What is promised by default and can be broken; P8 is honesty."""


def verdicts(url: str, *arguments: str) -> dict[str, dict[str, str]]:
    """The verdicts by promise; the exit code says whether one that is made by default is broken."""
    done = run("doctor", url, "--json", *arguments)
    found = {verdict["promise"]: verdict for verdict in json.loads(done.stdout)["verdicts"]}
    assert done.returncode == bool(broken(found))
    return found


def standing(url: str, promise: str, *arguments: str) -> tuple[str, str, str]:
    """One of them: how it stands, why, and what would mend it."""
    found = verdicts(url, *arguments)[promise]
    return found["standing"], found["reason"], found["remedy"]


def broken(found: dict[str, dict[str, str]]) -> set[str]:
    """Those of `ALL` that do not hold."""
    return {promise for promise in ALL if found[promise]["standing"] == BROKEN}
