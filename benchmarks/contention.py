"""``python -m benchmarks.contention``: contention managers side by side, on one hot document and on transfers between few.

Writes JSON and a table to a folder. Throughput, tail and fairness belong together: each is easy to have without the
others.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import machine
from benchmarks.crew import Crew
from benchmarks.peers import MANAGERS, PEERS
from benchmarks.results import Case, Measured, Results
from benchmarks.runner import Runner
from benchmarks.servers import Servers
from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPARED: Final = ("txstate", *MANAGERS, "redis-py-transaction")
HOT: Final = Workload(name="one hot document")
BANK: Final = Workload(name="transfers, 2 of 4 documents", documents=4, touched=2)
_FOLDER: Final = Path(__file__).parent / "results" / "contention"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contention", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", default="1,2,4,8,16,32", metavar="NUMBERS")
    parser.add_argument("--managers", default=",".join(COMPARED), metavar="NAMES")
    parser.add_argument("--placement", default="split", help="same, split or any")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, default=_FOLDER, metavar="FOLDER")
    options = parser.parse_args(arguments)
    placements = machine.placements()
    about = {
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "note": options.note,
    }
    results = Results(about=about)
    results.measured = [Measured(case) for case in _cases(options)]
    with Servers(placements["any"].server) as servers, Crew() as crew:
        runner = Runner(servers, crew, placements, results, progress=lambda _: None)
        for number in range(options.rounds):
            for one in results.measured:
                one.rounds.append(runner.measure(one.case, options.seconds, number))
        about["programs"] = servers.versions
    options.out.mkdir(parents=True, exist_ok=True)
    results.save(options.out / "contention.json")
    (options.out / "contention.md").write_text(table(results))
    print(table(results))


def _cases(options: argparse.Namespace) -> list[Case]:
    managers = options.managers.split(",")
    common = {"scenario": "contention", "transport": "tcp", "placement": options.placement}
    numbers = [int(number) for number in options.processes.split(",")]
    hot = [
        Case(peer=peer, workload=HOT, processes=number, **common) for number in numbers for peer in managers
    ]
    bank = [Case(peer=peer, workload=BANK, processes=16, **common) for peer in managers]
    think = [
        Case(peer=peer, workload=HOT, processes=7, thoughts=8, thinking=0.03, **common) for peer in managers
    ]
    return hot + bank + think


def table(results: Results) -> str:
    """What was measured, in Markdown: medians over the rounds."""
    about = results.about
    lines = [
        f"Measured at {about['started']} on {about['machine']['cpu']}, {about['machine']['cpus']} CPUs. {about['note']}",
        "",
        "| workload | processes | manager | txn/s | p99, ms | longest, ms | slowest / fastest | attempts a commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results.measured:
        case = one.case
        name = f"8 of 30 ms beside {case.processes - 1}" if case.thoughts else case.workload.name
        attempts = sum(each.attempts for each in one.rounds) / max(
            1, sum(each.operations for each in one.rounds)
        )
        lines.append(
            f"| {name} | {case.processes} | {PEERS[case.peer].title} | {one.median('rate'):,.0f} "
            f"| {one.median('p99_us') / 1000:.2f} | {one.median('max_us') / 1000:.0f} "
            f"| {one.median('fairness'):.2f} | {attempts:.2f} |"
        )
    for one in results.measured:
        if one.case.thoughts:
            thoughts = [thought for each in one.rounds for thought in each.thoughts]
            worst = max((attempts for _, attempts in thoughts), default=0)
            longest = max((seconds for seconds, _ in thoughts), default=0.0)
            middle = statistics.median(seconds for seconds, _ in thoughts) if thoughts else 0.0
            done = sum(each.in_time for each in one.rounds)
            title = f"A transaction of 30 ms beside 6 processes, {PEERS[one.case.peer].title}"
            seconds = f"{middle:.2f} s in the middle, {longest:.2f} s at worst"
            lines += [
                "",
                f"{title}: {done} of {8 * len(one.rounds)} in time, at most {worst} attempts, {seconds}.",
            ]
    lost = sum(one.off_by for one in results.measured)
    return "\n".join([*lines, "", f"Updates lost or doubled, in all of it: {lost}.", ""])


if __name__ == "__main__":
    main()
