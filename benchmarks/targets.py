"""The targets, and each of them beside what was measured.

A figure is the geometric mean over TCP and unix socket and over the pinned placements, of medians over the rounds.
The bounds are here and nowhere else.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers import PEERS
from benchmarks.scenarios import SIZES, THINKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.results import Case, Measured, Results, Round


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound.

    Attributes:
        title: what is measured.
        figure: computes it; None: not measured in this run.
        bound: what it should be.
        at_least: whether more is better.
        unit: for humans.
    """

    title: str
    figure: Callable[[Results], float | None]
    bound: float
    at_least: bool
    unit: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target and its figure."""

    target: Target
    figure: float | None

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        if self.figure is None:
            return None
        if self.target.at_least:
            return self.figure >= self.target.bound
        return self.figure <= self.target.bound

    def told(self) -> dict[str, Any]:
        """For JSON, which knows nothing infinite."""
        figure = self.figure if self.figure is None or math.isfinite(self.figure) else None
        return {"title": self.target.title, "figure": figure, "bound": self.target.bound, "met": self.met}


def outcomes(results: Results) -> list[Outcome]:
    """All targets, measured or not."""
    return [Outcome(target, target.figure(results)) for target in TARGETS]


def geometric_mean(
    results: Results,
    value: Callable[[Measured], float],
    scenario: str,
    where: Callable[[Case], bool],
    over: Callable[[Case], bool] | None = None,
) -> float | None:
    """Over all places: of a value, or of its ratio to another case's value at the same place.

    Args:
        results: of a run.
        value: of the cases that `where` selects.
        scenario: where to look.
        where: one case a place.
        over: the other case, also one a place; None: no ratio.

    Returns:
        None when nothing matches, or a place lacks the other case.
    """
    tops = {_place(one.case): value(one) for one in results.of(scenario, where)}
    if over is not None:
        bottoms = {_place(one.case): value(one) for one in results.of(scenario, over)}
        if not tops.keys() <= bottoms.keys() or not all(bottoms[place] for place in tops):
            return None
        tops = {place: top / bottoms[place] for place, top in tops.items()}
    if not tops:
        return None
    return statistics.geometric_mean(tops.values()) if all(tops.values()) else 0.0


def _place(case: Case) -> tuple[str, str]:
    return case.transport, case.placement


def _p50(one: Measured) -> float:
    return one.median("p50_us")


def _p99(one: Measured) -> float:
    return one.median("p99_us")


def _rate(one: Measured) -> float:
    return one.median("rate")


def _fairness(one: Measured) -> float:
    return one.median("fairness")


def _is(peer: str, processes: int = 1, fields: int | None = None) -> Callable[[Case], bool]:
    return lambda case: (
        case.peer == peer and case.processes == processes and fields in (None, case.workload.fields)
    )


def _cost(scenario: str, peer: str, over: str) -> Callable[[Results], float | None]:
    return lambda results: geometric_mean(results, _p50, scenario, _is(peer), _is(over))


def _hot(
    value: Callable[[Measured], float], processes: int, over: tuple[str, int] | None = None
) -> Callable[[Results], float | None]:
    other = None if over is None else _is(*over)
    return lambda results: geometric_mean(results, value, "hot", _is("txstate", processes), other)


def _tasks(results: Results) -> float | None:
    peers = _is("txstate-async"), _is("redis-py-async-transaction")
    return geometric_mean(results, _rate, "tasks", *peers)


def _fields(results: Results) -> float | None:
    large, small = (_is("txstate-fields", fields=fields) for fields in (SIZES[-1], SIZES[0]))
    return geometric_mean(results, _p50, "fields", large, small)


def _slow_rounds(results: Results) -> list[tuple[Round, int]]:
    """Rounds with slow transactions, and how many were to be done."""
    found = results.of("think", lambda case: case.peer == "txstate")
    return [(each, one.case.thoughts) for one in found for each in one.rounds]


def _slow_done(results: Results) -> float | None:
    return min((each.in_time for each, _ in _slow_rounds(results)), default=None)


def _slowest(which: int) -> Callable[[Results], float | None]:
    """The worst of all slow transactions, in all places: a mean would hide the one that starved.

    Infinite when not all of them were done while the others were at it: how long those would have taken is not known.
    """

    def figure(results: Results) -> float | None:
        rounds = _slow_rounds(results)
        if any(each.in_time < wanted for each, wanted in rounds):
            return math.inf
        return max((thought[which] for each, _ in rounds for thought in each.thoughts), default=None)

    return figure


def memory_grown(one: Measured) -> float | None:
    """How often the document fits into what the process grew by, at most; None: can't be told on that machine."""
    return _documents(one, [each.peak_bytes for each in one.rounds])


def memory_needed(one: Measured) -> float | None:
    """The same of what was needed at one moment, what the caller holds included."""
    return _documents(one, [each.needed_bytes for each in one.rounds])


def _documents(one: Measured, found: Sequence[int | None]) -> float | None:
    known = [each for each in found if each is not None]
    return max(known) / one.case.workload.size if known else None


def _memory(results: Results) -> float | None:
    found = results.of("memory", lambda case: case.peer.startswith("txstate"))
    taken = [
        needed - PEERS[one.case.peer].holds for one in found if (needed := memory_needed(one)) is not None
    ]
    return max(taken, default=None)


_SLOW: Final = f"a transaction of {THINKING * 1000:.0f} ms beside 6 processes"
_BASE: Final = "redis-py-transaction"

TARGETS: Final = (
    Target("update of 10 fields: redis-py transaction / txstate", _cost("uncontended", _BASE, "txstate"), 2.8, True, "x"),
    Target("update of 10 fields: Lua script / txstate", _cost("uncontended", "lua-script", "txstate"), 1.15, True, "x"),
    Target("update of 10 fields: txstate / redis-py PING", _cost("uncontended", "txstate", "redis-py-ping"), 1.25, False, "x"),
    Target("update of 10 fields: txstate / bare socket loop, looking", _cost("uncontended", "txstate", "bare-socket-looking"), 1.6, False, "x"),
    Target("16 processes, one hash: throughput / redis-py transaction", _hot(_rate, 16, (_BASE, 16)), 8.0, True, "x"),
    Target("16 processes, one hash: throughput / txstate with 1", _hot(_rate, 16, ("txstate", 1)), 0.8, True, "x"),
    Target("16 processes, one hash: p99 / redis-py transaction", _hot(_p99, 16, (_BASE, 16)), 0.25, False, "x"),
    Target("16 processes, one hash: slowest / fastest process", _hot(_fairness, 16), 0.5, True, ""),
    Target("32 processes, one hash: throughput / txstate with 1", _hot(_rate, 32, ("txstate", 1)), 0.6, True, "x"),
    Target("32 processes, one hash: slowest / fastest process", _hot(_fairness, 32), 0.4, True, ""),
    Target(f"{_SLOW}: done of 8", _slow_done, 8, True, ""),
    Target(f"{_SLOW}: most attempts", _slowest(1), 6, False, ""),
    Target(f"{_SLOW}: longest", _slowest(0), 1.0, False, "s"),
    Target("64 tasks, one hash: throughput / redis-py transaction", _tasks, 20.0, True, "x"),
    Target("read-only transaction on 1 MB / redis-py PING", _cost("read-only", "txstate-read-only", "redis-py-ping"), 1.5, False, "x"),
    Target(f"fields=: one of {SIZES[-1]:,} fields / one of {SIZES[0]}", _fields, 1.3, False, "x"),
    Target("1 MB document: most that a call needs at once / document", _memory, 3.0, False, "x"),
)  # fmt: skip
