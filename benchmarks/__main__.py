"""``python -m benchmarks``: measures, writes it down, prints it."""

from __future__ import annotations

import argparse
import datetime as dt
import math
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from benchmarks import machine, plots, report
from benchmarks.crew import Crew
from benchmarks.peers import PEERS
from benchmarks.results import FOLDER, Results
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
_INTERRUPTIONS: Final = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Args:
        arguments: of the command line; None: of this process.

    Returns:
        The exit code: 1 when txstate itself lost or doubled an update, whatever the speed.
    """
    options = _parse(arguments)
    if options.show:
        return _publish(Results.load(options.show), options.show)
    placements = machine.placements()
    chosen = _chosen(options, placements)
    folder: Path = options.out or FOLDER / (
        "quick" if options.quick else f"{dt.datetime.now(dt.UTC):%Y-%m-%d}-{machine.name()}"
    )
    results = _begun(options, placements, folder)
    results.about["titles"] = results.about.get("titles", {}) | {each.name: each.title for each in chosen}
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)
    _measure(options, chosen, placements, results, folder)
    return _publish(results, folder)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help='default: all; "targets": what the targets need'
    )
    parser.add_argument("--quick", action="store_true", help="under 2 minutes: for a look, not for a claim")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="how often each case has its turn; default: 3"
    )
    parser.add_argument("--peers", default="", metavar="NAMES", help=f"some of {', '.join(PEERS)}")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="rounds are added to those that are there; default: benchmarks/results/<date>-<machine>",
    )  # fmt: skip
    parser.add_argument("--note", default="", help="goes into the results: what else the machine was doing")
    parser.add_argument("--server", metavar="BINARY", help="of Redis or Valkey; default: what txstate embeds")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="then skip the rest, and say so")
    parser.add_argument(
        "--show", type=Path, metavar="FOLDER", help="measure nothing: print what is recorded there"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.peers.split(",") if name and name not in PEERS]
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if options.budget is None:
        options.budget = _QUICK if options.quick else math.inf
    return options


def _chosen(options: argparse.Namespace, placements: dict[str, Placement]) -> list[Scenario]:
    """The scenarios to run.

    Raises:
        SystemExit: there is no such scenario.
    """
    wanted = set(options.scenarios)
    found = scenarios(list(placements), quick=options.quick, targets_only="targets" in wanted)
    wanted -= {"targets"}
    missing = wanted - {scenario.name for scenario in found}
    if missing:
        known = ", ".join(scenario.name for scenario in found)
        raise SystemExit(f"no such scenario: {', '.join(sorted(missing))}; there are {known}, and targets")
    peers = {name for name in options.peers.split(",") if name} or set(PEERS)
    return [
        replace(
            scenario,
            cases=tuple(case for case in scenario.cases if case.peer in peers),
            rounds=options.rounds or scenario.rounds,
        )
        for scenario in found
        if not wanted or scenario.name in wanted
    ]


def _begun(options: argparse.Namespace, placements: dict[str, Placement], folder: Path) -> Results:
    """What earlier calls measured, to be added to; or nothing yet.

    Raises:
        SystemExit: the folder holds what was measured of another code or machine. A mean over both would be a lie.
    """
    about: dict[str, Any] = {
        "machine": machine.describe(),
        "versions": machine.versions(),
        "source": machine.source(),
        "quick": options.quick,
        "placements": {
            name: {"server": list(each.server), "clients": list(each.clients)}
            for name, each in placements.items()
        },
    }
    try:
        results = Results.load(folder)
    except FileNotFoundError:
        results = Results(about)
    else:
        if options.quick and not options.out:
            results = Results(about)  # only ever the last look
        changed = [name for name, value in about.items() if results.about.get(name) != value]
        if changed:
            raise SystemExit(
                f"{folder.name} was measured with another {' and '.join(changed)}: give another --out, or remove it"
            )
    results.about.setdefault("calls", [])
    results.about["forms"] = {PEERS[name].title: PEERS[name].form for name in PEERS}
    return results


def _measure(
    options: argparse.Namespace,
    chosen: Sequence[Scenario],
    placements: dict[str, Placement],
    results: Results,
    folder: Path,
) -> None:
    """Measure, and write down what is there after each round, however it ends."""
    call: dict[str, Any] = {
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "note": options.note,
        "busy_before": machine.busy(),
        "load_before": os.getloadavg(),
        "seconds": {},
        "complete": False,
    }
    results.about["calls"].append(call)
    until = time.monotonic() + options.budget

    def save() -> None:
        results.save(folder)

    console = Console(stderr=True)
    try:
        with (
            Servers(placements["any"].server, options.server) as servers,
            Crew() as crew,
            console.status("") as status,
        ):
            runner = Runner(
                servers, crew, placements, results, progress=status.update, save=save, until=until
            )
            for scenario in chosen:
                started = time.monotonic()
                runner.run(scenario)
                call["seconds"][scenario.name] = round(time.monotonic() - started, 1)
            results.about["info"] = servers.info()
            results.about["programs"] = results.about.get("programs", {}) | servers.versions
        call |= {"busy_after": machine.busy(), "load_after": os.getloadavg(), "complete": True}
    finally:
        results.about["targets"] = [each.told() for each in outcomes(results)]
        save()


def _publish(results: Results, folder: Path) -> int:
    report.show(results)
    try:
        made = plots.draw(results, folder)
    except ModuleNotFoundError as error:
        print(f"no plots: {error}")
    else:
        print("\n".join(str(path) for path in made))
    own = [one for one in results.measured if one.case.peer.startswith("txstate")]
    return int(any(one.off_by for one in own))


def _interrupt(number: int, _frame: object) -> None:
    """End servers and workers, write down what is there. Whoever insists does not get to disturb that."""
    for each in _INTERRUPTIONS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
