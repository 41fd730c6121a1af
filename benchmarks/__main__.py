"""``python -m benchmarks``: runs the suite, writes it down, prints it."""

from __future__ import annotations

import argparse
import datetime as dt
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from benchmarks import machine, plots, report
from benchmarks.crew import Crew
from benchmarks.peers import PEERS
from benchmarks.results import Results
from benchmarks.runner import Runner
from benchmarks.scenarios import scenarios
from benchmarks.servers import Servers
from benchmarks.targets import outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.machine import Placement
    from benchmarks.scenarios import Scenario

_QUICK: Final = 95.0
"""Seconds of measuring with --quick, which is to end under 2 minutes on a busy machine as well."""
_FOLDER: Final = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Args:
        arguments: of the command line; None: of this process.

    Returns:
        The exit code: 1 when txstate itself lost or doubled an update, whatever the speed.
    """
    options = _parse(arguments)
    if options.command == "report":
        results = Results.load(options.file)
        _publish(results, results.about["scenarios"], options.file.parent)
        return _verdict(results)
    signal.signal(signal.SIGTERM, _interrupt)  # so that servers and workers are ended, too
    placements = machine.placements()
    chosen = _chosen(options, placements)
    results = Results(about=_about(options, placements))
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    took: dict[str, float] = {}
    console = Console(stderr=True)
    with (
        Servers(placements["any"].server, options.server) as servers,
        Crew() as crew,
        console.status("") as status,
    ):
        results.about["info_before"] = servers.info()
        until = time.monotonic() + options.budget
        runner = Runner(servers, crew, placements, results, progress=status.update, until=until)
        for scenario in chosen:
            started = time.monotonic()
            runner.run(scenario)
            took[scenario.name] = round(time.monotonic() - started, 1)
        results.about["programs"] = servers.versions
        results.about["info_after"] = servers.info()
    results.about["seconds"] = took
    results.about["busy_after"] = machine.busy()
    results.about["load_after"] = os.getloadavg()
    results.about["scenarios"] = {scenario.name: scenario.title for scenario in chosen}
    results.about["targets"] = [
        {"title": each.target.title, "figure": each.figure, "bound": each.target.bound, "met": each.met}
        for each in outcomes(results)
    ]
    results.save(folder / f"{options.name}.json")
    _publish(results, results.about["scenarios"], folder)
    return _verdict(results)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "targets", "report"), default="run")
    parser.add_argument("--quick", action="store_true", help="under 2 minutes: for a look, not for a claim")
    parser.add_argument(
        "--out", type=Path, default=_FOLDER, metavar="FOLDER", help="default: benchmarks/results"
    )
    parser.add_argument("--note", default="", help="goes into the results: what else the machine was doing")
    parser.add_argument("--only", default="", metavar="NAMES", help="scenarios, separated by commas")
    parser.add_argument(
        "--peers", default="", metavar="NAMES", help=f"separated by commas: {', '.join(PEERS)}"
    )
    parser.add_argument(
        "--server", metavar="BINARY", help="of Redis or Valkey; default: the one that txstate embeds"
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="then skip the rest; default: 95 with --quick, else none",
    )
    parser.add_argument("--file", type=Path, help="for report: results to show again")
    options = parser.parse_args(arguments)
    if options.command == "report" and options.file is None:
        options.file = options.out / "run.json"
    unknown = [name for name in options.peers.split(",") if name and name not in PEERS]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}")
    if options.budget is None:
        options.budget = _QUICK if options.quick else math.inf
    options.name = options.command + ("-quick" if options.quick else "")
    return options


def _chosen(options: argparse.Namespace, placements: dict[str, Placement]) -> list[Scenario]:
    """The scenarios to run.

    Raises:
        SystemExit: there is no such scenario.
    """
    found = scenarios(list(placements), quick=options.quick, targets_only=options.command == "targets")
    wanted = [name for name in options.only.split(",") if name]
    missing = set(wanted) - {scenario.name for scenario in found}
    if missing:
        raise SystemExit(f"no such scenario: {', '.join(sorted(missing))}")
    chosen = [scenario for scenario in found if not wanted or scenario.name in wanted]
    peers = {name for name in options.peers.split(",") if name}
    if not peers:
        return chosen
    kept = [(scenario, tuple(case for case in scenario.cases if case.peer in peers)) for scenario in chosen]
    return [
        type(scenario)(scenario.name, scenario.title, cases, scenario.seconds, scenario.rounds)
        for scenario, cases in kept
    ]


def _about(options: argparse.Namespace, placements: dict[str, Placement]) -> dict[str, Any]:
    return {
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": options.command,
        "quick": options.quick,
        "note": options.note,
        "machine": machine.describe(),
        "busy_before": machine.busy(),
        "load_before": os.getloadavg(),
        "versions": machine.versions(),
        "placements": {
            name: {"server": each.server, "clients": each.clients} for name, each in placements.items()
        },
        "forms": {PEERS[name].title: PEERS[name].form for name in PEERS},
    }


def _publish(results: Results, titles: dict[str, str], folder: Path) -> None:
    report.show(results, titles)
    try:
        made = plots.draw(results, folder)
    except ModuleNotFoundError as error:
        print(f"no plots: {error}")
    else:
        print("\n".join(str(path) for path in made))


def _verdict(results: Results) -> int:
    own = [one for one in results.measured if one.case.peer.startswith("txstate")]
    return int(any(one.off_by for one in own))


def _interrupt(_number: int, _frame: object) -> None:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
