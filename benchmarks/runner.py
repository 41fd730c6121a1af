"""Measures cases in turns, and checks each result.

In each round every case of a scenario has its turn, so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.crew import PeerError
from benchmarks.load import Job
from benchmarks.peers import PEERS, lacking
from benchmarks.results import Measured, Round
from benchmarks.servers import MissingError
from benchmarks.workloads import Ledger

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.crew import Crew
    from benchmarks.load import Done
    from benchmarks.machine import Placement
    from benchmarks.results import Case, Results
    from benchmarks.scenarios import Scenario
    from benchmarks.servers import Servers

_WARM_UP: Final = 0.2
"""Of the time of a measurement; at most `_LONGEST` seconds."""
_LONGEST: Final = 0.3


class Runner:
    """Measures on these servers with these workers.

    Args:
        servers: to run on.
        crew: to run.
        placements: by name.
        results: where to write.
        progress: called with a line about what comes next.
        until: by `time.monotonic`, when to measure no more and note the rest as skipped.
    """

    def __init__(
        self,
        servers: Servers,
        crew: Crew,
        placements: Mapping[str, Placement],
        results: Results,
        *,
        progress: Callable[[str], object],
        until: float = math.inf,
    ) -> None:
        self._servers, self._crew, self._placements = servers, crew, placements
        self._results, self._progress, self._until = results, progress, until

    def run(self, scenario: Scenario) -> None:
        """Measure all cases of a scenario; those that can't be are noted as skipped."""
        measured = [Measured(case) for case in scenario.cases if self._possible(case)]
        self._results.measured += measured
        for number in range(scenario.rounds):
            for one in measured:
                if one.case.peer in self._results.skipped:
                    continue
                if time.monotonic() > self._until:
                    self._results.skipped[scenario.name] = (
                        f"from round {number + 1} on: no time left (--budget)"
                    )
                    return
                self._progress(f"{scenario.name}, round {number + 1} of {scenario.rounds}: {one.case.peer}")
                try:
                    one.rounds.append(self.measure(one.case, scenario.seconds, number))
                except MissingError as error:
                    self._results.skipped[one.case.peer] = str(error)
                except PeerError as error:
                    self._skip(one.case, str(error))
                    one.rounds.clear()

    def measure(self, case: Case, seconds: float, number: int = 0) -> Round:
        """Measure a case once.

        Args:
            case: which.
            seconds: for how long.
            number: of the round; other rounds draw other operations.

        Raises:
            MissingError: its server can't be had.
            PeerError: the peer failed.
        """
        kind = PEERS[case.peer]
        place = self._servers.place(kind.server, case.transport, case.delay / 2000)
        initial = case.workload.initial()
        kind.seed(place, initial)
        jobs = [
            Job(
                peer=case.peer,
                place=place,
                workload=case.workload,
                seconds=seconds,
                warm_up=min(_LONGEST, seconds * _WARM_UP),
                cpus=self._placements[case.placement].clients,
                seed=f"{case.workload.name}/{number}/{worker}",
                tasks=case.tasks,
            )
            for worker in range(case.processes)
        ]
        if case.thoughts:
            slow = replace(case.workload, think=case.thinking)
            jobs[-1] = replace(jobs[-1], workload=slow, thoughts=case.thoughts, warm_up=0.0)
        done = self._crew.run(jobs)
        ledger = Ledger()
        for one in done:
            ledger.merge(one.ledger)
        off_by = None
        if kind.checked and ledger.added:
            cells = list(ledger.added)
            off_by = ledger.off_by(dict(zip(cells, kind.counters(place, cells), strict=True)))
        return _summed_up(done, seconds, off_by)

    def _possible(self, case: Case) -> bool:
        why = lacking(case.peer)
        if why is not None:
            self._results.skipped[case.peer] = why
        elif case.placement not in self._placements:
            self._skip(case, f"this machine has no placement {case.placement!r}")
            return False
        return why is None

    def _skip(self, case: Case, why: str) -> None:
        name = f"{case.scenario}/{case.peer}/{case.workload.name}/{case.transport}/{case.placement}/{case.processes}"
        self._results.skipped[name] = why


def _summed_up(done: Sequence[Done], seconds: float, off_by: int | None) -> Round:
    latencies = sorted(latency for one in done for latency in one.latencies)
    errors: dict[str, tuple[int, str]] = {}
    for one in done:
        for kind, (number, example) in one.errors.items():
            errors[kind] = (errors.get(kind, (0, ""))[0] + number, example)
    hammers = [one for one in done if not one.thoughts]
    completed = [one.completed for one in hammers] or [0]
    slow = [one for one in done if one.thoughts]
    elapsed = max((sum(one.latencies) for one in hammers), default=seconds) if slow else seconds
    return Round(
        rate=sum(completed) / elapsed if elapsed else 0.0,
        p50_us=statistics.median(latencies) * 1e6 if latencies else 0.0,
        p99_us=_percentile(latencies, 0.99) * 1e6,
        max_us=latencies[-1] * 1e6 if latencies else 0.0,
        operations=len(latencies),
        attempts=sum(one.attempts for one in done),
        fairness=min(completed) / max(completed) if max(completed) else 0.0,
        off_by=off_by,
        errors=errors,
        thoughts=[thought for one in slow for thought in one.thoughts],
        in_time=sum(one.completed for one in slow),
    )


def _percentile(ordered: Sequence[float] | array[float], share: float) -> float:
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
