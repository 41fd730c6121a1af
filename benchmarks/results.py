"""What was measured, and its way to a folder of JSON files and back. Numbers only: no measuring, no printing.

``run.json`` says when, where and on what; ``<scenario>.json`` has the measurements, one case a line. A further call adds
its rounds to those of the calls before it, if it measures the same code on the same machine.
"""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER: Final = Path(__file__).parent / "results"
"""Of the recorded runs."""


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
        fresh: in a new process, after the same on small documents, for what the large ones add to its memory.
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
    fresh: bool = False

    def __str__(self) -> str:
        places = self.transport, self.placement, self.processes
        return "/".join(map(str, (self.scenario, self.peer, self.workload.name, *places)))


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
        fairness: operations of the slowest process (of the slowest task, where a process has several) over those of the
            fastest; 1 is fair, 0 is starved.
        off_by: field updates that were lost or doubled, at least; None: nothing to check.
        errors: how often each kind came, and one example.
        thoughts: seconds and attempts of each slow operation.
        in_time: how many of these ended before the others did.
        peak_bytes: the most that a process grew by meanwhile; None: can't be told here.
        needed_bytes: the same without what it had freed already, what the caller holds included.
        cpu_us: of the clients' processors, for each operation; 0: not measured.
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
    peak_bytes: int | None = None
    needed_bytes: int | None = None
    cpu_us: float = 0.0


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
    """All that is known of a run.

    Attributes:
        about: when, where, on what, how.
        skipped: what was not measured, or failed meanwhile, and why.
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

    def entry(self, case: Case) -> Measured:
        """Where the rounds of a case belong, with those that it has."""
        for one in self.measured:
            if one.case == case:
                return one
        self.measured.append(Measured(case))
        return self.measured[-1]

    def save(self, folder: Path) -> None:
        """Write all of it. Whoever is interrupted meanwhile leaves each file as it was or as it is to be."""
        folder.mkdir(parents=True, exist_ok=True)
        told = json.dumps({"about": self.about, "skipped": self.skipped}, indent=1)
        _write(folder / _RUN, told)
        for scenario in dict.fromkeys(one.case.scenario for one in self.measured if one.rounds):
            lines = ",\n".join(json.dumps(_told(one)) for one in self.of(scenario))
            _write(folder / f"{scenario}.json", f"[\n{lines}\n]")

    @classmethod
    def load(cls, folder: Path) -> Results:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is nothing.
        """
        run = json.loads((folder / _RUN).read_text())
        results = cls(run["about"], run["skipped"])
        for path in sorted(folder.glob("*.json")):
            if path.name != _RUN:
                results.measured += map(_heard, json.loads(path.read_text()))
        return results


_RUN: Final = "run.json"
_SUMMARY: Final = ("rate", "p50_us", "p99_us", "max_us", "fairness")
_FOLDERS: Final = re.compile(r"(?<!\w)/(?:[^\s'\"/:]+/)+")
"""The way to a file: it tells of this machine, not of what was measured."""


def _told(one: Measured) -> dict[str, Any]:
    """A case with its rounds, and with medians and spread for readers without this module."""
    return {
        **asdict(one.case),
        "median": {name: one.median(name) for name in _SUMMARY},
        "spread": {name: one.spread(name) for name in _SUMMARY},
        "lost_or_doubled": one.off_by,
        "rounds": [asdict(each) for each in one.rounds],
    }


def _heard(entry: dict[str, Any]) -> Measured:
    names = {each.name for each in fields(Case)} - {"workload"}
    case = Case(workload=Workload(**entry["workload"]), **{name: entry[name] for name in names})
    return Measured(case, [Round(**one) for one in entry["rounds"]])


def _write(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(_FOLDERS.sub("", text) + "\n")
    unfinished.replace(path)
