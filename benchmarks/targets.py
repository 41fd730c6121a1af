"""The targets, and each of them beside what was measured.

A figure is the geometric mean over TCP and unix socket and over the pinned placements, of medians over the rounds.
The bounds are here and nowhere else.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.scenarios import LARGE, THINKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Case, Measured, Results

_DESIGN: Final = "measured with a sketch of the protocol"
_PROVISIONAL: Final = "provisional"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound.

    Attributes:
        title: what is measured.
        figure: computes it; None: not measured in this run.
        bound: what it should be.
        at_least: whether more is better.
        unit: for humans.
        basis: where the bound comes from.
    """

    title: str
    figure: Callable[[Results], float | None]
    bound: float
    at_least: bool
    unit: str
    basis: str = _DESIGN


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


def _rate(one: Measured) -> float:
    return one.median("rate")


def _is(peer: str, processes: int = 1, fields: int | None = None) -> Callable[[Case], bool]:
    return lambda case: (
        case.peer == peer and case.processes == processes and fields in (None, case.workload.fields)
    )


def _cost(scenario: str, peer: str, over: str) -> Callable[[Results], float | None]:
    return lambda results: geometric_mean(results, _p50, scenario, _is(peer), _is(over))


def _hot(processes: int, over: tuple[str, int]) -> Callable[[Results], float | None]:
    return lambda results: geometric_mean(results, _rate, "hot", _is("txstate", processes), _is(*over))


def _hot_value(processes: int, value: Callable[[Measured], float]) -> Callable[[Results], float | None]:
    return lambda results: geometric_mean(results, value, "hot", _is("txstate", processes))


def _worst_attempts(results: Results) -> float | None:
    return _worst(results, 1)


def _worst_time(results: Results) -> float | None:
    return _worst(results, 0)


def _worst(results: Results, which: int) -> float | None:
    """The worst of all slow transactions, in all places: a mean would hide the one that starved.

    Infinite when not all of them were done while the others were at it: how long those would have taken is not known.
    """
    found = list(results.of("think", lambda case: case.peer == "txstate"))
    rounds = [each for one in found for each in one.rounds]
    if any(each.in_time < one.case.thoughts for one in found for each in one.rounds):
        return math.inf
    return max((thought[which] for each in rounds for thought in each.thoughts), default=None)


def _large(results: Results) -> float | None:
    large, small = _is("txstate-fields", fields=LARGE), _is("txstate-fields", fields=10)
    return geometric_mean(results, _p50, "fields", large, small)


TARGETS: Final = (
    Target("update of 10 fields: redis-py transaction / txstate", _cost("uncontended", "redis-py-transaction", "txstate"), 3.0, True, "x"),
    Target("update of 10 fields: Lua script / txstate", _cost("uncontended", "lua-script", "txstate"), 1.0, True, "x"),
    Target("update of 10 fields: txstate / redis-py PING", _cost("uncontended", "txstate", "redis-py-ping"), 1.15, False, "x"),
    Target("16 processes, one hash: throughput / redis-py transaction", _hot(16, ("redis-py-transaction", 16)), 6.5, True, "x"),
    Target("16 processes, one hash: throughput / txstate with 1", _hot(16, ("txstate", 1)), 0.85, True, "x"),
    Target("16 processes, one hash: p99", _hot_value(16, lambda one: one.median("p99_us") / 1000), 35.0, False, "ms"),
    Target("16 processes, one hash: slowest / fastest process", _hot_value(16, lambda one: one.median("fairness")), 0.65, True, ""),
    Target("32 processes, one hash: throughput / redis-py transaction", _hot(32, ("redis-py-transaction", 32)), 4.0, True, "x", _PROVISIONAL),
    Target("32 processes, one hash: throughput / txstate with 1", _hot(32, ("txstate", 1)), 0.55, True, "x"),
    Target("32 processes, one hash: slowest / fastest process", _hot_value(32, lambda one: one.median("fairness")), 0.46, True, ""),
    Target(f"a transaction of {THINKING * 1000:.0f} ms beside 6 processes: most attempts of 8", _worst_attempts, 6.0, False, ""),
    Target(f"a transaction of {THINKING * 1000:.0f} ms beside 6 processes: longest of 8", _worst_time, 0.19, False, "s"),
    Target("64 tasks, one hash: throughput / redis-py transaction", lambda results: geometric_mean(results, _rate, "tasks", _is("txstate-async"), _is("redis-py-async-transaction")), 3.0, True, "x", _PROVISIONAL),
    Target("read-only transaction on 1 MB / redis-py PING", _cost("read-only", "txstate-read-only", "redis-py-ping"), 1.5, False, "x", _PROVISIONAL),
    Target(f"fields=: one of {LARGE:,} fields / one of 10", _large, 1.2, False, "x", _PROVISIONAL),
)  # fmt: skip
