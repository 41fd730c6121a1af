"""Measures cases in turns, and checks each result.

In each round every case of a scenario has its turn, so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.crew import PeerError
from benchmarks.load import Job
from benchmarks.peers import PEERS, lacking
from benchmarks.results import Round
from benchmarks.servers import MissingError
from benchmarks.workloads import Ledger

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.crew import Crew
    from benchmarks.load import Done
    from benchmarks.machine import Placement
    from benchmarks.peers import Place
    from benchmarks.peers.base import Named
    from benchmarks.results import Case, Results
    from benchmarks.scenarios import Scenario
    from benchmarks.servers import Servers

_WARM_UP: Final = 0.2
"""Of the time of a measurement; at most `_LONGEST` seconds."""
_SMALL: Final = 16
"""Characters of a field of the small documents that go before large ones, where memory is measured."""
_LONGEST: Final = 0.3


class Runner:
    """Measures on these servers with these workers.

    Args:
        servers: to run on.
        crew: to run.
        placements: by name.
        results: where to write.
        progress: called with a line about what comes next.
        save: called after each round.
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
        save: Callable[[], object] = lambda: None,
        until: float = math.inf,
    ) -> None:
        self._servers, self._crew, self._placements = servers, crew, placements
        self._results, self._progress, self._save, self._until = results, progress, save, until
        self._missing: set[str] = set()

    def run(self, scenario: Scenario) -> None:
        """Measure all cases of a scenario; what can't be, or fails, is noted as skipped, and the rest goes on."""
        self._results.skipped.pop(scenario.name, None)
        cases = [case for case in scenario.cases if self._possible(case)]
        for number in range(scenario.rounds):
            for case in cases:
                if case.peer in self._missing:
                    continue
                if time.monotonic() > self._until:
                    self._results.skipped[scenario.name] = (
                        f"from round {number + 1} on: no time left (--budget)"
                    )
                    return
                self._progress(f"{scenario.name}, round {number + 1} of {scenario.rounds}: {case.peer}")
                self._take_turn(case, scenario.seconds)
            self._save()

    def _take_turn(self, case: Case, seconds: float) -> None:
        entry = self._results.entry(case)
        name = str(case)
        try:
            entry.rounds.append(self.measure(case, seconds, len(entry.rounds)))
            self._results.skipped.pop(case.peer, None)  # an earlier call may not have had it
        except MissingError as error:
            self._miss(case.peer, str(error))
        except PeerError as error:
            self._results.skipped[name] = f"{len(entry.rounds)} rounds measured, then: {error}"

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
        if not case.fresh:
            return _summed_up(*self._do(kind, place, jobs), seconds)
        frugal = _summed_up(
            *self._do_afresh(kind, place, [replace(job, frugal=True) for job in jobs]), seconds
        )
        measured = _summed_up(*self._do_afresh(kind, place, jobs), seconds)
        return replace(measured, needed_bytes=frugal.peak_bytes)

    def _do_afresh(
        self, kind: type[Named], place: Place, jobs: Sequence[Job]
    ) -> tuple[list[Done], int | None]:
        """By new workers, which have done the same with small documents before.

        Raises:
            PeerError: as `_do`.
        """
        self._crew.renew()
        small = replace(jobs[0].workload, width=_SMALL)
        self._do(kind, place, [replace(job, workload=small) for job in jobs])
        return self._do(kind, place, [replace(job, warm_up=0.0) for job in jobs])

    def _do(self, kind: type[Named], place: Place, jobs: Sequence[Job]) -> tuple[list[Done], int | None]:
        """Put the documents there, let the workers work, and look what has become of them.

        Raises:
            PeerError: whatever the peer raised, here or in a worker.
        """
        with _blaming("putting the documents there"):
            kind.seed(place, jobs[0].workload.initial())
        done = self._crew.run(jobs)
        ledger = Ledger()
        for one in done:
            ledger.merge(one.ledger)
        if not (kind.checked and ledger.added):
            return done, None
        cells = list(ledger.added)
        with _blaming("looking at the result"):
            found = dict(zip(cells, kind.counters(place, cells), strict=True))
        return done, ledger.off_by(found)

    def _possible(self, case: Case) -> bool:
        why = lacking(case.peer)
        if why is not None:
            self._miss(case.peer, why)
        elif case.placement not in self._placements:
            self._results.skipped[str(case)] = f"this machine has no placement {case.placement!r}"
            return False
        return why is None

    def _miss(self, peer: str, why: str) -> None:
        self._missing.add(peer)
        self._results.skipped[peer] = why


@contextlib.contextmanager
def _blaming(what: str) -> Iterator[None]:
    """A peer that fails in this process has failed like one that fails in a worker's."""
    try:
        yield
    except Exception as error:
        raise PeerError(f"{what}: {type(error).__name__}: {error}") from error


def _summed_up(done: Sequence[Done], off_by: int | None, seconds: float) -> Round:
    latencies = sorted(latency for one in done for latency in one.latencies)
    errors: dict[str, tuple[int, str]] = {}
    for one in done:
        for kind, (number, example) in one.errors.items():
            errors[kind] = (errors.get(kind, (0, ""))[0] + number, example)
    hammers = [one for one in done if not one.thoughts]
    completed = [number for one in hammers for number in one.completed] or [0]
    slow = [one for one in done if one.thoughts]
    elapsed = max((sum(one.latencies) for one in hammers), default=seconds) if slow else seconds
    return Round(
        rate=round(sum(completed) / elapsed, 1) if elapsed else 0.0,
        p50_us=_microseconds(statistics.median(latencies) if latencies else 0.0),
        p99_us=_microseconds(_percentile(latencies, 0.99)),
        max_us=_microseconds(latencies[-1] if latencies else 0.0),
        operations=len(latencies),
        attempts=sum(one.attempts for one in done),
        fairness=round(min(completed) / max(completed), 3) if max(completed) else 0.0,
        off_by=off_by,
        errors=errors,
        thoughts=[(round(took, 4), attempts) for one in slow for took, attempts in one.thoughts],
        in_time=sum(sum(one.completed) for one in slow),
        peak_bytes=max((one.peak_bytes for one in done if one.peak_bytes is not None), default=None),
        cpu_us=_microseconds(sum(one.cpu for one in done) / max(1, len(latencies))),
    )


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 2)


def _percentile(ordered: Sequence[float] | array[float], share: float) -> float:
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
