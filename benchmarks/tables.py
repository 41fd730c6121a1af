"""What was measured as tables of plain text: for a terminal (`report`) and for the documentation (`docs`).

Cells are medians over the rounds. The last columns compare with txstate, by geometric means over the cases that both
have, and tell how far a round was from its median at most.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from benchmarks.results import Case, Measured, Results

WRONG: Final = "WRONG"
"""Follows a value whose peer lost or doubled updates meanwhile."""


@dataclass(frozen=True, slots=True)
class Table:
    """Texts.

    Attributes:
        name: unique among the tables of a run.
        title: for humans.
        heads: of the columns.
        rows: as many texts each.
    """

    name: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class _Value:
    """One of the figures of a scenario.

    Attributes:
        suffix: of the table's name.
        label: with its unit.
        figure: the attribute of a round.
        scale: from that to the unit.
        more: whether more of it is better; None: not to be compared.
    """

    suffix: str
    label: str
    figure: str
    scale: float = 1.0
    more: bool | None = None


_COST: Final = _Value("", "microseconds (median)", "p50_us", more=False)
_RATE: Final = _Value("-rate", "operations a second", "rate", more=True)
_P99: Final = _Value("-p99", "p99 in ms", "p99_us", 1e-3, more=False)
_CPU: Final = _Value("-cpu", "client's processor, microseconds an operation", "cpu_us", more=False)
_SLOWEST: Final = _Value("-slowest", "slowest in ms", "max_us", 1e-3, more=False)
_FAIRNESS: Final = _Value("-fairness", "slowest / fastest", "fairness")
_COMPARISON: Final = {True: "txstate does more by", False: "txstate is faster by"}


def _place(case: Case) -> str:
    return f"{case.transport}, {case.placement}"


_GRIDS: Final[dict[str, tuple[Callable[[Case], str], tuple[_Value, ...]]]] = {
    "uncontended": (_place, (_COST, _CPU)),
    "hot": (_place, (_RATE, _P99, _FAIRNESS)),
    "tasks": (_place, (_RATE, _P99, _SLOWEST)),
    "crowd": (_place, (_RATE, _P99, _SLOWEST)),
    "read-only": (_place, (_COST,)),
    "fields": (_place, (_COST,)),
    "hash-size": (lambda case: f"{case.workload.fields:,} fields", (_COST,)),
    "processes": (lambda case: f"{case.processes}", (_RATE, _P99, _FAIRNESS)),
    "delay": (lambda case: f"+{case.delay:g} ms", (_COST,)),
    "mix": (lambda case: case.workload.name, (replace(_RATE, suffix=""),)),
}
"""What the columns of a scenario are, and what is shown of it."""

_OWN: Final = {
    "tasks": "txstate-async",
    "crowd": "txstate-async",
    "read-only": "txstate-read-only",
    "hash-size": "txstate-fields",
}
"""Which peer is the 1 in a scenario's ratios, where it is not plain txstate."""


def grids(results: Results) -> Iterator[Table]:
    """The tables with peers down and cases across; without rows where nothing was measured."""
    for scenario, (column, values) in _GRIDS.items():
        for value in values:
            yield _grid(results, scenario, column, value)


def number(value: float) -> str:
    """As many digits as tell something."""
    if value >= 100:  # noqa: PLR2004 - three digits tell enough
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004 - the same


def _grid(results: Results, scenario: str, column: Callable[[Case], str], value: _Value) -> Table:
    cells = {(_row(one.case), column(one.case)): one for one in results.of(scenario)}
    own = {
        _row(one.case): _row(replace(one.case, peer=_OWN.get(scenario, "txstate"))) for one in cells.values()
    }
    columns = sorted(dict.fromkeys(head for _, head in cells), key=lambda head: head.startswith("file"))
    compared = value.more is not None and set(own) > set(own.values())
    rows = []
    for name, base in own.items():
        there = {head: cells[name, head] for head in columns if (name, head) in cells}
        row = [name, *(_shown(there[head], value) if head in there else "" for head in columns)]
        if compared:
            ours = {head: cells[base, head] for head in columns if (base, head) in cells}
            row.append(_ratio(there, ours, value))
        rows.append((*row, _spread(there.values(), value.figure)))
    comparison = [_COMPARISON[bool(value.more)]] if compared else []
    title = results.about["titles"].get(scenario, scenario)
    return Table(scenario + value.suffix, title, (value.label, *columns, *comparison, "spread"), tuple(rows))


def _row(case: Case) -> str:
    """What a line of a table is called; what varies beside the peer is named where it is not the column."""
    title = PEERS[case.peer].title
    if case.scenario == "hot":
        return f"{title}, {case.processes} process{'es' if case.processes > 1 else ''}"
    if case.scenario == "fields":
        return f"{title} 1 of {case.workload.fields:,}"
    return title


def _ratio(there: dict[str, Measured], ours: dict[str, Measured], value: _Value) -> str:
    """How much better txstate is: over the cases that both have, or over all of both where there are none (a file)."""
    common = (there.keys() & ours.keys()) or None
    theirs, own = (
        [one.median(value.figure) for head, one in each.items() if common is None or head in common]
        for each in (there, ours)
    )
    if not theirs or not own or not all((*theirs, *own)):
        return ""
    quotient = statistics.geometric_mean(own) / statistics.geometric_mean(theirs)
    return f"{quotient if value.more else 1 / quotient:.2f} x"


def _spread(found: Iterable[Measured], figure: str) -> str:
    """The largest distance of a round from the median of its case; a single round tells nothing of it."""
    widest, repeated = 0.0, False
    for one in found:
        repeated = repeated or len(one.rounds) > 1
        middle, (low, high) = one.median(figure), one.spread(figure)
        if middle:
            widest = max(widest, high / middle - 1, 1 - low / middle)
    return f"±{widest:.0%}" if repeated else "1 round"


def _shown(one: Measured, value: _Value) -> str:
    text = number(one.median(value.figure) * value.scale)
    if one.off_by:
        text = f"{text} {WRONG}"
    return f"{text} (errors)" if one.failures else text
