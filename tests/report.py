"""``python -m tests.report``: runs fault tests, explorations and mutants, and writes their figures into docs/reliability.md.

Figures come from a run and from nowhere else. If a test fails, nothing is written.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from support.evidence import Caught, Explored
    from support.figures import Line

_ROOT: Final = Path(__file__).parents[1]

FAULTS: Final = {
    1: "EXEC's reply lost: FIN, RST, silence",
    2: "The request cut at every byte from MULTI to EXEC, or lost whole",
    3: "The reply cut at every byte",
    4: "EXEC late: delivered before, during and after the resolution",
    5: "More faults during the resolution, late resolvers, and the next attempt's reply lost too",
    6: "Resolution after the token is gone: it says unknown",
    7: "Server stopped (SIGSTOP) past the timeout at each step of the protocol, then continued",
    8: "Server killed (SIGKILL) under load and restarted from an AOF synced always",
    9: "The same, synced every second, with what was not synced cut off: loss reported, nothing by half",
    10: "The AOF cut at every byte of the last transaction",
    11: "Client killed (SIGKILL) at each step of the protocol: nothing stuck, others go on",
    12: "Client stopped (SIGSTOP) between read and EXEC: it wakes up stale, and must conflict",
    13: "asyncio tasks cancelled at every await",
    14: "KeyboardInterrupt at any moment; forks with a live pool",
    15: "CLIENT KILL at random and at each step; maxclients reached",
    16: "Replication stalled, replica promoted: loss reported, what was confirmed is kept",
    17: "The replication stream cut at every byte, then promoted",
    18: "Sentinel failover under load",
    19: "Split brain: the old primary goes on acknowledging, then rejoins",
    20: "Demotion between WATCH and EXEC; full resync while watching",
    21: "Cluster slots migrated under load",
    22: "Out of memory at queue time and at EXEC; watched keys and tokens evicted",
    23: "BUSY, LOADING, READONLY, NOREPLICAS, MASTERDOWN, NOPERM, WRONGTYPE",
    24: "Expiry, FLUSHDB, SWAPDB, RENAME, delete and re-create under WATCH; keys expired at WATCH",
    25: "All of these at random, the checker over the whole history, no starvation",
}
"""What is tried to break the promises, by number."""

_COUNTS: Final = (
    "fired",
    "attempted",
    "acknowledged",
    "unknown",
    "resolved",
    "lost",
    "doubled",
    "half_applied",
)

_PREAMBLE: Final = """\
# What was done to break it, and what came of it

Written by `{command}` on {date}, in {minutes:.0f} minutes; every figure is of that run. Without `--long` the same
tests run shorter, as they do in CI. One fault alone: `pytest -m "fault(number=4)"`.

txstate {txstate}, redis-py {redis}, Python {python}, {system}. Servers: {servers}.

A test fails, and this page is not written, unless its faults fired and nothing was lost, doubled or applied by half.

- **fired**: faults that took effect. **attempted**: transactions begun; **acknowledged**: those whose call returned;
  **unknown**: those that ended in `CommitUnknown`; the rest raised an error that says that nothing was applied, or
  were interrupted. **resolved**: commits whose reply was lost and whose fate was found out.
- **lost**: acknowledged, but not there. **doubled**: there more than once. **half-applied**: there in one document
  and not in the other. They are counted by a plain client, not by the library. Where a server is made to forget what
  it had acknowledged, the loss is reported, and what it was lost to is named below.
- **verdict**: of the history checker, over all that the clients saw; a dash where there is no history to judge.
- **seed**: of what was random; a dash where nothing was: every byte, or every step, in order.
"""

_EXPLORED: Final = """\
## Explorations

Transactions in all orders of their round trips, up to the bound on preemptions that is named, on a real server: no
violation. What was reached is told by the number of schedules in which it came about.

"""

_CAUGHT: Final = """\
## Mutants

The engine or its drivers with one mechanism broken, and what catches that: each of these passes with the real engine.

"""


class Collector:
    """A pytest plugin that keeps what the tests that passed have stated.

    Attributes:
        lines: the figures of fault tests.
        explored: explorations.
        caught: mutants.
        missing: those that there can't be yet, and for lack of what.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.explored: list[Explored] = []
        self.caught: list[Caught] = []
        self.missing: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for each phase of each test."""
        if report.when == "call" and report.passed:
            kept: dict[str, list[Any]] = {
                "figures": self.lines,
                "explored": self.explored,
                "caught": self.caught,
                "missing": self.missing,
            }
            for name, line in report.user_properties:
                if name in kept:
                    kept[name].append(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Args:
        arguments: of the command line; None: of this process.

    Returns:
        The exit code: 1 if a test failed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.report", description=__doc__)
    parser.add_argument("--long", action="store_true", help="the soak tests as well")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs" / "reliability.md", metavar="FILE")
    options = parser.parse_args(arguments)
    collector, started = Collector(), time.monotonic()
    marks = "(fault or proof)" + ("" if options.long else " and not soak")
    code = pytest.main(["-q", "-m", marks, str(_ROOT / "tests")], plugins=[collector])
    if code != pytest.ExitCode.OK:
        return 1
    head = _PREAMBLE.format(
        command="python -m tests.report" + (" --long" if options.long else ""),
        date=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        minutes=(time.monotonic() - started) / 60,
        txstate=version("txstate"),
        redis=version("redis"),
        python=platform.python_version(),
        system=platform.platform(terse=True),
        servers=", ".join(sorted({line.server for line in collector.lines})),
    )
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(f"{head}\n{render(collector)}")
    return 0


def render(found: Collector) -> str:
    """The tables, in Markdown."""
    return "\n".join(
        [_by_fault(found.lines), _explorations(found.explored), _mutants(found), _by_test(found.lines)]
    )


def _by_fault(lines: Sequence[Line]) -> str:
    """A row for each of the 25, also for those that have no test."""
    rows = []
    for number, title in FAULTS.items():
        own = [line for line in lines if line.fault == number]
        rows.append(
            [str(number), title, *(_sums(own) if own else ["not tested yet", *[""] * (len(_COUNTS) + 1)])]
        )
    return "## The 25 faults\n\n" + _table(["", "fault", *_headers()], rows)


def _explorations(lines: Sequence[Explored]) -> str:
    """A row for each exploration."""
    rows = [
        [
            line.what,
            line.server,
            f"{line.schedules:,}",
            f"{line.requests:,}",
            f"{line.schedules / line.seconds:,.0f}",
            f"{line.fired:,}",
            line.reached,
        ]
        for line in lines
    ]
    head = [
        "explored",
        "server",
        "schedules",
        "requests",
        "schedules/s",
        "with a fault",
        "reached in so many",
    ]
    return _EXPLORED + _table(head, rows)


def _mutants(found: Collector) -> str:
    """A row for each mutant and what catches it."""
    rows = [[line.mutant, line.breaks, f"`{line.killer}`", line.told] for line in found.caught]
    missing = [f"{name} ({what})" for names in found.missing for name, what in names.items()]
    note = (
        f"\nWithout a mutant so far, as the mechanism is missing: {'; '.join(missing)}.\n" if missing else ""
    )
    return _CAUGHT + _table(["mutant", "breaks", "caught by", "at"], rows) + note


def _by_test(lines: Sequence[Line]) -> str:
    """A row for each test and server."""
    groups: dict[tuple[int, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[line.fault, line.test, line.server].append(line)
    rows = [
        [str(number), f"`{test.removeprefix('test_')}`", server, *_sums(own)]
        for (number, test, server), own in sorted(groups.items())
    ]
    return "## Test by test\n\n" + _table(["", "test", "server", *_headers()], rows)


def _headers() -> list[str]:
    return [*(name.replace("_", "-") for name in _COUNTS), "verdict", "seed"]


def _sums(lines: Sequence[Line]) -> list[str]:
    sums = {name: sum(getattr(line, name) for line in lines) for name in _COUNTS}
    cells = {name: str(value) for name, value in sums.items()}
    if sums["lost"]:
        cells["lost"] += f" ({_listed(line.lost_to for line in lines if line.lost)})"
    return [
        *cells.values(),
        _listed(line.verdict for line in lines) or "-",
        _listed("" if line.seed is None else str(line.seed) for line in lines) or "-",
    ]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words) - {""}))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
