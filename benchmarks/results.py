"""What was measured, and its way to JSON and back. Numbers only: no measuring, no printing."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
        scenario: which table it belongs to.
        peer: its name in `peers.PEERS`.
        workload: what is done.
        transport: ``"tcp"``, ``"unix"``, ``"proxy"`` or ``"file"``.
        placement: which CPUs, by name.
        processes: how many at once.
        tasks: of each process, where the peer is asyncio's.
        delay: milliseconds that the proxy adds to a round trip.
        thoughts: of the last process: so many slow operations beside the others, and then the end.
        thinking: seconds of each of these.
    """

    scenario: str
    peer: str
    workload: Workload
    transport: str
    placement: str
    processes: int = 1
    tasks: int = 1
    delay: float = 0.0
    thoughts: int = 0
    thinking: float = 0.0


@dataclass(slots=True, kw_only=True)
class Round:
    """One measurement of a case.

    Attributes:
        rate: operations per second that ended within the time.
        p50_us: median latency of one operation, in microseconds.
        p99_us: its 99th percentile.
        max_us: the slowest.
        operations: that were acknowledged.
        attempts: of changes.
        fairness: operations of the slowest process over those of the fastest; 1 is fair, 0 is starved.
        off_by: field updates that were lost or doubled, at least; None: nothing to check.
        errors: how often each kind came, and one example.
        thoughts: seconds and attempts of each slow operation.
        in_time: how many of these ended before the others did.
    """

    rate: float
    p50_us: float
    p99_us: float
    max_us: float
    operations: int
    attempts: int
    fairness: float
    off_by: int | None
    errors: dict[str, tuple[int, str]]
    thoughts: list[tuple[float, int]]
    in_time: int


@dataclass(slots=True)
class Measured:
    """A case and its rounds."""

    case: Case
    rounds: list[Round] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Of an attribute of its rounds."""
        return statistics.median(self._all(name))

    def spread(self, name: str) -> tuple[float, float]:
        """The lowest and the highest."""
        values = self._all(name)
        return min(values), max(values)

    @property
    def off_by(self) -> int:
        """Updates lost or doubled, in all rounds."""
        return sum(one.off_by or 0 for one in self.rounds)

    @property
    def failures(self) -> int:
        """Operations that ended in an error, in all rounds."""
        return sum(number for one in self.rounds for number, _ in one.errors.values())

    def _all(self, name: str) -> list[float]:
        return [getattr(one, name) for one in self.rounds]


@dataclass(slots=True)
class Results:
    """A whole run.

    Attributes:
        about: when, where, on what, how.
        skipped: what was not measured, and why.
        measured: the rest.
    """

    about: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)

    def of(self, scenario: str, where: Callable[[Case], bool] = lambda _: True) -> Iterator[Measured]:
        """The measured cases of a scenario."""
        return (
            one for one in self.measured if one.case.scenario == scenario and one.rounds and where(one.case)
        )

    def save(self, path: Path) -> None:
        """Write all of it as JSON, medians and spread included for readers without this module."""
        cases = [
            {
                **asdict(one.case),
                "median": {name: one.median(name) for name in _SUMMARY},
                "spread": {name: one.spread(name) for name in _SUMMARY},
                "lost_or_doubled": one.off_by,
                "rounds": [asdict(each) for each in one.rounds],
            }
            for one in self.measured
            if one.rounds
        ]
        text = json.dumps({"about": self.about, "skipped": self.skipped, "cases": cases}, indent=1)
        path.write_text(text + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        told = json.loads(path.read_text())
        measured = []
        for entry in told["cases"]:
            workload = Workload(**entry["workload"])
            names = {each.name for each in fields(Case)} - {"workload"}
            case = Case(workload=workload, **{name: entry[name] for name in names})
            measured.append(Measured(case, [Round(**one) for one in entry["rounds"]]))
        return cls(told["about"], told["skipped"], measured)


_SUMMARY = ("rate", "p50_us", "p99_us", "max_us", "fairness")
